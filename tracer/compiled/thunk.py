"""An instruction that reaches a device, as code that the guest runs in its place: the compiler.

:func:`compile_thunk` is a function from an instruction to bytes. In a thunk the device is reached
through the window, and everything that the instruction sees or changes besides is in the record
and in the fault's frame: ``source/common.S`` says how it is entered.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tracer.compiled.cell import compile_cell
from tracer.compiled.common import CommonCode
from tracer.compiled.encoder import CARRY, EQUAL, NOT_EQUAL, Encoder
from tracer.compiled.ending import ALIAS, TAKEN, gpr
from tracer.compiled.layout import SITE_FIELDS
from tracer.compiled.move import compile_move
from tracer.compiled.safety import NotCompiled, Template, reads_and_writes, template_of
from tracer.compiled.stack import compile_pop, compile_push
from tracer.compiled.strings import compile_string, find_pointer
from tracer.x86.instruction import Instruction, Memory
from tracer.x86.state import PAGE_SIZE, RAX, RCX, RDI, RDX, RSI, RSP

WATCHED = 8
"""Bytes of code that the common code compares; a thunk compares the end of a longer one."""


_LARGEST = (1 << 31) - 1
_TOP = (1 << 64) - (1 << 31)


@dataclass(frozen=True, slots=True)
class Thunk:
    """Hold the code for one instruction, for the place it was compiled for.

    ``start`` is the offset in the block. ``origin`` is the one where CR2 is compared with the
    operand's own address, which is in doubt at the first byte of a page where ``doubtful``.
    ``writes`` says that the device's page has to be writable. ``width`` is in bytes. ``before`` is
    by how many bytes a base register lies in front of the operand's second byte.
    """

    code: bytes
    start: int
    origin: int
    doubtful: bool
    writes: bool
    width: int
    before: int = 0


def compile_thunk(
    insn: Instruction, number: int, at: int, common: CommonCode, thread: int | None = None
) -> Thunk:
    """Compile an instruction of site ``number`` for offset ``at`` in the block.

    Its records have the 4 bytes at GS and ``thread``, which no guest may unmap; None for no bytes.

    Raise :class:`NotCompiled` where it might raise an exception, or gains nothing.
    """
    template = template_of(insn)
    out = Encoder(at, thread, common.done)
    if insn.length > WATCHED:
        _compare_end(out, insn, common)
    writes = template is Template.POP
    match template:
        case Template.MOVE | Template.CELL:
            writes = reads_and_writes(insn)[1]
            if template is Template.MOVE:
                compile_move(out, insn, number)
            else:
                compile_cell(out, insn, number, common)
        case Template.PUSH:
            compile_push(out, insn, number, common)
        case Template.POP:
            compile_pop(out, insn, number, common)
        case Template.STRING:
            assert insn.form is not None
            writes = insn.form.operation == "stos"
            compile_string(out, insn, number, common)
    origin = out.here
    doubtful = insn.width > 1 and not _is_constant(insn)
    if common.done is not None:
        _tell_origin(out, insn, template)
        doubtful = False
    elif doubtful:
        _compile_origin(out, insn, template, common)
    else:
        origin = common.walk
    before = _operand(insn).displacement + 1
    return Thunk(bytes(out.code), at, origin, doubtful, writes, insn.width, before)


def _compare_end(out: Encoder, insn: Instruction, common: CommonCode) -> None:
    if common.done is not None:
        _look_at_end(out, insn, common)
        return
    end = insn.next_rip - 4
    if insn.length <= WATCHED + 4 and end >= _TOP:
        # cmp dword ptr [end], the last bytes: an address is extended by its sign
        out.raw(b"\x81\x3c\x25" + struct.pack("<I", end & 0xFFFFFFFF) + insn.code[-4:])
        out.branch(NOT_EQUAL, common.refuse)
        return
    out.load(RDX, RSP)  # RIP
    if insn.length <= WATCHED + 4:
        # cmp dword ptr [rdx + length - 4], the last bytes
        out.raw(bytes([0x81, 0x7A, insn.length - 4]) + insn.code[-4:])
    else:
        out.raw(b"\x48\xb9" + insn.code[-WATCHED:])  # mov rcx, the last bytes
        out.compare(RCX, RDX, insn.length - WATCHED)
    out.branch(NOT_EQUAL, common.refuse)


def _look_at_end(out: Encoder, insn: Instruction, common: CommonCode) -> None:
    # The monitor does not see code at the address that it has for the guest.
    first = insn.next_rip - WATCHED
    if first // PAGE_SIZE != (insn.next_rip - 1) // PAGE_SIZE:
        raise NotCompiled(insn, "its last bytes lie in two pages")
    out.load(RDX, RSP)  # RIP
    out.arithmetic(0, RDX, insn.length - WATCHED)
    out.constant(RCX, 0, 4)
    out.call(common.ram)
    out.branch(CARRY, common.refuse)
    out.raw(b"\x48\xb9" + insn.code[-WATCHED:])  # mov rcx, the last bytes
    out.compare(RCX, RAX, 0)
    out.branch(NOT_EQUAL, common.refuse)
    out.load(RAX, RDI, ALIAS)


def _operand(insn: Instruction) -> Memory:
    return next(operand for operand in insn.operands if isinstance(operand, Memory))


def _is_constant(insn: Instruction) -> bool:
    # Tells that the address is one and the same, and not that of an access across a page's end.
    memory = _operand(insn)
    if memory.base is not None or memory.index is not None or memory.segment in ("fs", "gs"):
        return False
    assert insn.form is not None
    if insn.form.operation.endswith(" string"):
        return False
    address = memory.displacement + (insn.next_rip if memory.rip_relative else 0)
    if (address & memory.mask) % PAGE_SIZE > PAGE_SIZE - insn.width:
        raise NotCompiled(insn, "it crosses a page")
    return True


def _compile_origin(
    out: Encoder, insn: Instruction, template: Template, common: CommonCode
) -> None:
    memory = _operand(insn)
    if _has_origin(insn, template) and memory.displacement != _LARGEST:
        if template is not Template.STRING and _is_plain(memory):
            assert memory.base is not None
            out.load(RDX, RDI, gpr(memory.base))
            out.compare(RDX, RSI, SITE_FIELDS["BASE"])
            out.branch(EQUAL, common.compare)
            out.jump(common.other)
            return
        if template is Template.STRING:
            find_pointer(out, insn)
            out.raw("48ffc2")  # inc rdx
        else:
            _effective_address(out, memory, 1)
        out.compare(RDX, RSI, SITE_FIELDS["FIRST"])
        out.branch(EQUAL, common.compare)
    out.jump(common.other)


def _tell_origin(out: Encoder, insn: Instruction, template: Template) -> None:
    # Returns with the operand's address in RDX; RAX and RCX stay.
    memory = _operand(insn)
    if memory.base is None and memory.index is None and memory.segment not in ("fs", "gs"):
        address = memory.displacement + (insn.next_rip if memory.rip_relative else 0)
        out.raw(b"\x48\xba" + struct.pack("<Q", address & memory.mask))  # mov rdx, address
    elif not _has_origin(insn, template):
        raise NotCompiled(insn, "a thunk does not know the address of its operand")
    elif template is Template.STRING:
        find_pointer(out, insn)
    else:
        _effective_address(out, memory, 0)
    out.raw("c3")  # ret


def _has_origin(insn: Instruction, template: Template) -> bool:
    # The base of FS or GS, and where a bit string begins, are not told in a thunk. POP computes
    # an address of RSP behind the pop.
    assert insn.form is not None
    memory = _operand(insn)
    return not (
        memory.segment in ("fs", "gs")
        or insn.form.operation.endswith(" string")
        or (template is Template.POP and memory.base == RSP)
    )


def _is_plain(memory: Memory) -> bool:
    # Tells whether the address is that of a register in the record and a constant.
    whole = memory.mask == (1 << 64) - 1
    return whole and memory.index is None and memory.base in (*TAKEN, RSP)


def _effective_address(out: Encoder, memory: Memory, more: int) -> None:
    # Computes the operand's address and ``more`` in RDX; RAX and RCX stay.
    size = memory.mask.bit_length() // 8
    base, index = memory.base, memory.index
    offset = memory.displacement + more
    kept = (*TAKEN, RSP)
    if index is not None and index in kept:
        out.load(RDX, RDI, gpr(index))
        there = None if base in kept else base
        out.address(RDX, there, RDX, memory.scale, offset, size)
        if base is not None and there is None:
            rex = b"\x48" if size == 8 else b""
            out.raw(rex + b"\x03\x97" + struct.pack("<i", gpr(base)))  # add rdx, [rdi + base]
        return
    if base is not None and base in kept:
        out.load(RDX, RDI, gpr(base))
        base = RDX
    out.address(RDX, base, index, memory.scale, offset, size)
