"""Regions: parsed from QEMU's memory map, named, chosen."""

from __future__ import annotations

import pytest

from tracer.errors import UsageError
from tracer.region import (
    Choice,
    FlatRange,
    Region,
    RegionMap,
    name_regions,
    owner_path,
    parse_flat_view,
    parse_range,
    traced_ranges,
    unmatched,
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
  00000000fe000000-00000000fe000fff (prio 0, i/o): virtio-pci-common-virtio-blk owner:{dev id=disk}
  00000000fe001000-00000000fe001fff (prio 0, i/o): virtio-pci-notify-virtio-blk owner:{dev id=disk}
  00000000feb00000-00000000feb01fff (prio 0, i/o): nvme owner:{dev id=nvme}
  00000000feb02000-00000000feb0240f (prio 0, i/o): msix-table owner:{dev id=nvme}
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic owner:{dev path=/machine/ioapic}
  00000000fed00000-00000000fed003ff (prio 0, i/o): hpet owner:{dev path=/machine/hpet}
  00000000fed00400-00000000fed007ff (prio 0, i/o): hpet @0000000000000400 owner:{dev path=/m/h2}
  00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi owner:{dev path=/machine/apic}
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios owner:{dev path=/machine/q35}
"""

TYPES = {
    "/machine/q35": "mch",
    "/machine/vga": "VGA",
    "/machine/ioapic": "ioapic",
    "/machine/hpet": "hpet",
    "/m/h2": "hpet",
    "/machine/apic": "apic",
}


@pytest.fixture
def regions() -> list[Region]:
    return name_regions(parse_flat_view(MAP), TYPES)


def test_the_view_of_the_cpus_is_read() -> None:
    ranges = parse_flat_view(MAP)
    assert len(ranges) == 13
    assert ranges[2] == FlatRange(0xC0000, 0x1FFF_FFFF, "ram", "guest-ram", 0xC0000, "obj")
    assert [item.kind for item in ranges].count("ram") == 2
    assert owner_path(ranges[3].owner) == "/machine/q35"
    assert owner_path(ranges[4].owner) is None


def test_no_view() -> None:
    with pytest.raises(ValueError, match="memory"):
        parse_flat_view(MAP.replace('AS "memory"', 'AS "other"'))


def test_names(regions: list[Region]) -> None:
    assert [region.name for region in regions] == [
        "vga.window", "ecam", "disk.common", "disk.notify", "nvme", "nvme.msix-table",
        "ioapic", "hpet", "hpet#2", "lapic",
    ]  # fmt: skip
    assert [region.name for region in regions if region.vcpu_only] == ["lapic"]
    assert [region.name for region in regions if region.frame_buffer] == ["vga.window"]
    # Offsets count from the beginning of QEMU's region, not of the visible part.
    assert next(region for region in regions if region.name == "hpet#2").base == 0xFED0_0000


def chosen(regions: list[Region], choice: Choice) -> set[str]:
    traced = RegionMap(regions, traced_ranges(regions, choice), ())
    return {region.name for region in regions if traced.is_traced_region(region)}


def test_default_is_everything_but_frame_buffers(regions: list[Region]) -> None:
    assert chosen(regions, Choice()) == {region.name for region in regions} - {"vga.window"}


@pytest.mark.parametrize(
    ("wanted", "bypassed", "expected"),
    [
        (("vga.window",), (), {"vga.window"}),
        (("nvme",), (), {"nvme", "nvme.msix-table"}),
        (("nvme.msix-table", "ecam"), (), {"nvme.msix-table", "ecam"}),
        (("disk.*",), ("disk.notify",), {"disk.common"}),
        (("fec00000-fed003ff",), (), {"ioapic", "hpet"}),
        (("ioapic",), ("ioapic",), set()),
        (("apic-msi",), (), {"lapic"}),
    ],
)
def test_choice(
    wanted: tuple[str, ...], bypassed: tuple[str, ...], expected: set[str], regions: list[Region]
) -> None:
    assert chosen(regions, Choice(wanted, bypassed)) == expected


def test_a_hole_in_a_region(regions: list[Region]) -> None:
    choice = Choice(("ecam",), ("0xb0001000-0xb0001fff",))
    assert traced_ranges(regions, choice) == [
        (0xB000_0000, 0xB000_0FFF),
        (0xB000_2000, 0xBFFF_FFFF),
    ]


def test_neighbours_are_one_range(regions: list[Region]) -> None:
    assert traced_ranges(regions, Choice(("nvme",))) == [(0xFEB0_0000, 0xFEB0_240F)]


def test_what_nothing_answers_to(regions: list[Region]) -> None:
    assert unmatched(regions, Choice(("nvme", "nvmf"), ("1000-1fff", "hpet"))) == [
        "nvmf",
        "1000-1fff",
    ]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("fed00000-fed003ff", (0xFED0_0000, 0xFED0_03FF)),
        ("0xFED00000-0xFED003FF", (0xFED0_0000, 0xFED0_03FF)),
        ("nvme", None),
        ("virtio-blk", None),
        ("ab-cd", None),
    ],
)
def test_ranges(spec: str, expected: tuple[int, int] | None) -> None:
    assert parse_range(spec) == expected


def test_range_that_ends_before_it_starts() -> None:
    with pytest.raises(UsageError, match="2000-1000 ends before it starts"):
        parse_range("2000-1000")


def test_lookup(regions: list[Region]) -> None:
    traced = RegionMap(
        regions, [(0xFEC0_0000, 0xFEC0_0FFF)], [(0, 0x9FFFF), (0xC0000, 0x1FFF_FFFF)]
    )
    found = traced.find(0xFED0_0400)
    assert found is not None
    assert found.name == "hpet#2"
    assert traced.find(0xFED0_0800) is None
    assert traced.find(0) is None
    assert traced.is_traced(0xFEC0_0FFF)
    assert not traced.is_traced(0xFEC0_1000)
    assert traced.is_ram(0x9FFFF)
    assert not traced.is_ram(0xA0000)
    assert traced.touches_traced(0xFEC0_0FFF, 0xFED0_0000)
    assert not traced.touches_traced(0xFEC0_1000, 0xFED0_0000)
    assert traced.touches_ram(0xA0000, 0xC0000)
    assert not traced.touches_ram(0xA0000, 0xBFFFF)
