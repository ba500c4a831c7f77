"""Breaks on a running guest: which access stops it, and in what words."""

from __future__ import annotations

from tracer.access.decision import Called, Leeway, Pending
from tracer.access.region import RegionMap
from tracer.query.breakpoint import CALLS, Breaks, Checked
from tracer.query.course import Changes
from tracer.query.pending import PendingFacts
from tracer.session.outlook import Outlook
from tracer.trace.record import MemoryAccess


class Watch:
    """Hold the breaks of one guest, and judge each access that is about to be made.

    A :class:`~tracer.session.custody.Custody` asks it, so it takes its place at ``breaks``,
    ``calls``, ``free`` and ``missed`` of it.
    """

    def __init__(self, outlook: Outlook) -> None:
        self.breaks = Breaks()
        self._outlook = outlook
        self._changes = Changes()

    def facts(self, pending: Pending) -> PendingFacts:
        """Return what is known of an access."""
        return self._outlook.facts(pending, self._changes)

    def __call__(self, pending: Pending, answered: bool) -> str | None:
        """Return why to hold the guest at this access, or None; the breaks count it."""
        if not self.breaks.items:
            return None
        return self._told(self.breaks.check(self.facts(pending), answered=answered))

    def called(self, called: Called) -> str | None:
        """Return the same of a call of a confidential guest: it is for ``Custody.calls``."""
        if not any(item.kind in CALLS for item in self.breaks.items):
            return None
        return self._told(self.breaks.check_call(self._outlook.of_call(called)))

    def _told(self, checked: Checked) -> str | None:
        self.breaks = checked.breaks
        words = [str(error) for error in checked.errors]
        words += [f"break {item.number}: {item.text}" for item in checked.stops]
        return "; ".join(words) or None

    def free(self, regions: RegionMap, now_ns: int) -> Leeway:
        """Return which accesses no break may stop the guest at, from a time in ns on."""
        return self.breaks.leeway(regions, now_ns)

    def missed(self, access: MemoryAccess) -> None:
        """Count an access that the breaks were not asked about."""
        direction = access.direction
        self.breaks = self.breaks.passed(None if direction == "unknown" else direction)
