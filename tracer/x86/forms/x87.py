"""The rows of the instruction table that work on the x87 register stack: loads and stores alone.

Ref: Intel SDM vol. 2, FLD, FST, FILD, FIST, FISTTP, FLDCW, FSTCW, FSTSW; vol. 1, chapter 8.
"""

from __future__ import annotations

from tracer.x86.forms.row import Access, Form, Unit, row


def _x87(opcode: str, name: str, operands: str, access: Access, operation: str = "") -> Form:
    return row(opcode, name, operands, access, operation=operation, unit=Unit.X87)


R, W = Access.R, Access.W

# fmt: off
X87 = (
    _x87("D9 /0", "fld",    "Md", R),
    _x87("DD /0", "fld",    "Mq", R),
    _x87("DB /5", "fld",    "Mt", R),
    _x87("D9 /2", "fst",    "Md", W),
    _x87("DD /2", "fst",    "Mq", W),
    _x87("D9 /3", "fstp",   "Md", W),
    _x87("DD /3", "fstp",   "Mq", W),
    _x87("DB /7", "fstp",   "Mt", W),
    _x87("DF /0", "fild",   "Mw", R),
    _x87("DB /0", "fild",   "Md", R),
    _x87("DF /5", "fild",   "Mq", R),
    _x87("DF /2", "fist",   "Mw", W),
    _x87("DB /2", "fist",   "Md", W),
    _x87("DF /3", "fistp",  "Mw", W),
    _x87("DB /3", "fistp",  "Md", W),
    _x87("DF /7", "fistp",  "Mq", W),
    _x87("DF /1", "fisttp", "Mw", W),
    _x87("DB /1", "fisttp", "Md", W),
    _x87("DD /1", "fisttp", "Mq", W),
    _x87("D9 /5", "fldcw",  "Mw", R),
    _x87("D9 /7", "fnstcw", "Mw", W),
    _x87("DD /7", "fnstsw", "Mw", W),
)
# fmt: on
"""Loads and stores of integers, reals, and the control and status words."""
