"""Names of regions, of the devices around them, and of call sites."""

from __future__ import annotations

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.trace.name import RegionNames, names_region, names_symbol


@pytest.mark.parametrize(
    ("pattern", "region", "named"),
    [
        ("nvme", "nvme", True),
        ("nvme", "nvme.msix-table", True),
        ("nvme.msix-table", "nvme.msix-table", True),
        ("nvme.msix-table", "nvme", False),
        ("nvme", "nvme2", False),
        ("nv", "nvme", False),
        ("nv*", "nvme.msix-table", True),
        ("*.msix-*", "nvme.msix-table", True),
        ("NVME", "nvme", False),
        ("", "nvme", False),
    ],
)
def test_a_pattern_names_a_region(pattern: str, region: str, named: bool) -> None:
    assert names_region(pattern, region) is named


@pytest.mark.parametrize(
    ("pattern", "named"),
    [("usb", True), ("u*b", True), ("qemu-xhci", True), ("base-xhci", True), ("us", False)],
)
def test_a_pattern_names_the_device_around(pattern: str, named: bool) -> None:
    record = sample.region("nvme")
    info = replace(
        record.region, name="base-xhci.doorbell", device="base-xhci", within=["usb"],
        types=["qemu-xhci"],
    )  # fmt: skip
    names = RegionNames()
    assert not names.named("usb", info.name)
    names.learn(replace(record, region=info))
    assert names.named(pattern, info.name) is named


@pytest.mark.parametrize(
    ("pattern", "symbol", "named"),
    [
        ("nvme_pci_enable", "nvme_pci_enable+0x5e", True),
        ("nvme_pci_enable+0x5e", "nvme_pci_enable+0x5e", True),
        ("nvme_pci_enable+0x5", "nvme_pci_enable+0x5e", False),
        ("nvme_pci", "nvme_pci_enable+0x5e", False),
        ("nvme_*", "nvme_pci_enable+0x5e", True),
        ("*enable", "nvme_pci_enable+0x5e", True),
        ("*", None, False),
    ],
)
def test_a_pattern_names_a_symbol(pattern: str, symbol: str | None, named: bool) -> None:
    assert names_symbol(pattern, symbol) is named
