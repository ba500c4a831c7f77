"""The accesses of a trace file that a command's filters want."""

from __future__ import annotations

from collections.abc import Iterator

from tracer.command.filters import check_names
from tracer.fold import Event
from tracer.register import Named, RegisterMap, RegisterMaps
from tracer.selection import Selection, Sieve
from tracer.trace import Intercept, MemoryAccess, Record, RegionRecord, UserRecord
from tracer.tracefile import TraceReader


class Source:
    """Iterate over the records of a trace, each with those of its accesses that are wanted.

    What a person did, and the filters leave out, does not come.

    ``shown`` counts these; after ``limit`` of them the iteration ends. ``regions`` has the names of
    the regions met so far; ``maps`` name the registers.
    """

    def __init__(
        self,
        trace: TraceReader,
        chosen: Selection,
        maps: RegisterMaps,
        limit: int | None = None,
    ) -> None:
        self.trace = trace
        self.regions: set[str] = set()
        self.shown = 0
        self.limit = limit
        self._sieve = Sieve(chosen, maps)

    @property
    def phase(self) -> str | None:
        """Return the phase of the last record, None while it is unknown."""
        return self._sieve.phase

    @property
    def named(self) -> list[Named | None]:
        """Return the registers of the accesses last given, in their order."""
        return self._sieve.named

    def __iter__(self) -> Iterator[tuple[Record, list[tuple[int, MemoryAccess]]]]:
        for record in self.trace:
            if isinstance(record, RegionRecord):
                self.regions.add(record.region.name)
            elif isinstance(record, Intercept):
                self.regions.update(a.region for a in record.accesses if a.region is not None)
            wanted = self._sieve.wanted(record)
            if isinstance(record, UserRecord) and not self._sieve.wanted_user(record):
                continue
            if self.limit is not None:
                wanted = wanted[: self.limit - self.shown]
            self.shown += len(wanted)
            yield record, wanted
            if self.shown == self.limit:
                return

    def events(self) -> Iterator[Event]:
        """Yield each access that is wanted."""
        for item in self.items():
            if isinstance(item, Event):
                yield item

    def items(self) -> Iterator[Event | UserRecord]:
        """Yield each access that is wanted, and what a person did between them."""
        for record, wanted in self:
            if isinstance(record, Intercept):
                for (seq, access), named in zip(wanted, self.named, strict=False):
                    yield Event(seq, record, access, self._sieve.phase, named)
            elif isinstance(record, UserRecord):
                yield record

    def register_maps(self) -> dict[str, RegisterMap | None]:
        """Return the regions met so far, each with the map of its registers if it has one."""
        return {region: self._sieve.map_of(region) for region in self.regions}

    def named_region(self, pattern: str, region: str) -> bool:
        """Tell whether a pattern names a region, as far as the trace has told of it."""
        return self._sieve.regions.named(pattern, region)

    def check_names(self) -> None:
        """Raise :exc:`UsageError` when the trace, read to its end, has no region or register so."""
        chosen, trace = self._sieve.selection, self.trace.name
        check_names(chosen, self.register_maps(), self.named_region, trace)
