"""Carry out one instruction: a generator from its accesses to the next CPU state.

``plan`` foretells the memory operands, ``execute`` performs the instruction. Both work on values:
nothing here knows of a guest, a page or a device, and nothing is committed before the end, so any
access may fail and the instruction be started again.
"""

from __future__ import annotations

from tracer.x86.emulate import (
    arithmetic,
    atomic,
    bit,
    cipher,
    division,
    mask,
    packed,
    search,
    shift,
    shuffle,
    special,
    stack,
    string,
    vector,
    x87,
)
from tracer.x86.emulate.access import Emulation, Plan, Run
from tracer.x86.emulate.address import plan
from tracer.x86.emulate.evaluate import evaluator
from tracer.x86.emulate.vector import vectors
from tracer.x86.forms import CONDITIONS
from tracer.x86.instruction import Immediate, Instruction
from tracer.x86.state import RCX, CpuState

__all__ = ("Emulation", "execute", "plan", "undefined_flags")

_RUN: dict[str, Run] = {
    **{
        name: evaluator(operation)
        for name, operation in (
            arithmetic.OPERATIONS
            | arithmetic.conditional(CONDITIONS)
            | bit.OPERATIONS
            | shift.OPERATIONS
        ).items()
    },
    **{
        name: vectors(operation)
        for name, operation in (
            vector.OPERATIONS | packed.OPERATIONS | shuffle.OPERATIONS | cipher.OPERATIONS
        ).items()
    },
    **atomic.RUN,
    **division.RUN,
    **string.RUN,
    **stack.RUN,
    **special.RUN,
    **shuffle.RUN,
    **search.RUN,
    **mask.RUN,
    **x87.RUN,
}


def execute(insn: Instruction, cpu: CpuState, operands: Plan | None = None) -> Emulation:
    """Begin to execute one instruction, or one iteration of a REP instruction.

    Each memory operand comes once, whole, as :class:`Load` or :class:`Store` at a linear address,
    and an I/O port as :class:`In` or :class:`Out`; what reads is answered with the little-endian
    integer read. In the state afterwards RIP stays at a REP instruction while iterations remain.
    ``cpu`` itself is unchanged. ``operands`` are what :func:`plan` returned for both, if it has
    been asked.

    Raise what :func:`plan` raises; once under way :class:`GuestException` for #DE and for a jump
    to a non-canonical address, after the load that shows it.
    """
    if operands is None:
        operands = plan(insn, cpu)
    assert insn.form is not None  # or plan would have raised
    return Emulation(_RUN[insn.form.operation](insn, cpu, operands))


def undefined_flags(insn: Instruction, cpu: CpuState) -> int:
    """Return the RFLAGS bits that this very execution leaves undefined.

    The table has them by form; of shifts and rotates they depend on the count too.
    """
    form = insn.form
    if form is None:
        return 0
    if form.operation not in shift.COUNTED:
        return int(form.undefined)
    last = insn.operands[-1]
    count = last.value if isinstance(last, Immediate) else cpu.gpr[RCX] & 0xFF
    return shift.undefined(form.operation, 8 * insn.width, count)
