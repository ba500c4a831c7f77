"""The rows of the instruction table that put elements of vectors elsewhere.

Ref: Intel SDM vol. 2, the pages of each instruction; `tracer.x86.forms.row` explains the columns.
"""

from __future__ import annotations

from tracer.x86.forms.family import RW, W, both, mmx, packed, sse
from tracer.x86.forms.row import Form


def _mmx_too(opcode: str, name: str) -> list[Form]:
    return packed(opcode, name, with_mmx=True)


def _unpack_low(byte: str, name: str) -> list[Form]:
    # The MMX form reads only the half that it takes.
    return [mmx(f"NP 0F {byte}", name, "Pq Qd"), *packed(f"0F {byte}", name)]


def _avx(opcode: str, name: str, operands: str, operation: str = "", length: str = "256") -> Form:
    opcode_map, w, byte = opcode.split()
    return sse(f"VEX.{length}.66.{opcode_map}.{w} {byte}", name, operands, W, operation)


def _widen(byte: int, kind: str) -> list[Form]:
    # By how many elements the source has in 16 bytes of the result, and in 32.
    rows = []
    for offset, (name, narrow, wide) in enumerate(
        (("bw", "q", "dq"), ("bd", "d", "q"), ("bq", "w", "d"),
         ("wd", "q", "dq"), ("wq", "d", "q"), ("dq", "q", "dq"))
    ):  # fmt: skip
        opcode = f"66 0F 38 {byte + offset:02X}"
        name = f"pmov{kind}x{name}"
        rows += both(opcode, name, f"Vdq W{narrow}")
        rows.append(
            sse(f"VEX.256.66.0F38 {byte + offset:02X}", f"v{name}", f"Vqq W{wide}", W, name)
        )
    return rows


def _insert(opcode: str, name: str, memory: str) -> list[Form]:
    return both(opcode, name, f"Vdq {memory} Ib", RW, "insert", vex=f"Vdq Hdq {memory} Ib")


def _extract(byte: str, name: str, memory: str) -> list[Form]:
    return both(f"66 0F 3A {byte}", name, f"{memory} Vdq Ib", W, "extract")


def _blend(opcode: str, byte: str, name: str) -> list[Form]:
    # The mask is XMM0, or of a VEX form named by a fourth operand.
    return [
        sse(f"66 0F 38 {opcode}", name, "Vdq Wdq xmm0", aligned=True),
        sse(f"VEX.128/256.66.0F3A.W0 {byte}", f"v{name}", "Vx Hx Wx Lx", W, name),
    ]


