"""Drive operations that make one vector of others, and move between memory and vectors.

Ref: Intel SDM vol. 1, chapters 10 to 14; vol. 2B, MOVLPS, MOVHPS, MOVDDUP, MOVSLDUP, MOVSHDUP.

Every operation here and in `packed`, `shuffle` and `cipher` is a function of the length of the
vectors in bits and the operands' values from left to right (without the first, when the table says
that it is only written), immediates among them. Vectors are unsigned integers, their lowest
element in the lowest bits. None of these changes a flag or MXCSR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tracer.x86.emulate.access import Execution, Plan, Run, load, store
from tracer.x86.emulate.state import enter_mmx, read_register, retire, write_vector
from tracer.x86.forms import Access, Unit
from tracer.x86.instruction import File, Immediate, Instruction, Memory, Register
from tracer.x86.state import CpuState

Vector = Callable[..., int]

LANE = 128
"""Bits of a lane: most operations on 256 bits are two on 128, side by side (SDM vol. 1, 14.1.2)."""

_ONES = (1 << LANE) - 1
_LOW = (1 << 64) - 1


def vectors(operation: Vector) -> Run:
    """Make an execution of an operation: read the operands, operate, write the first one."""

    def run(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
        assert insn.form is not None
        values = []
        operands = insn.operands
        for operand in operands[1:] if insn.form.access is Access.W else operands:
            if isinstance(operand, Memory):
                values.append((yield from load(plan[0])))
            elif isinstance(operand, Immediate):
                values.append(operand.value)
            else:
                values.append(read_register(operand, cpu))
        result = operation(length(insn), *values)
        target = operands[0]
        after = retire(insn, cpu)
        if isinstance(target, Register):
            return write_vector(insn, after, target, result)
        yield from store(plan[0], result)
        return enter_mmx(after) if insn.form.unit is Unit.MMX else after

    return run


def length(insn: Instruction) -> int:
    """Return the length in bits of an instruction's vectors: that of its first vector register."""
    return next(
        8 * operand.width
        for operand in insn.operands
        if isinstance(operand, Register) and operand.file in (File.XMM, File.MMX)
    )


def by_lane(operation: Vector, immediates: int = 0) -> Vector:
    """Make an operation on vectors of any length of one on a lane.

    The last ``immediates`` operands go to every lane as they are.
    """

    def whole(bits: int, *values: int) -> int:
        if bits <= LANE:
            return operation(bits, *values)
        count = len(values) - immediates
        low = [value & _ONES for value in values[:count]]
        high = [value >> LANE for value in values[:count]]
        rest = values[count:]
        return operation(LANE, *low, *rest) | operation(LANE, *high, *rest) << LANE

    return whole


def split(bits: int, size: int, value: int) -> list[int]:
    """Return the elements of ``size`` bits in a vector of ``bits`` bits, lowest first."""
    ones = (1 << size) - 1
    return [value >> at & ones for at in range(0, bits, size)]


def join(size: int, elements: Iterable[int]) -> int:
    """Make a vector of the low ``size`` bits of each element, lowest first."""
    ones = (1 << size) - 1
    return sum((element & ones) << size * at for at, element in enumerate(elements))


def _mov(bits: int, source: int) -> int:
    return source


def _low_half(bits: int, target: int, source: int) -> int:
    return target & ~_LOW | source


def _high_half(bits: int, target: int, source: int) -> int:
    return target & _LOW | source << 64


def _store_high_half(bits: int, source: int) -> int:
    return source >> 64


def _double(size: int, which: int) -> Vector:
    # Each even (0) or odd (1) element twice.
    def operation(bits: int, source: int) -> int:
        elements = split(bits, size, source)[which::2]
        return join(size, [element for element in elements for _ in range(2)])

    return operation


OPERATIONS: dict[str, Vector] = {
    "vector mov": _mov,
    "low half": _low_half,
    "high half": _high_half,
    "store high half": _store_high_half,
    "movddup": _double(64, 0),
    "movsldup": _double(32, 0),
    "movshdup": _double(32, 1),
}
"""Operations of this module by the table's ``operation``."""
