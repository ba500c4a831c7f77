"""Instructions that use the stack, and jumps through memory.

Ref: Intel SDM vol. 2A, CALL, ENTER, JMP, LEAVE; vol. 2B, PUSH, PUSHF, POP, RET; vol. 1, 6.2.
"""

from __future__ import annotations

from dataclasses import replace

from tracer.x86.emulate.access import Execution, Plan, Run, load, store
from tracer.x86.emulate.address import check, nesting
from tracer.x86.emulate.state import MASK, Gpr, merge, read_register, retire, write_gpr
from tracer.x86.instruction import Immediate, Instruction, Memory, Register, jump_target
from tracer.x86.state import RBP, RSP, CpuState, Flag, Mode

_NOT_PUSHED = int(Flag.RF) | 1 << 17  # and VM


def _push(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    (operand,) = insn.operands
    if isinstance(operand, Memory):
        value = yield from load(plan[0])
    elif isinstance(operand, Immediate):
        value = operand.value
    else:
        value = read_register(operand, cpu)
    yield from store(plan[-1], value)
    return retire(insn, cpu, _moved(cpu, -insn.operand_size))


def _pushf(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    yield from store(plan[0], cpu.rflags & ~_NOT_PUSHED)
    return retire(insn, cpu, _moved(cpu, -insn.operand_size))


def _pop(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    value = yield from load(plan[0])
    gpr = _moved(cpu, insn.operand_size)
    (target,) = insn.operands
    if isinstance(target, Register):
        return retire(insn, cpu, write_gpr(gpr, target, value))
    yield from store(plan[1], value)
    return retire(insn, cpu, gpr)


def _pointer(cpu: CpuState, gpr: Gpr, number: int, value: int) -> Gpr:
    # A stack pointer has the width of the mode.
    return merge(gpr, number, 8 if cpu.mode is Mode.LONG else 4, value)


def _moved(cpu: CpuState, step: int) -> Gpr:
    return _pointer(cpu, cpu.gpr, RSP, cpu.gpr[RSP] + step)


def _enter(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    size, level = insn.operand_size, nesting(insn)
    frame = cpu.gpr[RSP] - size
    first, *copies = plan
    yield from store(first, cpu.gpr[RBP])
    for n in range(0, len(copies) - 1, 2):
        yield from store(copies[n + 1], (yield from load(copies[n])))
    if level:
        yield from store(copies[-1], frame)
    room = insn.operands[0]
    assert isinstance(room, Immediate)
    gpr = _pointer(cpu, cpu.gpr, RBP, frame)
    return retire(insn, cpu, _pointer(cpu, gpr, RSP, frame - size * level - room.value))


def _leave(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    value = yield from load(plan[0])
    gpr = _pointer(cpu, cpu.gpr, RSP, cpu.gpr[RBP] + insn.operand_size)
    return retire(insn, cpu, merge(gpr, RBP, insn.operand_size, value))


def _call(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    (operand,) = insn.operands
    if isinstance(operand, Memory):
        target = yield from load(plan[0])
    elif isinstance(operand, Register):
        target = read_register(operand, cpu)
    else:
        target = jump_target(insn)
    check(insn, target, 1, cpu, data=False)
    yield from store(plan[-1], insn.next_rip)
    return replace(retire(insn, cpu, _moved(cpu, -insn.operand_size)), rip=target)


def _jmp(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    (source,) = plan
    target = yield from load(source)
    check(insn, target, 1, cpu, data=False)
    return replace(retire(insn, cpu), rip=target & MASK[insn.operand_size])


def _ret(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    target = yield from load(plan[0])
    check(insn, target, 1, cpu, data=False)
    dropped = sum(operand.value for operand in insn.operands if isinstance(operand, Immediate))
    gpr = _moved(cpu, insn.operand_size + dropped)
    return replace(retire(insn, cpu, gpr), rip=target)


RUN: dict[str, Run] = {
    "push": _push,
    "pushf": _pushf,
    "pop": _pop,
    "enter": _enter,
    "leave": _leave,
    "call": _call,
    "jmp": _jmp,
    "ret": _ret,
}
"""Executions of this module by the table's ``operation``."""
