"""Turn code bytes into an :class:`Instruction`.

Ref: Intel SDM vol. 2A, chapter 2 (instruction format, REX, VEX); tables 2-1 to 2-3 (ModRM, SIB).

Capstone says whether bytes that the table does not know are an instruction at all, how long it
is, and gives the text. Operands of the forms in the table are read from the bytes here, by the
table's row: capstone's operand widths and access directions are wrong for many forms (XCHG,
MOVNTI, CMPXCHG, MOVS, 67h with REX.W among them), it knows no CMPccXADD, and it drops REPNE.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import capstone

from tracer.errors import InvalidInstruction, NotEnoughBytes
from tracer.forms import Form, candidates, slot_width
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
from tracer.prefix import Head
from tracer.x86 import MAX_INSTRUCTION, RAX, RBP, RBX, RCX, RDI, RSI, RSP, Mode

_CAPSTONE = {
    Mode.LONG: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64),
    Mode.COMPAT32: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32),
    Mode.COMPAT16: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16),
}

# ModRM.rm of 16-bit addressing as (base, index): SDM vol. 2A, table 2-1.
_ADDRESS16 = (
    (RBX, RSI), (RBX, RDI), (RBP, RSI), (RBP, RDI), (RSI, None), (RDI, None), (RBP, None),
    (RBX, None),
)  # fmt: skip


_register = lru_cache(maxsize=256)(Register)

_FIXED: dict[str, Operand] = {
    "AL": Register(File.GPR, RAX, 1),
    "CL": Register(File.GPR, RCX, 1),
    "1": Immediate(1),
    "ecx": Register(File.GPR, RCX, 4),
    "xmm0": Register(File.XMM, 0, 16),
}


def decode(code: bytes, rip: int, mode: Mode) -> Instruction:
    """Decode the instruction at the start of ``code``, whose linear address is ``rip``.

    Bytes after the instruction are ignored. Raise :class:`NotEnoughBytes` when ``code`` ends
    before the instruction does, :class:`InvalidInstruction` when no CPU would execute it in this
    mode (#UD, or #GP beyond 15 bytes). A valid instruction that the table does not know decodes
    too: its ``form`` is None.

    Beyond the table capstone's word is taken, and it does not know every instruction (AADD, ENQCMD,
    SSE with a needless 66 prefix). Bytes at which a CPU has just faulted on an access are an
    instruction, whatever it says: leave them to the CPU.
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


@lru_cache(maxsize=8192)
def _decode_known(code: bytes, mode: Mode) -> Instruction | None:
    # Decodes a form of the table, for rip 0; None leaves the bytes to capstone.
    # Raises IndexError where the bytes end too early.
    code = code[:MAX_INSTRUCTION]
    head = Head(code, mode)
    own = head.encoding in ("legacy", "vex")
    rows = candidates(head.vex, head.map, head.byte) if own else ()
    has_modrm = bool(rows) and rows[0].modrm
    modrm = code[head.at] if has_modrm else 0
    # With a register instead of memory there is no row.
    form = _select(rows, modrm >> 3 & 7, head) if modrm < 0xC0 else None
    # Every lockable form is in the table (SDM vol. 2A, LOCK).
    if head.lock and (form is None or not form.lock or form.operands[0][0] not in "EM"):
        raise InvalidInstruction(code, "LOCK on an instruction that cannot be locked")
    if form is None or (form.size64 and mode is Mode.COMPAT16):
        return None  # the width of the stack pointer (SS.B) cannot be seen in 16-bit code
    if head.vex and head.vvvv and not any(slot[0] in "BH" for slot in form.operands):
        raise InvalidInstruction(code, "VEX.vvvv must be 1111b")

    size, address_size = _sizes(form, head, mode)
    reader = _Reader(head, modrm, size, address_size)
    if has_modrm:
        # In the code ModRM, SIB and displacement precede any immediate, whatever the order here.
        reader.read_memory(form.memory_width(size, reader.length))
    operands = tuple([reader.operand(slot) for slot in form.operands])
    code = code[: head.at]
    rep: Literal["rep", "repne"] | None = None
    if form.repeat is not None and head.rep:
        rep = "rep" if head.rep == 0xF3 else "repne"
    width = next((operand.width for operand in operands if type(operand) is Memory), 0)
    text = _text(code, mode, form, operands, width, rep, head.lock)
    return Instruction(
        0, code, mode, text, form, operands, size, address_size, width, rep, head.lock
    )


