"""Moves of those elements whose mask has its sign set: VMASKMOV, VPMASKMOV.

Ref: Intel SDM vol. 2C, VMASKMOV, VPMASKMOV: an element that is masked off is neither accessed nor
a reason for an exception; a load zeroes it. Each element is an access of its own here.
"""

from __future__ import annotations

from tracer.x86.emulate.access import Execution, Plan, Run, load, store
from tracer.x86.emulate.state import read_register, retire, write_vector
from tracer.x86.emulate.vector import join, length, split
from tracer.x86.instruction import Instruction, Register
from tracer.x86.state import CpuState

SIZES = {"maskmov 32": 32, "maskmov 64": 64}
"""Bits of an element by the table's ``operation``."""


def chosen(insn: Instruction, cpu: CpuState) -> list[int]:
    """Return the numbers of the elements that the mask chooses, lowest first."""
    assert insn.form is not None
    size = SIZES[insn.form.operation]
    mask = insn.operands[1]
    assert isinstance(mask, Register)
    elements = split(length(insn), size, read_register(mask, cpu))
    return [number for number, element in enumerate(elements) if element >> size - 1]


def _move(insn: Instruction, cpu: CpuState, plan: Plan) -> Execution:
    assert insn.form is not None
    size, bits = SIZES[insn.form.operation], length(insn)
    numbers = chosen(insn, cpu)
    target, _, source = insn.operands
    if isinstance(source, Register):
        elements = split(bits, size, read_register(source, cpu))
        for number, operand in zip(numbers, plan, strict=True):
            yield from store(operand, elements[number])
        return retire(insn, cpu)
    assert isinstance(target, Register)
    elements = [0] * (bits // size)
    for number, operand in zip(numbers, plan, strict=True):
        elements[number] = yield from load(operand)
    return write_vector(insn, retire(insn, cpu), target, join(size, elements))


RUN: dict[str, Run] = dict.fromkeys(SIZES, _move)
"""Executions of this module by the table's ``operation``."""
