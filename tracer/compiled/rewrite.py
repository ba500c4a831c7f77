"""The instruction itself with another memory operand: its bytes, but for ModRM and prefixes.

Ref: Intel SDM vol. 2A, 2.1 (prefixes, ModRM, SIB), 2.2.1 (REX), 2.3.5 (VEX, whose R, X, B and vvvv
are inverted).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from tracer.x86.instruction import File, Instruction, Register
from tracer.x86.prefix import Head

_MEANT = (0x66, 0xF2, 0xF3)
"""Prefixes that say which instruction it is. Segment, address size and LOCK are the operand's."""


def rewritten(insn: Instruction, base: int, offset: int, substitutes: Mapping[int, int]) -> bytes:
    """Return the instruction with ``[base + offset]`` as its memory operand.

    ``base`` is one of the first eight registers, RSP apart. Where an operand is a register of
    ``substitutes`` it becomes the one that is named there, of the first eight.
    """
    form, code = insn.form, insn.code
    assert form is not None and form.modrm
    head = Head(code, insn.mode)
    modrm = code[head.at]
    other, vvvv = None, None
    for slot, operand in zip(form.operands, insn.operands, strict=True):
        if isinstance(operand, Register) and operand.file is File.GPR and not operand.high:
            substitute = substitutes.get(operand.number)
            if slot[0] == "G":
                other = substitute
            elif slot[0] == "B":
                vvvv = substitute
    reg = modrm & 0x38 if other is None else other << 3
    tail = bytes([0x80 | reg | base]) + struct.pack("<i", offset) + code[_end(code, head.at) :]
    if head.vex:
        return _vex(bytearray(code[head.start : head.at]), other, vvvv) + tail
    lead = bytes(byte for byte in code[: head.start] if byte in _MEANT)
    opcode = head.start
    if head.rex:
        opcode += 1
        lead += bytes([head.rex & (~3 if other is None else ~7)])
    return lead + code[opcode : head.at] + tail


def _vex(lead: bytearray, other: int | None, vvvv: int | None) -> bytes:
    # R, X and B of the second byte; vvvv of the last one before the opcode.
    if lead[0] == 0xC4:
        lead[1] |= 0x60
    if other is not None:
        lead[1] |= 0x80
    if vvvv is not None:
        lead[-2] = lead[-2] & ~0x78 | (~vvvv & 15) << 3
    return bytes(lead)


def _end(code: bytes, at: int) -> int:
    # Returns where ModRM, SIB and displacement end.
    mod, rm = code[at] >> 6, code[at] & 7
    end = at + 1
    if rm == 4:
        rm = code[end] & 7
        end += 1
    if mod == 0:
        return end + (4 if rm == 5 else 0)
    return end + (1 if mod == 1 else 4)
