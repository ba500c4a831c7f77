"""Read the operands of an instruction, which follow its opcode.

Ref: Intel SDM vol. 2A, tables 2-1 to 2-3 and 2-5 (ModRM, SIB, REX), 2.3.12 (VSIB), 2.7.5 (disp8*N);
vol. 1, 3.6 (operand and address size).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from tracer.errors import InvalidInstruction
from tracer.x86.forms import slot_width
from tracer.x86.instruction import File, Immediate, Memory, Operand, Register, Segment
from tracer.x86.prefix import Head
from tracer.x86.state import RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Mode

# ModRM.rm of 16-bit addressing as (base, index): SDM vol. 2A, table 2-1.
_ADDRESS16 = (
    (RBX, RSI), (RBX, RDI), (RBP, RSI), (RBP, RDI), (RSI, None), (RDI, None), (RBP, None),
    (RBX, None),
)  # fmt: skip

_Address = tuple[int | None, int | None, int, int]  # base, index, scale, displacement

_register = lru_cache(maxsize=256)(Register)

_FIXED: dict[str, Operand] = {
    "AL": Register(File.GPR, RAX, 1),
    "CL": Register(File.GPR, RCX, 1),
    "DX": Register(File.GPR, RDX, 2),
    "1": Immediate(1),
    "ecx": Register(File.GPR, RCX, 4),
    "xmm0": Register(File.XMM, 0, 16),
}


def operand_size(head: Head, mode: Mode, size64: str, prefix: str) -> int:
    """Return the operand size in bytes (SDM vol. 1, 3.6, tables 3-3 and 3-4).

    ``size64`` is ``d64`` or ``f64`` where that of 64-bit mode is 8 bytes, by default or always;
    ``prefix`` is the mandatory prefix of the instruction.
    """
    default = 2 if mode is Mode.COMPAT16 else 4
    other = 4 if default == 2 else 2
    if size64 and head.long:
        return 2 if head.operand and size64 == "d64" and not head.rex & 8 else 8
    if head.rex & 8:
        return 8
    # A mandatory 66 is no operand-size prefix; one beside F2 or F3 still is.
    return other if head.operand and prefix != "66" else default


def address_size(head: Head, mode: Mode) -> int:
    """Return the address size in bytes."""
    if head.long:
        return 4 if head.address else 8
    return 2 if head.address == (mode is Mode.COMPAT32) else 4


class Reader:
    """Read ModRM, SIB, displacement and immediates, and make operands of them.

    ``modrm`` is the byte behind the opcode; ``size``, ``address_size`` and ``length`` are the
    operand size, the address size and that of the vectors, in bytes. ``memory`` is the operand
    that ModRM names, once it was read; of a gather, ``index`` is the vector register of its
    indices, and the scale. Methods raise IndexError where the bytes end too early.
    """

    __slots__ = ("address_size", "head", "index", "length", "memory", "modrm", "size")

    def __init__(self, head: Head, modrm: int, size: int, address_size: int) -> None:
        self.head = head
        self.modrm = modrm
        self.size = size
        self.address_size = address_size
        self.length = 32 if head.length else 16
        self.memory: Memory | None = None
        self.index = (0, 1)

    def integer(self, width: int, signed: bool = True) -> int:
        """Return the field of ``width`` bytes that comes next, and go on behind it."""
        head = self.head
        field = head.code[head.at : head.at + width]
        if len(field) < width:
            raise IndexError
        head.at += width
        return int.from_bytes(field, "little", signed=signed)

    def read_memory(self, width: int, *, compressed: int = 1, gathers: bool = False) -> None:
        """Read the memory operand of ``width`` bytes that ModRM names.

        A displacement of one byte counts ``compressed`` bytes (SDM vol. 2A, 2.7.5).
        """
        self.head.at += 1
        mod, rm = self.modrm >> 6, self.modrm & 7
        read = self._address16 if self.address_size == 2 else self._address
        base, index, scale, displacement = read(mod, rm, compressed, gathers)
        rip_relative = self.address_size > 2 and mod == 0 and rm == RBP and self.head.long
        default: Segment = "ss" if base in (RSP, RBP) else "ds"
        self.memory = self._memory(width, default, base, index, scale, displacement, rip_relative)

    def _address16(self, mod: int, rm: int, compressed: int, _gathers: bool) -> _Address:
        if mod == 0 and rm == 6:
            return None, None, 1, self.integer(2)
        base, index = _ADDRESS16[rm]
        displacement = self.integer(mod) * (compressed if mod == 1 else 1) if mod else 0
        return base, index, 1, displacement

    def _address(self, mod: int, rm: int, compressed: int, gathers: bool) -> _Address:
        # "No base" and "no index" go by the three-bit fields; REX.B does not matter for the
        # former, REX.X does for the latter (SDM vol. 2A, table 2-5).
        index, scale, rex = None, 1, self.head.rex
        if rm == 4:
            sib = self.head.next()
            rm = sib & 7
            number = (sib >> 3 & 7) | (rex & 2) << 2
            if gathers:
                self.index = number | self.head.high_index, 1 << (sib >> 6)
            elif number != RSP:
                index, scale = number, 1 << (sib >> 6)
        base = None if mod == 0 and rm == RBP else rm | (rex & 1) << 3
        if mod == 1:
            return base, index, scale, self.integer(1) * compressed
        return base, index, scale, self.integer(4) if mod == 2 or base is None else 0

    def _memory(
        self, width: int, default: Segment, base: int | None, index: int | None = None,
        scale: int = 1, displacement: int = 0, rip_relative: bool = False,
    ) -> Memory:  # fmt: skip
        return Memory(
            width, self.head.segment or default, base, index, scale, displacement,
            rip_relative, (1 << 8 * self.address_size) - 1,
        )  # fmt: skip

    def _register(self, number: int, width: int) -> Register:
        if width == 1 and not self.head.rex and number >= 4:
            return _register(File.GPR, number - 4, 1, True)
        return _register(File.GPR, number, width)

    def _named(self, number: int) -> int:
        # A register named by four bits, of which outside 64-bit mode the highest is ignored.
        return number if self.head.long else number & 7

    def _vector(self, slot_type: str) -> int:
        return slot_width(slot_type, self.size, self.length)

    def operand(self, slot: str) -> Operand:
        """Return the operand that a code of the table stands for: see
        :mod:`tracer.x86.forms.row`."""
        if slot in _FIXED:
            return _FIXED[slot]
        if slot == "rAX":
            return _register(File.GPR, RAX, self.size)
        return _KINDS[slot[0]](self, slot[1:])

    # A method for each letter of an operand code: SDM vol. 2D, A.2.1 (addressing methods).

    @property
    def _reg(self) -> int:
        return self.modrm >> 3 & 7 | (self.head.rex & 4) << 1

    def _width(self, slot_type: str) -> int:
        return slot_width(slot_type, self.size)

    def _named_memory(self, _slot_type: str) -> Operand:
        assert self.memory is not None
        return self.memory

    def _general(self, slot_type: str) -> Operand:
        width = self.address_size if slot_type == "a" else self._width(slot_type)
        return self._register(self._reg, width)

    def _immediate(self, slot_type: str) -> Operand:
        if slot_type in ("b", "w"):
            return Immediate(self.integer(slot_width(slot_type, 0), signed=False))
        width = 1 if slot_type == "bs" else min(self.size, 4)
        return Immediate(self.integer(width) & ((1 << 8 * self.size) - 1))

    def _general_of_vvvv(self, slot_type: str) -> Operand:
        return self._register(self._named(self.head.vvvv), self._width(slot_type))

    def _general_of_rm(self, slot_type: str) -> Operand:
        number = self.modrm & 7 | (self.head.rex & 1) << 3
        return _register(File.GPR, number, self._width(slot_type))

    def _general_of_opcode(self, slot_type: str) -> Operand:
        number = self.head.byte & 7 | (self.head.rex & 1) << 3
        return _register(File.GPR, number, self._width(slot_type))

    def _vector_of_reg(self, slot_type: str) -> Operand:
        return _register(File.XMM, self._reg, self._vector(slot_type))

    def _vector_of_vvvv(self, slot_type: str) -> Operand:
        return _register(File.XMM, self._named(self.head.vvvv), self._vector(slot_type))

    def _vector_of_immediate(self, slot_type: str) -> Operand:
        number = self._named(self.integer(1, signed=False) >> 4)
        return _register(File.XMM, number, self._vector(slot_type))

    def _mmx(self, _slot_type: str) -> Operand:
        return _register(File.MMX, self._reg & 7, 8)

    def _segment(self, _slot_type: str) -> Operand:
        if self._reg & 7 > 5:
            raise InvalidInstruction(self.head.code, "no such segment register")
        return _register(File.SEGMENT, self._reg & 7, 2)

    def _absolute(self, slot_type: str) -> Operand:
        offset = self.integer(self.address_size, signed=False)
        return self._memory(self._width(slot_type), "ds", None, displacement=offset)

    def _source(self, slot_type: str) -> Operand:
        return self._memory(self._width(slot_type), "ds", RSI)

    def _table(self, _slot_type: str) -> Operand:
        return self._memory(1, "ds", RBX)

    def _destination(self, slot_type: str) -> Operand:
        # The destination segment of a string instruction cannot be overridden.
        mask = (1 << 8 * self.address_size) - 1
        return Memory(self._width(slot_type), "es", RDI, None, 1, 0, False, mask)


_KINDS: dict[str, Callable[[Reader, str], Operand]] = {
    **dict.fromkeys("EMWQ", Reader._named_memory),
    **dict.fromkeys("IJ", Reader._immediate),
    "B": Reader._general_of_vvvv,
    "G": Reader._general,
    "H": Reader._vector_of_vvvv,
    "L": Reader._vector_of_immediate,
    "O": Reader._absolute,
    "P": Reader._mmx,
    "R": Reader._general_of_rm,
    "S": Reader._segment,
    "T": Reader._table,
    "V": Reader._vector_of_reg,
    "X": Reader._source,
    "Y": Reader._destination,
    "Z": Reader._general_of_opcode,
}
