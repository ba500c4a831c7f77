"""x87 loads and stores.

Ref: Intel SDM vol. 1, 8.1 (registers, status, control, tag), 8.5 (exceptions); vol. 2A, FLD, FILD,
FST, FIST, FISTTP, FLDCW, FNSTCW, FNSTSW.

An unmasked exception sets ES and leaves stack and memory alone; the CPU reports it at the next
waiting instruction (#MF), as it would here. The last instruction and data pointers (FIP, FDP,
FOP) are not part of the state and keep what they held.
"""

from __future__ import annotations

from dataclasses import replace

from tracer.x86.emulate import real
from tracer.x86.emulate.access import Execution, Plan, Run, load, store
from tracer.x86.emulate.arithmetic import signed
from tracer.x86.emulate.real import INDEFINITE, INVALID, Rounding
from tracer.x86.emulate.state import retire
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState

_STACK_FAULT, _SUMMARY, _C1, _BUSY = 1 << 6, 1 << 7, 1 << 9, 1 << 15
_EXCEPTIONS = 0x3F
_PRECISE = real.INVALID | real.DENORMAL | real.OVERFLOW | real.UNDERFLOW
_EMPTY = 3


def _top(cpu: CpuState) -> int:
    return cpu.fpu_status >> 11 & 7


def _tag_of(cpu: CpuState, position: int) -> int:
    return cpu.fpu_tag >> 2 * (_top(cpu) + position & 7) & 3


def _raise(cpu: CpuState, flags: int, rounded_up: bool = False) -> CpuState:
    # Adds exception flags to the status word, and the summary when one of them is unmasked.
    status = cpu.fpu_status & ~_C1 | flags | (_C1 if rounded_up else 0)
    if flags & _EXCEPTIONS & ~cpu.fpu_control:
        status |= _SUMMARY | _BUSY
    return replace(cpu, fpu_status=status)


def _push(cpu: CpuState, value: int) -> CpuState:
    top = _top(cpu) - 1 & 7
    return replace(
        cpu,
        st=(value, *cpu.st[:7]),
        fpu_status=cpu.fpu_status & ~(7 << 11) | top << 11,
        fpu_tag=cpu.fpu_tag & ~(3 << 2 * top) | real.tag(value) << 2 * top,
    )


def _pop(cpu: CpuState) -> CpuState:
    top = _top(cpu)
    return replace(
        cpu,
        st=(*cpu.st[1:], cpu.st[0]),
        fpu_status=cpu.fpu_status & ~(7 << 11) | (top + 1 & 7) << 11,
        fpu_tag=cpu.fpu_tag | _EMPTY << 2 * top,
    )


def _fld(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    value = yield from load(plan[0])
    if insn.width == 10:
        return _loaded(insn, cpu, value, 0)
    converted = real.widen(insn.width, value)
    return _loaded(insn, cpu, converted.value, converted.exceptions)


def _fild(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    value = yield from load(plan[0])
    return _loaded(insn, cpu, real.from_integer(signed(8 * insn.width, value)), 0)


def _loaded(insn: Instruction, cpu: CpuState, value: int, exceptions: int) -> CpuState:
    after = retire(insn, cpu)
    overflow = _tag_of(cpu, -1) != _EMPTY
    if overflow:
        value, exceptions = INDEFINITE, INVALID
    after = _raise(after, exceptions | (_STACK_FAULT if overflow else 0), overflow)
    # An unmasked invalid operation pushes nothing. An unmasked denormal operand does push on AMD
    # and in QEMU; on Intel the stack stays as it was (SDM vol. 1, 8.5.2).
    return after if exceptions & INVALID & ~cpu.fpu_control else _push(after, value)


def _fst(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    underflow = _tag_of(cpu, 0) == _EMPTY
    value = INDEFINITE if underflow else cpu.st[0]
    if insn.width == 10:
        converted = real.Converted(value)
    else:
        converted = real.narrow(insn.width, value, Rounding(cpu.fpu_control >> 10 & 3))
    return (yield from _stored(insn, cpu, plan, converted, underflow))


def _fist(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    return (yield from _integer(insn, cpu, plan, Rounding(cpu.fpu_control >> 10 & 3)))


def _fisttp(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    return (yield from _integer(insn, cpu, plan, Rounding.ZERO))


def _integer(insn: Instruction, cpu: CpuState, plan: Plan, rounding: Rounding) -> Execution:
    underflow = _tag_of(cpu, 0) == _EMPTY
    value = INDEFINITE if underflow else cpu.st[0]
    converted = real.to_integer(insn.width, value, rounding)
    return (yield from _stored(insn, cpu, plan, converted, underflow))


def _stored(
    insn: Instruction, cpu: CpuState, plan: Plan, converted: real.Converted, underflow: bool
) -> Execution:
    assert insn.form is not None
    exceptions = converted.exceptions | (INVALID if underflow else 0)
    if converted.tiny and not cpu.fpu_control & real.UNDERFLOW:
        exceptions |= real.UNDERFLOW
    after = retire(insn, cpu)
    if exceptions & _PRECISE & ~cpu.fpu_control:
        # Only the inexact result of a store is delivered when its exception is unmasked.
        flags = exceptions & _PRECISE
        return _raise(after, flags | (_STACK_FAULT if underflow else 0))
    yield from store(plan[0], converted.value)
    flags = exceptions | (_STACK_FAULT if underflow else 0)
    after = _raise(after, flags, converted.rounded_up)
    return _pop(after) if insn.form.name.endswith("p") else after


def _fldcw(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    # Bit 6 is fixed at 1, bits 7 and 13 to 15 at 0. Unmasking a raised exception makes it pending.
    control = (yield from load(plan[0])) & 0x1F3F | 0x40
    status = cpu.fpu_status & ~(_SUMMARY | _BUSY)
    if status & _EXCEPTIONS & ~control:
        status |= _SUMMARY | _BUSY
    return replace(retire(insn, cpu), fpu_control=control, fpu_status=status)


def _fnstcw(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    yield from store(plan[0], cpu.fpu_control)
    return retire(insn, cpu)


def _fnstsw(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    yield from store(plan[0], cpu.fpu_status)
    return retire(insn, cpu)


RUN: dict[str, Run] = {
    "fld": _fld,
    "fild": _fild,
    "fst": _fst,
    "fstp": _fst,
    "fist": _fist,
    "fistp": _fist,
    "fisttp": _fisttp,
    "fldcw": _fldcw,
    "fnstcw": _fnstcw,
    "fnstsw": _fnstsw,
}
"""Executions of this module by the table's ``operation``."""
