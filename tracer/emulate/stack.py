"""Instructions that use the stack, and jumps through memory.

Ref: Intel SDM vol. 2A, CALL, JMP; vol. 2B, PUSH, POP; vol. 1, 6.2.
"""

from __future__ import annotations

from dataclasses import replace

from tracer.emulate.access import Execution, Plan, Run, load, store
from tracer.emulate.address import check
from tracer.emulate.state import MASK, merge, retire
from tracer.instruction import Instruction
from tracer.x86 import RSP, CpuState, Mode


def _push(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    source, top = plan
    value = yield from load(source)
    yield from store(top, value)
    return retire(insn, cpu, _moved(cpu, -insn.operand_size))


def _pop(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    top, destination = plan
    value = yield from load(top)
    yield from store(destination, value)
    return retire(insn, cpu, _moved(cpu, insn.operand_size))


def _moved(cpu: CpuState, step: int) -> tuple[int, ...]:
    return merge(cpu.gpr, RSP, 8 if cpu.mode is Mode.LONG else 4, cpu.gpr[RSP] + step)


def _call(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    source, top = plan
    target = yield from load(source)
    check(insn, target, 1, cpu, data=False)
    yield from store(top, insn.next_rip)
    return replace(retire(insn, cpu, _moved(cpu, -insn.operand_size)), rip=target)


def _jmp(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    (source,) = plan
    target = yield from load(source)
    check(insn, target, 1, cpu, data=False)
    return replace(retire(insn, cpu), rip=target & MASK[insn.operand_size])


RUN: dict[str, Run] = {"push": _push, "pop": _pop, "call": _call, "jmp": _jmp}
"""Executions of this module by the table's ``operation``."""
