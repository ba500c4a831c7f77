"""The rows of the instruction table that move between memory and MMX, XMM and YMM registers.

Ref: Intel SDM vol. 2, the pages of each instruction; vol. 1, 14.3 (a VEX load zeroes what is above
it in the YMM register); `tracer.x86.forms.row` explains the columns.
"""

from __future__ import annotations

from tracer.x86.forms.family import RW, W, both, mmx, sse, vex_opcode
from tracer.x86.forms.row import Form

_MOVE = "vector mov"


def _whole(opcode: str, name: str, operands: str, *, aligned: bool = False) -> list[Form]:
    # All of an XMM register, or of a YMM register too.
    return [
        sse(opcode, name, operands.replace("x", "dq"), W, _MOVE, aligned=aligned),
        sse(vex_opcode(opcode, "128/256"), f"v{name}", operands, W, _MOVE, aligned=aligned),
    ]


def _aligned(opcode: str, name: str, operands: str) -> list[Form]:
    return _whole(opcode, name, operands, aligned=True)


def _part(opcode: str, name: str, operands: str, length: str = "128") -> list[Form]:
    return both(opcode, name, operands, W, _MOVE, length=length)


def _half(opcode: str, name: str, operation: str) -> list[Form]:
    return both(opcode, name, "Vdq Mq", RW, operation, vex="Vdq Hdq Mq")


def _double(opcode: str, name: str) -> list[Form]:
    return [
        sse(opcode, name, "Vdq Wdq", W, name, aligned=True),
        sse(vex_opcode(opcode, "128/256"), f"v{name}", "Vx Wx", W, name),
    ]


def _mmx(opcode: str, name: str, operands: str) -> Form:
    return mmx(opcode, name, operands, W, _MOVE)


def _store_high(opcode: str, name: str) -> list[Form]:
    return both(opcode, name, "Mq Vdq", W, "store high half")


# fmt: off
VECTOR = (
    # Whole registers
    *_whole("NP 0F 10",     "movups",   "Vx Wx"),
    *_whole("NP 0F 11",     "movups",   "Wx Vx"),
    *_whole("66 0F 10",     "movupd",   "Vx Wx"),
    *_whole("66 0F 11",     "movupd",   "Wx Vx"),
    *_whole("F3 0F 6F",     "movdqu",   "Vx Wx"),
    *_whole("F3 0F 7F",     "movdqu",   "Wx Vx"),
    *_whole("F2 0F F0",     "lddqu",    "Vx Mx"),
    *_aligned("NP 0F 28",   "movaps",   "Vx Wx"),
    *_aligned("NP 0F 29",   "movaps",   "Wx Vx"),
    *_aligned("66 0F 28",   "movapd",   "Vx Wx"),
    *_aligned("66 0F 29",   "movapd",   "Wx Vx"),
    *_aligned("66 0F 6F",   "movdqa",   "Vx Wx"),
    *_aligned("66 0F 7F",   "movdqa",   "Wx Vx"),
    *_aligned("NP 0F 2B",   "movntps",  "Mx Vx"),
    *_aligned("66 0F 2B",   "movntpd",  "Mx Vx"),
    *_aligned("66 0F E7",   "movntdq",  "Mx Vx"),
    *_aligned("66 0F 38 2A", "movntdqa", "Vx Mx"),
    *_double("F3 0F 12",    "movsldup"),
    *_double("F3 0F 16",    "movshdup"),
    # Parts of registers
    *_part("F3 0F 10",      "movss",    "Vdq Wd", "LIG"),
    *_part("F3 0F 11",      "movss",    "Wd Vdq", "LIG"),
    *_part("F2 0F 10",      "movsd",    "Vdq Wq", "LIG"),
    *_part("F2 0F 11",      "movsd",    "Wq Vdq", "LIG"),
    sse("F3 0F 2B",         "movntss",  "Md Vdq", W, _MOVE),
    sse("F2 0F 2B",         "movntsd",  "Mq Vdq", W, _MOVE),
    *_part("66 0F 6E",      "movd",     "Vdq Ey"),
    *_part("66 0F 7E",      "movd",     "Ey Vdq"),
    *_part("F3 0F 7E",      "movq",     "Vdq Wq"),
    *_part("66 0F D6",      "movq",     "Wq Vdq"),
    *_half("NP 0F 12",      "movlps",   "low half"),
    *_half("66 0F 12",      "movlpd",   "low half"),
    *_part("NP 0F 13",      "movlps",   "Mq Vdq"),
    *_part("66 0F 13",      "movlpd",   "Mq Vdq"),
    *_half("NP 0F 16",      "movhps",   "high half"),
    *_half("66 0F 16",      "movhpd",   "high half"),
    *_store_high("NP 0F 17", "movhps"),
    *_store_high("66 0F 17", "movhpd"),
    *both("F2 0F 12",       "movddup",  "Vdq Wq"),
    sse("VEX.256.F2.0F 12", "vmovddup", "Vqq Wqq", W, "movddup"),
    # MMX
    _mmx("NP 0F 6F",        "movq",     "Pq Qq"),
    _mmx("NP 0F 7F",        "movq",     "Qq Pq"),
    _mmx("NP 0F 6E",        "movd",     "Pq Ey"),
    _mmx("NP 0F 7E",        "movd",     "Ey Pq"),
    _mmx("NP 0F E7",        "movntq",   "Mq Pq"),
)
# fmt: on
"""Moves between memory and vector registers."""
