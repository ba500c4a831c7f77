"""Polls: reads that code makes again and again, by region, vCPU and call site.

Accesses to other regions, and by other vCPUs, may come between two turns; what else reads the same
region belongs to the turn if it does in each. A turn that writes is no wait: bytes go out so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tracer.devices.map import Named
from tracer.trace.configuration import DATA
from tracer.trace.member import Space
from tracer.trace.record import Intercept, MemoryAccess, Record
from tracer.trace.waiting import WaitRecord

FEWEST = 3
"""The fewest turns that are a poll."""

_NO_WAITS: frozenset[Space] = frozenset(("tsc", "cpuid"))
"""Spaces that nobody waits in: the counter tells the time, and a leaf of CPUID never changes."""

_TURNS = 8
_LASTS_NS = 10_000_000
_LONGEST = 8
_LEAST_PAUSE_NS = 50_000_000
_MOST_KNOWN = 256

Place = tuple[str, int, int]
"""A place that is read: region, offset, and the linear address of the instruction that reads."""


@dataclass(frozen=True, slots=True)
class Poll:
    """Hold reads of one register by one instruction, ``turns`` times from ``since_ns`` on.

    ``physical`` is where the register is in its ``space``, ``value`` what it read last, ``before``
    what it read before that was another; ``told`` what was found out about the loop. ``first`` is
    the number of the first read, ``seq`` that of the last.
    """

    region: str
    offset: int
    width: int
    rip: int
    site: str
    vcpu: int
    physical: int
    turns: int
    since_ns: int
    until_ns: int
    value: int | None = None
    before: int | None = None
    seq: int = 0
    told: WaitRecord | None = None
    space: Space = "memory"
    first: int = 0

    @property
    def place(self) -> Place:
        """Return what is read where."""
        return self.region, self.offset, self.rip

    @property
    def duration_ns(self) -> int:
        """Return the guest time from the first read to the last, in nanoseconds."""
        return self.until_ns - self.since_ns

    @property
    def lasts(self) -> bool:
        """Tell whether it goes on for so long that it is worth a look."""
        return self.turns >= _TURNS and self.duration_ns >= _LASTS_NS

    @property
    def is_wait(self) -> bool:
        """Tell whether it was looked at, and its loop waits for what is read."""
        return self.told is not None and bool(self.told.awaited)

    def may_wait(self, named: Named | None) -> bool:
        """Tell whether code may wait for what is read, by its name: not for a clock."""
        if self.space in _NO_WAITS or (self.told is not None and not self.told.awaited):
            return False
        return named is None or not named.is_clock

    def goes_on(self, now_ns: int) -> bool:
        """Tell whether it may still go on: the next turn is not overdue by much."""
        pause = self.duration_ns // max(self.turns - 1, 1)
        return now_ns - self.until_ns <= max(8 * pause, _LEAST_PAUSE_NS)


@dataclass(slots=True)
class _Open:
    # A poll that goes on: what else a turn of it reads, and what this turn has read so far.

    poll: Poll
    turn: frozenset[Place] | None
    others: set[Place]


class Polls:
    """Follow the polls of a run as its records come; memory grows with the regions and sites."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], dict[Place, _Open]] = {}
        self._told: dict[Place, WaitRecord] = {}
        self._longest: dict[tuple[Place, int], Poll] = {}
        self.now_ns = 0

    def add(self, record: Record) -> list[Poll]:
        """Take the next record; return the polls that are over by it."""
        if isinstance(record, WaitRecord):
            self._told[record.place] = record
            return []
        self.now_ns = max(self.now_ns, record.time_ns)
        if not isinstance(record, Intercept):
            return []
        over: list[Poll] = []
        for seq, access in record.device_accesses():
            over += self.see(record, access, seq, record.time_ns)
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
        over = []
        writes = access.direction != "read" or access.space in ("irq", "msi")
        for other in list(opened):
            if other == place and not writes:
                continue
            each = opened[other]
            each.others.add(place)
            if writes or len(each.others) >= _LONGEST:
                over += self._close(opened, other)
        if writes:
            return over
        found = opened.get(place)
        if found is None:
            read = access.value if value is None else value()
            first = _first(record, access, seq, time_ns, read)
            opened[place] = _Open(first, None, set())
            return over
        poll, others = found.poll, frozenset(found.others)
        if found.turn is not None and others != found.turn:
            # Another turn than before: it begins anew, with the read before this one.
            over += self._noted(poll)
            poll = replace(poll, turns=1, since_ns=poll.until_ns, first=poll.seq)
        read = access.value if value is None else value()
        changed = read != poll.value
        found.poll = replace(
            poll,
            turns=poll.turns + 1,
            until_ns=time_ns,
            value=read,
            before=poll.value if changed else poll.before,
            seq=seq,
        )
        found.turn, found.others = others, set()
        return over

    def _close(self, opened: dict[Place, _Open], place: Place) -> list[Poll]:
        return self._noted(opened.pop(place).poll)

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
        return replace(poll, told=self._told.get(poll.place))

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
            if each.poll.turns >= FEWEST
        ]
        return sorted(found, key=lambda poll: (-poll.duration_ns, -poll.turns, poll.seq))

    def waiting(self, now_ns: int | None = None) -> list[Poll]:
        """Return the polls that go on at a time of the guest's, the longest first.

        What is known to be no loop that waits is left out.
        """
        now = self.now_ns if now_ns is None else max(now_ns, self.now_ns)
        return [poll for poll in self.open() if poll.goes_on(now) and _may_wait(poll)]

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
