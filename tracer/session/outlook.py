"""Conditions ask this of an access that waits, in one session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from tracer.access.decision import Called, Pending
from tracer.access.space import AddressSpace
from tracer.query.called import CalledFacts
from tracer.query.course import Changes, Marks
from tracer.query.pending import PendingFacts, event_of
from tracer.session.session import Session
from tracer.trace.event import Everything
from tracer.trace.flat import Access, Stacks, flat
from tracer.trace.naming import Naming
from tracer.trace.record import Record
from tracer.x86.state import CpuState

NEED_RECORDS = frozenset(("phase", "mark", "register"))
"""Facts that are known only to who has seen the records so far."""


class Outlook:
    """Know the facts of accesses that wait; ``everything`` tells names and the phase.

    It has to :meth:`take` the records of the session, unless somebody else gives them to
    ``everything`` and ``marks``.
    """

    def __init__(
        self, session: Session, names: Naming, everything: Everything | None = None
    ) -> None:
        self.names = names
        self.everything = everything or Everything(names)
        self.marks = Marks(kept=True)
        self._session = session
        self._stacks = Stacks()

    def take(self, record: Record) -> None:
        """Take the next record: it is a subscriber."""
        self.everything.wanted(record)
        self.marks.add(record)

    def facts(self, pending: Pending, changes: Changes) -> PendingFacts:
        """Return what is known of an access; the stack is unwound only when asked for.

        ``changes`` are those of who asks.
        """

        return PendingFacts(
            pending, register=self.names.name, callers=self._callers(pending.cpu, pending.space),
            phase=self.everything.phase, marks=self.marks, changes=changes,
        )  # fmt: skip

    def of_call(self, called: Called) -> CalledFacts:
        """Return what is known of a call, likewise."""
        callers = self._callers(called.cpu, called.space)
        return CalledFacts(called, callers=callers, phase=self.everything.phase, marks=self.marks)

    def _callers(self, cpu: CpuState, space: AddressSpace) -> Callable[[], Sequence[str]]:
        def callers() -> Sequence[str]:
            stack = self._session.unwind(cpu, space)
            lookup = self._session.names.lookup
            # Code that an interrupt came upon has not called its handler.
            called = takewhile(lambda frame: not frame.interrupted, stack.frames[1:])
            names = (lookup(frame.place, space) for frame in called)
            return [name for name in names if name]

        return callers

    def access(self, facts: PendingFacts) -> Access:
        """Return an access that waits as a flat value; a read that was not answered has none."""
        event = event_of(facts.pending, facts.named, self.everything.phase)
        return flat(event, self._stacks)
