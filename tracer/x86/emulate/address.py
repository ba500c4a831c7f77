"""Foretell the memory operands of one execution, and the exceptions their addresses raise.

Ref: Intel SDM vol. 1, 3.3.7.1 (canonical addresses), 3.7.5 (effective addresses), 4.1.1
(alignment); vol. 3A, 6.15 (#SS, #GP, #AC); vol. 2A, BT (bit strings).

The debugger shows no base of ES, CS, SS and DS: outside 64-bit mode, too, they are 0 unless a
monitor tells them. Every operating system of today runs compatibility mode flat.
"""

from __future__ import annotations

from dataclasses import replace

from tracer.errors import GuestException, UnsupportedInstruction
from tracer.x86.bus import Operand
from tracer.x86.emulate.mask import SIZES, chosen
from tracer.x86.emulate.unit import require
from tracer.x86.forms import Access, Form, Unit
from tracer.x86.instruction import Immediate, Instruction, Memory, Register
from tracer.x86.state import RAX, RBP, RCX, RSP, CpuState, Flag, Mode

ALIGNMENT_CHECK, GENERAL_PROTECTION, STACK_FAULT = 17, 13, 12

_CR0_AM = 1 << 18
_CR4_LA57 = 1 << 12
_CR4_CET = 1 << 23
_MASK64 = (1 << 64) - 1
_AC = int(Flag.AC)


def effective_address(memory: Memory, insn: Instruction, cpu: CpuState) -> int:
    """Return the offset in its segment that a memory operand names."""
    gpr = cpu.gpr
    address = memory.displacement
    if memory.base is not None:
        address += gpr[memory.base]
    elif memory.rip_relative:
        address += insn.next_rip
    if memory.index is not None:
        address += gpr[memory.index] * memory.scale
    return address & memory.mask


def linear_address(memory: Memory, offset: int, cpu: CpuState) -> int:
    """Add the base of the operand's segment to ``offset``."""
    if memory.segment == "gs":
        offset += cpu.segments.gs_base
    elif memory.segment == "fs":
        offset += cpu.segments.fs_base
    elif cpu.mode is not Mode.LONG:
        offset += base_of(memory.segment, cpu)
    return offset & (_MASK64 if cpu.mode is Mode.LONG else 0xFFFFFFFF)


def base_of(segment: str, cpu: CpuState) -> int:
    """Return the base of ES, CS, SS or DS, which code outside 64-bit mode has added."""
    base: int = getattr(cpu.segments, f"{segment}_base")
    return base


def plan(insn: Instruction, cpu: CpuState) -> tuple[Operand, ...]:
    """Return every memory operand of this execution, in the order of the accesses.

    Addresses are linear, widths in bytes. Of a REP instruction it is one iteration: none when the
    count is 0. A cache-line or prefetch instruction names a byte that is neither read nor written.
    Raise :class:`UnsupportedInstruction` for a form that is left to the CPU, or that needs state
    which is not in ``cpu``, and :class:`GuestException` for what the CPU raises before it walks the
    page tables: #UD, #NM or #MF of a unit, #GP, #SS or #AC of an address.
    """
    form = insn.form
    if form is None or (form.size64 == "f64" and cpu.cr4 & _CR4_CET):
        # With control-flow enforcement on, calls and jumps also touch the shadow stack and the
        # branch tracker (SDM vol. 1, 17.1), which no debugger interface shows.
        raise UnsupportedInstruction(insn.code, insn.text)
    if form.unit is not Unit.INTEGER:
        require(insn, cpu)
    return places(insn, cpu)


def places(insn: Instruction, cpu: CpuState) -> tuple[Operand, ...]:
    """Return the memory operands of a form as :func:`plan` does, whoever carries it out.

    Nothing is asked of the unit that the form needs. Raise :class:`GuestException` for what an
    address deserves.
    """
    form = insn.form
    assert form is not None
    special = _SPECIAL.get(form.operation)
    if special is not None:
        return special(insn, form, cpu)
    operands = []
    for position, memory in enumerate(insn.operands):
        if type(memory) is Memory:
            offset = effective_address(memory, insn, cpu)
            access = form.access if position == 0 else Access.R
            operands.append(_operand(insn, form, memory, offset, access, cpu))
    return tuple(operands)


