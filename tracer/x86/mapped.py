"""Decode an instruction that the opcode maps have: its length, and what it does with memory.

Ref: Intel SDM vol. 2A, chapter 2 (instruction format); AMD APM vol. 3, 1.2 (XOP), and appendix A
(3DNow!, whose opcode comes last).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracer.errors import InvalidInstruction
from tracer.x86.disassembler import mnemonic, words
from tracer.x86.instruction import Instruction, Lanes, Memory, Touch, operand_text
from tracer.x86.modrm import Reader, address_size, operand_size
from tracer.x86.opcode import Row, Slot, name_of, rows
from tracer.x86.prefix import Head
from tracer.x86.state import MAX_INSTRUCTION, Mode
from tracer.x86.touch import (
    VECTOR,
    Context,
    Sizes,
    displacement_unit,
    implied,
    named,
    operand_width,
    permitted,
    select,
    width_of,
)


def decode_mapped(code: bytes, rip: int, mode: Mode) -> Instruction | None:
    """Return the instruction at the start of ``code`` if the opcode maps have it, else None.

    Raise IndexError where the bytes end too early, and InvalidInstruction for fields that no
    instruction has.
    """
    code = code[:MAX_INSTRUCTION]
    head = Head(code, mode)
    known = rows(head.encoding, head.map, head.byte)
    modrm = code[head.at] if any(row.has_modrm for row in known) else 0
    row = select(head, modrm)
    if row is None:
        return None
    sizes = _sizes(head, row, mode)
    reader = Reader(head, modrm, sizes.operand, address_size(head, mode))
    touches: list[Touch] = []
    if row.has_modrm:
        touches += _operand_touches(row, reader, sizes, code)
    fields = [reader.integer(_immediate_width(kind, sizes), False) for kind in row.immediate]
    if (head.encoding, head.map, head.byte) == _3DNOW and fields[0] not in _3DNOW_CODES:
        raise InvalidInstruction(code)
    context = Context(
        sizes,
        head.segment,
        level=fields[-1] if fields else 0,
        register=modrm >> 3 & 7 | (head.rex & 4) << 1,
        named=modrm & 7 | (head.rex & 1) << 3,
    )
    for slot in row.slots:
        if slot.name:
            touches += implied(slot, context)
    code = code[: head.at]
    text = _text(head, code, rip, mode) or _own_text(head, code, modrm, reader.memory)
    if text == _UNNAMED and not touches:
        return None
    return Instruction(
        rip, code, mode, text, operand_size=sizes.operand, address_size=reader.address_size,
        touches=tuple(touches),
    )  # fmt: skip


def _sizes(head: Head, row: Row, mode: Mode) -> Sizes:
    return Sizes(
        operand=operand_size(head, mode, "", row.prefix),
        stack=operand_size(head, mode, "d64", row.prefix),
        near=_near(head, mode),
        vector=VECTOR << head.length,
        wide=head.w,
        rex_w=bool(head.rex & 8),
        mask=(1 << 8 * address_size(head, mode)) - 1,
        mode=mode,
    )


# The touches of the operand that ModRM names, which is read up to its end.
def _operand_touches(row: Row, reader: Reader, sizes: Sizes, code: bytes) -> Iterable[Touch]:
    operand = next((slot for slot in row.slots if not slot.name), None)
    if reader.modrm >= 0xC0 or operand is None:
        reader.head.at += 1  # a register instead of memory
        return ()
    if not permitted(row, reader.head):
        raise InvalidInstruction(code, "no such combination of VEX, XOP or EVEX fields")
    return _named_touches(operand, reader, sizes)


def _near(head: Head, mode: Mode) -> int | None:
    # Intel's processors ignore 66 there in 64-bit mode, AMD's obey it.
    if head.long and head.operand and not head.rex & 8:
        return None
    return operand_size(head, mode, "f64", "")


_UNNAMED = "?"
_3DNOW = ("legacy", 1, 0x0F)
_3DNOW_CODES = frozenset(bytes.fromhex(
    "0c0d 1c1d 86878a8e 90949697 9a9e a0a4a6a7aaae b0b4b6b7bbbf"
))  # fmt: skip


def _named_touches(slot: Slot, reader: Reader, sizes: Sizes) -> Iterator[Touch]:
    head = reader.head
    width = operand_width(slot, sizes, head.broadcast)
    compressed = displacement_unit(slot, sizes, head.broadcast) if head.encoding == "evex" else 1
    if slot.index and (reader.modrm & 7 != 4 or reader.address_size == 2):
        raise InvalidInstruction(head.code, "a gather without a register of indices")
    reader.read_memory(width or 0, compressed=compressed, gathers=slot.index > 0)
    assert reader.memory is not None
    lanes = None
    if slot.index:
        lanes = _lanes(slot, reader, sizes)
    return named(slot, reader.memory, sizes, lanes, broadcast=head.broadcast, masked=head.mask > 0)


def _lanes(slot: Slot, reader: Reader, sizes: Sizes) -> Lanes:
    # SDM vol. 2, VPGATHERDD and its kin: as many lanes as the wider of both vectors has elements.
    head, (index, scale) = reader.head, reader.index
    wider = max(slot.index, width_of(slot.width, sizes) or 0)
    target = reader.modrm >> 3 & 7 | (head.rex & 4) << 1
    mask = head.vvvv if head.encoding == "vex" else None
    if mask is not None and len({index, target, mask}) < 3:
        raise InvalidInstruction(head.code, "a gather's registers must differ")
    return Lanes(sizes.vector // wider, index, slot.index, scale, mask)


def _immediate_width(kind: str, sizes: Sizes) -> int:
    match kind:
        case "z":
            return min(sizes.operand, 4)
        case "n":
            return 4 if sizes.mode is Mode.LONG else sizes.operand
        case _:
            width = width_of(kind, sizes)
            assert width is not None
            return width


def _text(head: Head, code: bytes, rip: int, mode: Mode) -> str | None:
    # Capstone refuses prefixes that say nothing: it is asked once more without them.
    needed = bytes([head.rep]) if head.rep else b"\x66" if head.operand else b""
    lead = needed + code[head.start :]
    for variant in (code, b"\x67" + lead if head.address else lead, lead):
        found = words(variant, rip, mode)
        if found is not None:
            return " ".join(found).rstrip()
    return None


def _own_text(head: Head, code: bytes, modrm: int, memory: Memory | None) -> str:
    name = name_of(head.encoding, head.map, head.byte, modrm, head.mandatory, head.w)
    if memory is not None:
        return f"{name or mnemonic(code) or _UNNAMED} {operand_text(memory)}"
    found = words(code, 0, Mode.LONG)
    return name or (_UNNAMED if found is None else " ".join(found).rstrip())
