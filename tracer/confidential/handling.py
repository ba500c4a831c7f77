"""A guest's handler carries out an instruction that it knows: its hypercall, and the registers.

:mod:`tracer.confidential.handler` says whether a handler knows it, and in words how the result
differs from the CPU's; here is that result, step by step as the handler takes it.

Ref: Linux arch/x86/coco/tdx/tdx.c `handle_mmio`, arch/x86/coco/sev/vc-handle.c `vc_handle_mmio`;
arch/x86/lib/insn-eval.c `insn_get_modrm_reg_ptr`, `get_regno` (a register of a byte is the one
that its number names, with REX or without).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tracer.confidential.handler import Profile, judge
from tracer.x86.bus import Direction
from tracer.x86.emulate import plan
from tracer.x86.instruction import Immediate, Instruction, Memory, Register
from tracer.x86.state import CpuState

STRINGS = ("movs", "ins", "outs")
"""Operations whose handlers fault themselves, where they know them at all."""

_LOW = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Handled:
    """Hold what a handler asks for, and the state when the guest goes on behind the instruction.

    ``linear`` is where the access begins, ``width`` in bytes. ``value`` is what is written, of
    which only the bits of ``known`` follow from the instruction.
    """

    direction: Direction
    linear: int
    width: int
    value: int | None
    known: int
    cpu: CpuState


def handled(profile: Profile, insn: Instruction, cpu: CpuState, answer: int) -> Handled | None:
    """Return what a handler makes of an instruction, None for one that it gives up on.

    ``answer`` is what the host says to a read, of which the handler takes as many bytes as it
    asked for. String instructions are left out, whose handler faults itself: None as well. Raises
    what :func:`tracer.x86.emulate.plan` raises.
    """
    if insn.form is None or insn.form.operation in STRINGS:
        return None
    operands = plan(insn, cpu)
    linear = operands[0].linear if len(operands) == 1 else None
    if linear is None or judge(profile, insn, cpl=cpu.cpl, linear=linear).outcome != "emulated":
        return None
    target, source = insn.operands
    width, mask = insn.width, (1 << 8 * insn.width) - 1
    after = replace(cpu, rip=insn.next_rip)
    if isinstance(target, Memory):
        value, known = _stored(profile, source, cpu, mask)
        return Handled("write", linear, width, value, known, after)
    assert isinstance(target, Register)
    number = _number(target)
    gpr = list(cpu.gpr)
    gpr[number] = _loaded(insn, target, gpr[number], answer & mask)
    return Handled("read", linear, width, None, 0, replace(after, gpr=tuple(gpr)))


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
