"""The tables that a root leads to, and where they can be written."""

from __future__ import annotations

import struct

import pytest
from ram import PAGING, ROOT, Ram

from tracer.bare.page_tables import Table, aliases, leads_to, tables
from tracer.errors import TablesUnending
from tracer.x86.paging import Paging, leaves

NEW = 0xFFFF_C900_0004_0000
LOOP = 510


def guest(paging: Paging = PAGING) -> Ram:
    ram = Ram()
    ram.map(NEW, 0x20_0000, paging=paging)
    ram.map(0x40_0000, 0x20_0000, level=2, paging=paging)
    return ram


def places(ram: Ram, paging: Paging = PAGING) -> dict[int, set[int]]:
    return aliases(tables(ram, paging), leaves(ram, paging), paging)


@pytest.mark.parametrize("levels", [4, 5])
def test_each_table_is_found_once_with_what_it_maps(levels: int) -> None:
    paging = Paging(ROOT, levels, 1 << 51)
    found = tables(guest(paging), paging)
    assert len(found) == 2 * levels - 2  # the low one ends a level earlier
    assert [table.level for table in found.values()].count(1) == 1
    last = next(table for table in found.values() if table.level == 1)
    assert last.base == NEW & (1 << 12 + 9 * levels) - 1 & -(1 << 21)
    assert found[ROOT].level == levels and found[ROOT].base == 0


def test_tables_in_a_circle_and_outside_of_ram_are_passed() -> None:
    ram = guest()
    ram.write(ROOT + 8 * LOOP, struct.pack("<Q", ROOT | 3))
    ram.write(ROOT + 8 * 7, struct.pack("<Q", 0xFEBF_0000 | 3))
    assert set(tables(ram, PAGING)) == set(tables(guest(), PAGING))


def test_tables_without_end_are_given_up() -> None:
    class Endless(Ram):
        def read(self, physical: int, size: int) -> bytes:
            first = physical // 4096 * 512 + 1
            return struct.pack("<512Q", *(((first + n) << 12 | 3) % (1 << 40) for n in range(512)))

    with pytest.raises(TablesUnending):
        tables(Endless(), PAGING)


def test_a_table_is_seen_through_each_leaf_over_it() -> None:
    ram = guest()
    assert all(not some for some in places(ram).values())
    ram.map(0xFFFF_8800_0000_0000, 0, level=2)
    ram.map(NEW + 0x1000, ROOT)
    found = places(ram)
    assert found[ROOT] == {0xFFFF_8800_0000_0000 + ROOT, NEW + 0x1000}
    assert all(0xFFFF_8800_0000_0000 + table in some for table, some in found.items())


@pytest.mark.parametrize("levels", [4, 5])
def test_a_table_is_seen_through_a_root_that_leads_to_itself(levels: int) -> None:
    paging = Paging(ROOT, levels, 1 << 51)
    ram = guest(paging)
    ram.write(ROOT + 8 * LOOP, struct.pack("<Q", ROOT | 3))
    found = places(ram, paging)
    known = tables(ram, paging)
    for physical, some in found.items():
        (linear,) = some
        # The CPU's own walk, by hand: as many steps as levels lead to the table.
        table = ROOT
        for level in range(levels, 0, -1):
            index = linear >> 12 + 9 * (level - 1) & 511
            table = ram.entry(table + 8 * index) & 0x000F_FFFF_FFFF_F000
        assert table == physical and known[physical].physical == physical


def test_what_differs_is_told_by_the_address_that_it_maps() -> None:
    data = bytes(4096)
    table = Table(0x1000, 2, 0x4000_0000, data)
    now = data[:16] + struct.pack("<Q", 0x83) + data[24:]
    assert list(table.changed(now)) == [(0x4000_0000 + 2 * (1 << 21), 0, 0x83)]
    assert not list(table.changed(data))


def test_a_page_over_a_table_is_told() -> None:
    known = [0x1000, 0x20_0000]
    assert leads_to(known, 0x1000, 4096) and leads_to(known, 0x20_0000, 1 << 21)
    assert not leads_to(known, 0x2000, 4096) and not leads_to(known, 0x40_0000, 1 << 21)
