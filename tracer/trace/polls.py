"""Polls: reads that code makes again and again, by region, vCPU and call site.

Accesses to other regions, and by other vCPUs, may come between two turns; what else reads the same
region belongs to the turn if it does in each. Other accesses to the region part a poll: a turn that
writes is no wait, bytes go out so. Where it is known what the loop waits for it goes on until that
is read, until the next turn is overdue, or until something writes that is not of the loop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from tracer.trace.configuration import DATA
from tracer.trace.poll import Place, Poll, joined
from tracer.trace.record import Intercept, MemoryAccess, Record
from tracer.trace.waiting import WaitRecord

FEWEST = 3
"""The fewest turns that are a poll."""

_LONGEST = 8
_MOST_KNOWN = 256

_IRREGULAR_TURNS = 24
"""The fewest turns of what may be one poll that other accesses part, to be worth a look."""
_MOST_VALUES = 16
_MOST_DOUBTS = 3
_MOST_PARTS = 256


@dataclass(slots=True)
class _Open:
    # A poll that goes on: what else a turn of it reads, and what this turn has read so far.

    poll: Poll
    turn: frozenset[Place] | None = None
    others: set[Place] = field(default_factory=set)
    values: set[int | None] = field(default_factory=set)
    # The awaited bits have been read: whoever reads on waits for something else, or nothing.
    is_over: bool = False


class _Part(NamedTuple):
    # A part of what may be one poll: what it read, and who parts it from the next by a write.
    poll: Poll
    values: set[int | None]
    writer: Place | None


@dataclass(slots=True)
class _Parts:
    # The parts before a poll, the last ones of many, and all of them as if they were one.

    poll: Poll
    parts: deque[_Part]

    def add(self, part: _Part) -> None:
        self.poll = joined(self.poll, part.poll)
        self.parts.append(part)

    def before(self, last: Poll, told: WaitRecord) -> tuple[Poll, set[Place]]:
        # Returns the last part with those before it that have waited for the same, and who writes
        # between. What wrote but once, and is not of the loop, comes before it.
        counts = Counter(part.writer for part in self.parts)
        writers = set[Place]()
        for poll, values, writer in reversed(self.parts):
            strange = writer is not None and counts[writer] < 2 and not told.spans(writer[2])
            if strange or any(map(told.ends, values)):
                break
            last = joined(poll, last)
            writers |= set() if writer is None else {writer}
        return last, writers


class Polls:
    """Follow the polls of a run as its records come; memory grows with the regions and sites."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], dict[Place, _Open]] = {}
        self._parts: dict[tuple[Place, int], _Parts] = {}
        self._told: dict[Place, WaitRecord] = {}
        # The instructions that write the region in the loop around a read.
        self._writers: dict[Place, set[Place]] = {}
        self._longest: dict[tuple[Place, int], Poll] = {}
        self.doubts: dict[Place, int] = {}
        """How often what was found out about a loop has turned out to be about another one."""
        self.now_ns = 0

    def add(self, record: Record) -> list[Poll]:
        """Take the next record; return the polls that are over by it."""
        if isinstance(record, WaitRecord):
            return self._learn(record)
        self.now_ns = max(self.now_ns, record.time_ns)
        if not isinstance(record, Intercept):
            return []
        over: list[Poll] = []
        for seq, access in record.device_accesses():
            over += self.see(record, access, seq, record.time_ns)
        return over

    def _learn(self, told: WaitRecord) -> list[Poll]:
        over: list[Poll] = []
        self._told[told.place] = told
        for (_, vcpu), opened in self._open.items():
            found = opened.get(told.place)
            if found is None:
                continue  # it joins its parts when it is read next
            parts = self._parts.pop((told.place, vcpu), None)
            if not told.awaited:
                continue
            # Its last read may have ended it, those before have not. A part that lasts
            # by itself is all of it.
            before = found.values - {found.poll.value}
            if parts and not found.poll.lasts and not any(map(told.ends, before)):
                found.poll, self._writers[told.place] = parts.before(found.poll, told)
            if told.ends(found.poll.value):
                found.is_over = True
                over += self._noted(found.poll) if before else []
        return over

    def repeat(self, counts: dict[Place, int], vcpu: int) -> None:
        """Count so many more turns of polls that go on, of which no record was made."""
        for place, count in counts.items():
            open_ = self._open.get((place[0], vcpu), {}).get(place)
            if open_ is not None:
                open_.poll = replace(open_.poll, turns=open_.poll.turns + count)

    def see(
        self,
        record: Intercept,
        access: MemoryAccess,
        seq: int,
        time_ns: int,
        value: Callable[[], int | None] | None = None,
    ) -> list[Poll]:
        """Take a device access like one of a record's; return the polls that are over by it.

        Its number and its time are its own, and its ``value``, which is asked for where it counts;
        without one it is what the access has.
        """
        self.now_ns = max(self.now_ns, time_ns)
        if access.space == "port" and access.physical in DATA:
            return []  # the register in configuration space comes behind it
        region, offset = access.region or "", access.offset or 0
        place = region, offset, record.rip
        opened = self._open.setdefault((region, record.vcpu), {})
        writes = access.direction != "read" or access.space in ("irq", "msi")
        over = self._part(opened, place, writes=writes)
        if writes:
            return over
        read = access.value if value is None else value()
        told = self._told.get(place)
        ends = told is not None and told.ends(read)
        found = opened.get(place)
        if found is None:
            first = _first(record, access, seq, time_ns, read)
            parts = self._parts.pop((place, record.vcpu), None) if told is not None else None
            if told is not None and told.awaited and parts and parts.poll.goes_on(time_ns):
                first, self._writers[place] = parts.before(first, told)
            opened[place] = _Open(first, values={read}, is_over=ends)
            return over + self._noted(first) if ends else over
        if told is not None and told.awaited and not found.is_over:
            late = bool(found.others) and not found.poll.goes_on(time_ns)
        else:
            late = not ends if found.is_over else self._is_another(found)
        if late:
            # Another turn than before: it begins anew, with the read before this one.
            known = told is not None and bool(told.awaited)
            if not found.is_over:
                over += self._noted(found.poll) if known else self._ended(found, None, shared=1)
            again = _first(record, access, seq, time_ns, read)
            if not known:
                poll = found.poll
                again = replace(poll, turns=1, since_ns=poll.until_ns, first=poll.seq)
                again = _turned(again, seq, time_ns, read)
            found.poll, found.values = again, set()
        else:
            found.poll = _turned(found.poll, seq, time_ns, read)
        if len(found.values) <= _MOST_VALUES:
            found.values.add(read)
        found.turn, found.others = frozenset(found.others), set()
        if ends and not found.is_over:
            over += self._noted(found.poll)
            first = _first(record, access, seq, time_ns, read)
            opened[place] = _Open(first, values={read}, is_over=True)
        elif found.is_over:
            found.is_over = ends
            self._doubt(found)
        return over

    def _part(self, opened: dict[Place, _Open], place: Place, *, writes: bool) -> list[Poll]:
        # Tells the polls of a region of an access to it; returns those that it parts.
        over: list[Poll] = []
        ended: list[Place] = []
        for other, each in opened.items():
            if other == place and not writes:
                continue
            if len(each.others) < _LONGEST:
                each.others.add(place)
            told = self._told.get(other)
            if each.is_over:
                if writes:
                    ended.append(other)
            elif told is None or not told.awaited:
                if writes or len(each.others) >= _LONGEST:
                    ended.append(other)
                    over += self._ended(each, place if writes else None)
            elif writes and place not in self._writers.get(other, ()) and not told.spans(place[2]):
                ended.append(other)
                over += self._noted(each.poll)
        for other in ended:
            del opened[other]
        return over

    @staticmethod
    def _is_another(found: _Open) -> bool:
        return found.turn is not None and found.others != found.turn

    def _ended(self, part: _Open, writer: Place | None, shared: int = 0) -> list[Poll]:
        # Returns a poll that is over, as far as nobody knows what it waits for. The next part has
        # so many of its turns as well.
        whole = part.poll
        if whole.place not in self._told:
            poll = replace(whole, turns=whole.turns - shared) if shared else whole
            made = _Part(poll, part.values, writer)
            key = poll.place, poll.vcpu
            before = self._parts.get(key)
            if before is None or not before.poll.goes_on(poll.since_ns):
                self._parts[key] = _Parts(poll, deque([made], _MOST_PARTS))
            else:
                before.add(made)
        return self._noted(whole)

    def _doubt(self, found: _Open) -> None:
        # Code that goes on reading what would have ended the loop is in another one.
        place = found.poll.place
        doubts = self.doubts.get(place, 0)
        if found.is_over and found.poll.lasts and doubts < _MOST_DOUBTS:
            self.doubts[place] = doubts + 1
            del self._told[place]
            found.is_over = False

    def _noted(self, poll: Poll) -> list[Poll]:
        if poll.turns < FEWEST:
            return []
        poll = self._with_told(poll)
        key = poll.place, poll.vcpu
        before = self._longest.get(key)
        if before is None and len(self._longest) >= _MOST_KNOWN:
            return [poll]
        if before is None or poll.duration_ns > before.duration_ns:
            self._longest[key] = poll
        return [poll]

    def _with_told(self, poll: Poll) -> Poll:
        return poll if poll.told is not None else replace(poll, told=self._told.get(poll.place))

    @property
    def told(self) -> dict[Place, WaitRecord]:
        """Return what was found out about loops, by what they read where."""
        return self._told

    def open(self) -> list[Poll]:
        """Return the polls that have not ended, those that go on the longest first."""
        found = [
            self._with_told(each.poll)
            for opened in self._open.values()
            for each in opened.values()
            if each.poll.turns >= FEWEST and not each.is_over
        ]
        return sorted(found, key=lambda poll: (-poll.duration_ns, -poll.turns, poll.seq))

    def waiting(self, now_ns: int | None = None) -> list[Poll]:
        """Return the polls that go on at a time of the guest's, the longest first.

        What is known to be no loop that waits is left out.
        """
        now = self.now_ns if now_ns is None else max(now_ns, self.now_ns)
        return [poll for poll in self.open() if poll.goes_on(now) and _may_wait(poll)]

    def parted(self) -> Iterator[Poll]:
        """Yield what may be polls that go on, and that other accesses have parted.

        Whether they are follows from what their loops wait for, which nobody knows yet.
        """
        for (place, vcpu), parts in self._parts.items():
            found = self._open.get((place[0], vcpu), {}).get(place)
            poll = parts.poll
            if found is not None and place not in self._told:
                if not poll.goes_on(found.poll.since_ns):
                    continue
                poll = joined(poll, found.poll)
            if poll.turns >= _IRREGULAR_TURNS and poll.lasts and poll.goes_on(self.now_ns):
                yield poll

    def all(self) -> Iterator[Poll]:
        """Yield the longest poll of each register and call site, the longest of all first."""
        found = dict(self._longest)
        for poll in self.open():
            key = poll.place, poll.vcpu
            if key not in found or found[key].duration_ns < poll.duration_ns:
                found[key] = poll
        told = (self._with_told(poll) for poll in found.values())
        waits = (poll for poll in told if _may_wait(poll))
        yield from sorted(waits, key=lambda poll: (-poll.duration_ns, -poll.turns, poll.seq))


def _may_wait(poll: Poll) -> bool:
    return poll.told is None or bool(poll.told.awaited)


def _turned(poll: Poll, seq: int, time_ns: int, value: int | None) -> Poll:
    # Returns the poll with one more turn.
    before = poll.value if value != poll.value else poll.before
    return replace(
        poll, turns=poll.turns + 1, until_ns=time_ns, value=value, before=before, seq=seq
    )


def _first(
    record: Intercept, access: MemoryAccess, seq: int, time_ns: int, value: int | None
) -> Poll:
    return Poll(
        region=access.region or "",
        offset=access.offset or 0,
        width=access.width,
        rip=record.rip,
        site=record.site,
        vcpu=record.vcpu,
        physical=access.physical,
        turns=1,
        since_ns=time_ns,
        until_ns=time_ns,
        value=value,
        seq=seq,
        space=access.space,
        first=seq,
    )
