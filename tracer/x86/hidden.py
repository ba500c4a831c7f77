"""The registers that no stop tells, and no record has: which instructions work on them."""

from __future__ import annotations

from tracer.x86.forms import Access, Unit
from tracer.x86.instruction import File, Instruction, Register


def needs_ymm(insn: Instruction) -> bool:
    """Tell whether an instruction reads or writes bits 255:128 of a YMM register.

    A VEX form that writes an XMM register zeroes them (Intel SDM vol. 1, 14.3).
    """
    assert insn.form is not None
    if not insn.form.opcode.vex:
        return False
    target = insn.operands[0]
    writes = isinstance(target, Register) and Access.W in insn.form.access
    return any(
        isinstance(operand, Register)
        and operand.file is File.XMM
        and (operand.width == 32 or (writes and operand is target))
        for operand in insn.operands
    )


def on_hidden_registers(insn: Instruction) -> bool:
    """Tell whether an instruction works on registers that no stop tells, and no record has.

    GDB cannot write x87 and MMX registers bit by bit, and knows no upper halves of YMM.
    """
    return insn.form is not None and (insn.form.unit in (Unit.X87, Unit.MMX) or needs_ymm(insn))
