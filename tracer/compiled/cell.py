"""The thunk that runs the instruction itself, on a cell of the record in place of the device.

The cell has what the device gave, in the exact width, and the device gets what it holds after. So
flags, extension, and what becomes of vector and x87 registers are the CPU's own doing. LOCK is
dropped: nobody else has the cell, and every traced access holds the ring.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.compiled.common import CommonCode
from tracer.compiled.encoder import NOT_EQUAL, Encoder
from tracer.compiled.ending import (
    ALIAS,
    FLAGS,
    READ,
    RFLAGS,
    RIP,
    STACK,
    TAKEN,
    WRITTEN,
    commit,
    go_on_with,
    gpr,
    name_site,
    send,
)
from tracer.compiled.layout import pieces
from tracer.compiled.rewrite import rewritten
from tracer.compiled.safety import reads_and_writes
from tracer.x86.forms import Unit
from tracer.x86.instruction import File, Instruction, Register
from tracer.x86.state import RAX, RCX, RDI, RDX, RSI, RSP, STATUS_FLAGS

_STATUS = int(STATUS_FLAGS)
_IMPLICIT = {
    "mul": (RAX, RDX), "imul": (RAX, RDX), "mulx": (RDX,), "cmpxchg": (RAX,),
    "cmpxchg8b": (RAX, RCX, RDX), "pcmpestri": (RAX, RDX), "pcmpestrm": (RAX, RDX),
}  # fmt: skip
"""The registers among those taken that an instruction has as operands without naming them."""

_NOT_WAITING = ("fnstcw", "fnstsw")
_PENDING, _MASKS = 0x80, 0x3F


@dataclass(frozen=True, slots=True)
class _Roles:
    # Registers by what they do: those of the instruction among the taken ones, the one that leads
    # to the record, one that nobody needs, and those that stand in for others in it.
    used: tuple[int, ...]
    base: int
    spare: int
    substitutes: dict[int, int]


def compile_cell(out: Encoder, insn: Instruction, number: int, common: CommonCode) -> None:
    """Append the thunk. RAX is where the window has the device."""
    form, width = insn.form, insn.width
    assert form is not None
    reads, writes = reads_and_writes(insn)
    roles = _roles(insn)
    flags = form.unit is Unit.INTEGER or bool(form.changed)
    _check(out, insn, common)
    name_site(out, number)
    for at, size in pieces(width) if reads else ():
        out.load(RCX, RAX, at, size)
        out.store(RDI, READ + at, RCX)
        out.store(RDI, WRITTEN + at, RCX)
    _give_registers(out, insn, roles, flags)
    out.raw(rewritten(insn, roles.base, WRITTEN, roles.substitutes))
    if flags:
        _keep_flags(out, roles.spare)
    if RSP in roles.substitutes:
        out.store(RSP, STACK, roles.substitutes[RSP])
    for register in roles.used:
        out.raw(bytes([0x50 | register]))  # push
    if roles.base != RDI:
        out.move(RDI, roles.base)
    out.add(RSP, RIP + 8 * len(roles.used), insn.length)
    commit(out)
    if writes:
        send(out, width)
    go_on_with(out, list(roles.used))


def _roles(insn: Instruction) -> _Roles:
    form = insn.form
    assert form is not None
    used = {
        operand.number
        for operand in insn.operands
        if isinstance(operand, Register) and operand.file is File.GPR
    } | set(_IMPLICIT.get(form.operation, ()))
    # RSP is the fault's own here.
    replaced = {RSP} & used
    if _is_bit_string(insn):
        bit_number = insn.operands[1]
        assert isinstance(bit_number, Register)
        replaced = {bit_number.number}
    used -= replaced
    # RDI stays the record if the instruction leaves it alone.
    free = [register for register in (RDI, RSI, RDX, RCX, RAX) if register not in used]
    base = free.pop(0)
    substitutes = {register: free.pop(0) for register in replaced}
    return _Roles(tuple(r for r in TAKEN if r in used), base, free[0], substitutes)


def _is_bit_string(insn: Instruction) -> bool:
    assert insn.form is not None
    return insn.form.operation.endswith(" string")


def _give_registers(out: Encoder, insn: Instruction, roles: _Roles, flags: bool) -> None:
    # The instruction finds registers and status flags as they were.
    if flags:
        out.load(RCX, RDI, FLAGS, 4)
        out.arithmetic(4, RCX, _STATUS, 4)
        out.raw("51")  # push rcx
    if roles.base != RDI:
        out.move(roles.base, RDI)
    for register in roles.used:
        out.load(register, roles.base, gpr(register))
    for register, substitute in roles.substitutes.items():
        out.load(substitute, roles.base, gpr(register))
        if _is_bit_string(insn):
            # A bit number beyond the operand is in the address already.
            out.arithmetic(4, substitute, 8 * insn.width - 1)
    if flags:
        out.raw("9d")  # popfq


def _keep_flags(out: Encoder, register: int) -> None:
    # The status flags go to the frame; the rest of it stays.
    out.raw(bytes([0x9C, 0x58 | register]))  # pushfq; pop
    out.arithmetic(4, register, _STATUS, 4)
    frame = b"\x81\x64\x24" + bytes([RFLAGS]) + (~_STATUS & 0xFFFFFFFF).to_bytes(4, "little")
    out.raw(b"\x48" + frame)  # and qword ptr [rsp + RFLAGS], ~status
    out.raw(bytes([0x48, 0x09, 0x44 | register << 3, 0x24, RFLAGS]))  # or [rsp + RFLAGS], register


def _check(out: Encoder, insn: Instruction, common: CommonCode) -> None:
    # Refuses what would raise; nothing has been touched yet.
    form = insn.form
    assert form is not None
    if form.aligned:
        out.raw(b"\xa9" + (insn.width - 1).to_bytes(4, "little"))  # test eax, width - 1
        out.branch(NOT_EQUAL, common.refuse)
    if form.unit not in (Unit.X87, Unit.MMX) or form.name in _NOT_WAITING:
        return
    out.raw("dfe0")  # fnstsw ax
    out.raw(bytes([0xA8, _PENDING]))  # test al, ES
    out.branch(NOT_EQUAL, common.refuse)
    if form.unit is Unit.X87 and form.name != "fldcw":
        out.raw(b"\xd9\xbf" + WRITTEN.to_bytes(4, "little"))  # fnstcw [rdi + WRITTEN]
        out.load(RAX, RDI, WRITTEN, 1)
        out.raw(bytes([0xF7, 0xD0, 0xA8, _MASKS]))  # not eax; test al, masks
        out.branch(NOT_EQUAL, common.refuse)
    out.load(RAX, RDI, ALIAS)
