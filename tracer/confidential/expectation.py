"""A trial on a guest's own handler is foretold, and what came of it is held to that.

Two things are foretold: what the CPU makes of the instruction, which a guest should not be able to
tell from its handler's work, and what the handler makes of it, which it is held to exactly. In what
these two differ the verdict has to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracer.confidential.agreement import AGREED, Agreement, compared
from tracer.confidential.handler import Member, Profile, Verdict, judge
from tracer.confidential.handling import MOST_MOVED, Handled, Wish, handled
from tracer.confidential.request import Mmio
from tracer.confidential.trial import Trial
from tracer.errors import EmulationError, GuestException
from tracer.x86.bus import Load, Store
from tracer.x86.emulate import execute
from tracer.x86.state import GPR, STATUS_FLAGS, CpuState


@dataclass(frozen=True, slots=True)
class Expected:
    """Hold what is foretold of a trial: the verdict, the handler's work, the CPU's state after it.

    ``handled`` and ``cpu`` are None where the handler gives up. ``agreement`` tells how the two
    differ.
    """

    verdict: Verdict
    handled: Handled | None = None
    cpu: CpuState | None = None
    agreement: Agreement = AGREED


@dataclass(frozen=True, slots=True)
class Came:
    """Hold what came of a trial: the hypercalls, and the state where the guest went on.

    ``cpu`` is None where the handler gave up.
    """

    asked: tuple[Mmio, ...]
    cpu: CpuState | None


def foretold(trial: Trial, profile: Profile) -> Expected:
    """Return what has to come of a trial with a handler."""
    insn, cpu = trial.insn, trial.cpu
    verdict = judge(profile, insn, cpl=cpu.cpl, linear=trial.linear)
    try:
        work = handled(profile, insn, cpu, trial.answer)
    except (EmulationError, GuestException):
        work = None
    if verdict.outcome != "emulated" or work is None:
        return Expected(verdict)
    after, values = _executed(trial)
    differs: set[Member] = set()
    written = [wish for wish in work.wishes if wish.direction == "write"]
    if [wish.value for wish in written] != values or not all(map(_is_whole, written)):
        differs.add("value")
    if work.cpu.gpr != after.gpr:
        differs.add("registers")
    return Expected(verdict, work, after, compared(frozenset(differs), verdict))


def _is_whole(wish: Wish) -> bool:
    return bool(wish.known >> 8 * wish.width - 1)


def differences(
    trial: Trial, expected: Expected, came: Came, physical: Callable[[int], int]
) -> list[str]:
    """Return in what differs that came of a trial, each in words; an empty list where nothing does.

    ``physical`` tells where a linear address is, as the guest was told, without the shared bit.
    """
    unforetold = expected.agreement.unforetold
    found = [f"{', '.join(sorted(unforetold))}: unlike the CPU's, untold"] if unforetold else []
    work = expected.handled
    if work is None:
        if came.cpu is not None:
            found.append(f"carried out, not rejected ({expected.verdict.reason})")
        return found + [f"asked for {_words(asked)}, and not rejected" for asked in came.asked[:1]]
    if came.cpu is None:
        return [*found, f"rejected, not carried out ({expected.verdict.reason})"]
    if len(came.asked) != len(work.wishes):
        return [*found, f"{len(came.asked)} hypercalls, not {len(work.wishes)}"]
    for wish, asked in zip(work.wishes, came.asked, strict=True):
        found += _call(wish, asked, physical(wish.linear))
    return found + _state(trial, work.cpu, came.cpu)


def _call(wish: Wish, asked: Mmio, physical: int) -> list[str]:
    found = []
    if asked.direction != wish.direction:
        found.append(f"direction {asked.direction}, not {wish.direction}")
    if asked.width != wish.width:
        found.append(f"width {asked.width}, not {wish.width}")
    if asked.physical != physical:
        found.append(f"physical {asked.physical:#x}, not {physical:#x}")
    if wish.value is not None and ((asked.value or 0) ^ wish.value) & wish.known:
        found.append(f"value {asked.value or 0:#x}, not {wish.value:#x}")
    return found


def _state(trial: Trial, expected: CpuState, came: CpuState) -> list[str]:
    found = [
        f"{name} {is_:#x}, not {due:#x} (before {was:#x})"
        for name, is_, due, was in zip(GPR, came.gpr, expected.gpr, trial.cpu.gpr, strict=True)
        if is_ != due
    ]
    if came.rip != expected.rip:
        found.append(f"rip {came.rip:#x}, not {expected.rip:#x}")
    if (came.rflags ^ expected.rflags) & STATUS_FLAGS:
        found.append(f"rflags {came.rflags:#x}, not {expected.rflags:#x}")
    return found


def _executed(trial: Trial) -> tuple[CpuState, Sequence[int]]:
    # Runs the instruction as the CPU does, a REP to its end: the state after it, and what it
    # writes.
    cpu, values = trial.cpu, []
    for _ in range(MOST_MOVED):
        emulation = execute(trial.insn, cpu)
        for access in emulation:
            if isinstance(access, Load):
                emulation.answer = trial.answer & (1 << 8 * access.width) - 1
            elif isinstance(access, Store):
                values.append(access.value & (1 << 8 * access.width) - 1)
        cpu = emulation.after
        if cpu.rip != trial.cpu.rip:
            break
    return cpu, values


def _words(asked: Mmio) -> str:
    told = "" if asked.value is None else f": {asked.value:#x}"
    return f"{asked.direction} {asked.physical:#x}, {asked.width} bytes{told}"
