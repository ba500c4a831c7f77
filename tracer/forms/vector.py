"""The rows of the instruction table that work on XMM and MMX registers: moves alone.

Ref: Intel SDM vol. 2, the pages of each instruction; `tracer.forms.row` explains the columns.

VEX forms have a row only where they store from XMM: a VEX load writes the upper half of the
YMM register too (Intel SDM vol. 1, 14.3), which no debugger interface of QEMU shows, so loads
are left to the CPU.
"""

from __future__ import annotations

from tracer.forms.row import Access, Form, Unit, row

R, W, RW = Access.R, Access.W, Access.RW


def _sse(opcode: str, name: str, operands: str, access: Access, operation: str = "mov") -> Form:
    return row(opcode, name, operands, access, operation=operation, unit=Unit.SSE)


def _aligned(opcode: str, name: str, operands: str, operation: str = "mov") -> Form:
    return row(opcode, name, operands, W, operation=operation, unit=Unit.SSE, aligned=True)


def _mmx(opcode: str, name: str, operands: str) -> Form:
    return row(opcode, name, operands, W, operation="mmx mov", unit=Unit.MMX)


# fmt: off
VECTOR = (
    # Whole registers
    _sse("NP 0F 10",     "movups",   "Vdq Wdq", W),
    _sse("NP 0F 11",     "movups",   "Wdq Vdq", W),
    _sse("66 0F 10",     "movupd",   "Vdq Wdq", W),
    _sse("66 0F 11",     "movupd",   "Wdq Vdq", W),
    _sse("F3 0F 6F",     "movdqu",   "Vdq Wdq", W),
    _sse("F3 0F 7F",     "movdqu",   "Wdq Vdq", W),
    _sse("F2 0F F0",     "lddqu",    "Vdq Mdq", W),
    _aligned("NP 0F 28", "movaps",   "Vdq Wdq"),
    _aligned("NP 0F 29", "movaps",   "Wdq Vdq"),
    _aligned("66 0F 28", "movapd",   "Vdq Wdq"),
    _aligned("66 0F 29", "movapd",   "Wdq Vdq"),
    _aligned("66 0F 6F", "movdqa",   "Vdq Wdq"),
    _aligned("66 0F 7F", "movdqa",   "Wdq Vdq"),
    _aligned("NP 0F 2B", "movntps",  "Mdq Vdq"),
    _aligned("66 0F 2B", "movntpd",  "Mdq Vdq"),
    _aligned("66 0F E7", "movntdq",  "Mdq Vdq"),
    _aligned("66 0F 38 2A", "movntdqa", "Vdq Mdq"),
    _aligned("F3 0F 12", "movsldup", "Vdq Wdq", "movsldup"),
    _aligned("F3 0F 16", "movshdup", "Vdq Wdq", "movshdup"),
    # Parts of registers
    _sse("F3 0F 10",     "movss",    "Vdq Wd", W),
    _sse("F3 0F 11",     "movss",    "Wd Vdq", W),
    _sse("F2 0F 10",     "movsd",    "Vdq Wq", W),
    _sse("F2 0F 11",     "movsd",    "Wq Vdq", W),
    _sse("66 0F 6E",     "movd",     "Vdq Ey", W),
    _sse("66 0F 7E",     "movd",     "Ey Vdq", W),
    _sse("F3 0F 7E",     "movq",     "Vdq Wq", W),
    _sse("66 0F D6",     "movq",     "Wq Vdq", W),
    _sse("NP 0F 12",     "movlps",   "Vdq Mq", RW, "low half"),
    _sse("66 0F 12",     "movlpd",   "Vdq Mq", RW, "low half"),
    _sse("NP 0F 13",     "movlps",   "Mq Vdq", W),
    _sse("66 0F 13",     "movlpd",   "Mq Vdq", W),
    _sse("NP 0F 16",     "movhps",   "Vdq Mq", RW, "high half"),
    _sse("66 0F 16",     "movhpd",   "Vdq Mq", RW, "high half"),
    _sse("NP 0F 17",     "movhps",   "Mq Vdq", W, "store high half"),
    _sse("66 0F 17",     "movhpd",   "Mq Vdq", W, "store high half"),
    _sse("F2 0F 12",     "movddup",  "Vdq Wq", W, "movddup"),
    # Stores from XMM with a VEX prefix
    _sse("VEX.128.NP.0F 11", "vmovups",  "Wdq Vdq", W),
    _sse("VEX.128.66.0F 11", "vmovupd",  "Wdq Vdq", W),
    _sse("VEX.128.F3.0F 7F", "vmovdqu",  "Wdq Vdq", W),
    _aligned("VEX.128.NP.0F 29", "vmovaps",  "Wdq Vdq"),
    _aligned("VEX.128.66.0F 29", "vmovapd",  "Wdq Vdq"),
    _aligned("VEX.128.66.0F 7F", "vmovdqa",  "Wdq Vdq"),
    _aligned("VEX.128.NP.0F 2B", "vmovntps", "Mdq Vdq"),
    _aligned("VEX.128.66.0F 2B", "vmovntpd", "Mdq Vdq"),
    _aligned("VEX.128.66.0F E7", "vmovntdq", "Mdq Vdq"),
    _sse("VEX.LIG.F3.0F 11", "vmovss",   "Wd Vdq", W),
    _sse("VEX.LIG.F2.0F 11", "vmovsd",   "Wq Vdq", W),
    _sse("VEX.128.66.0F 7E", "vmovd",    "Ey Vdq", W),
    _sse("VEX.128.66.0F D6", "vmovq",    "Wq Vdq", W),
    _sse("VEX.128.NP.0F 13", "vmovlps",  "Mq Vdq", W),
    _sse("VEX.128.66.0F 13", "vmovlpd",  "Mq Vdq", W),
    _sse("VEX.128.NP.0F 17", "vmovhps",  "Mq Vdq", W, "store high half"),
    _sse("VEX.128.66.0F 17", "vmovhpd",  "Mq Vdq", W, "store high half"),
    # MMX
    _mmx("NP 0F 6F",     "movq",     "Pq Qq"),
    _mmx("NP 0F 7F",     "movq",     "Qq Pq"),
    _mmx("NP 0F 6E",     "movd",     "Pq Ey"),
    _mmx("NP 0F 7E",     "movd",     "Ey Pq"),
    _mmx("NP 0F E7",     "movntq",   "Mq Pq"),
)
# fmt: on
"""Moves between memory and vector registers."""
