"""Whose guest the kernel takes itself for."""

from __future__ import annotations

from ram import PAGING, Ram

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.symbols import Symbol, table_of
from tracer.linux.vendor import Vendor

PLACE, AT = 0xFFFF_FFFF_8200_0000, 0x5000


def vendor(ram: Ram, name: str = "cc_vendor") -> Vendor:
    space = AddressSpace(ram, PAGING, RegionMap((), (), ()))
    return Vendor(table_of([Symbol(PLACE, "d", name)]), space)


def test_a_kernel_that_says_another_vendor_later_has_taken_it_back() -> None:
    ram = Ram()
    ram.map(PLACE, AT)
    said = vendor(ram)
    assert not said.taken_back()  # it has said nothing yet
    ram.write(AT, b"\2\0\0\0")
    assert not said.taken_back() and not said.taken_back()
    ram.write(AT, b"\1\0\0\0")
    assert said.taken_back()


def test_a_kernel_without_the_variable_says_nothing() -> None:
    ram = Ram()
    assert not vendor(ram, "another").taken_back()
    assert not vendor(ram).taken_back()  # nor one that is not mapped
