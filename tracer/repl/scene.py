"""The scene of a recorded run: its regions, call chains and names, as its trace tells them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracer.access.reenactment import region_of
from tracer.access.region import Region, RegionMap
from tracer.access.stack import Frame, Stack
from tracer.compiled.layout import SLOTS
from tracer.devices.entry import Entry
from tracer.devices.map import RegisterMaps
from tracer.errors import ConditionError, TraceError
from tracer.query.course import Changes, Marks
from tracer.query.facts import Course, Recorded
from tracer.query.place import Known
from tracer.query.source import Source
from tracer.query.tally import Counted, Tally
from tracer.query.words import choose
from tracer.repl.feed import Seen
from tracer.repl.names import known_places
from tracer.repl.trace_names import TraceNames
from tracer.trace.event import Event
from tracer.trace.inputs import KIND_OF_SPACE
from tracer.trace.member import Space
from tracer.trace.name import RegionNames
from tracer.trace.poll import Poll
from tracer.trace.polls import Polls
from tracer.trace.queue import QueueRecord
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept, RegionRecord
from tracer.trace.summary import Summary
from tracer.trace.tape import Kind, Tape
from tracer.trace.uses import RegisterUses, Use, Uses, use_of

_TURN = 256  # records after which others have their turn


@dataclass(frozen=True, slots=True)
class Counts:
    """Hold what is counted of a whole trace."""

    summary: Summary
    uses: RegisterUses


class Scene:
    """Tell what a tape has, as far as it has been read: ``names`` are those of code."""

    def __init__(self, tape: Tape, maps: RegisterMaps) -> None:
        self.names = TraceNames(tape)
        self._tape = tape
        self._maps = maps
        self._counts: Counts | None = None
        self._regions: tuple[int, RegionMap] = 0, RegionMap((), (), ())
        # The owners and marks are learnt as far as the tape has told them.
        self._owners, self._marks, self._learned = RegionNames(), Marks(kept=True), 0

    # ---- devices

    def regions(self, place: int) -> RegionMap:
        """Return where devices were when an access was made."""
        told = [each for each in self._tape.before(place) if isinstance(each, RegionRecord)]
        if self._regions[0] != len(told):
            self._regions = len(told), _region_map(told, self.has_inputs)
        return self._regions[1]

    @property
    def has_inputs(self) -> bool:
        """Tell whether other inputs were recorded beside accesses to memory."""
        return any(
            isinstance(record, RegionRecord) and record.region.space != "memory"
            for _, record in self._tape.told
        )

    def known(self, place: int) -> Known:
        """Return what a person can name, as far as the trace has been read."""
        regions = self.regions(place)
        known = known_places(
            regions,
            self._tape.naming,
            lambda: self.names.functions,
            lambda: self.names.modules,
            lambda: self.names.phases,
        )
        # A trace does not tell which kinds of inputs it was to have.
        return replace(known, ports=regions.ports, inputs=None if self.has_inputs else ())

    # ---- code

    @property
    def has_stacks(self) -> bool:
        """Tell whether call chains were recorded."""
        return bool(self._tape.chains)

    def stack(self, record: Intercept) -> Stack:
        """Return the functions that were under way, as far as they were recorded."""
        told = None if record.stack is None else self._tape.chains.get(record.stack)
        if told is not None:
            frames = (Frame(each.rip, not at) for at, each in enumerate(told.frames))
            return Stack(tuple(frames), told.lost)
        why = "no call chain was recorded with this access (`vetrace boot --stacks` does)"
        return Stack((Frame(record.rip, True),), why)

    # ---- the run

    async def counted(self) -> Summary:
        """Return the counts of the whole trace, which is read for them."""
        return (await self.counts()).summary

    async def counts(self) -> Counts:
        """Return the same, with how often each register was used."""
        if self._counts is None:
            summary, uses = Summary(), RegisterUses()
            with TraceReader(self._tape.reader.name) as trace:
                source = Source(trace, choose(), self._maps)
                with contextlib.suppress(TraceError):  # it is told where the trace is gone through
                    for number, (record, events, times) in enumerate(source.kinds()):
                        summary.add(record, events, times=times)
                        for event in events:
                            uses.add(event, times)
                        if number % _TURN == 0:
                            await asyncio.sleep(0)
            if summary.end is None:
                return Counts(summary, uses)  # there may be more the next time
            self._counts = Counts(summary, uses)
        return self._counts

    async def tallied(self, tally: Tally) -> Counted:
        """Return what a tally comes to over the whole trace, which is read for it.

        Raises ConditionError for an access that it has no answer for.
        """
        counted = Counted(tally)
        with TraceReader(self._tape.reader.name) as trace:
            source = Source(trace, choose().tallied(tally), self._maps)
            facts = Recorded(source.course)
            with contextlib.suppress(TraceError):  # as above
                for number, (_, events, times) in enumerate(source.kinds()):
                    for event in events:
                        access = facts.at(event.record, event.access, event.seq, event.named)
                        try:
                            counted.add(access, times)
                        except ConditionError as error:
                            raise error.of(f"access {event.seq}") from None
                    if number % _TURN == 0:
                        await asyncio.sleep(0)
        return counted

    async def waits(self) -> list[Poll]:
        """Return what code waits for in the whole trace, the longest first; it is read for them."""
        polls = Polls()
        name = self._tape.reader.name
        with contextlib.suppress(TraceError), TraceReader(name) as trace:  # as above
            for number, record in enumerate(trace):
                polls.add(record)
                if number % _TURN == 0:
                    await asyncio.sleep(0)
        return [poll for poll in polls.all() if poll.is_wait]

    async def uses(self, region: str, entry: Entry, place: int) -> Uses:
        """Return how often the trace uses a register, and the last uses before a place."""
        counted = (await self.counts()).uses.of(region, entry)
        read = await self._last_use(region, entry, "read", place)
        written = await self._last_use(region, entry, "write", place)
        return replace(counted, read=read, written=written)

    async def _last_use(self, region: str, entry: Entry, direction: str, place: int) -> Use | None:
        tape, end = self._tape, entry.offset + entry.register.width
        anywhere = bool(entry.repeats)

        def may(kind: Kind) -> bool:
            if kind.direction != direction or kind.region != region:
                return False
            offset, span = kind.offset or 0, kind.width or kind.extent or 1
            return anywhere or (offset < end and entry.offset < offset + span)

        for number, part in reversed(list(tape.parts(0, place))):
            chunk = tape.chunks[number]
            if chunk.kinds is not None and not any(may(tape.kinds[n]) for n in chunk.kinds):
                continue
            events = tape.events(number)[: part.stop - chunk.first]
            for event in reversed(events):
                if event.access.direction == direction and not event.access.skipped:
                    use = use_of(event, region, entry)
                    if use is not None:
                        return use
            await asyncio.sleep(0)
        return None

    def queues_at(self, event: Event, place: int) -> list[QueueRecord]:
        """Return what the doorbell at a place of the tape told, or the device that interrupts.

        Empty where that was not recorded.
        """
        access, tape = event.access, self._tape
        registers = tape.naming.map_of(access.region or "")
        named = tape.naming.name(access.region or "", access.offset or 0, access.span)
        # It is told behind the access, at most as late as a ring of records is emptied.
        rings = registers is not None and bool(registers.queues)
        interrupts = access.space == "irq" or (named is not None and named.tells_interrupts)
        rings = rings or (interrupts and tape.has_queues)
        return tape.queues_of(event.seq, place + SLOTS if rings else 0)

    @property
    def ending(self) -> str:
        """Return in words why there is nothing more behind the last access that was read."""
        tape = self._tape
        if tape.trouble is not None:
            last = f"nothing more can be read: {tape.trouble}"
        elif tape.end is None:
            last = tape.reader.damage or "there is no end record"
        else:
            outcome = tape.end.outcome
            last = "the guest has powered off" if outcome == "poweroff" else outcome
        fault = tape.numbering.fault
        return last if fault is None else f"{last}; {fault}"

    def course(self, seen: Seen, changes: Changes) -> Course:
        """Return what was before an access."""
        told, marks = self._tape.told, self._marks
        for _, record in told[self._learned :]:
            self._owners.learn(record)
        self._learned = len(told)
        for _, mark in self._tape.marks[marks.count :]:
            marks.add(mark)
        return Course(self._owners, self._tape.stacks, marks.upto(seen.marks), changes, seen.phase)


# A region that moved is where it was told last; one in pieces, of one base, is told piece by piece.
def _region_map(told: Sequence[RegionRecord], inputs: bool) -> RegionMap:
    found: dict[tuple[str, str], list[tuple[Region, bool]]] = {}
    for record in told:
        region = region_of(record.region)
        pieces = found.setdefault((record.region.space, region.name), [])
        kept = [
            piece for piece in pieces
            if piece[0].base == region.base and piece[0].start != region.start
        ]  # fmt: skip
        pieces[:] = [*kept, (region, record.region.traced)]
    memory = [each for (space, _), pieces in found.items() if space == "memory" for each in pieces]
    ports = [each for (space, _), pieces in found.items() if space == "port" for each, _ in pieces]
    ranges = sorted((region.start, region.end) for region, traced in memory if traced)
    spaces: tuple[Space, ...] = (*KIND_OF_SPACE, "msi") if inputs else ()
    return RegionMap([region for region, _ in memory], ranges, (), ports, spaces)
