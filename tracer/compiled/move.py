"""The thunk of a plain move: a register or a constant to the device, or from it to a register."""

from __future__ import annotations

from tracer.compiled.encoder import Encoder
from tracer.compiled.ending import (
    READ,
    STACK,
    TAKEN,
    WRITTEN,
    advance,
    commit,
    go_on,
    gpr,
    name_site,
)
from tracer.x86.instruction import Immediate, Instruction, Memory, Register
from tracer.x86.state import RAX, RCX, RDI, RDX, RSI, RSP

_AL = 1


def compile_move(out: Encoder, insn: Instruction, number: int) -> None:
    """Append the thunk. RAX is where the window has the device."""
    name_site(out, number)
    if isinstance(insn.operands[0], Memory) and insn.form is not None and insn.form.name != "xlat":
        _store(out, insn)
    else:
        _load(out, insn)


def _store(out: Encoder, insn: Instruction) -> None:
    width, value = insn.width, insn.operands[1]
    if isinstance(value, Immediate):
        out.store_constant(RDI, WRITTEN, value.value, width)
        advance(out, insn.length)
        commit(out)
        out.store_constant(RAX, 0, value.value, width)
    else:
        assert isinstance(value, Register)
        register = _source(out, value)
        out.store(RDI, WRITTEN, register)
        advance(out, insn.length)
        commit(out)
        out.store(RAX, 0, register, width)
    go_on(out)


def _source(out: Encoder, value: Register) -> int:
    # Returns the register whose low bytes are the value.
    taken = value.number in (*TAKEN, RSP)
    if value.high and taken:
        out.load(RCX, RDI, gpr(value.number) + 1, 1)
    elif value.high:
        out.extend_high(RCX, value.number)
    elif taken:
        out.load(RCX, RDI, gpr(value.number))
    else:
        return value.number
    return RCX


def _load(out: Encoder, insn: Instruction) -> None:
    assert insn.form is not None
    target = insn.operands[0]
    if not isinstance(target, Register):  # XLAT
        number, size, high = RAX, _AL, False
    else:
        number, size, high = target.number, target.width, target.high
    free = number not in (RDI, RSP)
    value = number if size >= 4 and free else RDX if number == RCX else RCX
    out.load(value, RAX, 0, insn.width)
    out.store(RDI, READ, value)
    if insn.form.extension == "sign" and size > insn.width:
        out.sign_extend(value, insn.width, size)
    if number == RSP:
        _to_stack_pointer(out, value, size)
    elif size < 4:
        if number in TAKEN:
            out.load(number if number != RDI else RAX, RDI, gpr(number))
        _merge(out, number if number != RDI else RAX, value, size, high)
    advance(out, insn.length)
    # The register that holds the record's number may not be the one that was loaded.
    head = RDX if number == RSI else RSI
    commit(out, head)
    if number == RDI:
        go_on(out, head=head, moved=value if size >= 4 else RAX)
    else:
        go_on(out, (number,), head)


def _merge(out: Encoder, number: int, value: int, size: int, high: bool) -> None:
    if high:
        out.move_high(number, value)
    else:
        out.move(number, value, size)


def _to_stack_pointer(out: Encoder, value: int, size: int) -> None:
    # IRETQ loads it from the frame.
    out.store(RSP, STACK, value, 8 if size >= 4 else size)
