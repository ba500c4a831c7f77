"""How a thunk ends: the record is committed, the device gets what is written, all goes on.

The registers that the common code takes are given back before the ring is, whose next record may
be made at once.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

from tracer.compiled.encoder import Encoder
from tracer.compiled.layout import RECORD_FIELDS, SLOT_SIZE, pieces
from tracer.compiled.monitor import of_guest
from tracer.x86.state import RAX, RCX, RDI, RDX, RSI, RSP

TAKEN = (RAX, RCX, RDX, RSI, RDI)
"""The registers that are a thunk's to use: what they were is in the record."""

RIP, RFLAGS, STACK = 0, 16, 24
"""Offsets of the interrupted RIP, RFLAGS and RSP from RSP in a thunk."""

SEQUENCE, LINEAR, ALIAS = (RECORD_FIELDS[name] for name in ("SEQUENCE", "LINEAR", "ALIAS"))
READ, OTHER, WRITTEN = (RECORD_FIELDS[name] for name in ("READ", "OTHER", "WRITTEN"))
FLAGS, ERROR, SITE, THREAD = (RECORD_FIELDS[name] for name in ("RFLAGS", "ERROR", "SITE", "THREAD"))
_NUMBER, _GPR = RECORD_FIELDS["NUMBER"], RECORD_FIELDS["GPR"]

_IRETQ = "48cf"


def gpr(number: int) -> int:
    """Return where a record has a general-purpose register."""
    return _GPR + 8 * number


def name_site(out: Encoder, number: int) -> None:
    """Store the number of the site to the record, and who runs there. RCX is lost."""
    out.raw(bytes([0xC7, 0x47, SITE]) + number.to_bytes(4, "little"))
    if out.thread is not None:
        if out.done is None:
            # mov ecx, gs:[thread]
            out.raw(b"\x65\x8b\x0c\x25" + struct.pack("<I", out.thread & 0xFFFFFFFF))
        else:
            out.raw("4889e14881e100f0ffff")  # mov rcx, rsp; and rcx, -4096
            out.load(RCX, RCX, of_guest("current"), 4)
        out.store(RDI, THREAD, RCX, 4)


def commit(out: Encoder, head: int = RSI) -> None:
    """Commit the record; its number is in register ``head`` from here on."""
    out.load(head, RDI, _NUMBER)
    out.store(RDI, SEQUENCE, head)


def send(out: Encoder, width: int) -> None:
    """Store to the device what the record says is written. RAX and RCX are lost."""
    out.load(RAX, RDI, ALIAS)
    for at, size in pieces(width):
        out.load(RCX, RDI, WRITTEN + at, size)
        out.store(RAX, at, RCX, size)


def go_on(out: Encoder, kept: Collection[int] = (), head: int = RSI, moved: int = -1) -> None:
    """Give back registers and ring, and return to the interrupted code.

    The registers ``kept`` have their values already. RDI gets what register ``moved`` has, if
    that is one.
    """
    out.arithmetic(0, head, SLOT_SIZE)
    for register in TAKEN[:-1]:
        if register not in (*kept, head, moved):
            out.load(register, RDI, gpr(register))
    out.push(RDI, gpr(head))
    if moved >= 0:
        out.push(RDI, gpr(moved))
        out.move(RDI, moved)
    else:
        out.load(RDI, RDI, gpr(RDI))
    out.save_head(head)
    if moved >= 0:
        out.raw(bytes([0x58 | moved]))  # pop
    out.raw(bytes([0x58 | head]))  # pop
    _leave(out)


def go_on_with(out: Encoder, pushed: list[int]) -> None:
    """Do the same where new values of some registers were pushed, the last one on top.

    The record's number is in RSI.
    """
    out.arithmetic(0, RSI, SLOT_SIZE)
    for register in (RAX, RCX, RDX):
        if register not in pushed:
            out.load(register, RDI, gpr(register))
    pops = pushed[::-1]
    for register in (RSI, RDI):
        if register not in pushed:
            out.push(RDI, gpr(register))
            pops.insert(0, register)
    out.save_head(RSI)
    for register in pops:
        out.raw(bytes([0x58 | register]))  # pop
    _leave(out)


def _leave(out: Encoder) -> None:
    if out.done is None:
        out.raw(_IRETQ)
    else:
        out.jump(out.done)


def advance(out: Encoder, length: int) -> None:
    """Let the interrupted code go on behind its instruction."""
    out.add(RSP, RIP, length)
