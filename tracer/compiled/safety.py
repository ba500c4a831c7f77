"""Which instructions may be compiled: those that cannot raise an exception within a thunk.

A thunk runs in the guest's page-fault handler, where an exception would be the guest's end. What
the CPU checks before it accesses memory is proven by the fault that led here: the instruction is
known (#UD), its unit is on (#NM: CR0.TS, CR0.EM, XCR0), no x87 exception is pending, its address
is canonical (Intel SDM vol. 3A, 6.9). An alignment check is for user code alone. What is left, by
the state that a form works on:

general-purpose registers
    Only a division looks at what it has read. The rest cannot fail on memory that is there.
SSE, AVX
    The table's forms move, compare and calculate with integers: none reads MXCSR, so none raises
    #XM. Legacy forms ask for alignment (#GP): the cell has that of the access, which is checked.
MMX
    The same, and a thunk looks whether an x87 exception is pending (#MF).
x87
    A masked exception never comes; one that is not would come at the next instruction, and keep a
    store from being made. So a thunk looks whether all are masked.
memory besides the device
    String instructions, PUSH and POP access RAM too. It is walked to before the device is touched,
    and accessed through the window, where no page is missing.
"""

from __future__ import annotations

from enum import Enum

from tracer.errors import TracerError
from tracer.x86.forms import Access, Unit
from tracer.x86.instruction import File, Instruction, Memory, Register
from tracer.x86.state import Mode

WIDTHS = (1, 2, 4, 8, 10, 16, 32)
"""Widths in bytes that a record has room for."""


class NotCompiled(TracerError):
    """Leave an instruction to a stop each time; ``reason`` says why."""

    def __init__(self, insn: Instruction, reason: str) -> None:
        super().__init__(f"{insn.text} is not compiled: {reason}")
        self.reason = reason


class Template(Enum):
    """Name how a thunk carries out its instruction."""

    MOVE = "move"
    """A register or a constant from or to the device, nothing else."""

    CELL = "cell"
    """The instruction itself, on a cell of the record in place of the device."""

    PUSH = "push"
    POP = "pop"
    STRING = "string"
    """One iteration of MOVS, STOS or LODS."""


_REFUSED = {
    "div": "a quotient may not fit (#DE)",
    "idiv": "a quotient may not fit (#DE)",
    "none": "it accesses nothing",
    "movdir64b": "it stores 64 bytes elsewhere",
    "maskmov 32": "a mask decides what is accessed",
    "maskmov 64": "a mask decides what is accessed",
    "cmps": "what is read decides whether it goes on",
    "scas": "what is read decides whether it goes on",
    "ins": "it accesses a port",
    "outs": "it accesses a port",
    "call": "it goes elsewhere",
    "jmp": "it goes elsewhere",
    "ret": "it goes elsewhere",
    "enter": "its operand is the stack",
    "leave": "its operand is the stack",
    "pushf": "its operand is the stack",
}
_IN_THE_STUB = (1, 2)  # CS and SS are not the interrupted code's


def template_of(insn: Instruction) -> Template:
    """Return how an instruction may be compiled; raise :class:`NotCompiled` if it may not."""
    form = insn.form
    if form is None:
        raise NotCompiled(insn, "the table does not have it")
    if insn.mode is not Mode.LONG:
        raise NotCompiled(insn, "it is no 64-bit code")
    reason = _REFUSED.get(form.operation)
    if reason is None and form.name.startswith("cmp") and form.name.endswith("xadd"):
        reason = "no CPU is at hand to prove it on"
    if reason is not None:
        raise NotCompiled(insn, reason)
    memories = [operand for operand in insn.operands if isinstance(operand, Memory)]
    if not memories:
        raise NotCompiled(insn, "its operand is the stack")
    if insn.width not in WIDTHS:
        raise NotCompiled(insn, f"{insn.width} bytes have no room in a record")
    for operand in insn.operands:
        if isinstance(operand, Register) and operand.file is File.SEGMENT:
            if operand.number in _IN_THE_STUB:
                raise NotCompiled(insn, "the stub has another CS and SS")
            return Template.CELL
    if form.operation in ("movs", "stos", "lods"):
        if form.operation == "movs" and memories[1].segment in ("fs", "gs"):
            raise NotCompiled(insn, "the base of FS or GS is not known in a thunk")
        return Template.STRING
    if form.operation in ("push", "pop"):
        return Template.PUSH if form.operation == "push" else Template.POP
    if form.operation == "xlat" or (form.operation == "mov" and form.unit is Unit.INTEGER):
        return Template.MOVE if _is_whole(insn) else Template.CELL
    return Template.CELL


def reads_and_writes(insn: Instruction) -> tuple[bool, bool]:
    """Tell whether the one memory operand of an instruction is read, and whether it is written."""
    assert insn.form is not None
    if not isinstance(insn.operands[0], Memory):
        return True, False
    return Access.R in insn.form.access, Access.W in insn.form.access


def _is_whole(insn: Instruction) -> bool:
    # Tells that a move needs no more than a register written, whole or as much as was loaded.
    target = insn.operands[0]
    if not isinstance(target, Register):
        return True
    return target.width >= 4 or target.width == insn.width
