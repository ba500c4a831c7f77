"""The thunk of one iteration of MOVS, STOS or LODS, with or without REP.

Ref: Intel SDM vol. 1, 7.3.9; vol. 2, MOVS, STOS, LODS, REP. RIP stays while iterations remain, and
the next one faults again. The error code says which side of a MOVS is the device that faulted: its
source is read before its destination is written.
"""

from __future__ import annotations

from tracer.compiled.common import CommonCode
from tracer.compiled.encoder import EQUAL, NOT_EQUAL, Encoder
from tracer.compiled.ending import (
    ALIAS,
    ERROR,
    FLAGS,
    READ,
    RIP,
    WRITTEN,
    commit,
    go_on_with,
    gpr,
    name_site,
    send,
)
from tracer.compiled.layout import SITE_FIELDS
from tracer.compiled.stack import find_ram
from tracer.x86.instruction import Instruction
from tracer.x86.state import RAX, RCX, RDI, RDX, RSI, RSP, PageFaultCode

_WRITE = int(PageFaultCode.W)
_LEVELS = ("TOP_ENTRY", "E4", "E3", "E2", "E1")
_WRITABLE = 2
_DIRECTION = 4  # DF, in the second byte of RFLAGS


def compile_string(out: Encoder, insn: Instruction, number: int, common: CommonCode) -> None:
    """Append the thunk. RAX is where the window has the device, RSI the entry of the site."""
    assert insn.form is not None
    operation, width, size = insn.form.operation, insn.width, insn.address_size
    name_site(out, number)
    if operation == "movs":
        _move(out, width, size, common)
    elif operation == "lods":
        out.load(RCX, RAX, 0, width)
        out.store(RDI, READ, RCX)
    else:
        out.load(RCX, RDI, gpr(RAX))
        out.store(RDI, WRITTEN, RCX)
    pushed = []
    if operation == "lods":
        if width < 4:
            out.load(RAX, RDI, gpr(RAX))
            out.move(RAX, RCX, width)
            out.raw("50")  # push rax
        else:
            out.raw("51")  # push rcx
        pushed.append(RAX)
    # RDX: by how much the pointers move.
    out.constant(RDX, width, 8)
    out.test_byte(RDI, FLAGS + 1, _DIRECTION)
    forward = out.skip(EQUAL)
    out.raw("48f7da")  # neg rdx
    out.land(forward)
    for pointer in {"movs": (RSI, RDI), "lods": (RSI,), "stos": (RDI,)}[operation]:
        out.load(RCX, RDI, gpr(pointer), size)
        out.raw("4801d1" if size == 8 else "01d1")  # add rcx, rdx
        out.raw("51")  # push rcx
        pushed.append(pointer)
    if insn.rep:
        out.load(RCX, RDI, gpr(RCX), size)
        out.arithmetic(5, RCX, 1, size)
        out.raw("51")  # push rcx
        pushed.append(RCX)
        again = out.skip(NOT_EQUAL)
        out.add(RSP, RIP + 8 * len(pushed), insn.length)
        out.land(again)
    else:
        out.add(RSP, RIP + 8 * len(pushed), insn.length)
    commit(out)
    if operation == "stos":
        send(out, width)
    elif operation == "movs":
        out.test_byte(RDI, ERROR, _WRITE)
        read = out.skip(EQUAL)
        send(out, width)
        out.land(read)
    go_on_with(out, pushed)


def find_pointer(out: Encoder, insn: Instruction) -> None:
    """Append what computes the address of the device in RDX; RAX and RCX stay."""
    assert insn.form is not None
    operation, size = insn.form.operation, insn.address_size
    out.load(RDX, RDI, gpr(RDI if operation == "stos" else RSI), size)
    if operation == "movs":
        out.test_byte(RDI, ERROR, _WRITE)
        source = out.skip(EQUAL)
        out.load(RDX, RDI, gpr(RDI), size)
        out.land(source)


def _move(out: Encoder, width: int, size: int, common: CommonCode) -> None:
    # The side in RAM is looked up, then the value goes from the one to the other; to a device
    # only when the record is committed.
    out.test_byte(RDI, ERROR, _WRITE)
    reads = out.skip(EQUAL)
    out.load(RDX, RSI, SITE_FIELDS[_LEVELS[0]])
    for level in _LEVELS[1:]:
        # and rdx, [rsi + level]
        out.raw(b"\x48\x23\x96" + SITE_FIELDS[level].to_bytes(4, "little"))
    out.raw(bytes([0xF6, 0xC2, _WRITABLE]))  # test dl, W
    out.branch(EQUAL, common.refuse)
    out.load(RDX, RDI, gpr(RSI), size)
    out.constant(RCX, 0, 4)
    found = out.skip_always()
    out.land(reads)
    out.load(RDX, RDI, gpr(RDI), size)
    out.constant(RCX, 1, 4)
    out.land(found)
    find_ram(out, width, None, common)
    out.test_byte(RDI, ERROR, _WRITE)
    reads = out.skip(EQUAL)
    out.load(RCX, RAX, 0, width)
    done = out.skip_always()
    out.land(reads)
    out.move(RDX, RAX)
    out.load(RAX, RDI, ALIAS)
    out.load(RCX, RAX, 0, width)
    out.store(RDX, 0, RCX, width)
    out.land(done)
    out.store(RDI, READ, RCX)
    out.store(RDI, WRITTEN, RCX)
