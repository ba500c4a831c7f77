"""Read what precedes ModRM: legacy prefixes, REX, VEX, XOP or EVEX, and the opcode.

Ref: Intel SDM vol. 2A, 2.1.1 and 2.2.1 (prefixes, REX), 2.3.5 (VEX: figure 2-9), 2.7.1 (EVEX:
tables 2-30 and 2-31); AMD APM vol. 3, 1.2 (XOP: figure 1-3). Only bytes in the place of a prefix
are prefixes: what looks like one in an immediate or a displacement is not.
"""

from __future__ import annotations

from typing import Literal

from tracer.errors import InvalidInstruction
from tracer.x86.instruction import Segment
from tracer.x86.state import Mode

_SEGMENT: dict[int, Segment] = {
    0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs",
}  # fmt: skip
_LEGACY = frozenset((*_SEGMENT, 0x66, 0x67, 0xF0, 0xF2, 0xF3))
_MANDATORY = ("NP", "66", "F3", "F2")

Encoding = Literal["legacy", "vex", "xop", "evex"]


class Head:
    """Hold the prefixes and the opcode at the start of ``code``, and how far reading has come.

    ``start`` is the offset of REX, if there is one that counts, or of what follows the prefixes;
    ``at`` is that of what follows the opcode. ``operand``, ``address`` and ``lock`` tell of
    the prefixes 66, 67 and F0, ``rep`` is F2, F3 or 0, ``segment`` the override that counts.
    ``rex`` has the bits W, R, X and B of REX, or of what takes its place, W clear where it is no
    operand size; ``w`` is that bit as it was read. ``mandatory`` is what stands for the mandatory
    prefix. ``length`` is L of VEX and XOP, L'L of EVEX; ``vvvv`` the register that these name.
    ``broadcast``, ``mask`` and ``zeroing`` are b, aaa and z of EVEX; ``high_index`` is what V' adds
    to the number of a register of indices.

    Raise IndexError where the bytes end too early, and InvalidInstruction for prefixes that no
    instruction has.
    """

    __slots__ = (
        "address", "at", "broadcast", "byte", "code", "encoding", "high_index", "length", "lock",
        "long", "mandatory", "map", "mask", "operand", "rep", "rex", "segment", "start",
        "vvvv", "w", "zeroing",
    )  # fmt: skip

    def __init__(self, code: bytes, mode: Mode) -> None:
        self.code = code
        self.long = mode is Mode.LONG
        self.encoding: Encoding = "legacy"
        self.at = self.map = self.rex = self.rep = self.vvvv = self.length = self.mask = 0
        self.high_index = 0
        self.operand = self.address = self.lock = self.broadcast = self.zeroing = False
        self.segment: Segment | None = None
        self._read_prefixes()
        self.w = bool(self.rex & 8)
        self.mandatory = {0xF2: "F2", 0xF3: "F3"}.get(self.rep, "66" if self.operand else "NP")
        self._read_opcode()

    @property
    def vex(self) -> bool:
        """Tell whether there is a VEX prefix."""
        return self.encoding == "vex"

    def next(self) -> int:
        """Return the next byte, and go on behind it."""
        byte = self.code[self.at]
        self.at += 1
        return byte

    def _read_prefixes(self) -> None:
        code, at = self.code, 0
        while True:
            byte = code[at]
            if byte in _LEGACY:
                # SDM vol. 2A, 2.2.1: a REX that is not right before the opcode is ignored.
                self.rex = 0
                if byte == 0x66:
                    self.operand = True
                elif byte == 0x67:
                    self.address = True
                elif byte == 0xF0:
                    self.lock = True
                elif byte >= 0xF2:
                    self.rep = byte
                elif not self.long or byte >= 0x64:
                    # In 64-bit mode ES, CS, SS and DS overrides are null prefixes: they do not
                    # even cancel an earlier FS or GS (SDM vol. 2A, 2.1.1).
                    self.segment = _SEGMENT[byte]
            elif self.long and 0x40 <= byte <= 0x4F:
                self.rex = byte
            else:
                break
            at += 1
        self.at = at
        self.start = at - 1 if self.rex else at

    def _read_opcode(self) -> None:
        byte = self.next()
        # Outside 64-bit mode LES, LDS, BOUND and POP have these opcodes, and memory behind them.
        if byte in (0xC4, 0xC5) and (self.long or self.code[self.at] >= 0xC0):
            byte = self._read_vex(byte == 0xC4)
        elif byte == 0x62 and (self.long or self.code[self.at] >= 0xC0):
            byte = self._read_evex()
        elif byte == 0x8F and self.code[self.at] & 0x1F >= 8:
            byte = self._read_vex(True)
            self.encoding = "xop"
        elif byte == 0x0F:
            byte, self.map = self.next(), 1
            if byte in (0x38, 0x3A):
                self.map = 2 if byte == 0x38 else 3
                byte = self.next()
        self.byte = byte

    def _supersede(self, encoding: Encoding) -> None:
        if self.rex or self.rep or self.operand or self.lock:
            raise InvalidInstruction(
                self.code, f"a {encoding.upper()} prefix after REX, 66, F2, F3 or LOCK"
            )
        self.encoding = encoding

    def _read_vex(self, three_bytes: bool) -> int:
        # Register bits are stored inverted.
        self._supersede("vex")
        payload = self.next()
        if three_bytes:
            self.map = payload & 0x1F
            self.rex = 0x40 | (~payload >> 5 & 7)
            payload = self.next()
            self._set_w(payload)
        else:
            self.map = 1
            self.rex = 0x40 | (~payload >> 5 & 4)
        if not self.long:
            # No extended registers outside 64-bit mode, and W is no operand size there.
            self.rex = 0x40
        self.vvvv = ~payload >> 3 & 0xF
        self.length = payload >> 2 & 1
        self.mandatory = _MANDATORY[payload & 3]
        return self.next()

    def _set_w(self, payload: int) -> None:
        self.w = bool(payload & 0x80)
        self.rex |= payload >> 4 & 8

    def _read_evex(self) -> int:
        self._supersede("evex")
        first, second, third = self.next(), self.next(), self.next()
        if first & 8 or not second & 4:
            raise InvalidInstruction(self.code, "EVEX with reserved bits set")
        self.map = first & 7
        self.rex = 0x40 | (~first >> 5 & 7)
        self._set_w(second)
        self.vvvv = (~second >> 3 & 0xF) | (~third << 1 & 0x10)
        self.high_index = ~third << 1 & 0x10
        if not self.long:
            self.rex, self.high_index = 0x40, 0
        self.mandatory = _MANDATORY[second & 3]
        self.length, self.mask = third >> 5 & 3, third & 7
        self.broadcast, self.zeroing = bool(third & 0x10), bool(third & 0x80)
        return self.next()
