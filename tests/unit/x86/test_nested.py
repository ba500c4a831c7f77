"""Nested tables: what they lead to, by a walk of their own, and what room they need."""

from __future__ import annotations

import pytest
from ram import Ram

from tracer.x86.nested import NestedTables
from tracer.x86.paging import WRITABLE, Paging, walk
from tracer.x86.state import PAGE_SIZE

ROOM = range(0x10_0000, 0x10_0000 + 64 * PAGE_SIZE)
HIGHEST = (1 << 40) - 1
DEVICE, CONFIGURATION = 0xFEB0_0000, range(0xB000_0000, 0xC000_0000)


def tables() -> tuple[Ram, NestedTables]:
    """Nested tables, and the RAM that they lie in."""
    ram = Ram(0x20_0000)
    return ram, NestedTables(ram, ROOM)


def leads(ram: Ram, physical: int) -> tuple[int, bool] | None:
    """Where the tables lead from an address, and whether for writes as well."""
    leaf = walk(ram, Paging(ROOM.start, 4, 0), physical)
    if leaf is None:
        return None
    assert leaf.user
    return leaf.translate(physical), bool(leaf.writable and leaf.entry & WRITABLE)


def test_a_hole_is_a_page_and_all_else_leads_to_itself() -> None:
    ram, nested = tables()
    nested.cover([range(DEVICE + 0x10, DEVICE + 0x1010)], [], HIGHEST)
    for physical in (0, 0x1234, DEVICE - 1, DEVICE + 0x2000, 0x1_0000_0000, HIGHEST - 7):
        assert leads(ram, physical) == (physical, True)
        assert not nested.faults(physical)
    for physical in (DEVICE, DEVICE + 0xFFF, DEVICE + 0x1FFF):
        assert leads(ram, physical) is None
        assert nested.faults(physical)
    assert leads(ram, HIGHEST + 1) is None


def test_what_shows_memory_faults_at_writes_alone() -> None:
    ram, nested = tables()
    nested.cover([range(DEVICE, DEVICE + 8)], [range(0xFFC0_0000, 0xFFC0_2000)], HIGHEST)
    assert leads(ram, 0xFFC0_1008) == (0xFFC0_1008, False)
    assert leads(ram, 0xFFC0_2000) == (0xFFC0_2000, True)
    assert nested.faults(0xFFC0_1008)


def test_a_large_hole_takes_no_tables_until_it_is_opened() -> None:
    ram, nested = tables()
    nested.cover([CONFIGURATION, range(1 << 33, 1 << 39)], [], HIGHEST)
    before = ram.read(ROOM.start, len(ROOM))
    page = CONFIGURATION.start + 0x8000
    with nested.opened([page + 0x10, 1 << 38]):
        assert leads(ram, page) == (page, True)
        assert leads(ram, page + PAGE_SIZE) is None
        assert leads(ram, (1 << 38) + 4) == ((1 << 38) + 4, True)
        assert not nested.faults(page)
        assert nested.faults(page + PAGE_SIZE)
    assert leads(ram, page) is None
    assert nested.faults(page)
    entries = len(ROOM) - 16 * PAGE_SIZE
    assert ram.read(ROOM.start, entries) == before[:entries]


def test_nothing_changes_where_there_is_no_room() -> None:
    ram, nested = tables()
    nested.cover([range(DEVICE, DEVICE + 8)], [], HIGHEST)
    before = ram.read(ROOM.start, len(ROOM))
    scattered = [range(at << 21, (at << 21) + 8) for at in range(1, 100)]
    with pytest.raises(LookupError, match="no room"):
        nested.cover(scattered, [], HIGHEST)
    assert ram.read(ROOM.start, len(ROOM)) == before
    assert not nested.faults(scattered[0].start)
    far = [number << 40 | 1 << 30 for number in range(1, 20)]
    with pytest.raises(LookupError, match="no room"), nested.opened(far):
        pass
    assert ram.read(ROOM.start, len(ROOM) - 16 * PAGE_SIZE) == before[: -16 * PAGE_SIZE]


def test_new_holes_take_the_place_of_the_old() -> None:
    ram, nested = tables()
    nested.cover([range(DEVICE, DEVICE + 8)], [], HIGHEST)
    nested.cover((), (), HIGHEST)
    assert leads(ram, DEVICE) == (DEVICE, True)