# Both ends have to be, and in the same half (Intel SDM vol. 1, 3.3.7.1).
def _is_canonical(linear: int, width: int, cpu: CpuState) -> bool:
    bits = 56 if cpu.cr4 & _CR4_LA57 else 47
    return linear >> bits in (0, (1 << 64 - bits) - 1) and not (linear + width - 1 ^ linear) >> bits


def check(
    insn: Instruction, linear: int, width: int, cpu: CpuState,
    *, stack: bool = False, aligned: bool = False, data: bool = True,
) -> None:  # fmt: skip
    """Raise the exception that an access of ``width`` bytes at ``linear`` deserves, if any.

    ``stack`` tells that the segment is SS, ``aligned`` that the instruction insists on alignment;
    without ``data`` it is the target of a jump, which no alignment check applies to.
    """
    if cpu.mode is Mode.LONG and not _is_canonical(linear, width, cpu):
        raise GuestException(insn.code, STACK_FAULT if stack else GENERAL_PROTECTION, 0)
    if aligned and linear % width:
        raise GuestException(insn.code, GENERAL_PROTECTION, 0)
    if (
        data
        and cpu.cpl == 3
        and cpu.rflags & _AC
        and cpu.cr0 & _CR0_AM
        and linear % min(width & -width if width != 10 else 8, 8)
    ):
        raise GuestException(insn.code, ALIGNMENT_CHECK, 0)


def _operand(
    insn: Instruction, form: Form, memory: Memory, offset: int, access: Access, cpu: CpuState
) -> Operand:
    linear = linear_address(memory, offset, cpu)
    if access is not Access.NONE:
        check(insn, linear, memory.width, cpu, stack=memory.segment == "ss", aligned=form.aligned)
    return Operand(
        linear,
        memory.width,
        access is Access.R or access is Access.RW,
        access is Access.W or access is Access.RW,
        insn.lock or form.lock == "always",
    )


def _string(insn: Instruction, form: Form, cpu: CpuState) -> tuple[Operand, ...]:
    # The source of MOVS is read before the destination is written, though named after it.
    if insn.rep is not None and count(insn, cpu) == 0:
        return ()
    operands = []
    for position, memory in enumerate(insn.operands):
        if type(memory) is Memory:
            offset = effective_address(memory, insn, cpu)
            access = form.access if position == 0 else Access.R
            operands.append(_operand(insn, form, memory, offset, access, cpu))
    return tuple(sorted(operands, key=lambda operand: operand.write))


def count(insn: Instruction, cpu: CpuState) -> int:
    """Return what is left to repeat: CX, ECX or RCX by the address size, not the operand size."""
    return cpu.gpr[RCX] & ((1 << 8 * insn.address_size) - 1)


def _bit_string(insn: Instruction, form: Form, cpu: CpuState) -> tuple[Operand, ...]:
    # The bit offset is a signed number of the operand size; the operand that holds the bit is
    # read, however far from the named address (SDM vol. 2A, BT; 3.1.1.9, Bit(BitBase, BitOffset)).
    memory, offset = insn.operands
    assert isinstance(memory, Memory) and isinstance(offset, Register)
    bits = 8 * memory.width
    value = cpu.gpr[offset.number] & ((1 << bits) - 1)
    signed = value - (1 << bits) if value >> (bits - 1) else value
    address = effective_address(memory, insn, cpu) + signed // bits * memory.width
    return (_operand(insn, form, memory, address & memory.mask, form.access, cpu),)


def _xlat(insn: Instruction, form: Form, cpu: CpuState) -> tuple[Operand, ...]:
    (memory,) = insn.operands
    assert isinstance(memory, Memory)
    offset = effective_address(memory, insn, cpu) + (cpu.gpr[RAX] & 0xFF)
    return (_operand(insn, form, memory, offset & memory.mask, Access.R, cpu),)


def _stack(insn: Instruction, cpu: CpuState, linear: int, access: Access) -> Operand:
    # The stack pointer has the width of the mode (16-bit code is not decoded here).
    if cpu.mode is not Mode.LONG:
        linear = (linear & 0xFFFFFFFF) + cpu.segments.ss_base
    linear &= _MASK64 if cpu.mode is Mode.LONG else 0xFFFFFFFF
    check(insn, linear, insn.operand_size, cpu, stack=True)
    return Operand(linear, insn.operand_size, access is Access.R, access is Access.W)