def _sizes(form: Form, head: Head, mode: Mode) -> tuple[int, int]:
    # Operand and address size in bytes: SDM vol. 1, 3.6, tables 3-3 and 3-4.
    default = 2 if mode is Mode.COMPAT16 else 4
    other = 4 if default == 2 else 2
    if form.size64 and head.long:
        size = 2 if head.operand and form.size64 == "d64" and not head.rex & 8 else 8
    elif head.rex & 8:
        size = 8
    else:
        # A mandatory 66 is no operand-size prefix; one beside F2 or F3 still is.
        size = other if head.operand and form.opcode.prefix != "66" else default
    if head.long:
        return size, 4 if head.address else 8
    return size, other if head.address else default


def _select(rows: tuple[Form, ...], digit: int, head: Head) -> Form | None:
    # Picks the row by /digit, mandatory prefix, W and the length of vectors. The row for exactly
    # this prefix wins over one that takes 66 as the operand size and ignores F2 and F3.
    chosen = None
    mandatory, lengths = head.mandatory, _LENGTHS[head.length] if head.vex else ("",)
    for form in rows:
        opcode = form.opcode
        if opcode.digit is not None and opcode.digit != digit:
            continue
        if form.only == ("i64" if head.long else "o64") or opcode.w not in (None, head.w):
            continue
        if opcode.vex not in lengths:
            continue
        if opcode.prefix == mandatory:
            return form
        if (opcode.prefix == "NFx" and mandatory in ("NP", "66")) or (
            opcode.prefix == "" and (chosen is None or opcode.w)
        ):
            chosen = form
    return chosen


# VEX.L, and the rows that it selects by their length column.
_LENGTHS = (("128", "128/256", "LZ", "LIG"), ("256", "128/256", "LIG"))


class _Reader:
    # Reads ModRM, SIB, displacement and immediates, and makes operands of them.

    __slots__ = ("address_size", "head", "length", "memory", "modrm", "size")

    def __init__(self, head: Head, modrm: int, size: int, address_size: int) -> None:
        self.head = head
        self.modrm = modrm
        self.size = size
        self.address_size = address_size
        self.length = 32 if head.length else 16
        self.memory: Memory | None = None

    def integer(self, width: int, signed: bool = True) -> int:
        head = self.head
        field = head.code[head.at : head.at + width]
        if len(field) < width:
            raise IndexError
        head.at += width
        return int.from_bytes(field, "little", signed=signed)

    def read_memory(self, width: int) -> None:
        modrm, rex = self.modrm, self.head.rex
        self.head.at += 1
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
                sib = self.head.next()
                rm = sib & 7
                number = (sib >> 3 & 7) | (rex & 2) << 2
                if number != RSP:
                    index, scale = number, 1 << (sib >> 6)
                no_base = mod == 0 and rm == RBP
            else:
                no_base = mod == 0 and rm == RBP
                rip_relative = no_base and self.head.long
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
        if slot in _FIXED:
            return _FIXED[slot]
        if slot == "rAX":
            return _register(File.GPR, RAX, self.size)
        kind, slot_type, head = slot[0], slot[1:], self.head
        reg = self.modrm >> 3 & 7 | (head.rex & 4) << 1
        match kind:
            case "E" | "M" | "W" | "Q":
                assert self.memory is not None
                return self.memory
            case "G":
                width = self.address_size if slot_type == "a" else slot_width(slot_type, self.size)
                return self._register(reg, width)
            case "I":
                if slot_type == "b":
                    return Immediate(self.integer(1, signed=False))
                width = 1 if slot_type == "bs" else min(self.size, 4)
                return Immediate(self.integer(width) & ((1 << 8 * self.size) - 1))
            case "B":
                number = self._named(head.vvvv)
                return self._register(number, slot_width(slot_type, self.size))
            case "V":
                return _register(File.XMM, reg, self._vector(slot_type))
            case "H":
                return _register(File.XMM, self._named(head.vvvv), self._vector(slot_type))
            case "L":
                number = self._named(self.integer(1, signed=False) >> 4)
                return _register(File.XMM, number, self._vector(slot_type))
            case "P":
                return _register(File.MMX, reg & 7, 8)
            case "S":
                if reg & 7 > 5:
                    raise InvalidInstruction(self.head.code, "no such segment register")
                return _register(File.SEGMENT, reg & 7, 2)
            case "O":
                offset = self.integer(self.address_size, signed=False)
                width = slot_width(slot_type, self.size)
                return self._memory(width, "ds", None, displacement=offset)
            case "X":
                return self._memory(slot_width(slot_type, self.size), "ds", RSI)
            case "T":
                return self._memory(1, "ds", RBX)
            case "Y":
                # The destination segment of a string instruction cannot be overridden.
                mask = (1 << 8 * self.address_size) - 1
                return Memory(slot_width(slot_type, self.size), "es", RDI, None, 1, 0, False, mask)
            case _:
                raise AssertionError(f"operand code {slot} has no reader")


