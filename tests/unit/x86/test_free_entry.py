"""Unused entries of page tables: borrowed, given back, placed."""

from __future__ import annotations

from ram import PAGING, POISON, ROOT, Ram

from tracer.x86.free_entry import borrow, give_back, place_large
from tracer.x86.paging import PRESENT, WRITABLE, Paging, walk

HIGH = 0xFFFF_8880_0000_0000


def test_an_entry_is_borrowed_and_given_back() -> None:
    ram = Ram()
    ram.map(HIGH + 0x7000, 0x1000)
    ram.map(0x7000, 0x1000)
    before = bytes(ram.data)
    loan = borrow(ram, PAGING, 0xFED0_0104, 8)
    # The last entry of the highest table that maps 2 MiB pages.
    assert loan is not None
    assert loan.linear == HIGH + 0x3FE0_0000 + 0x10_0104
    leaf = walk(ram, PAGING, loan.linear)
    assert leaf is not None
    assert leaf.translate(loan.linear) == 0xFED0_0104
    assert leaf.size == 0x20_0000
    assert leaf.entry_address == loan.entry_address
    assert leaf.writable and not leaf.user
    give_back(ram, loan)
    assert bytes(ram.data) == before


def test_an_entry_that_holds_the_whole_access_is_borrowed() -> None:
    ram = Ram()
    ram.map(0x7000, 0x1000)
    assert borrow(ram, PAGING, 0xFEDF_FFFC, 4) is not None
    loan = borrow(ram, PAGING, 0xFEDF_FFFD, 4)
    assert loan is not None
    leaf = walk(ram, PAGING, loan.linear + 3)
    assert leaf is not None
    assert (leaf.size, leaf.translate(loan.linear)) == (1 << 30, 0xFEDF_FFFD)
    assert borrow(ram, PAGING, 0xFFFF_FFFD, 8) is None  # over the end of 1 GiB


def test_nothing_is_borrowed_of_full_tables() -> None:
    ram = Ram()
    full = (ROOT | PRESENT | WRITABLE).to_bytes(8, "little") * 512
    ram.write(ROOT, full)  # every entry leads back: what a hostile guest may have
    assert borrow(ram, PAGING, 0xFED0_0000, 4) is None
    assert borrow(ram, Paging(1 << 40, 4, POISON), 0xFED0_0000, 4) is None


def test_a_borrowed_entry_is_for_data_of_a_device() -> None:
    ram = Ram()
    ram.map(0x7000, 0x1000)
    loan = borrow(ram, PAGING, 0xFED0_0104, 4)
    assert loan is not None
    # Executable: without EFER.NXE the bit that says otherwise is reserved.
    assert ram.entry(loan.entry_address) == 0xFEC0_0000 | 0xF3


def test_a_device_page_is_placed_where_nothing_is() -> None:
    ram = Ram()
    ram.map(HIGH, 0x1000)  # makes the tables down to the one of 2 MiB entries
    free = HIGH + 0x20_0000
    assert place_large(ram, PAGING, free, 0xFED1_2345)
    leaf = walk(ram, PAGING, free + 0x1_2345)
    assert leaf is not None and (leaf.size, leaf.physical) == (1 << 21, 0xFEC0_0000)
    # Present, writable, not cached, accessed, dirty, large, and not executable; SDM table 4-18.
    assert leaf.entry == 0xFEC0_0000 | 0x8000_0000_0000_00F3
    assert leaf.writable and not leaf.user
    assert place_large(ram, PAGING, free, 0xFEC0_0000)  # it is there
    assert not place_large(ram, PAGING, free, 0xFEE0_0000)  # with another use
    assert not place_large(ram, PAGING, HIGH, 0xFED0_0000)  # there is a table
    assert not place_large(ram, PAGING, HIGH + (1 << 30), 0xFED0_0000)  # there is none above
    assert not place_large(ram, Paging(1 << 40, 4, POISON), free, 0xFED0_0000)


def test_no_device_page_is_placed_below_a_leaf() -> None:
    ram = Ram()
    ram.map(HIGH, 0x4000_0000, level=3)
    before = bytes(ram.data)
    assert not place_large(ram, PAGING, HIGH, 0xFED0_0000)
    assert bytes(ram.data) == before


def test_a_borrowed_address_of_the_lower_half_is_canonical() -> None:
    ram = Ram()
    ram.map(0x7FFF_4000_0000, 0x1000)
    loan = borrow(ram, PAGING, 0xFED0_0000, 4)
    assert loan is not None and loan.linear == 0x7FFF_7FE0_0000 + 0x10_0000
