"""Seeded cases of every form against the host CPU and against unicorn: no difference at all.

The seed is fixed, so a failure repeats; what the table declares undefined is not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.diff import host, tcg
from tests.diff.case import Case, cases
from tests.diff.compare import Fault, difference
from tracer.x86 import emulate
from tracer.x86.bus import Store
from tracer.x86.decode import decode
from tracer.x86.emulate import arithmetic, cipher, evaluate, flags, packed, shuffle, vector
from tracer.x86.emulate.access import Emulation, Execution, Plan, Run
from tracer.x86.emulate.evaluate import evaluator
from tracer.x86.emulate.state import Gpr
from tracer.x86.forms import FORMS, Form, Unit
from tracer.x86.instruction import Instruction, Memory, Register
from tracer.x86.state import CpuState, Mode

SEED = 20260
HOST_CASES, UNICORN_CASES = 20, 10


def _report(differences: list[str | None]) -> str:
    found = [difference for difference in differences if difference]
    return "\n".join([f"{len(found)} of {len(differences)} cases differ", *found[:20]])


def _host_cases(count: int, *names: str) -> list[Case]:
    available = host.features()
    if not available:
        pytest.skip("the host is no x86-64 CPU with FSGSBASE")
    return [
        case
        for form in FORMS
        if host.executes(form, available) and (not names or form.name in names)
        for case in cases(form, Mode.LONG, count, SEED)
        if not (form.repeat is not None and host.leaves_open(case))
    ]


def test_host_cpu_agrees_on_every_form() -> None:
    batch = _host_cases(HOST_CASES)
    results = host.run(batch)
    differences = [
        difference(case, result, whole=True) for case, result in zip(batch, results, strict=True)
    ]
    assert len(batch) > 12_000
    assert not any(differences), _report(differences)


@pytest.mark.parametrize("mode", list(Mode))
def test_unicorn_agrees_on_what_it_knows(mode: Mode) -> None:
    oracle = tcg.Unicorn(mode)
    differences = [
        difference(case, oracle.run(case), whole=False)
        for form in FORMS
        if tcg.knows(form, mode)
        for case in cases(form, mode, UNICORN_CASES, SEED)
        if tcg.trusted(case)
    ]
    assert len(differences) > 4_000
    assert not any(differences), _report(differences)


def test_host_cpu_insists_on_alignment_where_the_table_does() -> None:
    available = host.features()
    if not available:
        pytest.skip("the host is no x86-64 CPU with FSGSBASE")
    vectors = [
        form
        for form in FORMS
        if form.unit is Unit.SSE and host.executes(form, available) and _widest(form) > 8
    ]
    insistent = [form for form in vectors if form.aligned]
    # A fault ends the process of the harness, so of these only some are tried.
    chosen = [*insistent[::8], *(form for form in vectors if not form.aligned)]
    batch = [case for form in chosen for case in _misaligned(form)]
    assert len(batch) > 200
    for case, result in zip(batch, host.run(batch), strict=True):
        insn = decode(case.code, case.cpu.rip, case.cpu.mode)
        assert insn.form is not None
        assert isinstance(result, Fault) == insn.form.aligned, insn.text
        assert difference(case, result, whole=True) is None


def _widest(form: Form) -> int:
    return max(form.memory_width(8), form.memory_width(8, 32))


def _misaligned(form: Form) -> Iterator[Case]:
    # One case of a form, its address moved by a byte through the base register.
    for case in cases(form, Mode.LONG, 40, SEED):
        insn = decode(case.code, case.cpu.rip, Mode.LONG)
        memory = next(operand for operand in insn.operands if isinstance(operand, Memory))
        if memory.base is not None and memory.base != memory.index:
            gpr = list(case.cpu.gpr)
            gpr[memory.base] += 1
            yield replace(case, cpu=replace(case.cpu, gpr=tuple(gpr)), ram={})
            return


def _without(flag: int) -> Callable[[int, int, int, int], int]:
    # `of_sum` with one flag computed the wrong way round.
    right = flags.of_sum
    return lambda bits, a, b, total: right(bits, a, b, total) ^ flag


@pytest.mark.parametrize("flag", [flags.CF, flags.PF, flags.AF, flags.ZF, flags.SF, flags.OF])
def test_comparison_notices_each_wrong_flag(flag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = _host_cases(2, "add")
    results = host.run(batch)
    monkeypatch.setattr(flags, "of_sum", _without(flag))
    assert all(
        difference(case, result, whole=True) for case, result in zip(batch, results, strict=True)
    )


def test_comparison_notices_a_stale_upper_half(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = _host_cases(8, "movzx")
    results = host.run(batch)

    def keep(gpr: Gpr, register: Register, value: int) -> Gpr:
        mask = (1 << 8 * register.width) - 1
        old = gpr[register.number]
        return (
            *gpr[: register.number],
            old & ~mask | value & mask,
            *gpr[register.number + 1 :],
        )

    monkeypatch.setattr(evaluate, "write_gpr", keep)
    assert any(
        difference(case, result, whole=True) for case, result in zip(batch, results, strict=True)
    )


def test_comparison_notices_what_vex_leaves_above(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = _host_cases(2, "vmovups")
    results = host.run(batch)
    right = vector.write_vector

    def keep(insn: Instruction, cpu: CpuState, register: Register, value: int) -> CpuState:
        return replace(right(insn, cpu, register, value), ymm=cpu.ymm)

    monkeypatch.setattr(vector, "write_vector", keep)
    assert any(
        difference(case, result, whole=True) for case, result in zip(batch, results, strict=True)
    )


def test_comparison_notices_each_wrong_vector_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    available = host.features()
    if not available:
        pytest.skip("the host is no x86-64 CPU with FSGSBASE")
    families = vector.OPERATIONS | packed.OPERATIONS | shuffle.OPERATIONS | cipher.OPERATIONS
    unnoticed = set(families)
    batch = [
        case
        for form in FORMS
        if form.operation in families and host.executes(form, available)
        for case in cases(form, Mode.LONG, 1, SEED)
    ]
    for name, operation in families.items():
        monkeypatch.setitem(emulate._RUN, name, vector.vectors(_inverted(operation)))
    for case, result in zip(batch, host.run(batch), strict=True):
        insn = decode(case.code, case.cpu.rip, case.cpu.mode)
        assert insn.form is not None
        if difference(case, result, whole=True):
            unnoticed.discard(insn.form.operation)
    lacking = {
        form.operation for form in FORMS if not host.executes(form, available)
    }  # on this host
    assert unnoticed <= lacking


def _inverted(operation: vector.Vector) -> vector.Vector:
    # The lowest bit of the result the wrong way round.
    return lambda bits, *values: operation(bits, *values) ^ 1


def _twice(run: Run) -> Run:
    # Repeats the first access of an execution.
    def broken(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
        emulation = Emulation(run(insn, cpu, plan))
        yield next(emulation)
        emulation = Emulation(run(insn, cpu, plan))
        for access in emulation:
            emulation.answer = yield access
        return emulation.after

    return broken


def _split(run: Run) -> Run:
    # Writes two halves instead of the whole.
    def broken(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
        emulation = Emulation(run(insn, cpu, plan))
        for access in emulation:
            if isinstance(access, Store):
                half = access.width // 2
                low = access.value & ((1 << 8 * half) - 1)
                yield Store(access.linear, half, low)
                access = Store(access.linear + half, half, access.value >> 8 * half)
            emulation.answer = yield access
        return emulation.after

    return broken


@pytest.mark.parametrize("breakage", [_twice, _split])
def test_comparison_notices_a_repeated_read_and_a_split_write(
    breakage: Callable[[Run], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [case for case in _host_cases(3, "xadd") if b"\x0f\xc1" in case.code]
    results = host.run(batch)
    right = emulate._RUN["xadd"]
    monkeypatch.setitem(emulate._RUN, "xadd", breakage(right))
    for case, result in zip(batch, results, strict=True):
        with pytest.raises(AssertionError, match="foretold"):
            difference(case, result, whole=True)


def test_comparison_notices_one_operation_taken_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = _host_cases(4, "or")
    results = host.run(batch)
    monkeypatch.setitem(emulate._RUN, "or", evaluator(arithmetic.OPERATIONS["xor"]))
    assert any(
        difference(case, result, whole=True) for case, result in zip(batch, results, strict=True)
    )
