"""A machine that lacks something a confidential guest needs is refused, with what to add."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tracer.confidential.kind import (
    C_BIT,
    PHYSICAL_BITS,
    SHARED_BIT,
    Hardware,
    Kind,
    unfit,
)

INTEL = Hardware("GenuineIntel", PHYSICAL_BITS, five_levels=False)
FIT = {Kind.TDX: INTEL, Kind.SEV_ES: replace(INTEL, vendor="AuthenticAMD")}


def test_the_shared_bit_is_no_address_bit_and_the_c_bit_is_one() -> None:
    assert C_BIT < PHYSICAL_BITS <= SHARED_BIT


@pytest.mark.parametrize("kind", FIT)
def test_the_right_machine(kind: Kind) -> None:
    assert not list(unfit(kind, FIT[kind]))


@pytest.mark.parametrize("kind", FIT)
@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"vendor": "CentaurHauls"}, "vendor="),
        ({"physical_bits": 36}, "phys-bits=40"),
        ({"physical_bits": 52}, "phys-bits=40"),
        ({"five_levels": True}, "la57=off"),
        ({"firmware": "OVMF.fd"}, "OVMF.fd"),
        (
            {"exposed": ("virtio-rng-pci", "disk (virtio-blk-device)")},
            "iommu_platform=on,disable-legacy=on to",
        ),
        ({"exposed": ("disk (virtio-blk-device)",)}, "iommu_platform=on to each"),
    ],
)
def test_each_fault_is_told_with_what_to_do(
    kind: Kind, change: dict[str, object], advice: str
) -> None:
    hardware = replace(FIT[kind], **change)  # type: ignore[arg-type]
    (reason,) = unfit(kind, hardware)
    assert advice in reason
    assert all(name in reason for name in hardware.exposed)
    assert not list(unfit(Kind.PLAIN, hardware))


def test_an_sev_es_guest_has_one_vcpu_outside_of_the_monitor() -> None:
    assert not list(unfit(Kind.TDX, replace(FIT[Kind.TDX], vcpus=2)))
    (reason,) = unfit(Kind.SEV_ES, replace(FIT[Kind.SEV_ES], vcpus=2))
    assert "2 vCPUs" in reason and "-smp" in reason and "--inputs" in reason
    several = replace(FIT[Kind.SEV_ES], vcpus=2)
    assert not list(unfit(Kind.SEV_ES, several, inside=True))


def test_each_vendor_is_the_other_kinds_fault() -> None:
    (reason,) = unfit(Kind.TDX, FIT[Kind.SEV_ES])
    assert "AuthenticAMD" in reason
    assert "vendor=GenuineIntel" in reason
    (reason,) = unfit(Kind.SEV_ES, FIT[Kind.TDX])
    assert "vendor=AuthenticAMD" in reason
