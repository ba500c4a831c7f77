"""Page tables outside long mode: of 32 bits, with PAE, and none."""

from __future__ import annotations

import struct

import pytest
from ram import Ram

from tracer.x86.legacy_paging import (
    MARK,
    MARKS,
    NONE,
    PAE,
    SHORT,
    legacy_leaves,
    legacy_paging_of,
    legacy_walk,
    marked_paging,
    marks_of,
)
from tracer.x86.paging import LARGE, PRESENT, USER, WRITABLE, Paging

PG, PSE, WITH_PAE = 1 << 31, 1 << 4, 1 << 5
ROOT, TABLE, PAGES = 0x1_0000, 0x1_1000, 0x1_2000
DEVICE = 0xFEB0_0000


def put(ram: Ram, place: int, entry: int, width: int) -> None:
    ram.write(place, struct.pack("<Q", entry)[:width])


def test_the_way_is_that_of_the_control_registers() -> None:
    assert legacy_paging_of(1, ROOT, 0).levels == NONE
    assert legacy_paging_of(PG, ROOT, WITH_PAE) == Paging(ROOT, PAE, 0)
    assert legacy_paging_of(PG, ROOT, PSE) == Paging(ROOT, SHORT, 0, large=True)
    assert legacy_paging_of(PG, ROOT, 0) == Paging(ROOT, SHORT, 0, large=False)


def test_a_mark_says_the_same() -> None:
    assert marked_paging(MARK | ROOT).levels == NONE
    assert marked_paging(MARK | MARKS["MARK_PAE"] | ROOT) == Paging(ROOT, PAE, 0)
    short = MARK | MARKS["MARK_SHORT"] | ROOT
    assert marked_paging(short) == Paging(ROOT, SHORT, 0, large=False)
    assert marked_paging(short | MARKS["MARK_LARGE"]) == Paging(ROOT, SHORT, 0, large=True)


@pytest.mark.parametrize(
    "paging",
    [Paging(0, NONE, 0), Paging(0x5020, PAE, 0), Paging(0x5000, SHORT, 0),
     Paging(0xFFFF_F000, SHORT, 0, large=True)],
)  # fmt: skip
def test_it_is_marked_as_the_monitor_does(paging: Paging) -> None:
    assert marked_paging(marks_of(paging)) == paging and marks_of(paging) & MARK


def test_without_paging_each_address_leads_to_itself() -> None:
    leaf = legacy_walk(Ram(), Paging(0, NONE, 0), DEVICE + 0x10)
    assert leaf is not None and leaf.translate(DEVICE + 0x10) == DEVICE + 0x10
    assert sum(leaf.size for leaf in legacy_leaves(Ram(), Paging(0, NONE, 0))) == 1 << 32


def test_tables_of_32_bits() -> None:
    ram, paging = Ram(), Paging(ROOT | 0x18, SHORT, 0, large=True)
    put(ram, ROOT + 4 * 0x301, TABLE | PRESENT | WRITABLE | USER, 4)
    put(ram, TABLE + 4 * 0x3FF, DEVICE | PRESENT, 4)
    # Bits 20:13 of an entry for 4 MiB are bits 39:32 of the address.
    put(ram, ROOT + 4 * 0x302, 0x0040_0000 | 3 << 13 | LARGE | PRESENT | WRITABLE, 4)
    leaf = legacy_walk(ram, paging, 0xC07F_F123)
    assert leaf is not None
    assert (leaf.linear, leaf.physical, leaf.size) == (0xC07F_F000, DEVICE, 0x1000)
    assert (leaf.writable, leaf.user) == (False, False)
    large = legacy_walk(ram, paging, 0xC080_1234)
    assert large is not None and large.size == 4 << 20 and large.writable
    assert large.translate(0xC080_1234) == 0x3_0040_1234
    assert legacy_walk(ram, paging, 0xC07F_E000) is None
    assert [leaf.linear for leaf in legacy_leaves(ram, paging)] == [0xC07F_F000, 0xC080_0000]


def test_an_entry_is_no_large_page_without_pse() -> None:
    ram, paging = Ram(), Paging(ROOT, SHORT, 0, large=False)
    put(ram, ROOT, TABLE | LARGE | PRESENT, 4)
    put(ram, TABLE, PAGES | PRESENT, 4)
    leaf = legacy_walk(ram, paging, 0)
    assert leaf is not None and (leaf.physical, leaf.size) == (PAGES, 0x1000)


def test_tables_with_pae() -> None:
    # The root has four entries, of a page's any 32 bytes, which grant nothing and deny nothing.
    ram, paging = Ram(), Paging(ROOT + 0x20, PAE, 0)
    put(ram, ROOT + 0x20 + 8 * 3, TABLE | PRESENT, 8)
    put(ram, TABLE + 8 * 1, 0x2_0020_0000 | LARGE | PRESENT | WRITABLE | USER, 8)
    put(ram, TABLE + 8 * 2, PAGES | PRESENT | WRITABLE, 8)
    put(ram, PAGES + 8 * 5, 1 << 63 | DEVICE | PRESENT | WRITABLE, 8)
    large = legacy_walk(ram, paging, 0xC020_0010)
    assert large is not None and large.size == 2 << 20 and large.writable and large.user
    assert large.translate(0xC020_0010) == 0x2_0020_0010
    leaf = legacy_walk(ram, paging, 0xC040_5004)
    assert leaf is not None and leaf.translate(0xC040_5004) == DEVICE + 4
    assert legacy_walk(ram, paging, 0x8000_0000) is None
    assert [leaf.linear for leaf in legacy_leaves(ram, paging)] == [0xC020_0000, 0xC040_5000]


@pytest.mark.parametrize("levels", [SHORT, PAE])
def test_tables_that_are_not_in_ram_lead_nowhere(levels: int) -> None:
    paging = Paging(0xF000_0000, levels, 0)
    assert legacy_walk(Ram(), paging, 0x1234) is None
    assert list(legacy_leaves(Ram(), paging)) == []
