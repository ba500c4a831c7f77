"""Breaks on a running guest: which access stops it, and in what words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from tracer.access.decision import Pending
from tracer.access.region import RegionMap
from tracer.query.breakpoint import Breaks, Until
from tracer.query.course import Changes, Marks
from tracer.query.pending import PendingFacts
from tracer.session.control import Control
from tracer.trace.naming import Naming


class Watch:
    """Hold the breaks of one control, and judge each access that is about to be made.

    A :class:`~tracer.session.control.Control` asks it, so it takes its place at ``control.breaks``
    and ``control.places``.
    """

    def __init__(self, control: Control, names: Naming) -> None:
        self.breaks = Breaks()
        self.phase: Callable[[], str | None] = lambda: None
        self.marks = Marks(kept=True)
        self._changes = Changes()
        self._control = control
        self._names = names

    def facts(self, pending: Pending) -> PendingFacts:
        """Return what is known of an access; the stack is unwound only when asked for."""

        def callers() -> Sequence[str]:
            stack = self._control.session.unwind(pending.cpu, pending.space)
            lookup = self._control.session.names.lookup
            # Code that an interrupt came upon has not called its handler.
            called = takewhile(lambda frame: not frame.interrupted, stack.frames[1:])
            names = (lookup(frame.place, pending.space) for frame in called)
            return [name for name in names if name]

        return PendingFacts(
            pending, register=self._names.name, callers=callers, phase=self.phase(),
            marks=self.marks, changes=self._changes,
        )  # fmt: skip

    def __call__(self, pending: Pending, answered: bool) -> str | None:
        """Return why to hold the guest at this access, or None; the breaks count it."""
        if not self.breaks.items:
            return None
        checked = self.breaks.check(self.facts(pending), answered=answered)
        self.breaks = checked.breaks
        words = [str(error) for error in checked.errors]
        words += [f"break {item.number}: {item.text}" for item in checked.stops]
        return "; ".join(words) or None

    def places(self, regions: RegionMap) -> Sequence[range] | None:
        """Return the physical addresses at which a break may stop the guest, None for any."""
        return self.breaks.places(regions)

    def until(self, until: Until) -> Callable[[Pending], bool]:
        """Return what tells whether an access is where the guest may run to."""
        return lambda pending: until.reached(self.facts(pending))
