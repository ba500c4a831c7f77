"""Turn code bytes into an :class:`Instruction`.

Ref: Intel SDM vol. 2A, chapter 2 (instruction format).

A form of the table is decoded here, by the table's row; of other instructions length and accesses
are, by the opcode maps (:mod:`tracer.x86.mapped`). Capstone gives the text, but for REPNE and
CMPccXADD, which it does not know, and says whether bytes that neither knows are an instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from tracer.errors import InvalidInstruction, NotEnoughBytes
from tracer.x86.disassembler import foreign, words
from tracer.x86.forms import Form, candidates
from tracer.x86.instruction import (
    WIDTH_NAMES,
    Instruction,
    Memory,
    Operand,
    jump_target,
    operand_text,
)
from tracer.x86.mapped import decode_mapped
from tracer.x86.modrm import Reader, address_size, operand_size
from tracer.x86.prefix import Head
from tracer.x86.state import MAX_INSTRUCTION, Mode


def decode(code: bytes, rip: int, mode: Mode) -> Instruction:
    """Decode the instruction at the start of ``code``, whose linear address is ``rip``.

    Bytes after the instruction are ignored. Raise :class:`NotEnoughBytes` when ``code`` ends
    before the instruction does, :class:`InvalidInstruction` when no CPU would execute it in this
    mode (#UD, or #GP beyond 15 bytes). A valid instruction that the table does not know decodes
    too: its ``form`` is None, and its ``touches`` tell what it does with memory.

    What touches no memory is capstone's to know, and it does not know every instruction. Bytes at
    which a CPU has just faulted on an access are one, whatever is said here: leave them to the CPU.
    """
    return _decode_at(code, rip, mode)


@lru_cache(maxsize=8192)
def _decode_at(code: bytes, rip: int, mode: Mode) -> Instruction:
    try:
        insn = _decode_known(code, mode)
        if insn is None:
            insn = decode_mapped(code, rip, mode)
    except IndexError:
        if len(code) >= MAX_INSTRUCTION:
            raise InvalidInstruction(code, "longer than 15 bytes") from None
        raise NotEnoughBytes(code) from None
    if insn is None:
        return foreign(code, rip, mode)
    insn = replace(insn, rip=rip)
    if insn.form is not None and insn.form.operands == ("Jz",):
        return replace(insn, text=f"{insn.form.name} {jump_target(insn):#x}")
    return insn


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
    # With a register instead of memory there is no row, unless there is an access all the same.
    form = _select([row for row in rows if row.register == (modrm >= 0xC0)], modrm >> 3 & 7, head)
    _check_lock(form, head, code)
    if form is None or _is_undecided(form, head, mode):
        return None
    if head.vex and head.vvvv and not any(slot[0] in "BH" for slot in form.operands):
        raise InvalidInstruction(code, "VEX.vvvv must be 1111b")
    size = operand_size(head, mode, form.size64, form.opcode.prefix)
    reader = Reader(head, modrm, size, address_size(head, mode))
    if form.register:
        head.next()
    elif has_modrm:
        # In the code ModRM, SIB and displacement precede any immediate, whatever the order here.
        reader.read_memory(form.memory_width(size, reader.length))
    operands = tuple([reader.operand(slot) for slot in form.operands])
    return _instruction(form, operands, code[: head.at], mode, reader)


def _check_lock(form: Form | None, head: Head, code: bytes) -> None:
    # Every lockable form is in the table (SDM vol. 2A, LOCK).
    if head.lock and (form is None or not form.lock or form.operands[0][0] not in "EM"):
        raise InvalidInstruction(code, "LOCK on an instruction that cannot be locked")


# Tells that its width cannot be seen in the bytes.
def _is_undecided(form: Form, head: Head, mode: Mode) -> bool:
    if form.size64 and mode is Mode.COMPAT16:
        return True  # the width of the stack pointer (SS.B) cannot be seen in 16-bit code
    # AMD CPUs and QEMU obey 66 here, Intel CPUs do not (AMD APM vol. 3, 1.2.2; SDM vol. 2A, CALL).
    return form.size64 == "f64" and head.long and bool(head.operand) and not head.rex & 8


def _instruction(
    form: Form, operands: tuple[Operand, ...], code: bytes, mode: Mode, reader: Reader
) -> Instruction:
    head, size = reader.head, reader.size
    rep: Literal["rep", "repne"] | None = None
    if form.repeat is not None and head.rep:
        rep = "rep" if head.rep == 0xF3 else "repne"
    stack = size if form.size64 else 0
    width = next((operand.width for operand in operands if type(operand) is Memory), stack)
    text = _text(code, mode, form, operands, width, rep, head.lock)
    return Instruction(
        0, code, mode, text, form, operands, size, reader.address_size, width, rep, head.lock
    )


def _select(rows: Sequence[Form], digit: int, head: Head) -> Form | None:
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


def _text(
    code: bytes, mode: Mode, form: Form, operands: tuple[Operand, ...], width: int,
    rep: str | None, lock: bool,
) -> str:  # fmt: skip
    # Capstone's text where it names the right length and width, else our own.
    keyword = WIDTH_NAMES[width] + " ptr"
    found = words(code, 0, mode)
    if found is not None and f" {keyword}" in f" {found[1]}":
        text = " ".join(found)
        return text if rep is None or text.startswith("rep") else f"{rep} {text}"
    shown = ", ".join([operand_text(operand) for operand in operands])
    parts = ["lock" if lock else "", rep or "", form.name, shown]
    return " ".join([part for part in parts if part])
