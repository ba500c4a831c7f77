"""String instructions, one iteration at a time.

Ref: Intel SDM vol. 1, 7.3.9 and 19.3; vol. 2, MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS, REP.
Counts and pointers have the address size. ZF ends REPE and REPNE only after an iteration: its value
before is ignored.
"""

from __future__ import annotations

from dataclasses import replace

from tracer.x86.bus import Out
from tracer.x86.emulate import flags as flag
from tracer.x86.emulate.access import Execution, Plan, Run, load, read_port, store
from tracer.x86.emulate.address import count
from tracer.x86.emulate.flags import ZF
from tracer.x86.emulate.state import MASK, Gpr, merge, retire
from tracer.x86.forms import Repeat
from tracer.x86.instruction import Instruction
from tracer.x86.state import RAX, RCX, RDI, RDX, RSI, CpuState, Flag

_DF = int(Flag.DF)


def _advance(insn: Instruction, cpu: CpuState, *pointers: int) -> Gpr:
    # Moves the pointers by one element, in the direction of DF.
    step = -insn.width if cpu.rflags & _DF else insn.width
    gpr = cpu.gpr
    for pointer in pointers:
        gpr = merge(gpr, pointer, insn.address_size, gpr[pointer] + step)
    return gpr


def _finish(insn: Instruction, cpu: CpuState, gpr: Gpr, flags: int | None = None) -> CpuState:
    # Counts the iteration and leaves RIP in place while more remain.
    if insn.rep is None:
        return retire(insn, cpu, gpr, flags)
    gpr = merge(gpr, RCX, insn.address_size, gpr[RCX] - 1)
    after = retire(insn, cpu, gpr, flags)
    assert insn.form is not None
    stopped = False
    if insn.form.repeat is Repeat.COMPARE:
        stopped = bool(after.rflags & ZF) == (insn.rep == "repne")
    if stopped or count(insn, after) == 0:
        return after
    # RF stays set until the last iteration (SDM vol. 3B, 18.3.1.1).
    return replace(after, rip=insn.rip, rflags=after.rflags | cpu.rflags & int(Flag.RF))


def _movs(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    if not plan:
        return retire(insn, cpu)
    source, destination = plan
    value = yield from load(source)
    yield from store(destination, value)
    return _finish(insn, cpu, _advance(insn, cpu, RSI, RDI))


def _stos(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    if not plan:
        return retire(insn, cpu)
    (destination,) = plan
    yield from store(destination, cpu.gpr[RAX])
    return _finish(insn, cpu, _advance(insn, cpu, RDI))


def _lods(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    if not plan:
        return retire(insn, cpu)
    (source,) = plan
    value = yield from load(source)
    gpr = merge(_advance(insn, cpu, RSI), RAX, source.width, value)
    return _finish(insn, cpu, gpr)


def _cmps(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    if not plan:
        return retire(insn, cpu)
    first, second = plan
    a = yield from load(first)
    b = yield from load(second)
    flags = flag.of_difference(8 * insn.width, a, b, a - b)
    return _finish(insn, cpu, _advance(insn, cpu, RSI, RDI), flags)


def _scas(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    if not plan:
        return retire(insn, cpu)
    (operand,) = plan
    a = cpu.gpr[RAX] & MASK[operand.width]
    b = yield from load(operand)
    flags = flag.of_difference(8 * insn.width, a, b, a - b)
    return _finish(insn, cpu, _advance(insn, cpu, RDI), flags)


# The permission to use the port is asked for before memory is reached, and a page fault of the
# destination comes before the port is read (QEMU target/i386/tcg/translate.c, gen_check_io and
# gen_ins): code that has faulted on memory has the permission, and has left the port alone.


def _ins(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    if not plan:
        return retire(insn, cpu)
    (destination,) = plan
    value = yield from read_port(_port(cpu), destination.width)
    yield from store(destination, value)
    return _finish(insn, cpu, _advance(insn, cpu, RDI))


def _outs(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    if not plan:
        return retire(insn, cpu)
    (source,) = plan
    value = yield from load(source)
    yield Out(_port(cpu), source.width, value)
    return _finish(insn, cpu, _advance(insn, cpu, RSI))


def _port(cpu: CpuState) -> int:
    return cpu.gpr[RDX] & MASK[2]


RUN: dict[str, Run] = {
    "movs": _movs, "cmps": _cmps, "stos": _stos, "lods": _lods, "scas": _scas,
    "ins": _ins, "outs": _outs,
}  # fmt: skip
"""Executions of this module by the table's ``operation``."""
