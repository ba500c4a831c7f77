"""The states of a guest under control: where it stands, or what it is on its way to.

::

    Unstarted ──start──> Standing <──────────────────────────────┐
                            │ resume        ──> Running          │ a break, an interruption,
                            │ step          ──> Stepping(n)      │ or what it was on its way to
                            │ run_until     ──> Until(t)         │
                            │ set_register  ──> Redoing          │
                            │ skip          ──> Skipping         │
                            │ inject        ──> ToHandler ───────┘
                            └ detach        ──> Leaving
    from any of them, when the guest ends:  ──> Ended
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tracer.access.decision import Called, Decision, Pending, Ruling
from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Reason as LoopReason
from tracer.trace.event import Event
from tracer.x86.state import CpuState

Places = Callable[[RegionMap], Sequence[range] | None]
"""Tells the physical addresses at which a guest may have to be held, None for any."""


def everywhere(regions: RegionMap) -> None:
    """Return that it may be at any access."""


Reason = LoopReason | Literal["access", "answered", "call", "completed"]


INTERRUPTED = "interrupted"
"""Why a guest stands that a person has stopped."""


@dataclass(frozen=True, slots=True)
class Halt:
    """Say where a guest stands, and why.

    ``text`` is why, for the reader. ``pending`` is the access that waits, None where none does:
    before it (``access``), once its device has answered (``answered``). ``call`` is the call of a
    confidential guest that waits, where one does. ``cpu`` is the state of the interrupted code. The
    vCPU is ``inside`` the monitor where it waits before an input, or has just been given one.
    ``made`` is the access as it was made, where a recording is gone through.
    """

    reason: Reason
    text: str
    pending: Pending | None
    cpu: CpuState
    space: AddressSpace
    vcpu: int
    time_ns: int
    call: Called | None = None
    inside: bool = False
    made: Event | None = None

    @property
    def waits(self) -> bool:
        """Tell whether an access or a call waits."""
        return self.pending is not None or self.call is not None

    @property
    def answered(self) -> bool:
        """Tell whether the device of the access that waits has been read already."""
        return self.reason == "answered"


@dataclass(frozen=True, slots=True)
class Departure:
    """Say with what decision the guest goes on, and from what state."""

    decision: Decision
    cpu: CpuState


@dataclass(frozen=True, slots=True)
class Unstarted:
    """The guest has not been started."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The guest is held until ``departure`` is set; ``ruling`` is what becomes of the access."""

    halt: Halt
    departure: asyncio.Future[Departure]
    ruling: Ruling | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """The guest goes on to the next break."""


@dataclass(frozen=True, slots=True)
class Stepping:
    """The guest goes on to before the access that is so many accesses away."""

    left: int


@dataclass(frozen=True, slots=True)
class Until:
    """The guest goes on to before the first access that is ``wanted``; ``text`` says which.

    That is at one of the ``places``, and not before the guest's time ``time_ns``: one that makes no
    access for long then stands where it is.
    """

    text: str
    wanted: Callable[[Pending], bool]
    places: Places = everywhere
    time_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Redoing:
    """The guest carries an instruction out anew, to stand where it stood, for the same reason.

    It stands ``behind`` the instruction if that reaches no device now, and at the handler if it
    raises an exception.
    """

    text: str
    behind: Halt


@dataclass(frozen=True, slots=True)
class Skipping:
    """The guest completes an instruction without its devices, to stand ``behind`` it."""

    behind: Halt


@dataclass(frozen=True, slots=True)
class ToHandler:
    """The guest goes on to the handler of an exception."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """The guest is out of reach for good."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The guest has ended; ``error`` is None when it ended well."""

    outcome: str
    error: BaseException | None = None


Going = Running | Stepping | Until | Redoing | Skipping | ToHandler | Leaving
Course = Unstarted | Standing | Going | Ended


def halt_at(pending: Pending, reason: Reason, text: str) -> Halt:
    """Return how the guest stands at an access."""
    return Halt(
        reason=reason,
        text=text,
        pending=pending,
        cpu=pending.cpu,
        space=pending.space,
        vcpu=pending.vcpu,
        time_ns=pending.time_ns,
        inside=pending.is_input,
    )


def halt_at_call(called: Called, text: str) -> Halt:
    """Return how the guest stands at a call."""
    return Halt(
        reason="call",
        text=text,
        pending=None,
        cpu=called.cpu,
        space=called.space,
        vcpu=called.vcpu,
        time_ns=called.time_ns,
        call=called,
    )


def nearer(course: Course) -> Course:
    """Return the course once one more access has come up."""
    return replace(course, left=course.left - 1) if isinstance(course, Stepping) else course


def why_stand(
    course: Course, pending: Pending, found: str | None, *, interrupting: bool
) -> str | None:
    """Return why to hold the guest before an access, None to let it pass.

    ``found`` is the reason that a break has, if one does.
    """
    if isinstance(course, Redoing):
        return course.text
    if found is not None:
        return found
    match course:
        case Until(text, wanted) if wanted(pending):
            return text
        case Stepping(left) if left <= 0:
            return "step"
    return INTERRUPTED if interrupting else None