def _decode_foreign(code: bytes, rip: int, mode: Mode) -> Instruction:
    # What the table does not know: capstone tells an instruction from a truncated or invalid one.
    code = code[:MAX_INSTRUCTION]
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


@dataclass(frozen=True, slots=True)
class Line:
    """Hold an instruction at a linear address, or a byte that begins none: ``text`` is None."""

    linear: int
    code: bytes
    text: str | None


def disassemble(code: bytes, linear: int, mode: Mode) -> list[Line]:
    """Return the instructions in ``code``, whose first byte is at a linear address.

    A byte that begins no instruction is a line of its own, and decoding goes on behind it. What
    is cut off at the end is left out.
    """
    lines: list[Line] = []
    at = 0
    while at < len(code):
        try:
            insn = decode(code[at : at + MAX_INSTRUCTION], linear + at, mode)
        except NotEnoughBytes:
            break
        except InvalidInstruction:
            lines.append(Line(linear + at, code[at : at + 1], None))
            at += 1
            continue
        lines.append(Line(linear + at, insn.code, insn.text))
        at += insn.length
    return lines


def foreign_accesses(insn: Instruction) -> tuple[tuple[Literal["read", "write"], int | None], ...]:
    """Return the accesses of an instruction that the table does not know: direction and width.

    The width is in bytes, None where it depends on more than the instruction. This is capstone's
    word, corrected where it is known to be wrong: good enough to tell the reader what to expect
    of a native step, and used for nothing else.
    """
    (found,) = _DETAILED[insn.mode].disasm(insn.code, insn.rip, 1)
    name = found.mnemonic.split()[-1]
    if name.startswith(_NO_ACCESS):
        return ()
    accesses: list[tuple[Literal["read", "write"], int | None]] = []
    for position, operand in enumerate(found.operands):
        if operand.type != capstone.x86.X86_OP_MEM:
            continue
        width = _BLOCKS.get(name, operand.size)
        stores = position == 0 and name.startswith(_STORES)
        reads = not stores and operand.access != capstone.CS_AC_WRITE
        if reads:
            accesses.append(("read", width))
        if stores or operand.access & capstone.CS_AC_WRITE:
            accesses.append(("write", width))
    stack = 2 if 0x66 in insn.code[:-1] else insn.mode.value // 8
    for direction, names in _STACK.items():
        if name in names:
            accesses.append((direction, None if name.startswith(("iret", "retf")) else stack))
    return tuple(accesses)


_DETAILED = {mode: capstone.Cs(capstone.CS_ARCH_X86, cs.mode) for mode, cs in _CAPSTONE.items()}
for _disassembler in _DETAILED.values():
    _disassembler.detail = True

_NO_ACCESS = ("lea", "nop", "invlpg", "prefetch", "cldemote", "endbr")
# Stores that capstone 5 takes for loads.
_STORES = (
    "vmov", "vpmov", "vextract", "vcompress", "vpcompress", "vscatter", "vpscatter", "kmov",
    "stmxcsr", "vstmxcsr", "ins",
)  # fmt: skip
# Operands that are longer than capstone 5 says. What XSAVE and XRSTOR cover is for XCR0 to say.
_BLOCKS: dict[str, int | None] = {
    "fxsave": 512, "fxsave64": 512, "fxrstor": 512, "fxrstor64": 512, "fnsave": 108, "frstor": 108,
    **dict.fromkeys(("xsave", "xsaveopt", "xsavec", "xsaves", "xrstor", "xrstors")),
    **dict.fromkeys(("xsave64", "xsaveopt64", "xsavec64", "xsaves64", "xrstor64", "xrstors64")),
}  # fmt: skip
# Instructions that also access the stack, which is no operand.
_STACK: dict[Literal["read", "write"], frozenset[str]] = {
    "read": frozenset(
        ("pop", "popf", "popfd", "popfq", "leave", "ret", "retf", "retfq", "iret", "iretd", "iretq")
    ),
    "write": frozenset(("push", "pushf", "pushfd", "pushfq", "call", "lcall", "enter")),
}


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
