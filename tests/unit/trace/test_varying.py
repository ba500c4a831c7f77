"""Masks leave out what differs from run to run, to the bit, and nothing beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tracer.trace.mask import Mask, kept_bits
from tracer.trace.varying import PASSING, VARYING

# Region, offset, width in bytes, and the bits that are compared, as the specifications have them.
VARY = [
    ("nvme.msix-table", 0x00, 8, 0),
    ("e1000e.msix-table", 0x18, 8, 0xFFFFFFFF_00000000),
    ("nvme.msix-table", 0x7F0, 8, 0),
    ("nvme", 0x28, 8, 0),
    ("nvme", 0x30, 8, 0),
    ("nvme", 0x24, 4, 0xFFFFFFFF),
    ("nvme", 0x38, 4, 0xFFFFFFFF),
    ("nvme1.bar0", 0x28, 8, 0),
    ("nvme#2", 0x28, 8, 0),
    ("mine.nvme", 0x28, 8, 0),
    ("virtio-net.common", 0x20, 8, 0),
    ("disk.common", 0x30, 8, 0),
    ("disk.common", 0x1C, 4, 0xFFFFFFFF),
    ("virtio-mmio", 0x40, 4, 0),
    ("virtio-mmio", 0x80, 8, 0),
    ("virtio-mmio#23", 0x90, 8, 0),
    ("virtio-mmio#24", 0xA0, 8, 0),
    ("virtio-mmio#24", 0x88, 8, 0xFFFFFFFF_FFFFFFFF),
    ("disk.virtio-pci", 0x8, 4, 0),
    ("disk.virtio-pci", 0xC, 4, 0xFFFFFFFF),
    # Each port of an AHCI controller: PxCLB, PxCLBU, PxFB, PxFBU, PxIS; and CAP.
    *(("ich9-ahci#2.ahci", at, 4, 0x3FF) for at in (0x100, 0x380)),
    *(("ahci", at, 4, 0) for at in (0x104, 0x10C, 0x384, 0x38C)),
    *(("ahci#2", at, 4, 0xFF) for at in (0x108, 0x388)),
    *(("ahci.bar5", at, 4, 0xFFFFFFFF) for at in (0x0, 0x8, 0x110, 0x390)),
    ("ahci.bar5", 0x104, 4, 0),
    # xHCI's DNCTRL, CRCR, DCBAAP, CONFIG; IMAN, ERSTSZ, ERSTBA, ERDP of two interrupters
    ("base-xhci.operational", 0x14, 4, 0xFFFFFFFF),
    ("base-xhci.operational", 0x18, 8, 0x3F),
    ("base-xhci#2.operational", 0x1C, 4, 0),
    ("base-xhci.operational", 0x30, 8, 0x3F),
    ("base-xhci.operational", 0x38, 4, 0xFFFFFFFF),
    *(("base-xhci.runtime", at, 4, 0xFFFFFFFF) for at in (0x0, 0x20, 0x28, 0x40, 0x48)),
    *(("base-xhci.runtime", at, 8, 0x3F) for at in (0x30, 0x50)),
    *(("base-xhci.runtime", at, 8, 0x0F) for at in (0x38, 0x58)),
    ("ich9-usb-ehci1.operational", 0xC, 4, 0xFFFFFFFF),
    ("ich9-usb-ehci1.operational", 0x10, 4, 0),
    ("usb-ehci.operational", 0x14, 4, 0xFFF),
    ("usb-ehci.operational", 0x18, 4, 0x1F),
    ("pci-ohci.ohci", 0x14, 4, 0xFFFFFFFF),
    ("pci-ohci.ohci", 0x18, 4, 0xFF),
    *(("pci-ohci.ohci", at, 4, 0xF) for at in range(0x1C, 0x34, 4)),
    ("pci-ohci.ohci", 0x34, 4, 0xFFFFFFFF),
    ("piix3-usb-uhci.uhci", 0x8, 4, 0xFFF),
    ("piix3-ide.bmdma", 0x0, 4, 0x3),
    # TDLEN, and what lies behind the queues.
    *(("e1000.mmio", at, 4, 0xF) for at in (0x2800, 0x3800)),
    *(("net.e1000e-mmio", at, 4, 0xF) for at in (0x2900, 0x3900)),
    *(("e1000e#2.mmio", at, 4, 0) for at in (0x2804, 0x3904)),
    *(("igb.mmio", at, 4, 0xF) for at in (0x2A00, 0x2B00, 0x3A00, 0x3B00)),
    *(("net.igb-mmio", at, 4, 0) for at in (0x2804, 0x3B04)),
    *((f"{name}.bar0", 0x2800, 4, 0xF) for name in ("e1000", "igb")),
    *(("e1000e.mmio", at, 4, 0xFFFFFFFF) for at in (0x2808, 0x3808, 0x4000, 0x5200)),
    *(("intel-hda", at, 4, 0x7F) for at in (0x40, 0x50, 0x70, 0x98, 0xB8)),
    *(("intel-hda#2", at, 4, 0) for at in (0x44, 0x54, 0x74, 0x9C, 0xBC)),
    *(("sound.intel-hda", at, 4, 0xFFFFFFFF) for at in (0x48, 0x58, 0x78, 0x80, 0x90, 0xA0)),
    ("sound.intel-hda", 0x40, 4, 0x7F),
    *((f"{name}nabm", at, 4, 0x7) for name in ("ac97.", "a.ac97-") for at in (0x0, 0x10, 0x20)),
    ("ac97.nabm", 0x30, 4, 0xFFFFFFFF),
    *((name, 0x0, 4, 0) for name in ("sdhci", "sdhci#2", "card.sdhci")),
    ("sdhci", 0x4, 4, 0xFFFFFFFF),
    ("sdhci", 0x58, 8, 0),
    ("rtl8139", 0x10, 4, 0xFFFFFFFF),
    *((name, 0x20, 4, 0) for name in ("rtl8139", "rtl8139#2", "net.rtl8139", "rtl8139.io")),
    *(("rtl8139", at, 4, 0) for at in (0x2C, 0x30, 0xE4, 0xE8)),
    *(("vmxnet3.b1", at, 4, 0) for at in (0x10, 0x18)),
    ("net.vmxnet3-b1", 0x20, 4, 0xFFFFFFFF),
    ("net.vmxnet3-b1", 0x10, 4, 0),
    *((name, at, 4, 0) for name in ("tulip.mem", "tulip#2.io") for at in (0x18, 0x20)),
    *((f"net.tulip-{part}", 0x18, 4, 0) for part in ("mem", "io")),
    ("tulip.mem", 0x28, 4, 0xFFFFFFFF),
    *((f"i82551.eepro100-{part}", 0x4, 4, 0) for part in ("mmio", "io")),
    ("i82551.eepro100-mmio", 0x8, 4, 0xF),
    *((f"lsi53c895a.lsi-{part}", at, 4, 0) for part in ("mmio", "io") for at in (0x10, 0x2C)),
    *((name, 0x40, 4, 0x1F) for name in ("megasas.mmio", "disks.megasas-mmio")),
    *((f"mptsas1068.mptsas-{part}", 0x40, 4, 0x7) for part in ("mmio", "io")),
    ("mptsas1068.mptsas-mmio", 0x44, 4, 0),
    *((name, 0x4, 4, 0) for name in ("pvscsi.io", "disks.pvscsi-io")),
    ("pvscsi.io", 0x0, 4, 0xFFFFFFFF),
    *(("intel-iommu.intel_iommu", at, 8, 0xFFF) for at in (0x20, 0x90, 0xB8, 0xD0)),
    *(("intel-iommu.intel_iommu", at, 4, 0) for at in (0x3C, 0x40, 0x44, 0xA4, 0xA8, 0xAC)),
    *(("intel-iommu.intel_iommu", at, 4, 0xFFFFFFFF) for at in (0x18, 0x28, 0x38, 0x48, 0xB0)),
    ("amd-iommu.amdvi-mmio", 0x0, 8, 0xFF000000_00000FFF),
    ("amd-iommu.amdvi-mmio", 0x8, 8, 0xFF000000_00000FFF),
    ("amd-iommu.amdvi-mmio", 0x10, 8, 0xFF000000_00000FFF),
    ("amd-iommu.amdvi-mmio", 0x18, 8, 0xFFFFFFFF_FFFFFFFF),
]
PASS = [
    ("hpet", 0xF0, 0xF7),
    ("hpet", 0x108, 0x10F),
    ("hpet", 0x128, 0x12F),
    ("lapic", 0xB0, 0xB3),
    ("lapic", 0x380, 0x383),
    ("lapic", 0x390, 0x393),
]


@pytest.mark.parametrize(("region", "offset", "width", "kept"), VARY)
def test_the_bits_of_a_register_that_are_no_address_are_compared(
    region: str, offset: int, width: int, kept: int
) -> None:
    assert f"{kept_bits(VARYING, region, offset, width):#x}" == f"{kept:#x}"


@pytest.mark.parametrize(("region", "first", "last"), PASS)
def test_what_tells_the_time_begins_and_ends_at_its_bytes(
    region: str, first: int, last: int
) -> None:
    def is_exact(rule: Mask) -> bool:
        return (
            all(rule.covers(region, offset) for offset in range(first, last + 1))
            and not rule.covers(region, last + 1)
            and not rule.covers(region, first - 1)
        )

    assert any(map(is_exact, PASSING))


def test_each_rule_has_a_row_above() -> None:
    rows = [(region, first, last - first + 1) for region, first, last in PASS]
    rows += [(region, offset, width) for region, offset, width, _ in VARY]
    bytes_of = [(region, first + byte) for region, first, width in rows for byte in range(width)]

    def tried(rule: Mask) -> bool:
        return any(rule.covers(region, offset) for region, offset in bytes_of)

    # Rules that differ in the region's name alone have one row together.
    places = {replace(rule, region="") for rule in (*VARYING, *PASSING)}
    assert places == {replace(rule, region="") for rule in (*VARYING, *PASSING) if tried(rule)}


@pytest.mark.parametrize(
    "region", ["nvme2", "nvme.msix-pba", "nvme#2.msix-pba", "hpet0", "virtio-net.isr", "ioapic",
               "e1000e.msix-pba", "base-xhci.doorbell", "sata.ahci-idp"]
)  # fmt: skip
def test_other_regions_are_covered_by_none(region: str) -> None:
    assert not any(
        rule.covers(region, offset) for rule in (*VARYING, *PASSING) for offset in range(0x400)
    )
