"""One instruction explained: what it accesses, who handles it, and what exactly it would do."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Literal

from tracer.confidential.handler import PROFILES, Verdict, judge
from tracer.errors import GuestException, UsageError
from tracer.look.operand import memories
from tracer.x86.bus import In, Load, MemoryAccess, Store
from tracer.x86.emulate import execute, undefined_flags
from tracer.x86.emulate.address import effective_address, linear_address
from tracer.x86.forms import Access
from tracer.x86.hidden import on_hidden_registers
from tracer.x86.instruction import Instruction, Memory, Touch
from tracer.x86.state import GPR, CpuState

Handled = Literal["emulated", "stepped", "carried out", "none"]
"""Who carries an instruction out: the emulator, the vCPU itself, the monitor that the guest runs
inside, or nobody: it has no access."""

EXCEPTIONS = {
    0: "#DE", 6: "#UD", 7: "#NM", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 19: "#XM",
}  # fmt: skip
"""Exceptions by vector (Intel SDM vol. 3A, table 6-1)."""

_MOST_ITERATIONS = 65_536


def touches(insn: Instruction) -> tuple[Touch, ...]:
    """Return the accesses of an instruction, or of one iteration of a REP instruction, in order."""
    if insn.form is None:
        return insn.touches
    operands = memories(insn)
    reads = [Touch("read", memory.width, memory) for memory, how in operands if Access.R in how]
    writes = [Touch("write", memory.width, memory) for memory, how in operands if Access.W in how]
    return (*reads, *writes)


def touch_words(touch: Touch) -> str:
    """Say in words what an access is: ``read 4 bytes``, ``write up to 64 bytes``."""
    if touch.direction == "unknown":
        return "not known: it depends on the CPU"
    if touch.width is None:
        return f"{touch.direction} of a width that the instruction alone does not tell"
    amount = f"{touch.width} bytes"
    if touch.lanes is not None:
        return f"{touch.direction} up to {touch.lanes.count} times {amount}"
    return f"{touch.direction} {'up to ' if touch.some else ''}{amount}"


def handled(insn: Instruction) -> Handled:
    """Return who carries the instruction out when it touches a traced device."""
    if not touches(insn):
        return "none"
    return "emulated" if insn.form is not None else "stepped"


def stepped_live(insn: Instruction) -> bool:
    """Tell whether a live guest's own vCPU has to carry out what the emulator could."""
    return on_hidden_registers(insn)


def verdicts(insn: Instruction, *, cpl: int = 0, linear: int | None = None) -> dict[str, Verdict]:
    """Return what every profile's handler would do, by the profile's name.

    The arguments are those of :func:`tracer.confidential.handler.judge`.
    """
    found = touches(insn)
    if not found and insn.form is None:
        return dict.fromkeys(PROFILES, Verdict("none", "touches no memory"))
    if found and all(touch.direction == "unknown" for touch in found):
        return dict.fromkeys(
            PROFILES, Verdict("unknown", "cannot tell: whether it touches memory is not known")
        )
    return {
        name: judge(profile, insn, cpl=cpl, linear=linear) for name, profile in PROFILES.items()
    }


def address(insn: Instruction, cpu: CpuState, known: Container[str]) -> int | None:
    """Return the linear address of the first memory operand.

    None when it depends on a register that is not among ``known``, by name.
    """
    memory = next((o for o in insn.operands if isinstance(o, Memory)), None)
    if memory is None:
        return None
    needed = [GPR[number] for number in (memory.base, memory.index) if number is not None]
    if memory.segment in ("fs", "gs"):
        needed.append(f"{memory.segment}_base")
    if not all(name in known for name in needed):
        return None
    return linear_address(memory, effective_address(memory, insn, cpu), cpu)


@dataclass(frozen=True, slots=True)
class Result:
    """Hold what an execution did: accesses of memory in order with their values, and the state.

    ``exception`` is what the CPU would raise instead of going on; then ``cpu`` is as before.
    ``undefined`` are the RFLAGS bits that the manuals leave open. ``iterations`` counts those of
    a REP instruction, 1 for all others.
    """

    cpu: CpuState
    accesses: tuple[tuple[MemoryAccess, int], ...]
    undefined: int = 0
    iterations: int = 1
    exception: GuestException | None = None


def perform(insn: Instruction, cpu: CpuState, loads: Sequence[int]) -> Result:
    """Carry out an instruction to its end, answering its loads in order, and a port's reads.

    Raise :class:`UsageError` when there are too few or too many of them, and
    :class:`UnsupportedInstruction` for an instruction that is left to the CPU.
    """
    answers = list(loads)
    accesses: list[tuple[MemoryAccess, int]] = []
    before, undefined, iterations = cpu, 0, 0
    while iterations < _MOST_ITERATIONS:
        undefined |= undefined_flags(insn, cpu)
        try:
            emulation = execute(insn, cpu)
            for access in emulation:
                match access:
                    case Load():
                        answer = emulation.answer = _answer(
                            f"access {len(accesses) + 1} loads {access.width} bytes from "
                            f"{access.linear:#x}", access.width, answers,
                        )  # fmt: skip
                        accesses.append((access, answer))
                    case Store():
                        accesses.append((access, access.value))
                    case In():
                        what = f"{access.width} bytes are read from port {access.port:#x}"
                        emulation.answer = _answer(what, access.width, answers)
        except GuestException as error:
            return Result(cpu, tuple(accesses), undefined, iterations, error)
        cpu = emulation.after
        iterations += 1
        if insn.rep is None or cpu.rip != before.rip:
            break
    else:
        raise UsageError(f"more than {_MOST_ITERATIONS:,} iterations: set rcx to fewer")
    if answers:
        raise UsageError(
            f"{len(answers)} of {len(loads)} loads are left over: {insn.text} loads no more"
        )
    return Result(cpu, tuple(accesses), undefined, iterations)


def _answer(what: str, width: int, answers: list[int]) -> int:
    if not answers:
        raise UsageError(f"{what}: give the value with --load")
    value = answers.pop(0)
    if value >> 8 * width:
        raise UsageError(f"--load {value:#x} does not fit the {width} bytes loaded")
    return value
