"""QEMU's memory map: parsed, its device regions named."""

from __future__ import annotations

import pytest

from tracer.access.region import Region
from tracer.qemu.flat_view import (
    DeviceNames,
    FlatRange,
    device_paths,
    name_regions,
    parse_flat_view,
)

MAP = """\
FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000cf8-0000000000000cfb (prio 0, i/o): pci-conf-idx owner:{dev path=/machine/q35}

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): guest-ram owner:{obj path=/objects/guest-ram}
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem owner:{dev path=/machine/vga}
  00000000000c0000-000000001fffffff (prio 0, ram): guest-ram @00000000000c0000 owner:{obj}
  00000000b0000000-00000000bfffffff (prio 0, i/o): pcie-mmcfg-mmio owner:{dev path=/machine/q35}
  00000000fe000000-00000000fe000fff (prio 0, i/o): virtio-pci-common-virtio-blk owner:{dev id=Disk}
  00000000fe001000-00000000fe001fff (prio 0, i/o): virtio-pci-notify-virtio-blk owner:{dev id=Disk}
  00000000feb00000-00000000feb01fff (prio 0, i/o): nvme owner:{dev id=nvme}
  00000000feb02000-00000000feb0240f (prio 0, i/o): msix-table owner:{dev id=nvme}
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic owner:{dev path=/machine/q35/ioapic}
  00000000fed00000-00000000fed003ff (prio 0, i/o): hpet owner:{dev path=/machine/hpet}
  00000000fed00400-00000000fed007ff (prio 0, i/o): hpet @0000000000000400 owner:{dev path=/m/h2}
  00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi owner:{dev path=/machine/apic}
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios owner:{dev path=/machine/q35}
"""

TYPES = {
    "/machine/peripheral": "container",
    "/machine/peripheral/Disk": "virtio-blk-pci",
    "/machine/peripheral/nvme": "nvme",
    "/machine/q35": "q35-pcihost",
    "/machine/vga": "VGA",
    "/machine/q35/ioapic": "ioapic",
    "/machine/hpet": "hpet",
    "/m": "container",
    "/m/h2": "hpet",
    "/machine/apic": "apic",
}

CONTROLLERS = """\
FlatView #0
 AS "memory", root: system
  00000000feb54000-00000000feb5403f (prio 0, i/o): capabilities owner:{dev path=/machine/peripheral-anon/device[0]/xhci-core}
  00000000feb54450-00000000feb5445f (prio 0, i/o): usb3 port #2 owner:{dev path=/machine/peripheral-anon/device[0]/xhci-core}
  00000000feb57000-00000000feb570ff (prio 0, i/o): msix-table owner:{dev path=/machine/peripheral-anon/device[0]}
  00000000feb58000-00000000feb5803f (prio 0, i/o): capabilities owner:{dev path=/machine/peripheral/usb/xhci-core}
  00000000feb5b000-00000000feb5b0ff (prio 0, i/o): msix-table owner:{dev id=usb}
  00000000feb60000-00000000feb600ff (prio 0, i/o): orphan
"""  # noqa: E501 - as QEMU writes it

CONTROLLER_TYPES = {
    "/machine/peripheral": "container",
    "/machine/peripheral-anon": "container",
    "/machine/peripheral-anon/device[0]": "qemu-xhci",
    "/machine/peripheral-anon/device[0]/xhci-core": "base-xhci",
    "/machine/peripheral/usb": "nec-usb-xhci",
    "/machine/peripheral/usb/xhci-core": "base-xhci",
}


def named(text: str, types: dict[str, str], names: DeviceNames | None = None) -> list[Region]:
    return name_regions(parse_flat_view(text), types, names or DeviceNames())


def test_the_view_of_the_cpus_is_read() -> None:
    ranges = parse_flat_view(MAP)
    assert len(ranges) == 13
    assert ranges[2] == FlatRange(0xC0000, 0x1FFF_FFFF, "ram", "guest-ram", 0xC0000, "obj")
    assert [item.kind for item in ranges].count("ram") == 2
    assert ranges[3].path == "/machine/q35"
    assert ranges[4].path == "/machine/peripheral/Disk"


