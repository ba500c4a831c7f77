"""Turn code bytes into an :class:`Instruction`.

Ref: Intel SDM vol. 2A, chapter 2 (instruction format, REX, VEX); tables 2-1 to 2-3 (ModRM, SIB).

Capstone says whether bytes that the table does not know are an instruction at all, how long it
is, and gives the text. Operands of the forms in the table are read from the bytes here, by the
table's row: capstone's operand widths and access directions are wrong for many forms (XCHG,
MOVNTI, CMPXCHG, MOVS, 67h with REX.W among them), it knows no CMPccXADD, and it drops REPNE.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal

import capstone

from tracer.errors import InvalidInstruction, NotEnoughBytes
from tracer.forms import Form, candidates
from tracer.instruction import (
    WIDTH_NAMES,
    File,
    Immediate,
    Instruction,
    Memory,
    Operand,
    Register,
    Segment,
    operand_text,
)
from tracer.x86 import MAX_INSTRUCTION, RAX, RBP, RBX, RCX, RDI, RSI, RSP, Mode

_CAPSTONE = {
    Mode.LONG: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64),
    Mode.COMPAT32: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32),
    Mode.COMPAT16: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16),
}

_SEGMENT: dict[int, Segment] = {
    0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs",
}  # fmt: skip
_LEGACY = frozenset((*_SEGMENT, 0x66, 0x67, 0xF0, 0xF2, 0xF3))

# ModRM.rm of 16-bit addressing as (base, index): SDM vol. 2A, table 2-1.
_ADDRESS16 = (
    (RBX, RSI), (RBX, RDI), (RBP, RSI), (RBP, RDI), (RSI, None), (RDI, None), (RBP, None),
    (RBX, None),
)  # fmt: skip

_FIXED_WIDTH = {"b": 1, "bs": 1, "w": 2, "d": 4, "q": 8, "t": 10, "dq": 16, "o": 64}

_register = lru_cache(maxsize=256)(Register)

_FIXED: dict[str, Operand] = {
    "AL": Register(File.GPR, RAX, 1),
    "CL": Register(File.GPR, RCX, 1),
    "1": Immediate(1),
}


def decode(code: bytes, rip: int, mode: Mode) -> Instruction:
    """Decode the instruction at the start of ``code``, whose linear address is ``rip``.

    Bytes after the instruction are ignored. Raise :class:`NotEnoughBytes` when ``code`` ends
    before the instruction does, :class:`InvalidInstruction` when no CPU would execute it in this
    mode (#UD, or #GP beyond 15 bytes). A valid instruction that the table does not know decodes
    too: its ``form`` is None.
    """
    return _decode_at(code, rip, mode)


@lru_cache(maxsize=8192)
def _decode_at(code: bytes, rip: int, mode: Mode) -> Instruction:
    try:
        insn = _decode_known(code, mode)
    except IndexError:
        if len(code) >= MAX_INSTRUCTION:
            raise InvalidInstruction(code, "longer than 15 bytes") from None
        raise NotEnoughBytes(code) from None
    if insn is None:
        return _decode_foreign(code, rip, mode)
    return replace(insn, rip=rip)


class _Prefixes:
    # What precedes the opcode, and how far reading has come.

    __slots__ = ("address", "at", "code", "lock", "long", "operand", "rep", "rex", "segment")

    def __init__(self, code: bytes, mode: Mode) -> None:
        self.code = code
        self.long = mode is Mode.LONG
        self.rex = self.rep = 0
        self.operand = self.address = self.lock = False
        self.segment: Segment | None = None
        at = 0
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


@lru_cache(maxsize=8192)
def _decode_known(code: bytes, mode: Mode) -> Instruction | None:
    # Decodes a form of the table, for rip 0; None leaves the bytes to capstone.
    # Raises IndexError where the bytes end too early.
    code = code[:MAX_INSTRUCTION]
    prefix = _Prefixes(code, mode)
    at = prefix.at
    byte = code[at]
    at += 1
    rex, vex, vvvv, vex_length = prefix.rex, False, 0, 0
    opcode_map = 0
    mandatory = {0xF2: "F2", 0xF3: "F3"}.get(prefix.rep, "66" if prefix.operand else "NP")
    if byte in (0xC4, 0xC5) and (prefix.long or code[at] >= 0xC0):
        if prefix.rex or prefix.rep or prefix.operand or prefix.lock:
            raise InvalidInstruction(code[:at], "a VEX prefix after REX, 66, F2, F3 or LOCK")
        vex = True
        payload = code[at]
        at += 1
        if byte == 0xC4:
            opcode_map = payload & 0x1F
            rex = 0x40 | (~payload >> 5 & 7)
            payload = code[at]
            at += 1
            rex |= payload >> 4 & 8
        else:
            opcode_map = 1
            rex = 0x40 | (~payload >> 5 & 4)
        vvvv = ~payload >> 3 & 0xF
        vex_length = payload >> 2 & 1
        mandatory = ("NP", "66", "F3", "F2")[payload & 3]
        if not prefix.long:
            rex &= 0x40  # no extended registers, and W is ignored, outside 64-bit mode
        byte = code[at]
        at += 1
    elif byte == 0x62 and (prefix.long or code[at] >= 0xC0):
        code[at + 2]  # EVEX: capstone decodes it, but must have the whole prefix
    elif byte == 0x0F:
        byte, opcode_map = code[at], 1
        at += 1
        if byte in (0x38, 0x3A):
            opcode_map = 2 if byte == 0x38 else 3
            byte = code[at]
            at += 1

    rows = candidates(vex, opcode_map, byte)
    if not rows:
        return None
    has_modrm = rows[0].modrm
    modrm = code[at] if has_modrm else 0
    if has_modrm and modrm >= 0xC0:
        return None  # no memory operand
    wide = bool(rex & 8)
    form = _select(rows, modrm >> 3 & 7, mandatory, wide, prefix.long)
    if form is None:
        return None
    if vex:
        if vex_length and form.opcode.vex != "LIG":
            return None
        if vvvv and not any(slot[0] == "B" for slot in form.operands):
            raise InvalidInstruction(code[:at], "VEX.vvvv must be 1111b")
        vvvv &= 15 if prefix.long else 7
    if prefix.lock and (form.lock == "" or form.operands[0][0] not in "EM"):
        raise InvalidInstruction(code[: at + 1], "LOCK on an instruction that cannot be locked")

    default = 2 if mode is Mode.COMPAT16 else 4
    other = 4 if default == 2 else 2
    if form.size64 and prefix.long:
        size = 2 if prefix.operand and form.size64 == "d64" and not wide else 8
    elif wide:
        size = 8
    else:
        # A mandatory 66 is no operand-size prefix; one beside F2 or F3 still is.
        size = other if prefix.operand and form.opcode.prefix != "66" else default
    if prefix.long:
        address_size = 4 if prefix.address else 8
    else:
        address_size = other if prefix.address else default
    if form.size64 and mode is Mode.COMPAT16:
        return None  # the width of the stack pointer (SS.B) cannot be seen

    reader = _Reader(code, at, prefix, modrm, rex, vvvv, size, address_size)
    if has_modrm:
        # In the code ModRM, SIB and displacement precede any immediate, whatever the order here.
        reader.read_memory(_memory_width(form, size))
    operands = tuple([reader.operand(slot) for slot in form.operands])
    code = code[: reader.at]
    rep: Literal["rep", "repne"] | None = None
    if form.repeat is not None and prefix.rep:
        rep = "rep" if prefix.rep == 0xF3 else "repne"
    width = next((operand.width for operand in operands if type(operand) is Memory), 0)
    text = _text(code, mode, form, operands, width, rep, prefix.lock)
    return Instruction(
        0, code, mode, text, form, operands, size, address_size, width, rep, prefix.lock
    )


def _select(
    rows: tuple[Form, ...], digit: int, mandatory: str, wide: bool, long: bool
) -> Form | None:
    # Picks the row by /digit, mandatory prefix and REX.W. The row for exactly this prefix wins
    # over one that takes 66 as the operand size and ignores F2 and F3.
    chosen = None
    for form in rows:
        opcode = form.opcode
        if opcode.digit is not None and opcode.digit != digit:
            continue
        if form.only == ("i64" if long else "o64") or (opcode.rex_w and not wide):
            continue
        if opcode.prefix == mandatory:
            return form
        if (opcode.prefix == "NFx" and mandatory in ("NP", "66")) or (
            opcode.prefix == "" and (chosen is None or opcode.rex_w)
        ):
            chosen = form
    return chosen


def _width(slot_type: str, size: int) -> int:
    # The widths of operand types: SDM vol. 2D, appendix A.2.2.
    match slot_type:
        case "v":
            return size
        case "y":
            return 8 if size == 8 else 4
        case "z":
            return min(size, 4)
        case _:
            return _FIXED_WIDTH[slot_type]


def _memory_width(form: Form, size: int) -> int:
    for slot in form.operands:
        if slot[0] in "EMWQ":
            return _width(slot[1:], size)
    return 0


class _Reader:
    # Reads ModRM, SIB, displacement and immediates, and makes operands of them.

    __slots__ = (
        "address_size", "at", "code", "memory", "modrm", "prefix", "rex", "size", "vvvv",
    )  # fmt: skip

    def __init__(
        self, code: bytes, at: int, prefix: _Prefixes, modrm: int, rex: int, vvvv: int,
        size: int, address_size: int,
    ) -> None:  # fmt: skip
        self.code = code
        self.at = at
        self.prefix = prefix
        self.modrm = modrm
        self.rex = rex
        self.vvvv = vvvv
        self.size = size
        self.address_size = address_size
        self.memory: Memory | None = None

    def integer(self, width: int, signed: bool = True) -> int:
        field = self.code[self.at : self.at + width]
        if len(field) < width:
            raise IndexError
        self.at += width
        return int.from_bytes(field, "little", signed=signed)

    def read_memory(self, width: int) -> None:
        modrm, rex = self.modrm, self.rex
        self.at += 1
        mod, rm = modrm >> 6, modrm & 7
        base: int | None
        index: int | None = None
        scale = 1
        rip_relative = False
        displacement = 0
        if self.address_size == 2:
            base, index = _ADDRESS16[rm]
            if mod == 0 and rm == 6:
                base, displacement = None, self.integer(2)
            elif mod:
                displacement = self.integer(mod)
        else:
            # "No base" and "no index" go by the three-bit fields; REX.B does not matter for the
            # former, REX.X does for the latter (SDM vol. 2A, table 2-5).
            if rm == 4:
                sib = self.code[self.at]
                self.at += 1
                rm = sib & 7
                number = (sib >> 3 & 7) | (rex & 2) << 2
                if number != RSP:
                    index, scale = number, 1 << (sib >> 6)
                no_base = mod == 0 and rm == RBP
            else:
                no_base = mod == 0 and rm == RBP
                rip_relative = no_base and self.prefix.long
            base = None if no_base else rm | (rex & 1) << 3
            if mod == 1:
                displacement = self.integer(1)
            elif mod == 2 or no_base:
                displacement = self.integer(4)
        default: Segment = "ss" if base in (RSP, RBP) else "ds"
        self.memory = self._memory(width, default, base, index, scale, displacement, rip_relative)

    def _memory(
        self, width: int, default: Segment, base: int | None, index: int | None = None,
        scale: int = 1, displacement: int = 0, rip_relative: bool = False,
    ) -> Memory:  # fmt: skip
        return Memory(
            width, self.prefix.segment or default, base, index, scale, displacement,
            rip_relative, (1 << 8 * self.address_size) - 1,
        )  # fmt: skip

    def _register(self, number: int, width: int) -> Register:
        if width == 1 and not self.rex and number >= 4:
            return _register(File.GPR, number - 4, 1, True)
        return _register(File.GPR, number, width)

    def operand(self, slot: str) -> Operand:
        if slot in _FIXED:
            return _FIXED[slot]
        if slot == "rAX":
            return _register(File.GPR, RAX, self.size)
        kind, slot_type = slot[0], slot[1:]
        reg = self.modrm >> 3 & 7 | (self.rex & 4) << 1
        match kind:
            case "E" | "M" | "W" | "Q":
                assert self.memory is not None
                return self.memory
            case "G":
                width = self.address_size if slot_type == "a" else _width(slot_type, self.size)
                return self._register(reg, width)
            case "I":
                if slot_type == "b":
                    return Immediate(self.integer(1, signed=False))
                width = 1 if slot_type == "bs" else min(self.size, 4)
                return Immediate(self.integer(width) & ((1 << 8 * self.size) - 1))
            case "B":
                return self._register(self.vvvv, _width(slot_type, self.size))
            case "V":
                return _register(File.XMM, reg, 16)
            case "P":
                return _register(File.MMX, reg & 7, 8)
            case "S":
                if reg & 7 > 5:
                    raise InvalidInstruction(self.code, "no such segment register")
                return _register(File.SEGMENT, reg & 7, 2)
            case "O":
                offset = self.integer(self.address_size, signed=False)
                return self._memory(_width(slot_type, self.size), "ds", None, displacement=offset)
            case "X":
                return self._memory(_width(slot_type, self.size), "ds", RSI)
            case "L":
                return self._memory(1, "ds", RBX)
            case "Y":
                # The destination segment of a string instruction cannot be overridden.
                mask = (1 << 8 * self.address_size) - 1
                return Memory(_width(slot_type, self.size), "es", RDI, None, 1, 0, False, mask)
            case _:
                raise AssertionError(f"operand code {slot} has no reader")


def _decode_foreign(code: bytes, rip: int, mode: Mode) -> Instruction:
    # What the table does not know: capstone tells an instruction from a truncated or invalid one.
    code = code[:MAX_INSTRUCTION]
    if _Prefixes(code, mode).lock:
        # Every lockable form is in the table (SDM vol. 2A, LOCK).
        raise InvalidInstruction(code, "LOCK on an instruction that cannot be locked")
    for _, length, mnemonic, operands in _CAPSTONE[mode].disasm_lite(code, rip, 1):
        return Instruction(rip, code[:length], mode, f"{mnemonic} {operands}".rstrip())
    if len(code) < MAX_INSTRUCTION:
        # A proper prefix of an instruction becomes one when some byte and zeros follow it.
        for byte in range(256):
            longer = (code + bytes([byte]) + bytes(MAX_INSTRUCTION))[:MAX_INSTRUCTION]
            for _, length, _, _ in _CAPSTONE[mode].disasm_lite(longer, rip, 1):
                if length > len(code):
                    raise NotEnoughBytes(code)
    raise InvalidInstruction(code)


def _text(
    code: bytes, mode: Mode, form: Form, operands: tuple[Operand, ...], width: int,
    rep: str | None, lock: bool,
) -> str:  # fmt: skip
    # Capstone's text where it names the right length and width, else our own.
    keyword = WIDTH_NAMES[width] + " ptr"
    for _, length, mnemonic, shown in _CAPSTONE[mode].disasm_lite(code, 0, 1):
        if length == len(code) and f" {keyword}" in f" {shown}":
            repeated = rep is None or mnemonic.startswith("rep")
            return f"{mnemonic} {shown}" if repeated else f"{rep} {mnemonic} {shown}"
    shown = ", ".join([operand_text(operand) for operand in operands])
    return " ".join([*(["lock"] if lock else []), *([rep] if rep else []), form.name, shown])
