"""A trace as a tape that is wound to any access: forwards, and back.

A tape is read in chunks of some thousand accesses. Of each chunk it keeps where it begins, what was
known there, and which kinds of accesses it has: so any chunk can be read again by itself, and one
that has nothing wanted is passed over. What has not been asked for yet is not read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from tracer.devices.map import RegisterMaps
from tracer.errors import TraceError
from tracer.trace import codec
from tracer.trace.block import Blocks
from tracer.trace.compiled import BlockRecord
from tracer.trace.event import Event, Events, Everything
from tracer.trace.flat import Stacks
from tracer.trace.marker import is_marker
from tracer.trace.member import Space, Via
from tracer.trace.naming import Memory, Naming
from tracer.trace.numbering import Numbering
from tracer.trace.phase import PhaseTracker
from tracer.trace.queue import QueueRecord
from tracer.trace.reader import Bookmark, TraceReader
from tracer.trace.record import (
    End,
    Intercept,
    LostRecord,
    MapRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionRecord,
    StackRecord,
    UserRecord,
)
from tracer.x86.bus import Direction

ACCESSES = 2048
"""Accesses that a chunk has at least, but for the first one, which is there at once, and the last.
A block is never parted."""

_MOST_KINDS = 1 << 14
_KEPT = 4  # chunks whose events are held


class Kind(msgspec.Struct, frozen=True):
    """Hold what accesses of one kind have in common: the code that makes them, and their place."""

    rip: int
    symbol: str | None
    text: str
    via: Via
    cpl: int
    space: Space
    region: str | None
    offset: int | None
    physical: int
    direction: Direction
    width: int
    extent: int | None

    @classmethod
    def of(cls, record: Intercept, access: MemoryAccess) -> Kind:
        """Return the kind of a device access."""
        return cls(
            record.rip, record.symbol, record.text, record.via, record.cpl, access.space,
            access.region, access.offset, access.physical, access.direction, access.width,
            access.extent,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """Hold what is known where a chunk begins."""

    blocks: Blocks
    phases: PhaseTracker
    shown: Memory
    mark: str | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Hold where a part of a trace is.

    ``first`` is the place on the tape of its first access, ``time_ns`` the guest's time when all
    before it had been made. ``kinds`` are places in :attr:`Tape.kinds`, None where there are too
    many. ``rung`` has the lowest and the highest number of an access of which it says what was in
    a queue, None where it says so of none.
    """

    start: Bookmark
    end: Bookmark
    first: int
    accesses: int
    time_ns: int
    kinds: frozenset[int] | None
    known: Known
    rung: tuple[int, int] | None = None


Told = RegionRecord | MapRecord | StackRecord | Mark | UserRecord | LostRecord
"""Records between accesses that are kept, each with how many accesses were before it."""


