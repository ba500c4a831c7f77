"""The thunks of PUSH and POP with a device as the operand: the stack is in RAM.

Ref: Intel SDM vol. 2B, PUSH, POP. The fault's own frame may lie where PUSH stores, as the CPU has
pushed it below the interrupted RSP: it is moved down first.
"""

from __future__ import annotations

from tracer.compiled.common import CommonCode
from tracer.compiled.encoder import ABOVE, CARRY, Encoder
from tracer.compiled.ending import (
    ALIAS,
    OTHER,
    READ,
    STACK,
    WRITTEN,
    advance,
    commit,
    go_on,
    gpr,
    name_site,
    send,
)
from tracer.x86.instruction import Instruction
from tracer.x86.state import PAGE_SIZE, RAX, RCX, RDI, RDX, RSP

_FRAME = 5
"""Quadwords from RIP to SS."""


def compile_push(out: Encoder, insn: Instruction, number: int, common: CommonCode) -> None:
    """Append the thunk of a PUSH: the device is read."""
    width = insn.width
    name_site(out, number)
    out.load(RDX, RDI, gpr(RSP))
    out.arithmetic(5, RDX, width)
    find_ram(out, width, True, common)
    out.load(RAX, RDI, ALIAS)
    out.load(RCX, RAX, 0, width)
    out.store(RDI, READ, RCX)
    out.store(RDI, WRITTEN, RCX)
    out.arithmetic(5, RSP, 16)
    for place in range(0, 8 * _FRAME, 8):
        out.load(RDX, RSP, place + 16)
        out.store(RSP, place, RDX)
    out.load(RDX, RDI, OTHER)
    out.store(RDX, 0, RCX, width)
    out.add(RSP, STACK, -width)
    advance(out, insn.length)
    commit(out)
    go_on(out)


def compile_pop(out: Encoder, insn: Instruction, number: int, common: CommonCode) -> None:
    """Append the thunk of a POP: the device is written."""
    width = insn.width
    name_site(out, number)
    out.load(RDX, RDI, gpr(RSP))
    find_ram(out, width, False, common)
    out.load(RCX, RAX, 0, width)
    out.store(RDI, READ, RCX)
    out.store(RDI, WRITTEN, RCX)
    out.add(RSP, STACK, width)
    advance(out, insn.length)
    commit(out)
    send(out, width)
    go_on(out)


def find_ram(out: Encoder, width: int, writes: bool | None, common: CommonCode) -> None:
    """Look up ``width`` bytes at the linear address in RDX, or refuse.

    Their place in the window goes to RAX and to the record. ECX tells whether they are written
    where ``writes`` does not. RCX and RDX are lost.
    """
    out.move(RAX, RDX, 4)
    out.arithmetic(4, RAX, PAGE_SIZE - 1, 4)
    out.arithmetic(7, RAX, PAGE_SIZE - width, 4)
    out.branch(ABOVE, common.refuse)
    if writes is not None:
        out.constant(RCX, int(writes), 4)
    out.call(common.ram)
    out.branch(CARRY, common.refuse)
    out.store(RDI, OTHER, RAX)
