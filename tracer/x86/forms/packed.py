"""The rows of the instruction table for packed integers: arithmetic, logic, comparisons, shifts.

Ref: Intel SDM vol. 2, the pages of each instruction; `tracer.x86.forms.row` explains the columns.
"""

from __future__ import annotations

from tracer.x86.forms.family import RW, W, mmx, packed, sse, vex_opcode
from tracer.x86.forms.row import Access, Form
from tracer.x86.state import STATUS_FLAGS


def _mmx_too(opcode: str, name: str) -> list[Form]:
    return packed(opcode, name, with_mmx=True)


def _bitwise(byte: str, name: str, operation: str) -> list[Form]:
    # The bits of reals: single precision without a prefix, double precision with 66.
    return [
        *packed(f"0F {byte}", f"{name}ps", operation=operation, prefix="NP"),
        *packed(f"0F {byte}", f"{name}pd", operation=operation),
    ]


def _shift(byte: str, name: str) -> list[Form]:
    # The count is 16 bytes long whatever is shifted.
    legacy = f"66 0F {byte}"
    return [
        mmx(f"NP 0F {byte}", name, "Pq Qq", operation=name),
        sse(legacy, name, "Vdq Wdq", operation=name, aligned=True),
        sse(vex_opcode(legacy, "128/256"), f"v{name}", "Vx Hx Wdq", W, name),
    ]


def _shift_each(byte: str, name: str, w: str) -> Form:
    return sse(f"VEX.128/256.66.0F38.{w} {byte}", name, "Vx Hx Wx", W)


# fmt: off
PACKED = (
    # Logic
    *_mmx_too("0F DB", "pand"),
    *_mmx_too("0F DF", "pandn"),
    *_mmx_too("0F EB", "por"),
    *_mmx_too("0F EF", "pxor"),
    *_bitwise("54", "and", "pand"),
    *_bitwise("55", "andn", "pandn"),
    *_bitwise("56", "or", "por"),
    *_bitwise("57", "xor", "pxor"),
    # Sums and differences
    *_mmx_too("0F FC", "paddb"),
    *_mmx_too("0F FD", "paddw"),
    *_mmx_too("0F FE", "paddd"),
    *_mmx_too("0F D4", "paddq"),
    *_mmx_too("0F EC", "paddsb"),
    *_mmx_too("0F ED", "paddsw"),
    *_mmx_too("0F DC", "paddusb"),
    *_mmx_too("0F DD", "paddusw"),
    *_mmx_too("0F F8", "psubb"),
    *_mmx_too("0F F9", "psubw"),
    *_mmx_too("0F FA", "psubd"),
    *_mmx_too("0F FB", "psubq"),
    *_mmx_too("0F E8", "psubsb"),
    *_mmx_too("0F E9", "psubsw"),
    *_mmx_too("0F D8", "psubusb"),
    *_mmx_too("0F D9", "psubusw"),
    *_mmx_too("0F 38 01", "phaddw"),
    *_mmx_too("0F 38 02", "phaddd"),
    *_mmx_too("0F 38 03", "phaddsw"),
    *_mmx_too("0F 38 05", "phsubw"),
    *_mmx_too("0F 38 06", "phsubd"),
    *_mmx_too("0F 38 07", "phsubsw"),
    # Averages, distances, signs
    *_mmx_too("0F E0", "pavgb"),
    *_mmx_too("0F E3", "pavgw"),
    *_mmx_too("0F F6", "psadbw"),
    *packed("0F 3A 42", "mpsadbw", "Ib"),
    *_mmx_too("0F 38 08", "psignb"),
    *_mmx_too("0F 38 09", "psignw"),
    *_mmx_too("0F 38 0A", "psignd"),
    *packed("0F 38 1C", "pabsb", with_mmx=True, unary=True),
    *packed("0F 38 1D", "pabsw", with_mmx=True, unary=True),
    *packed("0F 38 1E", "pabsd", with_mmx=True, unary=True),
    # Products
    *_mmx_too("0F D5", "pmullw"),
    *_mmx_too("0F E5", "pmulhw"),
    *_mmx_too("0F E4", "pmulhuw"),
    *_mmx_too("0F F4", "pmuludq"),
    *_mmx_too("0F F5", "pmaddwd"),
    *_mmx_too("0F 38 04", "pmaddubsw"),
    *_mmx_too("0F 38 0B", "pmulhrsw"),
    *packed("0F 38 28", "pmuldq"),
    *packed("0F 38 40", "pmulld"),
    *(sse(f"VEX.128/256.66.0F38.W0 {byte}", name, "Vx Hx Wx", RW) for byte, name in (
        ("50", "vpdpbusd"), ("51", "vpdpbusds"), ("52", "vpdpwssd"), ("53", "vpdpwssds"))),
    # The lesser and the greater
    *_mmx_too("0F DA", "pminub"),
    *_mmx_too("0F DE", "pmaxub"),
    *_mmx_too("0F EA", "pminsw"),
    *_mmx_too("0F EE", "pmaxsw"),
    *packed("0F 38 38", "pminsb"),
    *packed("0F 38 39", "pminsd"),
    *packed("0F 38 3A", "pminuw"),
    *packed("0F 38 3B", "pminud"),
    *packed("0F 38 3C", "pmaxsb"),
    *packed("0F 38 3D", "pmaxsd"),
    *packed("0F 38 3E", "pmaxuw"),
    *packed("0F 38 3F", "pmaxud"),
    *packed("0F 38 41", "phminposuw", unary=True, length="128"),
    # Comparisons
    *_mmx_too("0F 74", "pcmpeqb"),
    *_mmx_too("0F 75", "pcmpeqw"),
    *_mmx_too("0F 76", "pcmpeqd"),
    *packed("0F 38 29", "pcmpeqq"),
    *_mmx_too("0F 64", "pcmpgtb"),
    *_mmx_too("0F 65", "pcmpgtw"),
    *_mmx_too("0F 66", "pcmpgtd"),
    *packed("0F 38 37", "pcmpgtq"),
    sse("66 0F 38 17", "ptest", "Vdq Wdq", Access.R, "ptest", STATUS_FLAGS, aligned=True),
    sse("VEX.128/256.66.0F38 17", "vptest", "Vx Wx", Access.R, "ptest", STATUS_FLAGS),
    sse("VEX.128/256.66.0F38.W0 0E", "vtestps", "Vx Wx", Access.R, "vtestps", STATUS_FLAGS),
    sse("VEX.128/256.66.0F38.W0 0F", "vtestpd", "Vx Wx", Access.R, "vtestpd", STATUS_FLAGS),
    # Shifts
    *_shift("D1", "psrlw"),
    *_shift("D2", "psrld"),
    *_shift("D3", "psrlq"),
    *_shift("E1", "psraw"),
    *_shift("E2", "psrad"),
    *_shift("F1", "psllw"),
    *_shift("F2", "pslld"),
    *_shift("F3", "psllq"),
    _shift_each("45", "vpsrlvd", "W0"),
    _shift_each("45", "vpsrlvq", "W1"),
    _shift_each("46", "vpsravd", "W0"),
    _shift_each("47", "vpsllvd", "W0"),
    _shift_each("47", "vpsllvq", "W1"),
)
# fmt: on
"""Packed integers on MMX, XMM and YMM registers, and the bitwise operations on packed reals."""
