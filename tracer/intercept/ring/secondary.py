"""Stops of vCPUs on their way into the monitor, and in it where the ring has no room."""

from __future__ import annotations

from tracer.access.stop import Stopped
from tracer.access.want import WatchReads
from tracer.intercept.journal import Journal
from tracer.intercept.ring.monitor import Monitor
from tracer.intercept.trap import GoOn, Handled, OnePlace


class FullRing:
    """Take the stop of a vCPU in its monitor that finds no room for a record.

    Records are taken at every stop, so there is room when it goes on: meanwhile neither the guest's
    time passes, which it may be measuring its clocks by, nor does a processor turn in a loop.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._place: int | None = None

    async def begin(self, inside: Monitor) -> None:
        """Have the vCPUs of this monitor stop, unless they are to turn in a loop."""
        if inside.halts_when_full:
            self._place = inside.full
            await WatchReads(inside.await_room())

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a vCPU stands there."""
        return stop.address is not None and stop.address == self._place

    async def handle(self, stop: Stopped) -> Handled:
        """Count it."""
        self._journal.counts["full rings"] += 1
        return GoOn()


class Secondary(OnePlace):
    """Take the stop of a vCPU that another one has started: it enters the monitor there.

    ``inside`` is that, None before there is room for one, and ``full`` the trap of its ring.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.inside: Monitor | None = None
        self.full = FullRing(journal)
        self._journal = journal

    async def begin(self, inside: Monitor) -> None:
        """Have vCPUs enter this monitor, which is in place."""
        self.inside = inside
        await self.full.begin(inside)

    async def handle(self, stop: Stopped) -> Handled:
        """Enter, and let the guest go on."""
        self._journal.counts["hooks"] += 1
        if self.inside is not None:
            await self.inside.enter()
        return GoOn()
