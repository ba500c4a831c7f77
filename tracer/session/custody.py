"""Custody of a guest: it is held where that is wanted, and its host is asked everywhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from tracer.access.decision import (
    MOST_ACCESSES,
    NO_LEEWAY,
    Called,
    Decision,
    Go,
    Leeway,
    Pending,
    Retry,
    Ruling,
    Skip,
)
from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Reason as LoopReason
from tracer.errors import GuestHung, UsageError
from tracer.session.course import (
    INTERRUPTED,
    Course,
    Departure,
    Ended,
    Halt,
    Leaving,
    Redoing,
    Skipping,
    Standing,
    Stepping,
    ToHandler,
    Unstarted,
    Until,
    halt_at,
    halt_at_call,
    nearer,
    why_stand,
)
from tracer.session.host import Host
from tracer.session.outlook import Outlook
from tracer.session.session import Session
from tracer.trace.record import Intercept, MemoryAccess, Record
from tracer.x86.state import CpuState

Wanted = Callable[[Pending, bool], str | None]
"""Tells why to hold a guest at an access, None to let it pass; the second argument says whether
the device of a read has answered."""

Calls = Callable[[Called], str | None]
"""Tells the same of a call of a confidential guest."""

SILENCE_NS = 100_000_000
"""How long a guest may make no access, by its own clock, before it is stopped where it is: one that
goes on to a time stands before the same access in each run, if there is one so soon."""

Free = Callable[[RegionMap, int], Leeway]
"""Tells which accesses a guest may make without anybody being asked, from a time in ns on."""


class Custody:
    """Oversee one guest, as :class:`tracer.session.driver.Overseer`.

    ``breaks`` is asked about every access that they may want: ``free`` tells which those are not,
    and ``missed`` is told of those; ``calls`` about each call of a confidential guest. ``course``
    is what the guest is on its way to, ``on_halt`` holds who is told that it stands.
    """

    def __init__(self, session: Session, breaks: Wanted) -> None:
        self._session = session
        session.oversee(self)
        self.breaks = breaks
        self.calls: Calls = lambda called: None
        self.free: Free = lambda regions, now_ns: NO_LEEWAY
        self.missed: Callable[[MemoryAccess], None] = lambda access: None
        self.host = Host(session, Outlook(session, session.naming), session.system.kind)
        self.on_halt: list[Callable[[Halt], None]] = []
        self.course: Course = Unstarted()
        self._changed = asyncio.Event()
        self._silent_from = 0
        session.subscribers.append(self._passed)

    # ---- where it is

    def enter(self, course: Course) -> None:
        """Have the guest be on another course."""
        self.course = course
        self._silent_from = 0
        self._changed.set()

    async def wait(self) -> Halt | None:
        """Wait until the guest stands; None once it has ended."""
        while not isinstance(self.course, Standing | Ended):
            self._changed.clear()
            await self._changed.wait()
        return self.halt

    @property
    def halt(self) -> Halt | None:
        """Return where the guest stands; None while it does not."""
        return self.course.halt if isinstance(self.course, Standing) else None

    def standing(self) -> Standing:
        """Return how the guest stands. Raises UsageError when it does not."""
        match self.course:
            case Standing() as standing:
                return standing
            case Unstarted():
                raise UsageError("the guest has not been started")
            case Leaving():
                raise UsageError("the guest runs on without vetrace: nothing of it can be reached")
            case Ended(outcome):
                raise UsageError(f"the guest has ended ({outcome})")
        raise UsageError("the guest is running: interrupt it first")

    # ---- what the session asks

    @property
    def wants_halt(self) -> bool:
        """Tell whether to hold the guest at the handler of an exception."""
        return isinstance(self.course, ToHandler | Redoing)

    @property
    def wants_clock(self) -> bool:
        """Return that a person may look at the clock."""
        return True

    def is_due(self, time_ns: int) -> bool:
        """Tell whether the time that the guest goes on to has come, and no access for long."""
        match self.course:
            case Until(time_ns=int(wanted)) if time_ns >= wanted:
                self._silent_from = self._silent_from or time_ns
                return time_ns - self._silent_from >= SILENCE_NS
        return False

    async def before(self, pending: Pending) -> Decision:
        """Hold the guest before an access that is wanted."""
        match self.course:
            case Leaving():
                return Go()
            case Skipping() if pending.done:
                return Skip()
        # A break counts its hits, so it is asked first.
        why = self.breaks(pending, False)
        if not pending.continues:
            self.course = nearer(self.course)
            why = why_stand(self.course, pending, why, interrupting=self._session.interrupting)
        decision: Decision = Go()
        if why is not None:
            decision = (await self._hold(halt_at(pending, "access", why))).decision
        if not isinstance(decision, Go) or isinstance(self.course, Leaving):
            return decision
        return self.host.before(pending) or decision

    def where(self, regions: RegionMap) -> Leeway:
        """Return where the guest may have to be held, and how far away that is at least."""
        course = self.course
        if isinstance(course, Leaving):
            return Leeway()
        if self._session.interrupting or isinstance(course, Redoing | Skipping | ToHandler):
            return NO_LEEWAY
        free = self.free(regions, self._session.view.time_ns).within(self.host.leeway(regions))
        match course:
            case Stepping(left):
                records = (left - 1) // MOST_ACCESSES
                return free.within(Leeway(records=records, inputs=regions.every_input))
            case Until(time_ns=int(time_ns)):
                return free.within(Leeway(until_ns=time_ns))
            case Until(places=places):
                return free.within(Leeway(places(regions), inputs=regions.every_input))
        return free

    def _passed(self, record: Record) -> None:
        # Nobody was asked about an access that the guest has made by itself.
        if isinstance(record, Intercept) and record.via == "compiled":
            for _, access in record.device_accesses():
                self.course = nearer(self.course)
                self.missed(access)

    async def answered(self, pending: Pending) -> Go | Ruling:
        """Hold the guest where the value that a device gave is wanted."""
        why = None if isinstance(self.course, Leaving) else self.breaks(pending, True)
        if why is not None:
            decision = (await self._hold(halt_at(pending, "answered", why))).decision
            if isinstance(decision, Ruling):
                return decision
        if isinstance(self.course, Leaving):
            return Go()
        return self.host.answered(pending) or Go()

    async def called(self, called: Called) -> Go | Ruling | Retry:
        """Hold the guest at a call that is wanted; return what the host says to it."""
        if isinstance(self.course, Leaving):
            return Go()
        why = self.calls(called)
        if isinstance(self.course, Redoing):
            why = self.course.text
        if why is not None:
            decision = (await self._hold(halt_at_call(called, why))).decision
            if isinstance(decision, Ruling | Retry):
                return decision
        return self.host.called(called.request) or Go()

    async def completed(self, cpu: CpuState) -> CpuState:
        """Hold the guest behind an instruction that was skipped or has been changed."""
        match self.course:
            case Skipping(behind) | Redoing(behind=behind):
                return (await self._hold(replace(behind, cpu=cpu))).cpu
        return cpu

    async def halted(
        self, reason: LoopReason, vcpu: int, cpu: CpuState, space: AddressSpace
    ) -> None:
        """Hold the guest where no access waits."""
        words = {"interrupt": INTERRUPTED, "fault": "the exception is delivered"}
        text = words.get(reason, reason)
        match self.course:
            case Until(text=goal) if self.is_due(self._session.view.time_ns):
                text = goal
        await self._hold(Halt(reason, text, None, cpu, space, vcpu, self._session.view.time_ns))

    def expire(self) -> None:
        """Hold the guest no longer: its time is over."""
        match self.course:
            case Standing(departure=departure) if not departure.done():
                departure.set_exception(GuestHung())

    async def _hold(self, halt: Halt) -> Departure:
        self._session.interrupting = False
        departure: asyncio.Future[Departure] = asyncio.get_running_loop().create_future()
        self.enter(Standing(halt, departure))
        for tell in self.on_halt:
            tell(halt)
        if self._session.expired:
            self.expire()
        return await departure
