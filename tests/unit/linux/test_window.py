"""Room for compiled sites: what is taken from a kernel's memory map, and what is mapped to it."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from ram import PAGING, Ram

from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.symbols import Symbol, table_of
from tracer.compiled.layout import DISTANCE
from tracer.intercept.ring.window import NoWindow, Window
from tracer.linux.window import open_window
from tracer.x86.paging import NOT_EXECUTABLE, PRESENT, WRITABLE, Paging, leaves, walk

MIB, GIB = 1 << 20, 1 << 30
BASE = 0xFFFF_FFFF_8100_0000
IMAGE_AT, PARAMS = 0x20_0000, 0x10_0000
SIZE = 4 * MIB
ROW = struct.Struct("<QQI")


class Guest:
    """A kernel at its entry. Its image begins at IMAGE_AT, its map of RAM says what it is told."""

    def __init__(self, *rows: tuple[int, int, int], paging: Paging = PAGING, end: int = MIB):
        self.ram, self.paging = Ram(0x50_0000), paging
        self.regions = RegionMap((), (), ())
        for at in range(0, 2 * MIB, 4096):
            self.ram.map(BASE + at, IMAGE_AT + at, paging=paging)
        self.params = IMAGE_AT + PARAMS - 0x1000
        self.symbols = table_of(
            [
                Symbol(BASE, "T", "_text"), Symbol(BASE + 0x100, "T", "start_kernel"),
                Symbol(BASE + PARAMS - 0x1000, "D", "boot_params"), Symbol(BASE + end, "D", "_end"),
            ],
            BASE + 2 * MIB,
        )  # fmt: skip
        self.ram.write(self.params + 0x1E8, bytes([len(rows)]))
        self.ram.write(self.params + 0x2D0, b"".join(ROW.pack(*row) for row in rows))

    def give(self, offset: int, code: str, *values: Any) -> None:
        self.ram.write(self.params + offset, struct.pack(f"<{code}", *values))

    @property
    def rows(self) -> list[tuple[int, int, int]]:
        count = self.ram.read(self.params + 0x1E8, 1)[0]
        return [ROW.unpack(self.ram.read(self.params + 0x2D0 + 20 * at, 20)) for at in range(count)]

    @property
    def space(self) -> AddressSpace:
        return AddressSpace(self.ram, self.paging, self.regions)

    def open(self, size: int = SIZE, second: int = 0) -> Window:
        return open_window(self.ram, self.space, self.symbols, size, second)


@pytest.mark.parametrize("levels", [4, 5])
def test_the_block_is_seen_as_data_and_one_gib_above_as_code(levels: int) -> None:
    guest = Guest((0, 512 * MIB, 1), paging=Paging(PAGING.cr3, levels, PAGING.poison))
    window = guest.open()
    assert window.physical == 508 * MIB
    seen = {}
    for linear in (window.block, window.code, window.base + 0xFEB0_0000):
        leaf = walk(guest.ram, guest.paging, linear)
        assert leaf is not None and leaf.size == GIB and not leaf.user
        entry = guest.ram.entry(leaf.entry_address)
        seen[leaf.translate(linear)] = leaf.writable
        assert bool(entry & NOT_EXECUTABLE) is leaf.writable, "writable or executable, never both"
    assert window.code == window.block + DISTANCE
    assert seen == {window.physical: False, 0xFEB0_0000: True}
    assert all(linear in window.span for linear in (window.base, window.block, window.code))
    assert window.span.stop <= 0xFFFF_FFEF_0000_0000, "UEFI's region begins there"
    assert walk(guest.ram, guest.paging, window.base + window.reach - 1) is not None


def test_a_device_is_reached_through_it_where_the_page_tables_have_the_window() -> None:
    guest = Guest((0, 512 * MIB, 1))
    other = guest.space
    shut = Window(508 * MIB, 0, 0xFFFF_9000_0000_0000, 4 * GIB, 0, 6)
    assert shut.linear(0xFEB0_0000, other) is None
    window = guest.open()
    assert window.linear(0xFEB0_0000, guest.space) == window.base + 0xFEB0_0000
    assert window.linear(window.reach + GIB, guest.space) is None


def test_devices_beyond_all_ram_are_seen_behind_the_rest() -> None:
    bar = 512 * GIB + 0x4000
    device = Region("nvme", bar, bar + 0xFFF, bar, "nvme", "nvme")
    guest = Guest((0, 512 * MIB, 1), (300 * GIB, GIB, 1), (400 * GIB, GIB, 1))
    guest.regions = RegionMap([device], [(bar, bar + 0xFFF)], ())
    window = guest.open()
    assert window.far.start == 512 * GIB and bar + 0xFFF in window.far
    assert window.physical == 301 * GIB - SIZE, "the block is in what is seen"
    for linear, physical in (
        (window.base + window.reach - 1, window.reach - 1),
        (window.base + window.reach + 0x4000, bar),
        (window.base + window.reach + len(window.far) - 1, window.far.stop - 1),
        (window.block, window.physical),
        (window.code, window.physical),
    ):
        leaf = walk(guest.ram, guest.paging, linear)
        assert leaf is not None and leaf.translate(linear) == physical
    assert Guest((0, 512 * MIB, 1)).open().far == range(0)


def test_the_kernel_finds_the_rest_of_its_ram_and_nothing_else_has_changed() -> None:
    rows = [(0, 0x9FC00, 1), (MIB, 127 * MIB + 0x1000, 1), (0xFFFC_0000, 0x4_0000, 2)]
    guest = Guest(*rows)
    place = guest.open().physical
    assert place % (2 * MIB) == 0
    assert guest.rows == [
        rows[0], (MIB, place - MIB, 1), (place, SIZE, 2),
        (place + SIZE, 128 * MIB + 0x1000 - place - SIZE, 1), rows[2],
    ]  # fmt: skip


def test_the_leaves_go_when_the_window_is_closed() -> None:
    guest = Guest((0, 512 * MIB, 1))
    before = guest.ram.data[:IMAGE_AT]
    window = guest.open()
    assert guest.ram.data[:IMAGE_AT] != before
    window.close(guest.ram)
    assert guest.ram.data[:IMAGE_AT] == before


def test_what_the_boot_loader_left_is_not_taken() -> None:
    guest = Guest((0, 64 * MIB, 1))
    guest.give(0x218, "II", 59 * MIB, 5 * MIB)  # the initrd
    assert guest.open().physical == 54 * MIB
    # An initrd above 4 GiB.
    guest = Guest((4 * GIB, 64 * MIB, 1))
    guest.give(0x218, "II", 59 * MIB, 5 * MIB)
    guest.give(0xC0, "II", 1, 0)
    assert guest.open().physical == 4 * GIB + 54 * MIB


def test_nodes_of_setup_data_and_what_they_lead_to_are_not_taken() -> None:
    guest = Guest((0, 64 * MIB, 1), (64 * MIB, 64 * MIB, 2))
    node = IMAGE_AT + 0x8000
    guest.give(0x250, "Q", node)
    guest.ram.write(node, struct.pack("<QII", node + 0x100, 9, 8))
    inner = struct.pack("<IIQQ", 9, 0, 1 * MIB, 60 * MIB)
    guest.ram.write(node + 0x100, struct.pack("<QII", 0, 1 << 31, len(inner)) + inner)
    assert guest.open().physical == 56 * MIB


def test_a_setup_data_that_leads_nowhere_leaves_the_guest_alone() -> None:
    guest = Guest((0, 64 * MIB, 1))
    guest.give(0x250, "Q", 1 << 40)
    before = bytes(guest.ram.data)
    with pytest.raises(NoWindow, match="setup_data at physical 0x10000000000"):
        guest.open()
    assert guest.ram.data == before


def test_the_kernel_itself_is_not_taken_wherever_it_was_put() -> None:
    guest = Guest((16 * MIB, 20 * MIB, 1), end=2 * MIB)
    for at in range(0, 2 * MIB, 4096):  # where the highest place would be
        guest.ram.map(BASE + at, 33 * MIB + at)
    # The parameters stay where this RAM has them.
    guest.ram.map(BASE + PARAMS - 0x1000, guest.params)
    assert guest.open().physical == 28 * MIB


def test_the_kernel_itself_is_not_taken_where_it_runs_in_the_second_ram() -> None:
    second = 1 << 38
    guest = Guest((16 * MIB, 20 * MIB, 1), end=2 * MIB)
    for at in range(0, 2 * MIB, 4096):
        guest.ram.map(BASE + at, second + 33 * MIB + at)
    guest.ram.map(BASE + PARAMS - 0x1000, guest.params)
    assert guest.open(second=second).physical == 28 * MIB


def test_what_uefi_does_not_call_free_is_not_taken() -> None:
    guest = Guest((0, 64 * MIB, 1))
    table = IMAGE_AT + 0x9000
    rows = [(7, 0, 60 * MIB), (4, 60 * MIB, 2 * MIB), (7, 62 * MIB, 2 * MIB)]
    data = b"".join(
        struct.pack("<IIQQQQQ", kind, 0, start, 0, size >> 12, 15, 0) for kind, start, size in rows
    )
    guest.give(0x1C0, "4s7I", b"EL64", 0, 48, 1, table, len(data), 0, 0)
    guest.ram.write(table, data)
    assert guest.open().physical == 56 * MIB


def test_a_block_does_not_cross_a_gib_and_lies_where_the_window_reaches() -> None:
    guest = Guest((GIB - 30 * MIB, 32 * MIB, 1))
    assert guest.open().physical == GIB - SIZE
    guest = Guest((0, 32 * MIB, 1), (500 * GIB, GIB, 1))
    assert guest.open().physical == 28 * MIB


@pytest.mark.parametrize(
    "rows", [(), ((0, 64 * MIB, 2),), ((16 * MIB, 3 * MIB, 1),), ((0, 16 * MIB, 1),)]
)
def test_a_guest_without_room_says_so_and_stays_as_it_is(rows: Any) -> None:
    guest = Guest(*rows)
    before = bytes(guest.ram.data)
    with pytest.raises(NoWindow, match="4 MiB"):
        guest.open()
    assert guest.ram.data == before


def test_addresses_that_the_kernel_uses_are_its_own() -> None:
    guest = Guest((0, 64 * MIB, 1))
    guest.ram.map(0xFFFF_FF90_0000_0000, 0, PRESENT | WRITABLE, 3)
    with pytest.raises(NoWindow, match="should be free"):
        guest.open()


def test_a_kernel_without_the_symbols_has_no_window() -> None:
    guest = Guest((0, 64 * MIB, 1))
    guest.symbols = table_of([Symbol(BASE + 0x100, "T", "start_kernel")], BASE + MIB)
    with pytest.raises(NoWindow, match="boot_params"):
        guest.open()


def test_no_table_was_made() -> None:
    guest = Guest((0, 512 * MIB, 1))
    before = len(list(leaves(guest.ram, guest.paging)))
    guest.open()
    assert len(list(leaves(guest.ram, guest.paging))) == before + 444
