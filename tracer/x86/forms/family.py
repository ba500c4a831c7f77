"""How the rows of vector instructions are made: one operation in its MMX, SSE and AVX encodings.

Ref: Intel SDM vol. 2A, 2.3 (VEX: a third operand, 256 bits, no alignment), tables 2-17 to 2-24
(exception classes: a legacy SSE operand of 16 bytes has to be aligned).
"""

from __future__ import annotations

from tracer.x86.forms.row import NO_FLAGS, Access, Form, Unit, row
from tracer.x86.state import Flag

R, W, RW = Access.R, Access.W, Access.RW


def sse(
    opcode: str, name: str, operands: str, access: Access = RW, operation: str = "",
    flags: Flag = NO_FLAGS, *, aligned: bool = False,
) -> Form:  # fmt: skip
    """Make a row on XMM registers, legacy SSE or VEX by its opcode column."""
    return row(
        opcode, name, operands, access, flags, operation=operation, unit=Unit.SSE, aligned=aligned
    )


def mmx(opcode: str, name: str, operands: str, access: Access = RW, operation: str = "") -> Form:
    """Make a row on MMX registers."""
    return row(opcode, name, operands, access, operation=operation, unit=Unit.MMX)


def both(
    opcode: str, name: str, operands: str, access: Access = W, operation: str = "",
    *, aligned: bool = False, vex: str = "", length: str = "128",
) -> list[Form]:  # fmt: skip
    """Make a row and that of its VEX form, which is aligned alike.

    ``vex`` has the operands of the VEX form where they differ: another source beside the target.
    """
    operation = operation or name
    encoded, alone = vex_opcode(opcode, length), W if vex else access
    return [
        sse(opcode, name, operands, access, operation, aligned=aligned),
        sse(encoded, f"v{name}", vex or operands, alone, operation, aligned=aligned),
    ]


def packed(
    opcode: str, name: str, tail: str = "", *, operation: str = "", prefix: str = "66",
    with_mmx: bool = False, unary: bool = False, length: str = "128/256",
) -> list[Form]:  # fmt: skip
    """Make the rows of an operation on whole vectors: target, source and ``tail``.

    ``opcode`` is without the mandatory prefix. The VEX form has another source in place of the
    target; an ``unary`` operation has one source in any form.
    """
    operation = operation or name
    legacy = f"{prefix} {opcode}"
    access = W if unary else RW
    sources = "Wx" if unary else "Hx Wx"
    return [
        *([mmx(f"NP {opcode}", name, f"Pq Qq {tail}", access, operation)] if with_mmx else ()),
        sse(legacy, name, f"Vdq Wdq {tail}", access, operation, aligned=True),
        sse(vex_opcode(legacy, length), f"v{name}", f"Vx {sources} {tail}", W, operation),
    ]


def vex_opcode(legacy: str, length: str, w: str = "") -> str:
    """Return the opcode column of the VEX form of a legacy one with a mandatory prefix."""
    prefix, *maps, byte = legacy.split()
    return f"VEX.{length}.{prefix}.{''.join(maps)}{w and '.' + w} {byte}"