class Tape:
    """Find the accesses of a trace by their places, counted from 0.

    ``chunks`` are those read so far, which end at the guest's time ``time_ns``; ``told`` is what
    came between accesses there, ``marks`` are those of it, ``stacks`` all call chains, ``chains``
    their records by number, ``naming`` names registers. ``end`` is the last record once it is
    reached, ``trouble`` says why nothing behind the last chunk can be read, both in words and None
    if neither. ``numbering`` tells whether lines are missing between.
    """

    def __init__(self, reader: TraceReader, maps: RegisterMaps) -> None:
        """Put a trace in, of which nothing has been read but the header."""
        self.reader = reader
        self.naming = Naming(maps)
        self.chunks: list[Chunk] = []
        self.kinds: list[Kind] = []
        self.told: list[tuple[int, Told]] = []
        self.stacks = Stacks()
        self.chains: dict[int, StackRecord] = {}
        self.end: End | None = None
        self.trouble: str | None = None
        self.marks: list[tuple[int, Mark]] = []
        self.time_ns = 0
        self.numbering = Numbering()
        self._numbers: dict[Kind, int] = {}
        self._next = reader.bookmark
        self._known = Known(Blocks(), PhaseTracker(), {}, None)
        self._held: OrderedDict[tuple[int, int], _Content] = OrderedDict()
        self._behind: list[QueueRecord] = []  # behind the last access, of no chunk

    # ---- what there is

    @property
    def accesses(self) -> int:
        """Return how many accesses have been found so far."""
        return self.chunks[-1].first + self.chunks[-1].accesses if self.chunks else 0

    @property
    def whole(self) -> bool:
        """Tell whether the end has been reached, behind which nothing can come any more."""
        return self.end is not None

    def at(self, place: int) -> Event:
        """Return the access at a place. Raises IndexError where no chunk has it."""
        number = self.number_at(place)
        return self.events(number)[place - self.chunks[number].first]

    def number_at(self, place: int) -> int:
        """Return the number of the chunk that has a place. Raises IndexError where none does."""
        if not 0 <= place < self.accesses:
            raise IndexError(place)
        return bisect_right(self.chunks, place, key=lambda chunk: chunk.first) - 1

    def marks_before(self, place: int) -> int:
        """Return how many marks came before the access at a place."""
        return bisect_right(self.marks, place, key=lambda mark: mark[0])

    def before(self, place: int) -> Iterator[Told]:
        """Yield what was told before the access at a place, oldest first."""
        for count, record in self.told:
            if count > place:
                return
            yield record

    def parts(self, begin: int, end: int) -> Iterator[tuple[int, range]]:
        """Yield the chunks of the accesses from one place to before another, and which of each."""
        while begin < end:
            number = self.number_at(begin)
            chunk = self.chunks[number]
            part = range(begin, min(chunk.first + chunk.accesses, end))
            yield number, part
            begin = part.stop

    # ---- reading on

    def more(self) -> bool:
        """Read the next chunk; tell whether there is one with accesses.

        At the end of a trace that is still written it tells so, and reads on when called again.
        """
        if self.whole or self.trouble is not None:
            return False
        self.reader.go_to(self._next)
        self.naming.recall(self._known.shown)
        start, known, time_ns = self._next, self._known, self.time_ns
        blocks, phases = known.blocks.copy(), known.phases.copy()
        scan = _Scan(blocks, phases, self.naming, self.numbering, self.accesses, known.mark)
        try:
            for number, line in self.reader.lines():
                scan.take(line, number)
                self._next = self.reader.bookmark
                if scan.accesses >= (ACCESSES if self.chunks else 1):
                    break
        except TraceError as error:
            self.trouble = str(error)
        self.time_ns = max(self.time_ns, scan.time_ns)
        self.end = scan.end
        self.told += scan.told
        for count, record in scan.told:
            self.stacks.learn(record)
            if isinstance(record, Mark):
                self.marks.append((count, record))
            elif isinstance(record, StackRecord):
                self.chains.setdefault(record.id, record)
        # A line that cannot be read may have left things half done: nothing comes behind it.
        self._known = Known(blocks, phases, self.naming.memory, scan.mark)
        if not scan.accesses:
            self._behind += scan.queues
            return False
        rung = sorted(record.seq for record in scan.queues)
        chunk = Chunk(
            start, self._next, self.accesses, scan.accesses, time_ns, self._numbered(scan.kinds),
            known, (rung[0], rung[-1]) if rung else None,
        )  # fmt: skip
        self.chunks.append(chunk)
        return True

    def _numbered(self, kinds: Iterable[Kind]) -> frozenset[int] | None:
        found = set()
        for kind in kinds:
            number = self._numbers.get(kind)
            if number is None:
                if len(self.kinds) >= _MOST_KINDS:
                    return None
                number = self._numbers[kind] = len(self.kinds)
                self.kinds.append(kind)
            found.add(number)
        return frozenset(found)

    # ---- reading again

    def events(self, number: int) -> Sequence[Event]:
        """Return the accesses of a chunk. Raises TraceError where the file has changed."""
        return self._content(number).events

    @property
    def has_queues(self) -> bool:
        """Tell whether what was in a queue is told anywhere, as far as it was read."""
        return bool(self._behind) or any(chunk.rung for chunk in self.chunks)

    def queues_of(self, seq: int, upto: int = 0) -> list[QueueRecord]:
        """Return what was in queues when the access of a number rang a doorbell, or interrupted.

        That is told behind the access, at times behind many others: the tape is read on for it as
        long as it does not reach the place ``upto``. Empty where it is not told.
        """
        found = self._queues_of(seq)
        more = True
        while not found and more and self.accesses <= upto:
            more = self.more()
            found = self._queues_of(seq)
        return found

    def _queues_of(self, seq: int) -> list[QueueRecord]:
        chunks = enumerate(self.chunks)
        held = (number for number, chunk in chunks if chunk.rung and _within(seq, chunk.rung))
        told = (record for number in held for record in self._content(number).queues)
        return [record for record in (*self._behind, *told) if record.seq == seq]

    def _content(self, number: int) -> _Content:
        chunk = self.chunks[number]
        key = number, chunk.accesses
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = self._read(chunk)
            if len(self._held) > _KEPT:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return held

    def _read(self, chunk: Chunk) -> _Content:
        known = chunk.known
        blocks = known.blocks.copy()
        self.naming.recall(known.shown)
        events = Events(Everything(self.naming, known.phases.copy()), known.mark)
        self.reader.go_to(chunk.start)
        found: list[Event] = []
        queues: list[QueueRecord] = []
        with self.reader.named():
            for number, line in self.reader.lines():
                told = codec.decode(line, number)
                if isinstance(told, codec.Unknown):
                    continue
                for record in codec.records(blocks, told, number):
                    found += events.add(record)
                    events.note(record)
                    if isinstance(record, QueueRecord):
                        queues.append(record)
                if self.reader.bookmark.number >= chunk.end.number:
                    break
        if len(found) != chunk.accesses:
            raise TraceError(f"{self.reader.name} has changed since it was opened: open it again")
        return _Content(found, queues)