def test_no_view() -> None:
    with pytest.raises(ValueError, match="memory"):
        parse_flat_view(MAP.replace('AS "memory"', 'AS "other"'))


def test_names() -> None:
    regions = named(MAP, TYPES)
    assert [region.name for region in regions] == [
        "vga.window", "ecam", "Disk.common", "Disk.notify", "nvme", "nvme.msix-table",
        "ioapic", "hpet", "hpet#2", "lapic",
    ]  # fmt: skip
    assert [region.name for region in regions if region.vcpu_only] == ["lapic"]
    assert [region.name for region in regions if region.frame_buffer] == ["vga.window"]
    # Offsets count from the beginning of QEMU's region, not of the visible part.
    assert next(region for region in regions if region.name == "hpet#2").base == 0xFED0_0000


def test_types_are_kept_where_names_do_not_tell_them() -> None:
    types = {region.device: region.types for region in named(MAP, TYPES)}
    assert types["Disk"] == ("virtio-blk-pci",)
    assert types["vga"] == ("VGA",)
    assert types["nvme"] == types["hpet#2"] == types["apic"] == ()


def test_whose_types_have_to_be_known() -> None:
    assert device_paths(parse_flat_view(CONTROLLERS)) == [
        "/machine/peripheral-anon/device[0]/xhci-core",
        "/machine/peripheral-anon/device[0]",
        "/machine/peripheral-anon",
        "/machine/peripheral/usb/xhci-core",
        "/machine/peripheral/usb",
        "/machine/peripheral",
    ]


def test_a_part_of_a_device_knows_the_device() -> None:
    regions = named(CONTROLLERS, CONTROLLER_TYPES)
    assert [(region.name, region.within, region.types) for region in regions] == [
        ("base-xhci.capabilities", ("qemu-xhci",), ()),
        ("base-xhci.usb3-port-#2", ("qemu-xhci",), ()),
        ("qemu-xhci.msix-table", (), ()),
        ("base-xhci#2.capabilities", ("usb",), ("nec-usb-xhci",)),
        ("usb.msix-table", (), ("nec-usb-xhci",)),
        ("orphan", (), ()),
    ]
    assert {region.whole for region in regions} == {"qemu-xhci", "usb", "orphan"}


def test_a_board_is_no_device() -> None:
    ioapic = next(region for region in named(MAP, TYPES) if region.name == "ioapic")
    assert ioapic.within == ("q35-pcihost",)
    assert next(region for region in named(MAP, TYPES) if region.name == "hpet").within == ()


FLASH = """\
FlatView #0
 AS "memory", root: system
  00000000ffc00000-00000000ffc83fff (prio 0, KIND): system.flash1 owner:{dev path=/machine/system.flash1}
  00000000ffc84000-00000000ffffffff (prio 0, romd): system.flash0 owner:{dev path=/machine/system.flash0}
"""  # noqa: E501 - as QEMU writes it


@pytest.mark.parametrize(("kind", "shows"), [("romd", True), ("i/o", False)])
def test_a_flash_chip_is_a_device_in_either_mode(kind: str, shows: bool) -> None:
    types = dict.fromkeys(("/machine/system.flash0", "/machine/system.flash1"), "cfi.pflash01")
    second, first = named(FLASH.replace("KIND", kind), types)
    assert (second.name, second.shows_memory) == ("system.flash1", shows)
    assert (first.name, first.shows_memory) == ("system.flash0", True)
    assert first.types == ("cfi.pflash01",)
    assert not any(item.is_memory for item in parse_flat_view(FLASH.replace("KIND", kind)))


def test_names_stay_when_devices_change_places() -> None:
    names = DeviceNames()
    before = {region.start: region.name for region in named(MAP, TYPES, names)}
    swapped = MAP.replace("/machine/hpet", "?").replace("/m/h2", "/machine/hpet")
    after = {
        region.start: region.name for region in named(swapped.replace("?", "/m/h2"), TYPES, names)
    }
    assert (before[0xFED0_0000], before[0xFED0_0400]) == ("hpet", "hpet#2")
    assert (after[0xFED0_0000], after[0xFED0_0400]) == ("hpet#2", "hpet")
