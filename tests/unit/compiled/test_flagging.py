"""Bits of the inputs that somebody is asked about."""

from __future__ import annotations

import struct

import pytest

from tracer.compiled import flagging
from tracer.compiled.flagging import (
    ALL_INPUTS,
    ALL_IRQS,
    ALL_LEAVES,
    ALL_MSRS,
    ALL_PORTS,
    FLAGS_SIZE,
    flag_of_irq,
    flag_of_leaf,
    flag_of_msr,
    flagged,
    pages,
)


def test_each_input_has_a_bit_in_that_of_its_kind_alone() -> None:
    bits = {
        ALL_PORTS: [0, 0xFFFF],
        ALL_MSRS: [flag_of_msr(i) for i in (0, 0x1FFF, 0xC000_0000, 0xC001_1FFF, 0x4000_0000)],
        ALL_LEAVES: [flag_of_leaf(leaf) for leaf in (0, 0x4000_0000, 0x8000_00FF, 0x2000_0000)],
        ALL_IRQS: [flag_of_irq(0), flag_of_irq(255)],
    }
    assert len({bit for some in bits.values() for bit in some}) == 13
    for kind, some in bits.items():
        assert all(1 << bit & kind for bit in some)
        assert not any(1 << bit & other for other in bits if other != kind for bit in some)
    assert ALL_PORTS | ALL_MSRS | ALL_LEAVES | ALL_IRQS == ALL_INPUTS


def test_what_has_no_bit_of_its_own_shares_one() -> None:
    assert flag_of_msr(0x2000) == flag_of_msr(0xC000_2000) != flag_of_msr(0x1FFF)
    assert flag_of_leaf(0x100) == flag_of_leaf(0x4000_0100) != flag_of_leaf(0xFF)


def test_the_assembler_counts_as_python_does() -> None:
    told = flagging.symbols(0)
    assert flag_of_msr(0) == told["MSRS"] and flag_of_msr(0xC000_0000) == told["MSRS"] + 0x2000
    assert flag_of_msr(0x2000) == told["OTHER_MSRS"]
    assert flag_of_leaf(0) == told["LEAVES"]
    assert flag_of_leaf(0x8000_0001) == told["LEAVES"] + (0x8000_0001 >> 30 << 8) + 1
    assert flag_of_leaf(0x100) == told["OTHER_LEAVES"]
    assert flag_of_irq(7) == told["IRQS"] + 7


@pytest.mark.parametrize(
    ("flags", "since", "vectors", "counter"),
    [
        (0, None, 0, 0), (1 << 0x64, None, 0, 0), (1 << flag_of_irq(0x30), None, 1, 0),
        (0, 5, 1, 5), (0, 0, 1, 1),
    ],
    ids=["none", "port", "interrupt", "from", "now"],
)  # fmt: skip
def test_pages_have_the_bits_and_say_whether_an_interrupt_may_be_one(
    flags: int, since: int | None, vectors: int, counter: int
) -> None:
    data = pages(flags, since)
    assert len(data) == FLAGS_SIZE
    assert int.from_bytes(data[:-16], "little") == flags
    assert struct.unpack("<QQ", data[-16:]) == (vectors, counter)


def test_a_set_has_the_bits_that_it_is_made_of() -> None:
    assert flagged([3, 0x64]) == 1 << 3 | 1 << 0x64
    assert flagged(range(1 << 16)) == ALL_PORTS
