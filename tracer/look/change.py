"""The registers and flags that a stopped instruction is about to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from tracer.look.operand import used_registers
from tracer.look.rehearsal import Rehearsal, dependence
from tracer.look.relation import Sample, relation
from tracer.x86.emulate import undefined_flags
from tracer.x86.instruction import File, Instruction, Register, operand_text
from tracer.x86.state import GPR, CpuState, Flag, Segments

_SELECTORS = tuple(field.name for field in fields(Segments))
_UNITS = ("fpu_control", "fpu_status", "fpu_tag", "mxcsr")


@dataclass(frozen=True, slots=True)
class Change:
    """Hold a register that the instruction uses or changes.

    ``width`` is in bytes. ``after`` is its value afterwards where that is certain; else ``how``
    says in words what it will be. Neither is set for one that is only used.
    """

    name: str
    width: int
    before: int
    after: int | None = None
    how: str | None = None


@dataclass(frozen=True, slots=True)
class FlagChange:
    """Hold a flag that changes: ``after`` is None where it depends on what is read.

    ``undefined`` flags are left open by the manuals; the emulator's choice is no promise.
    """

    name: str
    before: bool
    after: bool | None
    undefined: bool = False


def _values(cpu: CpuState) -> dict[str, tuple[int, int]]:
    # Every register but RFLAGS by name: its value, and its width in bytes.
    return {
        **{name: (value, 8) for name, value in zip(GPR, cpu.gpr, strict=True)},
        **{
            name: (getattr(cpu.segments, name), 8 if name.endswith("base") else 2)
            for name in _SELECTORS
        },
        **{f"xmm{number}": (value, 16) for number, value in enumerate(cpu.xmm)},
        **{f"st{number}": (value, 10) for number, value in enumerate(cpu.st)},
        **{name: (getattr(cpu, name), 4 if name == "mxcsr" else 2) for name in _UNITS},
        "rip": (cpu.rip, 8),
    }


def register_changes(
    insn: Instruction, cpu: CpuState, runs: Sequence[Rehearsal]
) -> tuple[Change, ...]:
    """Return the registers that an instruction uses, and those that change in its executions."""
    before = _values(cpu)
    after = [_values(run.cpu) for run in runs if run.cpu is not None]
    used = used_registers(insn)
    found = []
    for name, (value, width) in before.items():
        results = {state[name][0] for state in after}
        change = Change(name, width, value)
        if results and results != {value}:
            if len(results) == 1:
                change = replace(change, after=results.pop())
            else:
                samples = [
                    (run.read, state[name][0]) for run, state in zip(runs, after, strict=True)
                ]
                change = replace(change, how=_how(insn, change, samples, runs[0].read_width))
        elif name not in used:
            continue
        found.append(change)
    return tuple(found)


def _how(insn: Instruction, change: Change, samples: Sequence[Sample], read_width: int) -> str:
    # How a register depends on what was read: as that part of it which the instruction writes.
    if change.name not in GPR:
        return relation(samples, read_width, change.width) or dependence(insn)
    register = _written(insn, GPR.index(change.name))
    width = 8 if register.width == 4 else register.width
    shift, ones = 8 * register.high, (1 << 8 * width) - 1
    kept = ~(ones << shift)
    if any(result & kept != change.before & kept for _, result in samples):
        return dependence(insn)
    parts = [(value, result >> shift & ones) for value, result in samples]
    if register.width == 4 and all(result < 1 << 32 for _, result in parts):
        # A 32-bit result of a narrower value is to be told apart from how it goes on.
        told = relation(parts, read_width, 4)
        if told is not None and "extended" not in told:
            told += ", zero-extended"
        elif told is not None and "sign" in told:
            told += " to 4 bytes, zeroes above"
    else:
        told = relation(parts, read_width, width)
    if told is None:
        return dependence(insn)
    return told if width == 8 else f"{operand_text(register)} = {told}; the rest kept"


def _written(insn: Instruction, number: int) -> Register:
    # The register operand of this number, or the implied one of the memory operand's width.
    for operand in insn.operands:
        if isinstance(operand, Register) and (operand.file, operand.number) == (File.GPR, number):
            return operand
    width = insn.width if insn.width in (1, 2, 4, 8) else 8
    return Register(File.GPR, number, width)


def flag_changes(
    insn: Instruction, cpu: CpuState, runs: Sequence[Rehearsal]
) -> tuple[FlagChange, ...]:
    """Return the flags that change in the executions of an instruction, or are left open."""
    undefined = undefined_flags(insn, cpu)
    found = []
    for flag in Flag:
        results = {bool(run.cpu.rflags & flag) for run in runs if run.cpu is not None}
        before = bool(cpu.rflags & flag)
        open_ = bool(undefined & flag)
        if results and (results != {before} or open_):
            after = results.pop() if len(results) == 1 and not open_ else None
            found.append(FlagChange(flag.name or "", before, after, open_))
    return tuple(found)
