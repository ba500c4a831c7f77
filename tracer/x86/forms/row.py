"""What a row of the instruction table holds, and how it is written.

Ref: Intel SDM vol. 2, "Instruction Format" of each instruction, 3.1.1.1 (opcode column) and
vol. 2D, appendix A.2 (codes for addressing method, operand type, and superscripts i64, o64, d64,
f64); AMD APM vol. 3, appendix A.

A row is written as the manuals write it. The opcode column may begin with ``NP`` (no 66, F2, F3),
``NFx`` (no F2, F3; 66 is the operand size), a mandatory prefix, ``VEX.<length>.<prefix>.<map>``
with ``.W0`` or ``.W1`` where the manuals have it, or ``REX.W`` for a row of its own at 64-bit
operand size. Without any of these 66 is the operand size and F2, F3 are ignored. A ``VEX.128/256``
row stands for both lengths. Operand codes:

====  ===================================  =====  ==============================================
code  where the operand is                 type   width in bytes
====  ===================================  =====  ==============================================
E M   memory named by ModRM                b w d  1, 2, 4
W Q   the same, beside XMM or MMX          q      8
G     register named by ModRM.reg          dq qq  16, 32
V P   XMM, MMX register by ModRM.reg       x      16 or 32: the length of the vectors
B H   register, XMM register by VEX.vvvv   v      2, 4 or 8: the operand size
L     XMM register by bits 7:4 of a byte   y      4 or 8: the operand size, never 2
R     register named by ModRM.rm           z      2 or 4: the operand size, never 8
Z     register by the opcode (``50+r``)    t      10 (x87 extended real, packed decimal)
S     segment register by ModRM.reg        o      64
I     immediate; ``Ibs`` is sign-extended  a      the address size
J     distance of a jump, sign-extended
O     memory at an absolute offset
T     memory at DS:rBX + AL (XLAT)
X Y   memory at DS:rSI, at ES:rDI
====  ===================================  =====  ==============================================

Only forms that access memory have a row: the others cannot be intercepted. The stack is no operand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from enum import Flag as BitFlag
from typing import Literal

from tracer.x86.state import Flag


class Access(BitFlag):
    """Tell what an instruction does with its first operand; the others are always read."""

    NONE = 0
    R = 1
    W = 2
    RW = R | W


class Repeat(Enum):
    """Tell how REP prefixes act on a string instruction (Intel SDM vol. 2B, REP)."""

    COUNT = "rep"
    """F2 and F3 alike repeat while rCX is not 0: MOVS, STOS, LODS, INS, OUTS."""
    COMPARE = "repe/repne"
    """F3 also stops at ZF=0, F2 also stops at ZF=1: CMPS, SCAS."""


class Unit(Enum):
    """Name the register state a form needs beside the general-purpose registers."""

    INTEGER = "integer"
    SSE = "sse"
    MMX = "mmx"
    X87 = "x87"


Extension = Literal["", "zero", "sign"]
Lock = Literal["", "lockable", "always"]
Size64 = Literal["", "d64", "f64"]
Only = Literal["", "i64", "o64"]


@dataclass(frozen=True, slots=True)
class Opcode:
    """Hold the opcode column of a row, taken apart.

    ``map`` is 0 for one-byte opcodes, 1 for 0F, 2 for 0F 38, 3 for 0F 3A. ``byte`` to ``last`` are
    the opcode: one byte, or eight where its low bits name a register. ``digit`` is ModRM.reg
    where the manuals write ``/digit``. ``prefix`` is ``""``, ``NP``, ``NFx``, ``66``, ``F2`` or
    ``F3``. ``vex`` is the length column of a VEX form (``128``, ``256``, ``128/256``, ``LZ``,
    ``LIG``) or ``""``. ``w`` is the REX.W or VEX.W that selects the row, None where either does.
    """

    text: str
    map: int
    byte: int
    last: int
    digit: int | None
    prefix: str
    vex: str
    w: bool | None


@dataclass(frozen=True, slots=True)
class Form:
    """Describe one instruction form: everything that decoding and emulation know about it.

    ``name`` is the mnemonic, ``operation`` the semantics it shares with other rows. ``flags`` are
    the RFLAGS bits it defines, ``undefined`` those it leaves undefined; all others never change.
    ``register`` forms have a register where ModRM could name memory: their access is the stack's.
    ``aligned`` forms raise #GP when the address is no multiple of the width. ``extension`` is
    how a source narrower than the destination is widened.
    """

    opcode: Opcode
    name: str
    operation: str
    operands: tuple[str, ...]
    access: Access
    flags: Flag
    undefined: Flag
    extension: Extension
    lock: Lock
    aligned: bool
    repeat: Repeat | None
    unit: Unit
    size64: Size64
    only: Only
    modrm: bool
    register: bool
    changed: int

    def memory_width(self, size: int, length: int = 16) -> int:
        """Return the width in bytes of the ModRM memory operand.

        ``size`` is the operand size and ``length`` that of the vectors, in bytes.
        """
        for slot in self.operands:
            if slot[0] in "EMWQ":
                return slot_width(slot[1:], size, length)
        return 0


_MAPS = {"0F": 1, "0F38": 2, "0F3A": 3}

NO_FLAGS = Flag(0)


_FIXED_WIDTH = {"b": 1, "bs": 1, "w": 2, "d": 4, "q": 8, "t": 10, "dq": 16, "qq": 32, "o": 64}


def slot_width(slot_type: str, size: int, length: int = 16) -> int:
    """Return the width in bytes of an operand type (SDM vol. 2D, A.2.2).

    ``size`` is the operand size and ``length`` that of the vectors, in bytes.
    """
    match slot_type:
        case "x":
            return length
        case "v":
            return size
        case "y":
            return 8 if size == 8 else 4
        case "z":
            return min(size, 4)
        case _:
            return _FIXED_WIDTH[slot_type]


def _opcode(text: str) -> Opcode:
    tokens = text.split()
    w = None
    if tokens[0] == "REX.W":
        tokens.pop(0)
        w = True
    prefix = vex = ""
    opcode_map = 0
    digit = None
    if tokens[0].startswith("VEX."):
        _, vex, prefix, name, *rest = tokens.pop(0).split(".")
        opcode_map = _MAPS[name]
        w = rest[0] == "W1" if rest else None
    elif tokens[0] in ("NP", "NFx") or (tokens[0] in ("66", "F2", "F3") and tokens[1] == "0F"):
        prefix = tokens.pop(0)
    if tokens[-1].startswith("/"):
        digit = int(tokens.pop()[1:])
    if tokens[0] == "0F" and len(tokens) > 1:
        tokens.pop(0)
        opcode_map = 1
        if len(tokens) > 1:
            opcode_map = _MAPS["0F" + tokens.pop(0)]
    (token,) = tokens
    byte = int(token.removesuffix("+r"), 16)
    last = byte + 7 if token.endswith("+r") else byte
    return Opcode(text, opcode_map, byte, last, digit, prefix, vex, w)


def row(
    opcode: str,
    name: str,
    operands: str,
    access: Access,
    flags: Flag = NO_FLAGS,
    undefined: Flag = NO_FLAGS,
    *,
    operation: str = "",
    extension: Extension = "",
    lock: Lock = "",
    aligned: bool = False,
    repeat: Repeat | None = None,
    unit: Unit = Unit.INTEGER,
    size64: Size64 = "",
    only: Only = "",
) -> Form:
    """Make a row of the table from columns written as in the manuals."""
    slots = tuple(operands.split())
    encoded = _opcode(opcode)
    modrm = encoded.digit is not None or any(slot[0] in "EMWQGVPS" for slot in slots)
    return Form(
        encoded, name, operation or name, slots, access, flags, undefined, extension, lock,
        aligned, repeat, unit, size64, only, modrm, slots[:1] == ("Rv",), int(flags | undefined),
    )  # fmt: skip
