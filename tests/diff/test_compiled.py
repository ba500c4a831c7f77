"""The instruction within a thunk, on the host's CPU: with another memory operand it does the same.

A thunk runs the instruction with a cell as its operand. Unicorn has run all of that but for what it
lacks, AVX before all: here the host's CPU runs each form as it is and as it is rewritten, on the
same RAM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.diff import host
from tests.diff.case import Case, cases
from tests.diff.compare import Fault
from tests.diff.native import CODE
from tracer.compiled.rewrite import rewritten
from tracer.compiled.safety import NotCompiled, Template, template_of
from tracer.x86.decode import decode
from tracer.x86.emulate.address import places
from tracer.x86.forms import FORMS, Form, Unit
from tracer.x86.instruction import File, Register
from tracer.x86.state import RCX, RDI, RSI, RSP, Mode

PER_FORM = 3
OFFSET = 0xE0


def alike(form: Form) -> Iterator[tuple[Case, Case, int]]:
    """Cases of a form, each with the rewritten one, and the register that leads to its operand."""
    for case in cases(form, Mode.LONG, PER_FORM, 11):
        insn = decode(case.code, case.cpu.rip, Mode.LONG)
        try:
            if template_of(insn) is not Template.CELL:
                return
        except NotCompiled:
            return
        used = {
            operand.number
            for operand in insn.operands
            if isinstance(operand, Register) and operand.file is File.GPR
        }
        if form.operation.endswith(" string") or used & {RSP} or form.operation == "mulx":
            continue
        base = next(register for register in (RDI, RSI, RCX) if register not in used)
        linear = places(insn, case.cpu)[0].linear
        gpr = [*case.cpu.gpr[:base], linear - OFFSET, *case.cpu.gpr[base + 1 :]]
        cpu = replace(case.cpu, gpr=tuple(gpr))
        yield case, replace(case, code=rewritten(insn, base, OFFSET, {}), cpu=cpu), base


def test_a_rewritten_instruction_is_the_same_on_this_cpu() -> None:
    flags = host.features()
    if not flags:
        pytest.skip("the host has no x86-64 CPU with FSGSBASE")
    own, other, bases = [], [], []
    for form in FORMS:
        if form.unit is Unit.SSE and form.opcode.vex and host.executes(form, flags):
            for case, changed, base in alike(form):
                own.append(case)
                other.append(changed)
                bases.append(base)
    if not own:
        pytest.skip("the host's CPU has no AVX")
    compared = 0
    for case, changed, base, a, b in zip(
        own, other, bases, host.run(own), host.run(other), strict=True
    ):
        assert isinstance(a, Fault) == isinstance(b, Fault), case.code.hex()
        if isinstance(a, Fault) or isinstance(b, Fault):
            continue
        registers = [
            [value for number, value in enumerate(result.cpu.gpr) if number != base]
            for result in (a, b)
        ]
        assert registers[0] == registers[1], (case.code.hex(), changed.code.hex())
        assert a.cpu.rip - CODE == len(case.code)
        assert (a.cpu.xmm, a.cpu.ymm, a.cpu.rflags, a.ram) == (
            b.cpu.xmm, b.cpu.ymm, b.cpu.rflags, b.ram
        ), (case.code.hex(), changed.code.hex())  # fmt: skip
        compared += 1
    assert compared > 100


# Signalling NaNs of 32 and 64 bits, denormals, and what is too large for an integer.
AWKWARD = b"".join(
    value.to_bytes(8, "little")
    for value in (0x7FF0_0000_0000_0001, 0x7F80_0001_FF80_0001, 1, 0xFFEF_FFFF_FFFF_FFFF)
)
EVERYTHING = 0
"""MXCSR, and the masks of the x87 control word: no exception is masked."""


def test_no_exception_is_raised_by_a_rewritten_instruction_where_none_is_masked() -> None:
    flags = host.features()
    if not flags:
        pytest.skip("the host has no x86-64 CPU with FSGSBASE")
    tried: list[tuple[Form, Case]] = []
    for form in FORMS:
        if form.unit is Unit.X87 or not host.executes(form, flags):
            continue  # a thunk looks whether those of x87 are masked
        for case, changed, base in alike(form):
            linear = changed.cpu.gpr[base] + OFFSET
            if form.aligned and linear % 32:
                continue  # which a thunk looks at, too
            value = int.from_bytes(AWKWARD[:16], "little")
            cpu = replace(
                changed.cpu, xmm=(value,) * 16, ymm=(value,) * 16, mxcsr=EVERYTHING,
                fpu_control=0x340, fpu_status=0,
            )  # fmt: skip
            tried.append(
                (form, replace(changed, cpu=cpu, ram={linear: AWKWARD[: case_room(case)]}))
            )
    raised = [
        (form.name, case.code.hex(), result)
        for (form, case), result in zip(tried, host.run([case for _, case in tried]), strict=True)
        if isinstance(result, Fault)
    ]
    assert raised == [] and len({form for form, _ in tried}) > 300


def case_room(case: Case) -> int:
    """How many bytes the operand of a case has."""
    return min(decode(case.code, case.cpu.rip, Mode.LONG).width, len(AWKWARD))
