"""Read and write registers of a :class:`CpuState`, each by its architectural merge rule.

Ref: Intel SDM vol. 1, 3.4.1.1 (results of 8, 16 and 32 bits in 64-bit registers), 3.4.3.3
(RF), 3.5.1 (instruction pointer), 14.1.2 and 14.3 (XMM and YMM); AMD APM vol. 1, 3.1.2.
"""

from __future__ import annotations

from dataclasses import fields, replace
from operator import attrgetter

from tracer.x86.instruction import File, Instruction, Register
from tracer.x86.state import CpuState, Flag

Gpr = tuple[int, ...]

MASK = {width: (1 << 8 * width) - 1 for width in (1, 2, 4, 8, 10, 16, 32, 64)}
"""All ones, by width in bytes."""

_NOT_RF = ~int(Flag.RF)
_OTHERS = attrgetter(*[field.name for field in fields(CpuState)][3:])


def read_register(register: Register, cpu: CpuState) -> int:
    """Return a register operand's value: unsigned, of the operand's width."""
    match register.file:
        case File.GPR:
            value = cpu.gpr[register.number]
            return value >> 8 & 0xFF if register.high else value & MASK[register.width]
        case File.XMM:
            low = cpu.xmm[register.number]
            return low if register.width == 16 else low | cpu.ymm[register.number] << 128
        case File.SEGMENT:
            segments = cpu.segments
            return (segments.es, segments.cs, segments.ss, segments.ds, segments.fs, segments.gs)[
                register.number
            ]
        case File.MMX:
            # MM0 is the significand of physical register 0, wherever the stack's top is.
            top = cpu.fpu_status >> 11 & 7
            return cpu.st[register.number - top & 7] & MASK[8]


def merge(gpr: Gpr, number: int, width: int, value: int, high: bool = False) -> Gpr:
    """Return the registers with ``value`` written to ``width`` bytes of one of them.

    A 4-byte result zeroes bits 63:32, a 1- or 2-byte one keeps the other bits; ``high`` writes
    bits 15:8. ``value`` may be wider than ``width``.
    """
    if width == 4:
        value &= 0xFFFFFFFF
    elif width == 8:
        value &= 0xFFFFFFFFFFFFFFFF
    elif width == 2:
        value = gpr[number] & ~0xFFFF | value & 0xFFFF
    elif high:
        value = gpr[number] & ~0xFF00 | (value & 0xFF) << 8
    else:
        value = gpr[number] & ~0xFF | value & 0xFF
    return (*gpr[:number], value, *gpr[number + 1 :])


def write_gpr(gpr: Gpr, register: Register, value: int) -> Gpr:
    """Return the registers with a general-purpose register operand written."""
    return merge(gpr, register.number, register.width, value, register.high)


def write_vector(insn: Instruction, cpu: CpuState, register: Register, value: int) -> CpuState:
    """Return the state with an XMM, YMM or MMX operand written.

    A VEX form zeroes the bits of YMM above what it writes, a legacy SSE form keeps them.
    """
    assert insn.form is not None
    number = register.number
    if register.file is File.MMX:
        # The exponent above the significand becomes all ones.
        cpu = enter_mmx(cpu)
        value = 0xFFFF << 64 | value & MASK[8]
        return replace(cpu, st=(*cpu.st[:number], value, *cpu.st[number + 1 :]))
    xmm = (*cpu.xmm[:number], value & MASK[16], *cpu.xmm[number + 1 :])
    if not insn.form.opcode.vex:
        return replace(cpu, xmm=xmm)
    return replace(cpu, xmm=xmm, ymm=(*cpu.ymm[:number], value >> 128, *cpu.ymm[number + 1 :]))


def enter_mmx(cpu: CpuState) -> CpuState:
    """Return the state after any MMX instruction: the stack's top is 0, and no register empty.

    Ref: Intel SDM vol. 3A, 12.2.
    """
    top = cpu.fpu_status >> 11 & 7
    physical = tuple(cpu.st[number - top & 7] for number in range(8))
    return replace(cpu, st=physical, fpu_status=cpu.fpu_status & ~(7 << 11), fpu_tag=0)


def retire(
    insn: Instruction, cpu: CpuState, gpr: Gpr | None = None, flags: int | None = None
) -> CpuState:
    """Return the state after the instruction: RIP behind it, RF clear.

    ``flags`` holds new RFLAGS values: only the bits that the form defines or leaves undefined are
    taken from it, so that no operation can change another bit.
    """
    rflags = cpu.rflags
    if flags is not None:
        form = insn.form
        assert form is not None
        rflags = rflags & ~form.changed | flags & form.changed
    return CpuState(cpu.gpr if gpr is None else gpr, insn.next_rip, rflags & _NOT_RF, *_OTHERS(cpu))
