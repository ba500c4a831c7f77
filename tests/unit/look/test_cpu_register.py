"""The registers of a vCPU."""

from __future__ import annotations

from itertools import pairwise

import pytest
from stop_sample import state

from tracer.look.cpu_register import CPU_REGISTERS, cpu_register, flag_names
from tracer.look.register_sheet import cpu_lines, cpu_object
from tracer.look.registers import register_object
from tracer.x86.state import Flag


def test_every_register_that_is_shown_is_known() -> None:
    shown = register_object(state(), {"cr2": 0, "cr3": 0, "efer": 0})
    told = set(shown) - {"symbol", "flags", "cpl", "mode"}
    assert told <= set(CPU_REGISTERS)


@pytest.mark.parametrize("register", CPU_REGISTERS.values(), ids=lambda register: register.name)
def test_bits_lie_in_the_register_and_apart(register: object) -> None:
    found = cpu_register(register.name)  # type: ignore[attr-defined]
    assert found is register and found.description and found.section
    fields = sorted(found.fields, key=lambda field: field.low)
    assert all(field.low <= field.high < 8 * found.width for field in fields)
    assert all(below.high < above.low for below, above in pairwise(fields))


@pytest.mark.parametrize(
    ("typed", "name"),
    [("rax", "rax"), ("$RAX", "rax"), ("$pc", "rip"), ("sp", "rsp"), ("eflags", "rflags")],
)
def test_gdbs_names_are_known(typed: str, name: str) -> None:
    found = cpu_register(typed)
    assert found is not None and found.name == name


@pytest.mark.parametrize("typed", ["", "$", "$$rax", "CC", "eax", "xmm16"])
def test_other_names_are_none(typed: str) -> None:
    assert cpu_register(typed) is None


def test_the_flags_are_those_of_the_emulator() -> None:
    names = flag_names("rflags")
    assert all(names[flag.bit_length() - 1] == flag.name for flag in Flag)
    assert set(names.values()) > {flag.name for flag in Flag}


def test_a_value_is_told_by_its_bits() -> None:
    rflags = CPU_REGISTERS["rflags"]
    lines = cpu_lines(rflags, 0x3246)
    assert lines[:2] == ["register   rflags, 8 bytes", "value      0x3246 PF ZF IF IOPL=3"]
    assert "9      IF    Interrupts are taken" in lines
    assert cpu_object(rflags, 0x3246)["value"] == "0x3246"
    assert cpu_object(rflags, None)["value"] is None
    assert not any(line.startswith("value") for line in cpu_lines(rflags, None))
