"""Regions: looked up by address, chosen by name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tracer.access.region import (
    Choice,
    Region,
    RegionMap,
    left_out,
    pages,
    parse_range,
    place_of,
    region_info,
    traced_ranges,
    unmatched,
)
from tracer.errors import UsageError


def region(name: str, start: int, end: int, qemu_name: str = "", base: int | None = None) -> Region:
    device = name.partition(".")[0]
    base = start if base is None else base
    return Region(name, start, end, base, device, qemu_name or name)


@pytest.fixture
def regions() -> list[Region]:
    return [
        region("vga.window", 0xA0000, 0xBFFFF, "vga-lowmem"),
        region("ecam", 0xB000_0000, 0xBFFF_FFFF, "pcie-mmcfg-mmio"),
        region("disk.common", 0xFE00_0000, 0xFE00_0FFF),
        region("disk.notify", 0xFE00_1000, 0xFE00_1FFF),
        region("nvme", 0xFEB0_0000, 0xFEB0_1FFF),
        region("nvme.msix-table", 0xFEB0_2000, 0xFEB0_240F),
        region("ioapic", 0xFEC0_0000, 0xFEC0_0FFF),
        region("hpet", 0xFED0_0000, 0xFED0_03FF),
        region("hpet#2", 0xFED0_0400, 0xFED0_07FF, "hpet", 0xFED0_0000),
        region("lapic", 0xFEE0_0000, 0xFEEF_FFFF, "apic-msi"),
    ]


CONTROLLERS = [
    Region("base-xhci.doorbell", 0x1000, 0x1FFF, 0x1000, "base-xhci", "doorbell", ("qemu-xhci",)),
    Region("qemu-xhci.msix-table", 0x2000, 0x20FF, 0x2000, "qemu-xhci", "msix-table"),
    Region("base-xhci#2.doorbell", 0x3000, 0x3FFF, 0x3000, "base-xhci#2", "doorbell",
           ("usb",), ("nec-usb-xhci",)),
    Region("usb.msix-table", 0x4000, 0x40FF, 0x4000, "usb", "msix-table", (), ("nec-usb-xhci",)),
]  # fmt: skip
"""Two controllers, each with a part that is a device of its own; the second has an id."""


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


@pytest.mark.parametrize(
    ("wanted", "bypassed", "expected"),
    [
        (("qemu-xhci",), (), {"base-xhci.doorbell", "qemu-xhci.msix-table"}),
        (("usb",), (), {"base-xhci#2.doorbell", "usb.msix-table"}),
        (("nec-usb-xhci",), (), {"base-xhci#2.doorbell", "usb.msix-table"}),
        (("qemu-*",), (), {"base-xhci.doorbell", "qemu-xhci.msix-table"}),
        (("base-xhci",), (), {"base-xhci.doorbell"}),
        ((), ("usb",), {"base-xhci.doorbell", "qemu-xhci.msix-table"}),
        (("*",), ("nec-usb-xhci", "base-xhci"), {"qemu-xhci.msix-table"}),
    ],
)
def test_a_device_is_all_its_parts(
    wanted: tuple[str, ...], bypassed: tuple[str, ...], expected: set[str]
) -> None:
    assert chosen(CONTROLLERS, Choice(wanted, bypassed)) == expected


def test_a_name_that_looks_like_a_range() -> None:
    named = [region("abc-def.mmio", 0x10000, 0x10FFF)]
    assert chosen(named, Choice(("abc-def",))) == {"abc-def.mmio"}


def test_parts_that_are_left_out_are_told_of() -> None:
    (line,) = left_out(CONTROLLERS, Choice(("base-xhci",)))
    assert line == (
        "base-xhci is a part of qemu-xhci, of which is not traced: qemu-xhci.msix-table"
    )
    (line,) = left_out(CONTROLLERS, Choice(("usb.msix-table", "base-xhci#2*", "base-xhci")))
    assert line.endswith(": qemu-xhci.msix-table")


@pytest.mark.parametrize(
    "choice",
    [
        Choice(),
        Choice(("qemu-xhci", "usb")),
        Choice(("base-xhci", "qemu-xhci.msix-table")),
        Choice(("usb.msix-table",)),  # who names a region means it
        Choice(("3000-3fff",)),
        Choice(("qemu-xhci",), ("base-xhci",)),
    ],
)
def test_nothing_is_left_out(choice: Choice) -> None:
    assert left_out(CONTROLLERS, choice) == []


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
    with pytest.raises(UsageError, match="2000-1000 ends before it begins"):
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


RAM = [(0, 0x9FFFF)]
SMALL = Region("small", 0xF000_0000, 0xF000_00FF, 0xF000_0000, "small", "small")
LARGE = Region("large", 0xF010_0000, 0xF01F_FFFF, 0xF010_0000, "large", "large")
MOVED = Region("small", 0xF020_0000, 0xF020_00FF, 0xF020_0000, "small", "small")


def mapped(
    *there: Region, bypassed: tuple[str, ...] = (), ram: Sequence[tuple[int, int]] = RAM
) -> RegionMap:
    return RegionMap(there, traced_ranges(there, Choice((), bypassed)), ram)


@pytest.mark.parametrize(
    ("page", "watched", "quiet"),
    [
        (0x1000, False, True),  # RAM
        (0xF000_0000, True, False),  # a traced device, and nothing behind it
        (0xF010_0000, False, True),  # a device that is not traced
        (0xF100_0000, True, False),  # nothing: a device may come
    ],
)
def test_what_has_to_be_seen(page: int, watched: bool, quiet: bool) -> None:
    found = mapped(SMALL, LARGE, bypassed=("large",))
    assert found.is_watched(page, page + 0xFFF) is watched
    assert found.is_quiet(page, page + 0xFFF) is quiet


def test_where_nothing_is_accesses_are_seen_above_4_gib_alone() -> None:
    every, writes = mapped(SMALL, LARGE, bypassed=("large",)).watched((1 << 40) - 1)
    assert every == [range(0xF000_0000, 0xF000_1000), range(1 << 32, 1 << 40)]
    assert writes == []


@pytest.mark.parametrize("shows", [True, False])
def test_a_read_of_shown_memory_is_no_access_to_the_device(shows: bool) -> None:
    chip = Region("chip", 0xF000_0000, 0xF000_FFFF, 0xF000_0000, "chip", "chip", (), (), shows)
    found = mapped(chip)
    assert found.is_watched(0xF000_0000, 0xF000_0FFF)
    assert found.is_recorded(0xF000_0000, read=False)
    assert found.is_recorded(0xF000_0000, read=True) is not shows
    assert not mapped(chip, bypassed=("chip",)).is_recorded(0xF000_0000, read=False)


def test_a_page_over_nothing_and_something_quiet_is_left_alone() -> None:
    found = mapped(SMALL, bypassed=("small",))
    assert not found.is_watched(0xF000_0000, 0xF000_0FFF)
    assert not found.is_quiet(0xF000_0000, 0xF000_0FFF)


@pytest.mark.parametrize(
    ("new", "old", "outdates"),
    [
        (mapped(SMALL), mapped(SMALL), False),
        (mapped(), mapped(SMALL), False),  # gone: what leads there stays watched
        (mapped(SMALL), mapped(), False),  # back
        (mapped(MOVED, LARGE), mapped(SMALL, LARGE), False),
        (mapped(SMALL, LARGE), mapped(SMALL, LARGE, bypassed=("large",)), True),
        (mapped(SMALL), mapped(SMALL, LARGE, bypassed=("large",)), True),
        (mapped(SMALL, bypassed=("small",)), mapped(), True),
        (mapped(ram=[*RAM, (0xF000_0000, 0xF000_FFFF)]), mapped(), True),
        # Beside a device that was not traced: nobody watched that page.
        (
            mapped(LARGE, Region("small", 0xF020_0000, 0xF020_007F, 0, "small", "small"),
                   Region("beside", 0xF020_0080, 0xF020_00FF, 0, "beside", "beside"),
                   bypassed=("small",)),
            mapped(LARGE, Region("small", 0xF020_0000, 0xF020_007F, 0, "small", "small"),
                   bypassed=("small",)),
            True,
        ),
    ],
)  # fmt: skip
def test_when_pages_have_to_be_looked_at_again(
    new: RegionMap, old: RegionMap, outdates: bool
) -> None:
    assert new.outdates(old) is outdates


# ---- Limits, at the last address and the next

EDGES = [
    region("low", 0x1000, 0x1FFF),
    region("beside", 0x2000, 0x27FF),
    region("high", 0x8000, 0x8003, base=0x7F00),
]
MAP = RegionMap(EDGES[::-1], [(0x1000, 0x1FFF), (0x8000, 0x8003)], [(0x4000, 0x5FFF), (0, 0xFFF)])


@pytest.mark.parametrize(
    ("physical", "name"),
    [
        (0xFFF, None), (0x1000, "low"), (0x1FFF, "low"), (0x2000, "beside"), (0x27FF, "beside"),
        (0x2800, None), (0x7FFF, None), (0x8000, "high"), (0x8003, "high"), (0x8004, None),
    ],
)  # fmt: skip
def test_a_region_begins_and_ends_at_its_addresses(physical: int, name: str | None) -> None:
    found = MAP.find(physical)
    assert (found and found.name) == name
    assert MAP.is_traced(physical) is (name in ("low", "high"))
    assert MAP.touches_traced(physical, physical) is (name in ("low", "high"))


@pytest.mark.parametrize(
    ("physical", "ram"),
    [(0, True), (0xFFF, True), (0x1000, False), (0x3FFF, False), (0x4000, True), (0x5FFF, True),
     (0x6000, False)],
)  # fmt: skip
def test_ram_begins_and_ends_at_its_addresses(physical: int, ram: bool) -> None:
    assert MAP.is_ram(physical) is ram
    assert MAP.touches_ram(physical, physical) is ram


def test_a_range_touches_what_lies_at_either_end() -> None:
    assert MAP.touches_traced(0x7000, 0x8000) and not MAP.touches_traced(0x2000, 0x7FFF)
    assert MAP.touches_traced(0x8003, 0x9000) and not MAP.touches_traced(0x8004, 0x9000)
    assert MAP.touches_ram(0x3000, 0x4000) and not MAP.touches_ram(0x1000, 0x3FFF)
    assert MAP.traced_names(0x1FFF, 0x8000) == ["high", "low"]
    assert MAP.traced_names(0x2000, 0x7FFF) == []
    assert MAP.traced_names(0x8003, 0x8003) == ["high"]


@pytest.mark.parametrize(
    ("physical", "size", "room"),
    [
        (0x1000, 0x1000, 0x1000), (0x1000, 0x1001, 0x1000), (0x1FFF, 8, 1), (0x1FF8, 8, 8),
        (0x2800, 0x1800, 0x1800), (0x2800, 0x1801, 0x1800), (0x8003, 4, 1),
        (0x8004, 1 << 40, 1 << 40),
        (0, 0x2000, 0x1000),
    ],
)  # fmt: skip
def test_the_room_up_to_what_is_of_another_kind(physical: int, size: int, room: int) -> None:
    assert MAP.room(physical, size) == room


def test_all_of_a_range_has_to_be_quiet() -> None:
    assert MAP.is_quiet(0, 0xFFF) and not MAP.is_quiet(0, 0x1000)
    assert MAP.is_quiet(0x2000, 0x27FF) and not MAP.is_quiet(0x2000, 0x2800)
    assert not MAP.is_quiet(0x1FFF, 0x2000)


@pytest.mark.parametrize("name", ["vga-lowmem", "cirrus-low-memory", "cirrus-linear-io"])
def test_each_frame_buffer_is_off_by_default_and_can_be_chosen(name: str) -> None:
    both = [region("screen", 0xA0000, 0xAFFFF, name), region("disk", 0x1000, 0x1FFF)]
    assert chosen(both, Choice()) == {"disk"}
    assert chosen(both, Choice(("screen",))) == {"screen"}


def test_a_place_is_told_from_the_base_of_its_region() -> None:
    assert place_of(0x8002, EDGES[2], ram=False) == "high+0x102"
    assert place_of(0x1000, None, ram=True) == "RAM"
    assert place_of(0x1000, None, ram=False) == "nothing answers there"


def test_a_region_is_announced_as_it_is() -> None:
    one = Region("a.b", 0x1000, 0x1FFF, 0x1000, "a", "b", ("c",), ("d",))
    info = region_info(one, True)
    assert (info.name, info.start, info.end, info.qemu_name) == ("a.b", 0x1000, 0x1FFF, "b")
    assert (info.device, info.within, info.types, info.traced) == ("a", ["c"], ["d"], True)
    assert not region_info(one, False).traced
    assert (one.whole, one.owners) == ("c", ("a", "c", "d"))


def test_only_the_local_apic_is_reached_by_a_vcpu_alone(regions: list[Region]) -> None:
    assert [found.name for found in regions if found.vcpu_only] == ["lapic"]


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (0x1000, 0x1FFF, [0x1000]), (0x1FFF, 0x2000, [0x1000, 0x2000]), (0x1FFF, 0x1FFF, [0x1000]),
        (0, 0x2FFF, [0, 0x1000, 0x2000]),
    ],
)  # fmt: skip
def test_the_pages_from_one_address_to_another(start: int, end: int, found: list[int]) -> None:
    assert list(pages(start, end)) == found


@pytest.mark.parametrize(
    ("bypassed", "kept"),
    [
        ("0x1000-0x1fff", []), ("0x0fff-0x2000", []), ("0x1000-0x1ffe", [(0x1FFF, 0x1FFF)]),
        ("0x1001-0x1fff", [(0x1000, 0x1000)]),
        ("0x1001-0x1ffe", [(0x1000, 0x1000), (0x1FFF, 0x1FFF)]),
        ("0x0000-0x0fff", [(0x1000, 0x1FFF)]), ("0x2000-0x2fff", [(0x1000, 0x1FFF)]),
        ("0x0000-0x1000", [(0x1001, 0x1FFF)]), ("0x1fff-0x2fff", [(0x1000, 0x1FFE)]),
    ],
)  # fmt: skip
def test_what_a_hole_leaves_to_the_byte(bypassed: str, kept: list[tuple[int, int]]) -> None:
    assert traced_ranges(EDGES[:1], Choice((), (bypassed,))) == kept


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("123-456", (0x123, 0x456)), ("12-456", None), ("123-45", None),
        ("123-123", (0x123, 0x123)),
        (f"0-{'f' * 16}", None), (f"000-{'f' * 16}", (0, (1 << 64) - 1)), (f"000-{'f' * 17}", None),
    ],
)  # fmt: skip
def test_the_digits_that_make_a_range(spec: str, found: tuple[int, int] | None) -> None:
    assert parse_range(spec) == found


@pytest.mark.parametrize(
    ("gap", "ranges"),
    [(0, [(0x1000, 0x2FFF)]), (1, [(0x1000, 0x1FFF), (0x2001, 0x2FFF)])],
)
def test_ranges_are_one_where_no_address_lies_between(
    gap: int, ranges: list[tuple[int, int]]
) -> None:
    both = [region("one", 0x1000, 0x1FFF), region("two", 0x2000 + gap, 0x2FFF)]
    assert traced_ranges(both, Choice()) == ranges


def test_one_byte_of_a_region_can_be_chosen() -> None:
    for spec, found in (("0000-1000", 0x1000), ("1fff-2000", 0x1FFF), ("1234-1234", 0x1234)):
        assert traced_ranges(EDGES[:1], Choice((spec,))) == [(found, found)]
    assert traced_ranges(EDGES[:1], Choice(("0000-0fff",))) == []


def test_a_region_within_a_longer_one_adds_nothing() -> None:
    both = [region("long", 0x1000, 0x4FFF), region("short", 0x2000, 0x2FFF)]
    assert traced_ranges(both, Choice()) == [(0x1000, 0x4FFF)]
