"""The kinds of guest: an ordinary one, a TDX guest, an SEV-ES guest; and what each must find.

Ref: Intel TDX Module Base Architecture Specification (348549), "Guest Physical Address Translation"
(the shared bit is bit 47 or 51, by GPAW); AMD64 Architecture Programmer's Manual vol. 2, 15.34.1
(C-bit) and vol. 3, E.4.17 (CPUID 8000001F); Linux arch/x86/kernel/cpu/amd.c `bsp_init_amd`, which
takes a TDX guest's encryption away on a CPU whose vendor is AMD; drivers/virtio/virtio.c
`virtio_features_ok`, which takes no device without VIRTIO_F_ACCESS_PLATFORM in such a guest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

SHARED_BIT = 47
"""A TDX guest's shared bit: no address bit of a CPU with fewer physical bits, so that it faults."""
C_BIT = 38
"""An SEV-ES guest's C-bit: an address bit, at which all RAM is a second time."""
PHYSICAL_BITS = 40
"""MAXPHYADDR of a confidential guest's CPUs: between the two."""
SEV_MEMORY = 0xB000_0000
"""Bytes of RAM from which on q35 has some above 4 GiB (QEMU hw/i386/pc_q35.c)."""


class Kind(StrEnum):
    """Name a kind of guest, as ``--guest`` has it."""

    PLAIN = "plain"
    TDX = "tdx"
    SEV_ES = "sev-es"

    @property
    def label(self) -> str:
        """Return what it is called in text."""
        return {Kind.PLAIN: "an ordinary guest", Kind.TDX: "TDX", Kind.SEV_ES: "SEV-ES"}[self]

    @property
    def below(self) -> str:
        """Return what is below it, which vetrace plays."""
        return {Kind.PLAIN: "", Kind.TDX: "TDX module", Kind.SEV_ES: "host"}[self]


_VENDORS = {Kind.TDX: "GenuineIntel", Kind.SEV_ES: "AuthenticAMD"}


@dataclass(frozen=True, slots=True)
class Hardware:
    """Tell what a guest is about to find, as QEMU has it before the first instruction.

    ``vendor`` is the CPU's, in CPUID leaf 0. ``firmware`` names the machine's where it is not
    SeaBIOS. ``exposed`` names the virtio devices that reach past the guest's bounce buffers, being
    without VIRTIO_F_ACCESS_PLATFORM.
    """

    vendor: str
    physical_bits: int
    five_levels: bool
    firmware: str = ""
    vcpus: int = 1
    exposed: tuple[str, ...] = ()


def unfit(kind: Kind, hardware: Hardware, *, inside: bool = False) -> Iterator[str]:
    """Yield each reason why the machine is none for this kind of guest, with what to do.

    ``inside`` tells that it runs in the monitor, where each vCPU of an SEV-ES guest is answered.
    """
    if kind is Kind.PLAIN:
        return
    vendor = _VENDORS[kind]
    if hardware.vendor != vendor:
        yield (
            f"its CPU is of {hardware.vendor}, on which Linux is no {kind.label} guest: "
            f"add vendor={vendor} to your -cpu"
        )
    if hardware.physical_bits != PHYSICAL_BITS:
        yield (
            f"its CPU has {hardware.physical_bits} physical address bits: "
            f"add phys-bits={PHYSICAL_BITS} to your -cpu"
        )
    if hardware.five_levels:
        yield "its CPU has page tables of five levels: add la57=off to your -cpu"
    if hardware.firmware:
        yield (
            f"its firmware is {hardware.firmware}, and there is none here that knows {kind.label}: "
            "leave -bios and pflash out"
        )
    if kind is Kind.SEV_ES and hardware.vcpus > 1 and not inside:
        yield (
            f"it has {hardware.vcpus} vCPUs, and only one of an {kind.label} guest can be told "
            "what it asks before it has an IDT, but in the monitor: add --inputs, or leave -smp out"
        )
    if hardware.exposed:
        yield (
            f"its kernel will not drive {', '.join(hardware.exposed)}: "
            f"add {_shared(hardware.exposed)} to each virtio -device"
        )


def _shared(names: tuple[str, ...]) -> str:
    # On PCI alone a device has an older interface, too.
    on_pci = any(not name.rstrip(")").endswith("-device") for name in names)
    return "iommu_platform=on" + (",disable-legacy=on" if on_pci else "")
