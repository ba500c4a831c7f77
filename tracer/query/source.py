"""The accesses of a trace file that filters want."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from tracer.devices.map import RegisterMaps
from tracer.query.roster import Roster, check_selection
from tracer.query.sieve import Sieve
from tracer.query.words import Selection
from tracer.trace.call import SharedRecord, TdcallRecord, VmgexitRecord
from tracer.trace.event import Event, Events, Note
from tracer.trace.loss import Losses
from tracer.trace.marker import is_marker
from tracer.trace.met import Met
from tracer.trace.queue import QueueRecord
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept, LostRecord, Mark, Record, UserRecord
from tracer.trace.waiting import WaitRecord

_LATELY = 1 << 16
"""Accesses behind which what one of them told of a queue may come: more than a ring holds."""


class Source:
    """Iterate over the records of a trace, each with the events of it that are wanted.

    What the filters leave out of a person's doing, of markers and of losses does not come.

    ``shown`` counts the accesses, ``losses`` the events that a log lost between them; after
    ``limit`` accesses the iteration ends, but for what these told of queues, which comes later.
    ``met`` has the names that came so far, ``stacks`` the call chains; ``maps`` name the registers,
    and ``course`` is what the trace has come to.
    """

    def __init__(
        self,
        trace: TraceReader,
        chosen: Selection,
        maps: RegisterMaps,
        limit: int | None = None,
    ) -> None:
        self.trace = trace
        self.chosen = chosen
        self.maps = maps
        self.met = Met()
        self.shown = 0
        self._lately: list[int] = []
        self.losses = Losses()
        self.limit = limit
        self.asks_queues = False
        self._sieve = Sieve(chosen, maps)
        self.course = self._sieve.course
        self.stacks = self.course.stacks
        self._events = Events(self._sieve)

    def __iter__(self) -> Iterator[tuple[Record, list[Event]]]:
        return self._chosen(self.trace)

    def kinds(self) -> Iterator[tuple[Record, list[Event], int]]:
        """Yield records as iteration does, those that are alike once, with how many there are.

        :meth:`tracer.trace.reader.TraceReader.kinds` tells which are.
        """
        times = 1

        def records() -> Iterator[Record]:
            nonlocal times
            for record, times in self.trace.kinds(self._sieve.follows):  # noqa: B007  # is told below
                yield record

        for record, events in self._chosen(records()):
            yield record, events, times

    def _chosen(self, records: Iterable[Record]) -> Iterator[tuple[Record, list[Event]]]:
        records = iter(records)
        for record in records:
            events = self._events.add(record)
            self.met.add(record, self._sieve.phase)
            if not isinstance(record, Intercept) and not self._is_wanted(record):
                continue
            if self.limit is not None:
                events = events[: self.limit - self.shown]
            self.shown += len(events)
            if events and self._sieve.chooses:
                self._keep(event.seq for event in events)
            yield record, events
            if self.shown == self.limit:
                yield from ((record, []) for record in self._late(records, events[-1].seq))
                return

    def _late(self, records: Iterator[Record], last: int) -> Iterator[QueueRecord]:
        # Yields what accesses up to the last one have told of queues.
        if not self.asks_queues:
            return
        passed = 0
        for record in records:
            if isinstance(record, QueueRecord):
                if record.seq > last:
                    return
                if self._had(record.seq):
                    yield record
            passed += isinstance(record, Intercept)
            if passed > _LATELY:
                return

    def _keep(self, numbers: Iterable[int]) -> None:
        self._lately += numbers
        if len(self._lately) > 2 * _LATELY:
            del self._lately[:-_LATELY]

    def _had(self, seq: int) -> bool:
        # Tells whether the access of a number was wanted: what a doorbell told comes behind it.
        if not self._sieve.chooses:
            return True
        at = bisect_left(self._lately, seq)
        return at < len(self._lately) and self._lately[at] == seq

    def _is_wanted(self, record: Record) -> bool:
        # Tells of what stands between accesses, and notes what the events after it tell of.
        if isinstance(record, UserRecord):
            return self._sieve.wanted_user(record)
        if isinstance(record, TdcallRecord | VmgexitRecord | SharedRecord):
            return self._sieve.wanted_call(record)
        if isinstance(record, WaitRecord):
            return self._sieve.wanted_wait(record)
        if isinstance(record, QueueRecord):
            return self._had(record.seq)
        if isinstance(record, Mark | LostRecord):
            if not self._sieve.wanted_note(record):
                return False
            self._events.note(record)
            self.losses.add(record)
        return True

    def events(self) -> Iterator[Event]:
        """Yield each access that is wanted."""
        for _, events in self:
            yield from events

    def items(self, *, queues: bool = False) -> Iterator[Event | Note]:
        """Yield each access that is wanted, and what stands between them.

        That has what doorbells were about if ``queues`` are wanted.
        """
        self.asks_queues = queues
        typed = ""  # the command of a person, whose mark is told by it
        for record, events in self:
            match record:
                case Intercept():
                    yield from events
                    typed = ""
                case Mark() if is_marker(record):
                    if typed != f"mark {record.text}":
                        yield record
                case UserRecord():
                    typed = record.text
                    yield record
                case LostRecord() | TdcallRecord() | VmgexitRecord() | SharedRecord():
                    yield record
                case WaitRecord() if record.awaited:
                    yield record
                case QueueRecord() if queues:
                    yield record
                case _:
                    pass

    @property
    def roster(self) -> Roster:
        """Return what the trace has, as far as it was read, that a condition can name."""
        sieve = self._sieve
        name = self.trace.name
        stretches = tuple((name, each) for each in sieve.course.marks.stretches.values())
        return Roster(
            self.met, name, (sieve.course.regions,), (self.stacks,), stretches,
            sieve.map_of, sieve.can_be_in,
        )  # fmt: skip

    def check_names(self) -> None:
        """Raise :exc:`UsageError` when the trace, read to its end, has not what is asked for.

        That is a region, a function, a register, a mark, or a fact of all accesses.
        """
        # There are such registers: the maps of regions without accesses stay unread.
        check_selection(self._sieve.selection, self.roster, registers=not self.shown)
