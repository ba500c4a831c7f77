"""Multiply and divide with rAX and rDX as implicit operands.

Ref: Intel SDM vol. 2, MUL, IMUL, DIV, IDIV, MULX. #DE is raised after the divisor was read.
"""

from __future__ import annotations

from tracer.errors import GuestException
from tracer.x86.emulate.access import Execution, Plan, Run, load
from tracer.x86.emulate.arithmetic import signed
from tracer.x86.emulate.flags import CF, OF
from tracer.x86.emulate.state import MASK, Gpr, merge, retire, write_gpr
from tracer.x86.instruction import Instruction, Register
from tracer.x86.state import RAX, RDX, CpuState

DIVIDE_ERROR = 0


def _pair(cpu: CpuState, width: int) -> int:
    # rDX:rAX, or AX alone for bytes.
    if width == 1:
        return cpu.gpr[RAX] & MASK[2]
    return cpu.gpr[RAX] & MASK[width] | (cpu.gpr[RDX] & MASK[width]) << 8 * width


def _write_pair(cpu: CpuState, width: int, low: int, high: int) -> Gpr:
    if width == 1:
        return merge(cpu.gpr, RAX, 2, low & 0xFF | (high & 0xFF) << 8)
    return merge(merge(cpu.gpr, RAX, width, low), RDX, width, high)


def _multiply(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    width = insn.width
    bits = 8 * width
    factor = yield from load(plan[0])
    other = cpu.gpr[RAX] & MASK[width]
    assert insn.form is not None
    if insn.form.operation == "mul":
        product = factor * other
        fits = not product >> bits
    else:
        product = signed(bits, factor) * signed(bits, other)
        fits = signed(bits, product & MASK[width]) == product
    gpr = _write_pair(cpu, width, product, product >> bits)
    return retire(insn, cpu, gpr, cpu.rflags & ~(CF | OF) | (0 if fits else CF | OF))


def _divide(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    width = insn.width
    bits = 8 * width
    divisor = yield from load(plan[0])
    if not divisor:
        raise GuestException(insn.code, DIVIDE_ERROR)
    dividend = _pair(cpu, width)
    assert insn.form is not None
    if insn.form.operation == "div":
        quotient, remainder = divmod(dividend, divisor)
        fits = not quotient >> bits
    else:
        # The quotient is truncated towards zero; the remainder has the dividend's sign.
        dividend, divisor = signed(2 * bits, dividend), signed(bits, divisor)
        quotient = abs(dividend) // abs(divisor)
        if (dividend < 0) != (divisor < 0):
            quotient = -quotient
        remainder = dividend - quotient * divisor
        fits = signed(bits, quotient & MASK[width]) == quotient
    if not fits:
        raise GuestException(insn.code, DIVIDE_ERROR)
    return retire(insn, cpu, _write_pair(cpu, width, quotient, remainder), cpu.rflags)


def _mulx(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    # The high half is written last, so it wins when both destinations are one register.
    high, low, _ = insn.operands
    assert isinstance(high, Register) and isinstance(low, Register)
    width = insn.width
    product = (yield from load(plan[0])) * (cpu.gpr[RDX] & MASK[width])
    gpr = write_gpr(write_gpr(cpu.gpr, low, product), high, product >> 8 * width)
    return retire(insn, cpu, gpr)


RUN: dict[str, Run] = {
    "mul": _multiply,
    "imul": _multiply,
    "div": _divide,
    "idiv": _divide,
    "mulx": _mulx,
}
"""Executions of this module by the table's ``operation``."""
