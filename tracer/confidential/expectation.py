"""A trial on a guest's own handler is foretold, and what came of it is held to that.

Two things are foretold: what the CPU makes of the instruction, which a guest should not be able to
tell from its handler's work, and what the handler makes of it, which it is held to exactly. In what
these two differ the verdict has to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.confidential.agreement import AGREED, Agreement, compared
from tracer.confidential.handler import Member, Profile, Verdict, judge
from tracer.confidential.handling import Handled, handled
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
    after, value = _executed(trial)
    differs: set[Member] = set()
    if work.direction == "write" and (work.value != value or work.known >> 8 * work.width - 1 == 0):
        differs.add("value")
    if work.cpu.gpr != after.gpr:
        differs.add("registers")
    return Expected(verdict, work, after, compared(frozenset(differs), verdict))


def differences(trial: Trial, expected: Expected, came: Came, physical: int) -> list[str]:
    """Return in what differs that came of a trial, each in words; an empty list where nothing does.

    ``physical`` is where the operand begins, as the guest was told, without the shared bit.
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
    if len(came.asked) != 1:
        return [*found, f"{len(came.asked)} hypercalls, not one"]
    return found + _call(work, came.asked[0], physical) + _state(trial, work.cpu, came.cpu)


def _call(work: Handled, asked: Mmio, physical: int) -> list[str]:
    found = []
    if asked.direction != work.direction:
        found.append(f"direction {asked.direction}, not {work.direction}")
    if asked.width != work.width:
        found.append(f"width {asked.width}, not {work.width}")
    if asked.physical != physical:
        found.append(f"physical {asked.physical:#x}, not {physical:#x}")
    if work.value is not None and ((asked.value or 0) ^ work.value) & work.known:
        found.append(f"value {asked.value or 0:#x}, not {work.value:#x}")
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


def _executed(trial: Trial) -> tuple[CpuState, int | None]:
    # Runs the instruction as the CPU does: the state after it, and what it writes.
    emulation, value = execute(trial.insn, trial.cpu), None
    for access in emulation:
        if isinstance(access, Load):
            emulation.answer = trial.answer & (1 << 8 * access.width) - 1
        elif isinstance(access, Store):
            value = access.value & (1 << 8 * access.width) - 1
    return emulation.after, value


def _words(asked: Mmio) -> str:
    told = "" if asked.value is None else f": {asked.value:#x}"
    return f"{asked.direction} {asked.physical:#x}, {asked.width} bytes{told}"