# fmt: off
SHUFFLE = (
    # Interleaved
    *_unpack_low("60", "punpcklbw"),
    *_unpack_low("61", "punpcklwd"),
    *_unpack_low("62", "punpckldq"),
    *packed("0F 6C", "punpcklqdq"),
    *_mmx_too("0F 68", "punpckhbw"),
    *_mmx_too("0F 69", "punpckhwd"),
    *_mmx_too("0F 6A", "punpckhdq"),
    *packed("0F 6D", "punpckhqdq"),
    *packed("0F 14", "unpcklps", operation="punpckldq", prefix="NP"),
    *packed("0F 14", "unpcklpd", operation="punpcklqdq"),
    *packed("0F 15", "unpckhps", operation="punpckhdq", prefix="NP"),
    *packed("0F 15", "unpckhpd", operation="punpckhqdq"),
    # Narrowed and widened
    *_mmx_too("0F 63", "packsswb"),
    *_mmx_too("0F 67", "packuswb"),
    *_mmx_too("0F 6B", "packssdw"),
    *packed("0F 38 2B", "packusdw"),
    *_widen(0x20, "s"),
    *_widen(0x30, "z"),
    # Shuffled
    *_mmx_too("0F 38 00", "pshufb"),
    mmx("NP 0F 70", "pshufw", "Pq Qq Ib", W),
    *packed("0F 70", "pshufd", "Ib", unary=True),
    *packed("0F 70", "pshufhw", "Ib", prefix="F3", unary=True),
    *packed("0F 70", "pshuflw", "Ib", prefix="F2", unary=True),
    *packed("0F 3A 0F", "palignr", "Ib", with_mmx=True),
    *packed("0F C6", "shufps", "Ib", prefix="NP"),
    *packed("0F C6", "shufpd", "Ib"),
    _avx("0F38 W0 0C", "vpermilps", "Vx Hx Wx", length="128/256"),
    _avx("0F38 W0 0D", "vpermilpd", "Vx Hx Wx", length="128/256"),
    _avx("0F3A W0 04", "vpermilps", "Vx Wx Ib", "pshufd", "128/256"),
    _avx("0F3A W0 05", "vpermilpd", "Vx Wx Ib", "vpermilpd immediate", "128/256"),
    _avx("0F38 W0 16", "vpermps", "Vqq Hqq Wqq", "vpermd"),
    _avx("0F38 W0 36", "vpermd",  "Vqq Hqq Wqq"),
    _avx("0F3A W1 00", "vpermq",  "Vqq Wqq Ib"),
    _avx("0F3A W1 01", "vpermpd", "Vqq Wqq Ib", "vpermq"),
    _avx("0F3A W0 06", "vperm2f128", "Vqq Hqq Wqq Ib", "vperm2i128"),
    _avx("0F3A W0 46", "vperm2i128", "Vqq Hqq Wqq Ib"),
    # Blended
    *packed("0F 3A 0C", "blendps", "Ib"),
    *packed("0F 3A 0D", "blendpd", "Ib"),
    *packed("0F 3A 0E", "pblendw", "Ib"),
    _avx("0F3A W0 02", "vpblendd", "Vx Hx Wx Ib", "blendps", "128/256"),
    *_blend("10", "4C", "pblendvb"),
    *_blend("14", "4A", "blendvps"),
    *_blend("15", "4B", "blendvpd"),
    # Inserted and extracted
    mmx("NP 0F C4", "pinsrw", "Pq Mw Ib", operation="insert"),
    *_insert("66 0F C4",    "pinsrw", "Mw"),
    *_insert("66 0F 3A 20", "pinsrb", "Mb"),
    *_insert("66 0F 3A 22", "pinsrd", "Ey"),
    *both("66 0F 3A 21", "insertps", "Vdq Md Ib", RW, vex="Vdq Hdq Md Ib"),
    *_extract("14", "pextrb", "Mb"),
    *_extract("15", "pextrw", "Mw"),
    *_extract("16", "pextrd", "Ey"),
    *_extract("17", "extractps", "Md"),
    _avx("0F3A W0 18", "vinsertf128",  "Vqq Hqq Wdq Ib", "insert"),
    _avx("0F3A W0 38", "vinserti128",  "Vqq Hqq Wdq Ib", "insert"),
    _avx("0F3A W0 19", "vextractf128", "Wdq Vqq Ib", "extract"),
    _avx("0F3A W0 39", "vextracti128", "Wdq Vqq Ib", "extract"),
    # Repeated
    _avx("0F38 W0 18", "vbroadcastss", "Vx Wd",    "broadcast", "128/256"),
    _avx("0F38 W0 19", "vbroadcastsd", "Vqq Wq",   "broadcast"),
    _avx("0F38 W0 1A", "vbroadcastf128", "Vqq Mdq", "broadcast"),
    _avx("0F38 W0 5A", "vbroadcasti128", "Vqq Mdq", "broadcast"),
    _avx("0F38 W0 78", "vpbroadcastb", "Vx Wb",    "broadcast", "128/256"),
    _avx("0F38 W0 79", "vpbroadcastw", "Vx Ww",    "broadcast", "128/256"),
    _avx("0F38 W0 58", "vpbroadcastd", "Vx Wd",    "broadcast", "128/256"),
    _avx("0F38 W0 59", "vpbroadcastq", "Vx Wq",    "broadcast", "128/256"),
    # Masked
    _avx("0F38 W0 2C", "vmaskmovps", "Vx Hx Mx", "maskmov 32", "128/256"),
    _avx("0F38 W0 2D", "vmaskmovpd", "Vx Hx Mx", "maskmov 64", "128/256"),
    _avx("0F38 W0 2E", "vmaskmovps", "Mx Hx Vx", "maskmov 32", "128/256"),
    _avx("0F38 W0 2F", "vmaskmovpd", "Mx Hx Vx", "maskmov 64", "128/256"),
    _avx("0F38 W0 8C", "vpmaskmovd", "Vx Hx Mx", "maskmov 32", "128/256"),
    _avx("0F38 W1 8C", "vpmaskmovq", "Vx Hx Mx", "maskmov 64", "128/256"),
    _avx("0F38 W0 8E", "vpmaskmovd", "Mx Hx Vx", "maskmov 32", "128/256"),
    _avx("0F38 W1 8E", "vpmaskmovq", "Mx Hx Vx", "maskmov 64", "128/256"),
)
# fmt: on
"""Unpack, pack, shuffle, blend, insert, extract, broadcast, and masked moves."""
