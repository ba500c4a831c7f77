"""The rows of the instruction table for ciphers and hashes, and for comparing strings.

Ref: Intel SDM vol. 2, the pages of each instruction; `tracer.x86.forms.row` explains the columns.
"""

from __future__ import annotations

from tracer.x86.forms.family import W, packed, sse, vex_opcode
from tracer.x86.forms.row import Form
from tracer.x86.state import STATUS_FLAGS


def _string(byte: str, name: str, target: str) -> list[Form]:
    # The result goes to ECX or to XMM0, which no operand names. No alignment is asked for.
    operands = f"{target} Vdq Wdq Ib"
    return [
        sse(f"66 0F 3A {byte}", name, operands, W, name, STATUS_FLAGS),
        sse(f"VEX.128.66.0F3A {byte}", f"v{name}", operands, W, name, STATUS_FLAGS),
    ]


def _field(opcode: str, byte: str, name: str, w: str, tail: str = "") -> list[Form]:
    legacy = f"66 {opcode} {byte}"
    return [
        sse(legacy, name, f"Vdq Wdq {tail}", aligned=True),
        sse(vex_opcode(legacy, "128/256", w), f"v{name}", f"Vx Hx Wx {tail}", W, name),
    ]


def _sha(byte: str, name: str, tail: str = "", opcode_map: str = "0F 38") -> Form:
    # The SDM has them in exception class 4, which insists on alignment. AMD CPUs and QEMU do not.
    return sse(f"NP {opcode_map} {byte}", name, f"Vdq Wdq {tail}")


CIPHER = (
    *packed("0F 38 DC", "aesenc"),
    *packed("0F 38 DD", "aesenclast"),
    *packed("0F 38 DE", "aesdec"),
    *packed("0F 38 DF", "aesdeclast"),
    *packed("0F 38 DB", "aesimc", unary=True, length="128"),
    *packed("0F 3A DF", "aeskeygenassist", "Ib", unary=True, length="128"),
    *packed("0F 3A 44", "pclmulqdq", "Ib"),
    *_field("0F 38", "CF", "gf2p8mulb", "W0"),
    *_field("0F 3A", "CE", "gf2p8affineqb", "W1", "Ib"),
    *_field("0F 3A", "CF", "gf2p8affineinvqb", "W1", "Ib"),
    _sha("C8", "sha1nexte"),
    _sha("C9", "sha1msg1"),
    _sha("CA", "sha1msg2"),
    _sha("CB", "sha256rnds2", "xmm0"),
    _sha("CC", "sha256msg1"),
    _sha("CD", "sha256msg2"),
    _sha("CC", "sha1rnds4", "Ib", "0F 3A"),
    *_string("60", "pcmpestrm", "xmm0"),
    *_string("61", "pcmpestri", "ecx"),
    *_string("62", "pcmpistrm", "xmm0"),
    *_string("63", "pcmpistri", "ecx"),
)
"""AES, carry-less products, GF(2^8), SHA, and the string comparisons of SSE4.2."""
