"""A decoded instruction and its operands, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from tracer.x86.bus import Direction
from tracer.x86.forms import Form
from tracer.x86.state import GPR, Mode

Segment = Literal["es", "cs", "ss", "ds", "fs", "gs"]

SEGMENTS: tuple[Segment, ...] = ("es", "cs", "ss", "ds", "fs", "gs")
"""Segment registers in encoding order."""

WIDTH_NAMES = {
    1: "byte", 2: "word", 4: "dword", 8: "qword", 10: "xword", 16: "xmmword", 32: "ymmword",
    64: "zmmword",
}  # fmt: skip
"""What an assembler calls a memory operand, by its width in bytes."""


class File(Enum):
    """Name the register files an operand can be in."""

    GPR = "gpr"
    SEGMENT = "segment"
    XMM = "xmm"
    MMX = "mmx"


@dataclass(frozen=True, slots=True)
class Register:
    """Name a register operand: its file, its number there, and its width in bytes.

    In the file of XMM one of 32 bytes is YMM. ``high`` marks AH, CH, DH and BH, which are bits
    15:8 of registers 0 to 3 (Intel SDM vol. 1, 3.4.1.1).
    """

    file: File
    number: int
    width: int
    high: bool = False


@dataclass(frozen=True, slots=True)
class Immediate:
    """Hold a constant operand, already extended to the operand size and unsigned."""

    value: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Describe how the address of a memory operand is made (Intel SDM vol. 1, 3.7.5).

    The effective address is ``base + index * scale + displacement`` truncated by ``mask``, the
    address size; ``segment`` is the one whose base is added, after the defaults and the rules of
    64-bit mode. ``base`` and ``index`` are register numbers; ``rip_relative`` takes the address
    of the next instruction as base. ``width`` is the access width in bytes.
    """

    width: int
    segment: Segment
    base: int | None
    index: int | None
    scale: int
    displacement: int
    rip_relative: bool
    mask: int


Operand = Register | Immediate | Memory


@dataclass(frozen=True, slots=True)
class Lanes:
    """Describe the places of a gather or scatter: an index times ``scale`` past the operand each.

    ``count`` indices of ``width`` bytes are in the vector register ``index``. ``mask`` is the
    vector register whose elements' highest bits select the lanes, None where it is an opmask.
    """

    count: int
    index: int
    width: int
    scale: int
    mask: int | None


@dataclass(frozen=True, slots=True)
class Touch:
    """Describe one access of an instruction, as far as its bytes tell it.

    ``width`` is in bytes, None where it depends on more than the instruction; of ``lanes`` it is
    that of each. ``memory`` tells how the address comes about, None where it is not told. ``some``
    says that not all of the bytes need be accessed: a mask decides, or the block has holes.
    ``parts`` says that they are accessed in pieces which differ between processors. The direction
    is unknown where the CPU's model decides whether there is an access at all.
    """

    direction: Direction
    width: int | None
    memory: Memory | None = None
    lanes: Lanes | None = None
    some: bool = False
    parts: bool = False


@dataclass(frozen=True, slots=True)
class Instruction:
    """Hold one decoded instruction.

    ``rip`` is the linear address of its first byte and ``code`` exactly its bytes. ``form`` is
    its row of the table, or None for a valid instruction that is left to the CPU; then there are
    no operands, and ``touches`` tells its accesses. ``operand_size`` and ``address_size`` are in
    bytes. ``width`` is the width of the memory operand in bytes, 0 without a form. ``rep`` is the
    repeat prefix of a string instruction, ``lock`` tells of a LOCK prefix.
    """

    rip: int
    code: bytes
    mode: Mode
    text: str
    form: Form | None = None
    operands: tuple[Operand, ...] = ()
    operand_size: int = 0
    address_size: int = 0
    width: int = 0
    rep: Literal["rep", "repne"] | None = None
    lock: bool = False
    touches: tuple[Touch, ...] = ()

    @property
    def length(self) -> int:
        """Return the number of code bytes."""
        return len(self.code)

    @property
    def next_rip(self) -> int:
        """Return the linear address of the byte after the instruction."""
        mask = (1 << 64) - 1 if self.mode is Mode.LONG else 0xFFFFFFFF
        return (self.rip + len(self.code)) & mask


def jump_target(insn: Instruction) -> int:
    """Return the linear address that a near relative jump or call goes to.

    It has the operand size, as the instruction pointer then does (Intel SDM vol. 2A, CALL).
    """
    (distance,) = insn.operands
    assert isinstance(distance, Immediate)
    return insn.next_rip + distance.value & (1 << 8 * insn.operand_size) - 1


def operand_text(operand: Operand) -> str:
    """Write an operand in Intel syntax, as capstone does."""
    if isinstance(operand, Immediate):
        return f"{operand.value:#x}" if operand.value > 9 else str(operand.value)
    if isinstance(operand, Register):
        return _register_text(operand)
    bits = operand.mask.bit_length() // 8
    terms = []
    if operand.rip_relative:
        terms.append("rip" if bits == 8 else "eip")
    if operand.base is not None:
        terms.append(_register_text(Register(File.GPR, operand.base, bits)))
    if operand.index is not None:
        index = _register_text(Register(File.GPR, operand.index, bits))
        terms.append(index if operand.scale == 1 else f"{index}*{operand.scale}")
    address = " + ".join(terms)
    offset = operand.displacement
    if not terms:
        address = f"{offset:#x}" if offset > 9 else str(offset & operand.mask)
    elif offset:
        shown = f"{abs(offset):#x}" if abs(offset) > 9 else str(abs(offset))
        address += f" {'-' if offset < 0 else '+'} {shown}"
    segment = f"{operand.segment}:" if operand.segment in ("fs", "gs") else ""
    size = WIDTH_NAMES.get(operand.width)
    return f"{size} ptr {segment}[{address}]" if size else f"{segment}[{address}]"


_FILES = {(File.XMM, 16): "xmm", (File.XMM, 32): "ymm", (File.MMX, 8): "mm"}


def _register_text(register: Register) -> str:
    number = register.number
    if register.file is File.SEGMENT:
        return SEGMENTS[number]
    if register.file is not File.GPR:
        return f"{_FILES[register.file, register.width]}{number}"
    name = GPR[number]
    if register.high:
        return name[1] + "h"
    if register.width == 8:
        return name
    if number >= 8:
        return name + {4: "d", 2: "w", 1: "b"}[register.width]
    if register.width == 1:
        return name[1] + "l" if number < 4 else name[1:] + "l"
    return "e" + name[1:] if register.width == 4 else name[1:]
