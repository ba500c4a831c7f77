"""Exchange, exchange-and-add, compare-and-exchange.

Ref: Intel SDM vol. 2, XCHG, XADD, CMPXCHG, CMPXCHG8B/16B, CMPccXADD. A failed comparison still
writes: the CPU stores back what it read (SDM vol. 2A, CMPXCHG: "the processor never produces a
locked read without also producing a locked write").
"""

from __future__ import annotations

from tracer.x86.emulate import flags as flag
from tracer.x86.emulate.access import Execution, Plan, Run, load, store
from tracer.x86.emulate.flags import ZF
from tracer.x86.emulate.state import MASK, merge, read_register, retire, write_gpr
from tracer.x86.forms import CONDITIONS
from tracer.x86.instruction import Instruction, Register
from tracer.x86.state import RAX, RBX, RCX, RDX, CpuState


def _register(insn: Instruction, position: int) -> Register:
    register = insn.operands[position]
    assert isinstance(register, Register)
    return register


def _xchg(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    (operand,) = plan
    register = _register(insn, 1)
    old = yield from load(operand)
    yield from store(operand, read_register(register, cpu))
    return retire(insn, cpu, write_gpr(cpu.gpr, register, old))


def _xadd(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    (operand,) = plan
    register = _register(insn, 1)
    old = yield from load(operand)
    addend = read_register(register, cpu)
    total = old + addend
    yield from store(operand, total)
    flags = flag.of_sum(8 * operand.width, old, addend, total)
    return retire(insn, cpu, write_gpr(cpu.gpr, register, old), flags)


def _cmpxchg(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    (operand,) = plan
    width = operand.width
    expected = cpu.gpr[RAX] & MASK[width]
    old = yield from load(operand)
    flags = flag.of_difference(8 * width, expected, old, expected - old)
    if old == expected:
        yield from store(operand, read_register(_register(insn, 1), cpu))
        return retire(insn, cpu, flags=flags)
    yield from store(operand, old)
    return retire(insn, cpu, merge(cpu.gpr, RAX, width, old), flags)


def _cmpxchg8b(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    # CMPXCHG8B with EDX:EAX and ECX:EBX; CMPXCHG16B with the 64-bit registers.
    (operand,) = plan
    half = operand.width // 2
    gpr = cpu.gpr
    low, high, new_low, new_high = (gpr[n] & MASK[half] for n in (RAX, RDX, RBX, RCX))
    old = yield from load(operand)
    if old == low | high << 8 * half:
        yield from store(operand, new_low | new_high << 8 * half)
        return retire(insn, cpu, flags=cpu.rflags | ZF)
    yield from store(operand, old)
    gpr = merge(merge(gpr, RAX, half, old), RDX, half, old >> 8 * half)
    return retire(insn, cpu, gpr, cpu.rflags & ~ZF)


def _compare_and_add(code: int) -> Run:
    # CMPccXADD: compare memory with a register, add another when the condition holds.
    def run(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
        (operand,) = plan
        width = operand.width
        register = _register(insn, 1)
        compared = read_register(register, cpu)
        addend = read_register(_register(insn, 2), cpu)
        old = yield from load(operand)
        flags = flag.of_difference(8 * width, old, compared, old - compared)
        new = old + addend if flag.condition(code, flags) else old
        yield from store(operand, new)
        return retire(insn, cpu, write_gpr(cpu.gpr, register, old), flags)

    return run


RUN: dict[str, Run] = {
    "xchg": _xchg,
    "xadd": _xadd,
    "cmpxchg": _cmpxchg,
    "cmpxchg8b": _cmpxchg8b,
    **{f"cmp{cc}xadd": _compare_and_add(code) for code, cc in enumerate(CONDITIONS)},
}
"""Executions of this module by the table's ``operation``."""