def _within(number: int, ends: tuple[int, int]) -> bool:
    return ends[0] <= number <= ends[1]


class _Content(NamedTuple):
    # Holds the accesses of a chunk, and what it says of queues.
    events: Sequence[Event]
    queues: Sequence[QueueRecord]


class _Scan:
    # Goes over the lines of a chunk: of a block, over its kinds of records, where that will do.

    def __init__(
        self,
        blocks: Blocks,
        phases: PhaseTracker,
        naming: Naming,
        numbering: Numbering,
        first: int,
        mark: str | None,
    ) -> None:
        self.accesses = 0
        self.kinds: dict[Kind, None] = {}
        self.told: list[tuple[int, Told]] = []
        self.queues: list[QueueRecord] = []
        self.end: End | None = None
        self.mark = mark
        self.time_ns = 0
        self._blocks = blocks
        self._phases = phases
        self._naming = naming
        self._numbering = numbering
        self._first = first

    def take(self, line: bytes, number: int) -> None:
        told = codec.decode(line, number)
        if isinstance(told, codec.Unknown):
            return
        self._numbering.follow(told, number)
        if isinstance(told, BlockRecord):
            kinds = codec.kinds(self._blocks, told, number)
            follows = self._naming.follows
            if not any(follows(each) for record, _ in kinds for each in record.accesses):
                for each, _ in kinds:
                    self._add(each, named=False)
                self.accesses += told.accesses
                return
        made = 0
        for record in codec.records(self._blocks, told, number):
            if isinstance(record, Intercept):
                made += self._add(record)
            else:
                self._note(record)
        self.accesses += made

    def _add(self, record: Intercept, named: bool = True) -> int:
        self._phases.add(record)
        # The record that comes of a kind is its last.
        self.time_ns = max(self.time_ns, record.time_ns)
        made = record.device_accesses()
        for _, access in made:
            self.kinds[Kind.of(record, access)] = None
            if named:
                self._naming.add(access)
        return len(made)

    def _note(self, record: Record) -> None:
        self._phases.add(record)
        self._naming.learn(record)
        if isinstance(record, End):
            self.end = record
            self.time_ns = max(self.time_ns, record.time_ns)
        elif isinstance(record, Mark) and is_marker(record):
            self.mark = record.text
        elif isinstance(record, QueueRecord):
            self.queues.append(record)
        if isinstance(record, Told):
            self.told.append((self._first + self.accesses, record))
