"""Just the instructions that thunks consist of, as bytes at an offset of the block.

Ref: Intel SDM vol. 2A, 2.1.5 and 2.2.1 (ModRM, SIB, REX); the pages of each instruction.
"""

from __future__ import annotations

import struct

from tracer.compiled.layout import DISTANCE
from tracer.x86.state import RSP

_LOAD = {1: b"\x0f\xb6", 2: b"\x0f\xb7", 4: b"\x8b", 8: b"\x8b"}
_STORE = {1: b"\x88", 2: b"\x89", 4: b"\x89", 8: b"\x89"}

EQUAL, NOT_EQUAL, CARRY, ABOVE = 4, 5, 2, 7
"""Condition codes (Intel SDM vol. 1, appendix B)."""


class Encoder:
    """Collect code for an offset in the block. Registers are numbers, widths in bytes.

    ``thread`` is where the code finds, relative to GS, whose errand it runs on; None for nowhere.
    ``done`` is where it ends, None where that is by IRETQ.
    """

    def __init__(self, at: int, thread: int | None = None, done: int | None = None) -> None:
        self.at = at
        self.thread = thread
        self.done = done
        self.code = bytearray()

    @property
    def here(self) -> int:
        """Return the offset in the block of what comes next."""
        return self.at + len(self.code)

    def raw(self, code: bytes | str) -> None:
        """Append bytes, or hex with the instruction beside it in the caller's comment."""
        self.code += bytes.fromhex(code) if isinstance(code, str) else code

    def load(self, register: int, base: int, offset: int = 0, width: int = 8) -> None:
        """Load from ``[base + offset]``, with zeroes above what is loaded."""
        self._memory(_LOAD[width], register, base, offset, wide=width == 8)

    def store(self, base: int, offset: int, register: int, width: int = 8) -> None:
        """Store the low bytes of a register to ``[base + offset]``."""
        prefix = b"\x66" if width == 2 else b""
        # A REX makes SPL to DIL of AH to BH.
        self._memory(_STORE[width], register, base, offset, width == 8, prefix, width == 1)

    def store_constant(self, base: int, offset: int, value: int, width: int) -> None:
        """Store a constant to ``[base + offset]``; of one of 8 bytes the upper half is its sign."""
        prefix = b"\x66" if width == 2 else b""
        tail = (value & 0xFFFFFFFF).to_bytes(4, "little")[:width]
        opcode = b"\xc6" if width == 1 else b"\xc7"
        self._memory(opcode, 0, base, offset, width == 8, prefix, False, tail)

    def push(self, base: int, offset: int) -> None:
        """Push the quadword at ``[base + offset]``."""
        self._memory(b"\xff", 6, base, offset)

    def move(self, target: int, source: int, width: int = 8) -> None:
        """Move register to register; 4 bytes zero those above, 1 and 2 keep them."""
        prefix = b"\x66" if width == 2 else b""
        self._registers(_STORE[width], source, target, width == 8, prefix, width == 1)

    def move_high(self, target: int, source: int) -> None:
        """Move the low byte of a register to bits 15:8 of another; both are of the first four."""
        self.raw(bytes([0x88, 0xC0 | source << 3 | target + 4]))

    def extend_high(self, target: int, source: int) -> None:
        """Move bits 15:8 of one of the first four registers to one, with zeroes above."""
        self.raw(bytes([0x0F, 0xB6, 0xC0 | target << 3 | source + 4]))

    def sign_extend(self, register: int, source_width: int, width: int) -> None:
        """Extend the low bytes of a register to 4 or 8 bytes by their sign."""
        opcode = {1: b"\x0f\xbe", 2: b"\x0f\xbf", 4: b"\x63"}[source_width]
        self._registers(opcode, register, register, width == 8, b"", source_width == 1)

    def constant(self, register: int, value: int, width: int) -> None:
        """Move a constant of ``width`` bytes, whose upper half is its sign where that is 8."""
        if width == 8:
            rex = 0x48 | register >> 3
            low = struct.pack("<I", value & 0xFFFFFFFF)
            self.raw(bytes([rex, 0xC7, 0xC0 | register & 7]) + low)
        else:
            assert register < 8
            self.raw(bytes([0xB8 | register]) + struct.pack("<I", value & 0xFFFFFFFF))

    def add(self, base: int, offset: int, value: int) -> None:
        """Add a signed byte to the quadword at ``[base + offset]``."""
        self._memory(b"\x83", 0, base, offset, tail=struct.pack("<b", value))

    def arithmetic(self, digit: int, register: int, value: int, width: int = 8) -> None:
        """Do one of group 1 (0 ADD, 4 AND, 5 SUB, 7 CMP) with a register and a constant."""
        rex = 0x40 | (width == 8) << 3 | register >> 3
        modrm = 0xC0 | digit << 3 | register & 7
        lead = bytes([rex]) if rex != 0x40 else b""
        self.raw(lead + bytes([0x81, modrm]) + struct.pack("<I", value & 0xFFFFFFFF))

    def compare(self, register: int, base: int, offset: int) -> None:
        """Compare a register with the quadword at ``[base + offset]``."""
        self._memory(b"\x3b", register, base, offset)

    def test_byte(self, base: int, offset: int, bits: int) -> None:
        """Test bits of the byte at ``[base + offset]``."""
        self._memory(b"\xf6", 0, base, offset, wide=False, tail=bytes([bits]))

    def address(
        self, target: int, base: int | None, index: int | None, scale: int, offset: int, width: int
    ) -> None:
        """Compute ``base + index * scale + offset`` in ``width`` bytes."""
        rex = 0x40 | (width == 8) << 3 | (target & 8) >> 1
        rex |= (0 if index is None else (index & 8) >> 2) | (0 if base is None else base >> 3)
        middle = RSP if index is None else index & 7
        sib = (scale.bit_length() - 1) << 6 | middle << 3 | (5 if base is None else base & 7)
        mod = 0 if base is None else 2
        modrm = mod << 6 | (target & 7) << 3 | 4
        self.raw(bytes([rex, 0x8D, modrm, sib]) + struct.pack("<i", offset))

    def save_head(self, register: int) -> None:
        """Store a register to the first word of the control page, the head of the ring."""
        end = self.here + 7
        rex = 0x48 | (register & 8) >> 1
        place = struct.pack("<i", -DISTANCE - end)
        self.raw(bytes([rex, 0x89, 5 | (register & 7) << 3]) + place)

    def jump(self, target: int) -> None:
        """Jump to an offset in the block."""
        self.raw(b"\xe9" + struct.pack("<i", target - self.here - 5))

    def call(self, target: int) -> None:
        """Call the code at an offset in the block."""
        self.raw(b"\xe8" + struct.pack("<i", target - self.here - 5))

    def branch(self, condition: int, target: int) -> None:
        """Jump to an offset in the block if a condition holds."""
        self.raw(bytes([0x0F, 0x80 | condition]) + struct.pack("<i", target - self.here - 6))

    def skip(self, condition: int) -> int:
        """Jump forward if a condition holds; :meth:`land` says where to."""
        self.raw(bytes([0x70 | condition, 0]))
        return len(self.code)

    def skip_always(self) -> int:
        """Jump forward."""
        self.raw(b"\xeb\0")
        return len(self.code)

    def land(self, mark: int) -> None:
        """Let a jump of :meth:`skip` lead here."""
        distance = len(self.code) - mark
        assert distance < 128
        self.code[mark - 1] = distance

    def _memory(
        self, opcode: bytes, register: int, base: int, offset: int, wide: bool = True,
        prefix: bytes = b"", byte: bool = False, tail: bytes = b"",
    ) -> None:  # fmt: skip
        rex = 0x40 | wide << 3 | (register & 8) >> 1 | base >> 3
        sib = b"\x24" if base & 7 == RSP else b""
        if not offset and base & 7 != 5:
            mod, field = 0, b""
        elif -128 <= offset < 128:
            mod, field = 1, struct.pack("<b", offset)
        else:
            mod, field = 2, struct.pack("<i", offset)
        lead = bytes([rex]) if rex != 0x40 or byte else b""
        modrm = bytes([mod << 6 | (register & 7) << 3 | base & 7])
        self.raw(prefix + lead + opcode + modrm + sib + field + tail)

    def _registers(
        self, opcode: bytes, register: int, other: int, wide: bool, prefix: bytes, byte: bool
    ) -> None:
        rex = 0x40 | wide << 3 | (register & 8) >> 1 | other >> 3
        lead = bytes([rex]) if rex != 0x40 or byte else b""
        self.raw(prefix + lead + opcode + bytes([0xC0 | (register & 7) << 3 | other & 7]))
