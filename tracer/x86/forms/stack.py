"""The rows of the instruction table whose memory operand is the stack, and jumps through memory.

Ref: Intel SDM vol. 2, the pages of each instruction; vol. 1, 6.2 and 6.5 (stack frames);
`tracer.x86.forms.row` explains the columns.
"""

from __future__ import annotations

from tracer.x86.forms.row import Access, Form, Size64, row

R, W = Access.R, Access.W


def _stack(
    opcode: str, name: str, operands: str = "", access: Access = R, size64: Size64 = "d64"
) -> Form:
    return row(opcode, name, operands, access, size64=size64)


# fmt: off
STACK = (
    _stack("FF /6", "push",  "Ev",    R),
    _stack("FF /6", "push",  "Rv",    R),
    _stack("50+r",  "push",  "Zv",    R),
    _stack("68",    "push",  "Iz",    R),
    _stack("6A",    "push",  "Ibs",   R),
    _stack("9C",    "pushf"),
    _stack("8F /0", "pop",   "Ev",    W),
    _stack("8F /0", "pop",   "Rv",    W),
    _stack("58+r",  "pop",   "Zv",    W),
    _stack("C8",    "enter", "Iw Ib"),
    _stack("C9",    "leave"),
    _stack("FF /2", "call",  "Ev",    R, "f64"),
    _stack("FF /2", "call",  "Rv",    R, "f64"),
    _stack("E8",    "call",  "Jz",    R, "f64"),
    _stack("FF /4", "jmp",   "Ev",    R, "f64"),
    _stack("C2",    "ret",   "Iw",    R, "f64"),
    _stack("C3",    "ret",   size64="f64"),
)
# fmt: on
"""Pushes, pops, stack frames, near calls and returns."""
