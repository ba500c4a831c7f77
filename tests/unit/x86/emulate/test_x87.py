"""x87 loads and stores: conversion, rounding, exceptions, the register stack; MMX on top of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cell import AT, Ran, run, state

from tracer.x86.bus import Load, Store
from tracer.x86.emulate import real
from tracer.x86.emulate.real import Rounding
from tracer.x86.state import CpuState

IE, DE, OE, UE, PE, SF, ES, C1, BUSY = 1, 2, 8, 16, 32, 64, 128, 0x200, 0x8000
ONE = 0x3FFF_8000_0000_0000_0000
INDEFINITE = real.INDEFINITE


def fpu(*stack: int, control: int = 0x37F, status: int = 0) -> CpuState:
    """Make a state with these values in ST(0) and up, TOP where it belongs."""
    top = 8 - len(stack) & 7
    tag = sum((0 if n >= 8 - len(stack) else 3) << 2 * n for n in range(8))
    registers = (*stack, *[0] * (8 - len(stack)))
    return replace(
        state(), st=registers, fpu_tag=tag, fpu_status=status | top << 11, fpu_control=control
    )


def exceptions(ran: Ran) -> int:
    return ran.cpu.fpu_status & ~(7 << 11)


def ext(number: float) -> int:
    """Return a Python float as extended real."""
    import struct

    return real.widen(8, int.from_bytes(struct.pack("<d", number), "little")).value


@pytest.mark.parametrize(
    ("code", "load", "expected"),
    [
        ("d9 03", 0x3F80_0000, ONE),
        ("dd 03", 0x3FF0_0000_0000_0000, ONE),
        ("db 2b", ONE, ONE),
        ("df 03", 0xFFFF, 0xBFFF_8000_0000_0000_0000),
        ("db 03", 0x8000_0000, 0xC01E_8000_0000_0000_0000),
        ("df 2b", 1, ONE),
        ("df 2b", 0, 0),
        ("d9 03", 0x8000_0000, 1 << 79),
        ("d9 03", 0x7F80_0000, 0x7FFF_8000_0000_0000_0000),
    ],
)
def test_loads_push(code: str, load: int, expected: int) -> None:
    ran = run(code, fpu(), load)
    assert ran.cpu.st[0] == expected
    assert ran.cpu.fpu_status == 7 << 11
    assert ran.cpu.fpu_tag == 0x3FFF | real.tag(expected) << 14


def test_load_on_a_full_stack_overflows() -> None:
    ran = run("d9 03", fpu(*[ONE] * 8), 0x3F80_0000)
    assert ran.cpu.st[0] == INDEFINITE
    assert exceptions(ran) == IE | SF | C1


def test_signalling_nan_is_quieted_or_not_loaded() -> None:
    masked = run("d9 03", fpu(), 0x7F80_0001)
    assert masked.cpu.st[0] == 0x7FFF_C000_0100_0000_0000
    assert exceptions(masked) == IE
    unmasked = run("d9 03", fpu(control=0x37E), 0x7F80_0001)
    assert (unmasked.cpu.fpu_tag, exceptions(unmasked)) == (0xFFFF, IE | ES | BUSY)


@pytest.mark.parametrize(
    ("rounding", "sign", "expected", "up"),
    [
        (Rounding.NEAREST, 0, 0x3F80_0000, False),
        (Rounding.DOWN, 0, 0x3F80_0000, False),
        (Rounding.UP, 0, 0x3F80_0001, True),
        (Rounding.ZERO, 0, 0x3F80_0000, False),
        (Rounding.DOWN, 1, 0xBF80_0001, True),
        (Rounding.UP, 1, 0xBF80_0000, False),
    ],
)
def test_store_rounds_by_the_control_word(
    rounding: Rounding, sign: int, expected: int, up: bool
) -> None:
    value = ONE | 1 << 39 | sign << 79  # half a unit of single precision above one: a tie
    ran = run("d9 13", fpu(value, control=0x37F | rounding << 10))
    assert ran.stored == expected
    assert exceptions(ran) == PE | (C1 if up else 0)


def test_ties_go_to_even() -> None:
    assert real.narrow(4, ONE | 3 << 39, Rounding.NEAREST).value == 0x3F80_0002
    assert real.narrow(4, ONE | 1 << 39, Rounding.NEAREST).value == 0x3F80_0000
    assert real.narrow(4, ONE | 1 << 39 | 1, Rounding.NEAREST).value == 0x3F80_0001


@pytest.mark.parametrize(
    ("rounding", "expected"), [(Rounding.NEAREST, 0x7F80_0000), (Rounding.ZERO, 0x7F7F_FFFF)]
)
def test_overflow_is_infinity_or_the_largest_number(rounding: Rounding, expected: int) -> None:
    ran = run("d9 13", fpu(ext(1e300), control=0x37F | rounding << 10))
    assert ran.stored == expected
    assert exceptions(ran) & (OE | PE) == OE | PE


def test_tininess_is_detected_after_rounding() -> None:
    # All ones just below 2^-126 round to 2^-126 at full precision: not tiny, only inexact.
    almost = (16383 - 127) << 64 | (1 << 64) - 1
    assert real.narrow(4, almost, Rounding.NEAREST) == real.Converted(0x0080_0000, PE, True)
    below = real.narrow(4, (16383 - 127) << 64 | 0xFFFF_FE80_0000_0000, Rounding.NEAREST)
    assert below.exceptions == PE | UE
    assert below.tiny


def test_exact_denormal_underflows_only_when_unmasked() -> None:
    value = (16383 - 127) << 64 | 3 << 62
    masked = run("d9 13", fpu(value))
    assert (masked.stored, exceptions(masked)) == (0x0060_0000, 0)
    unmasked = run("d9 1b", fpu(value, control=0x36F))
    assert unmasked.accesses == []
    assert unmasked.cpu.st[0] == value
    assert exceptions(unmasked) == UE | ES | BUSY


def test_pop_empties_and_store_of_an_empty_register_underflows() -> None:
    popped = run("dd 1b", fpu(ONE))
    assert popped.accesses == [Store(AT, 8, 0x3FF0_0000_0000_0000)]
    assert (popped.cpu.fpu_tag, popped.cpu.fpu_status) == (0xFFFF, 0)
    empty = run("dd 1b", fpu())
    assert empty.stored == 0xFFF8_0000_0000_0000
    assert exceptions(empty) == IE | SF


def test_fst_does_not_pop() -> None:
    ran = run("dd 13", fpu(ONE))
    assert ran.cpu.fpu_tag == fpu(ONE).fpu_tag


@pytest.mark.parametrize(
    ("code", "number", "control", "expected", "status"),
    [
        ("df 13", 2.5, 0x37F, 2, PE),
        ("df 13", 3.5, 0x37F, 4, PE | C1),
        ("df 13", -2.5, 0x77F, 0xFFFD, PE | C1),
        ("df 13", 32767.5, 0x37F, 0x8000, IE),
        ("df 13", -32768.0, 0x37F, 0x8000, 0),
        ("db 13", 1e10, 0x37F, 0x8000_0000, IE),
        ("df 3b", -1.0, 0x37F, 0xFFFF_FFFF_FFFF_FFFF, 0),
        ("dd 0b", 2.9, 0x37F, 2, PE),
        ("db 0b", -2.9, 0xB7F, 0xFFFF_FFFE, PE),
        ("df 13", float("nan"), 0x37F, 0x8000, IE),
        ("df 13", float("inf"), 0x37F, 0x8000, IE),
    ],
)
def test_integer_stores(code: str, number: float, control: int, expected: int, status: int) -> None:
    ran = run(code, fpu(ext(number), control=control))
    assert ran.stored == expected
    assert exceptions(ran) == status


def test_unsupported_encoding_is_invalid() -> None:
    ran = run("d9 13", fpu(0x3FFF << 64 | 1))
    assert (ran.stored, exceptions(ran)) == (0xFFC0_0000, IE)


def test_80_bit_values_pass_unchanged() -> None:
    noise = 0x3FFF_0123_4567_89AB_CDEF
    ran = run("db 3b", fpu(noise))
    assert ran.accesses == [Store(AT, 10, noise)]
    assert exceptions(ran) == 0


def test_control_and_status_words() -> None:
    assert run("d9 3b", fpu(control=0x27F)).stored == 0x27F
    assert run("dd 3b", fpu(ONE, status=0x4700)).stored == 0x7F00
    loaded = run("d9 2b", fpu(), 0xFFFF)
    assert loaded.cpu.fpu_control == 0x1F7F
    pending = run("d9 2b", fpu(status=PE), 0x35F)
    assert exceptions(pending) == PE | ES | BUSY


def test_mmx_moves_use_physical_registers_and_mark_them_valid() -> None:
    cpu = fpu(ONE, ext(2.0))  # TOP is 6: MM6 is ST(0)
    stored = run("0f 7f 33", cpu)
    assert stored.stored == ONE & 0xFFFF_FFFF_FFFF_FFFF
    assert (stored.cpu.fpu_tag, stored.cpu.fpu_status) == (0, 0)
    assert stored.cpu.st[6:] == (ONE, ext(2.0))
    loaded = run("0f 6e 0b", cpu, 7)
    assert loaded.accesses == [Load(AT, 4)]
    assert loaded.cpu.st[1] == 0xFFFF << 64 | 7