def _push(insn: Instruction, form: Form, cpu: CpuState) -> tuple[Operand, ...]:
    # An operand that RSP addresses is found before RSP is decremented (SDM vol. 2B, PUSH).
    sources = [
        _operand(insn, form, memory, effective_address(memory, insn, cpu), Access.R, cpu)
        for memory in insn.operands
        if isinstance(memory, Memory)
    ]
    return *sources, _stack(insn, cpu, cpu.gpr[RSP] - insn.operand_size, Access.W)


def _pop(insn: Instruction, form: Form, cpu: CpuState) -> tuple[Operand, ...]:
    # An operand that RSP addresses is found after RSP was incremented (SDM vol. 2B, POP).
    top = _stack(insn, cpu, cpu.gpr[RSP], Access.R)
    if not insn.operands or not isinstance(memory := insn.operands[0], Memory):
        return (top,)
    offset = effective_address(memory, insn, cpu)
    if memory.base == RSP:
        offset = (offset + insn.operand_size) & memory.mask
    return top, _operand(insn, form, memory, offset, Access.W, cpu)


def _leave(insn: Instruction, form: Form, cpu: CpuState) -> tuple[Operand, ...]:
    return (_stack(insn, cpu, cpu.gpr[RBP], Access.R),)


def _enter(insn: Instruction, form: Form, cpu: CpuState) -> tuple[Operand, ...]:
    # RBP is pushed; of a nested procedure the outer frames' pointers too, which the frame that RBP
    # points at has below it, and at last the pointer to the new frame (SDM vol. 2A, ENTER). The
    # CPU also asks whether the new top of the stack can be written, without an access.
    size, level = insn.operand_size, nesting(insn)
    top, frame = cpu.gpr[RSP] - size, cpu.gpr[RBP]
    operands = [_stack(insn, cpu, top, Access.W)]
    for n in range(1, level):
        operands.append(_stack(insn, cpu, frame - size * n, Access.R))
        operands.append(_stack(insn, cpu, top - size * n, Access.W))
    if level:
        operands.append(_stack(insn, cpu, top - size * level, Access.W))
    return tuple(operands)


def nesting(insn: Instruction) -> int:
    """Return the nesting level of ENTER: how many pointers to frames it pushes beside RBP."""
    level = insn.operands[1]
    assert isinstance(level, Immediate)
    return level.value & 31


def _move64(insn: Instruction, form: Form, cpu: CpuState) -> tuple[Operand, ...]:
    # The destination is at ES:reg and aligned, the source anywhere (SDM vol. 2B, MOVDIR64B).
    register, memory = insn.operands
    assert isinstance(memory, Memory) and isinstance(register, Register)
    offset = effective_address(memory, insn, cpu)
    source = _operand(insn, form, memory, offset, Access.R, cpu)
    linear = cpu.gpr[register.number] & memory.mask
    if cpu.mode is not Mode.LONG:
        linear = linear + cpu.segments.es_base & 0xFFFFFFFF
    check(insn, linear, 64, cpu, aligned=True)
    return source, Operand(linear, 64, read=False, write=True)


def _masked(insn: Instruction, form: Form, cpu: CpuState) -> tuple[Operand, ...]:
    (memory,) = [operand for operand in insn.operands if isinstance(operand, Memory)]
    access = Access.W if memory is insn.operands[0] else Access.R
    width = SIZES[form.operation] // 8
    offset = effective_address(memory, insn, cpu)
    return tuple(
        _operand(insn, form, replace(memory, width=width), offset + width * number, access, cpu)
        for number in chosen(insn, cpu)
    )


_SPECIAL = {
    **dict.fromkeys(("movs", "cmps", "stos", "lods", "scas", "ins", "outs"), _string),
    **dict.fromkeys(("bt string", "bts string", "btr string", "btc string"), _bit_string),
    "xlat": _xlat,
    **dict.fromkeys(("push", "pushf", "call"), _push),
    **dict.fromkeys(("pop", "ret"), _pop),
    "leave": _leave,
    "enter": _enter,
    "movdir64b": _move64,
    **dict.fromkeys(SIZES, _masked),
}
