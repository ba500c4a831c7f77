"""A guest's handler carries out an instruction that it knows: its hypercall, and the registers.

:mod:`tracer.confidential.handler` says whether a handler knows it, and in words how the result
differs from the CPU's; here is that result, step by step as the handler takes it.

Ref: Linux arch/x86/coco/tdx/tdx.c `handle_mmio`, arch/x86/coco/sev/vc-handle.c `vc_handle_mmio`,
`vc_handle_mmio_movs`; arch/x86/lib/insn-eval.c `insn_get_modrm_reg_ptr`, `get_regno` (a register
of a byte is the one that its number names, with REX or without).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tracer.confidential.handler import Profile, judge
from tracer.x86.bus import Direction
from tracer.x86.emulate import plan
from tracer.x86.instruction import Immediate, Instruction, Memory, Register
from tracer.x86.state import RCX, RDI, RSI, CpuState, Flag

MOST_MOVED = 16
"""Elements of one REP MOVS that are followed; trials have fewer."""

_LOW, _QUADWORD = (1 << 32) - 1, (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Wish:
    """Hold one access that a handler asks for: ``linear`` is where it begins, ``width`` in bytes.

    ``value`` is what is written, of which only the bits of ``known`` follow from the instruction.
    """

    direction: Direction
    linear: int
    width: int
    value: int | None = None
    known: int = 0


@dataclass(frozen=True, slots=True)
class Handled:
    """Hold what a handler asks for, and the state when the guest goes on behind the instruction."""

    wishes: tuple[Wish, ...]
    cpu: CpuState


def handled(profile: Profile, insn: Instruction, cpu: CpuState, answer: int) -> Handled | None:
    """Return what a handler makes of an instruction, None for one that it gives up on.

    ``answer`` is what the host says to each read, of which the handler takes as many bytes as it
    asked for. Of string instructions only MOVS is followed, from one device to another, up to
    :data:`MOST_MOVED` elements: else None as well. Raises what
    :func:`tracer.x86.emulate.plan` raises.
    """
    if insn.form is None or insn.form.operation in ("ins", "outs"):
        return None
    operands = plan(insn, cpu)
    if not operands:
        return None
    linear = operands[0].linear
    if judge(profile, insn, cpl=cpu.cpl, linear=linear).outcome != "emulated":
        return None
    if insn.form.operation == "movs":
        return _moved(insn, cpu, answer)
    if len(operands) != 1:
        return None
    target, source = insn.operands
    width, mask = insn.width, (1 << 8 * insn.width) - 1
    after = replace(cpu, rip=insn.next_rip)
    if isinstance(target, Memory):
        value, known = _stored(profile, source, cpu, mask)
        return Handled((Wish("write", linear, width, value, known),), after)
    assert isinstance(target, Register)
    number = _number(target)
    gpr = list(cpu.gpr)
    gpr[number] = _loaded(insn, target, gpr[number], answer & mask)
    return Handled((Wish("read", linear, width),), replace(after, gpr=tuple(gpr)))


def _moved(insn: Instruction, cpu: CpuState, answer: int) -> Handled | None:
    # The handler takes RSI, RDI and RCX whole, moves one element by instructions of its own, each
    # of which is handled in turn, and starts a REP over while its count is not 0.
    width = insn.width
    value = answer & (1 << 8 * width) - 1
    count = 1 if insn.rep is None else cpu.gpr[RCX]
    if not 0 < count <= MOST_MOVED:
        return None
    gpr, wishes = list(cpu.gpr), []
    for _ in range(count):
        wishes += [
            Wish("read", gpr[RSI], width),
            Wish("write", gpr[RDI], width, value, (1 << 8 * width) - 1),
        ]
        step = -width if cpu.rflags & Flag.DF else width
        gpr[RSI], gpr[RDI] = gpr[RSI] + step & _QUADWORD, gpr[RDI] + step & _QUADWORD
        if insn.rep is not None:
            gpr[RCX] -= 1
    return Handled(tuple(wishes), replace(cpu, gpr=tuple(gpr), rip=insn.next_rip))


def _stored(profile: Profile, source: object, cpu: CpuState, mask: int) -> tuple[int, int]:
    if isinstance(source, Immediate):
        # SEV copies from the immediate's 4 bytes as many as the access has.
        return source.value & mask, mask & _LOW if profile.sev else mask
    assert isinstance(source, Register)
    return cpu.gpr[_number(source)] & mask, mask


def _loaded(insn: Instruction, target: Register, old: int, read: int) -> int:
    form, width = insn.form, insn.width
    assert form is not None
    filled = 0
    size = target.width if form.extension else width
    if form.extension == "sign" and read >> 8 * width - 1:
        filled = -1 << 8 * width
    new = (read | filled) & (1 << 8 * size) - 1
    if width == 4:
        return new  # as the CPU does; what is extended is narrower
    return old & -1 << 8 * size | new


def _number(register: Register) -> int:
    return register.number + 4 if register.high else register.number
