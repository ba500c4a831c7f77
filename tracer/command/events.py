"""The accesses of a trace file that a command's filters want."""

from __future__ import annotations

from collections.abc import Iterator

from tracer.command.filters import check_region
from tracer.fold import Event
from tracer.selection import Selection, Sieve
from tracer.trace import Intercept, MemoryAccess, Record, RegionRecord
from tracer.tracefile import TraceReader


class Source:
    """Iterate over the records of a trace, each with those of its accesses that are wanted.

    ``shown`` counts these; after ``limit`` of them the iteration ends. ``regions`` has the names of
    the regions met so far.
    """

    def __init__(self, trace: TraceReader, chosen: Selection, limit: int | None = None) -> None:
        self.trace = trace
        self.regions: set[str] = set()
        self.shown = 0
        self.limit = limit
        self._sieve = Sieve(chosen)

    @property
    def phase(self) -> str | None:
        """Return the phase of the last record, None while it is unknown."""
        return self._sieve.phase

    def __iter__(self) -> Iterator[tuple[Record, list[tuple[int, MemoryAccess]]]]:
        for record in self.trace:
            if isinstance(record, RegionRecord):
                self.regions.add(record.region.name)
            elif isinstance(record, Intercept):
                self.regions.update(a.region for a in record.accesses if a.region is not None)
            wanted = self._sieve.wanted(record)
            if self.limit is not None:
                wanted = wanted[: self.limit - self.shown]
            self.shown += len(wanted)
            yield record, wanted
            if self.shown == self.limit:
                return

    def events(self) -> Iterator[Event]:
        """Yield each access that is wanted."""
        for record, wanted in self:
            if isinstance(record, Intercept):
                for seq, access in wanted:
                    yield Event(seq, record, access, self._sieve.phase)

    def check_region(self) -> None:
        """Raise :exc:`UsageError` when the trace, read to its end, has no region of that name."""
        check_region(self._sieve.selection, self.regions, str(self.trace.path))
