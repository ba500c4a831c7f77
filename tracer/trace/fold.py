"""Fold what repeats in a stream of accesses: a polling loop is told once.

One turn of a loop is up to eight accesses in a row; it is folded from the third turn on. Accesses
are alike when the same code accesses the same place in the same way on the same vCPU, whatever a
read gave; writes must write the same. So no value that the guest wrote is ever folded away, and
no access that a person changed into one that is as it came. What other devices and vCPUs do
meanwhile parts no loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from tracer.trace.event import Event, Note
from tracer.trace.waiting import WaitRecord

LONGEST = 8
"""The most accesses in one turn of a loop."""

FEWEST = 3
"""The fewest turns that are folded."""

HELD = 256
"""How many lines are held back at most, until it is clear what is folded before them."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Hold the ``first`` and the ``last`` of ``turns`` turns of a loop, alike but for reads.

    With ``more`` the first turn was told already, as events, and ``turns`` counts those after it.
    ``apart`` tells that others were told since.
    """

    first: tuple[Event, ...]
    last: tuple[Event, ...]
    turns: int
    more: bool = False
    apart: bool = False

    @property
    def duration_ns(self) -> int:
        """Return the guest time from the first access to the last, in nanoseconds."""
        return self.last[-1].record.time_ns - self.first[0].record.time_ns


Key = tuple[object, ...]
_Item = tuple[Key, Event, int]


def folded(items: Iterable[Event | Note]) -> Iterator[Event | Fold | Note]:
    """Yield each event, or a fold in the place of those it stands for; hold :data:`HELD` at most.

    A loop that more than these come between is its first turn, and a fold that is ``apart`` where
    it ends. What is no access ends every loop, and comes in its place.
    """
    order = _Order()
    for item in items:
        if isinstance(item, Event):
            yield from order.add(item)
        elif isinstance(item, WaitRecord):
            yield from order.wait(item)
        else:
            yield from order.end()
            yield item
    yield from order.end()


Stream = tuple[str | None, int]
"""A region and a vCPU that accesses it: each of these is folded by itself."""


# A place, whether it comes behind what is there, a number; and what is told.
_Told = tuple[int, bool, int, Stream | None, "Event | Fold | WaitRecord"]


def _stream(event: Event) -> Stream:
    return event.access.region, event.record.vcpu


class _Order:
    # Puts what several streams tell into the order in which it came.

    def __init__(self) -> None:
        self._folders: dict[Stream, Folder] = {}
        self._waits: dict[Stream, list[WaitRecord]] = {}
        self._count = 0
        # Lines that come once all before them are told, by their places.
        self._told: list[_Told] = []
        self._number = 0
        # The stream that has held an access back for the longest, and since when.
        self._oldest: tuple[int, Stream] | None = None
        self._last: Stream | None = None

    def add(self, event: Event) -> Iterator[Event | Fold | Note]:
        stream = _stream(event)
        folder = self._folders.get(stream)
        if folder is None:
            folder = self._folders[stream] = Folder()
        at = self._count
        self._count += 1
        self._tell(stream, folder.take(event, at))
        if self._oldest is None or self._oldest[1] == stream:
            self._oldest = self._found()
        while self._oldest is not None and len(self._told) >= HELD:
            held = self._oldest[1]
            self._tell(held, self._folders[held].let_go())
            self._oldest = self._found()
        if self._told:
            yield from self._due()

    def wait(self, record: WaitRecord) -> Iterator[Event | Fold | Note]:
        # It belongs behind the loop that it came upon.
        stream = record.region, record.vcpu
        folder = self._folders.get(stream)
        if folder is not None and folder.in_loop:
            self._waits.setdefault(stream, []).append(record)
        else:
            self._push(self._count - 1, None, record)
        yield from self._due()

    def end(self) -> Iterator[Event | Fold | Note]:
        for stream, folder in self._folders.items():
            self._tell(stream, folder.leave())
        self._folders.clear()
        self._oldest = None
        yield from self._due()

    def _tell(self, stream: Stream, told: list[Placed]) -> None:
        for at, item in told:
            self._push(at, stream, item)
            if isinstance(item, Fold):
                self._tell_waits(stream, at)
        if stream in self._waits and not self._folders[stream].in_loop:
            self._tell_waits(stream, self._count - 1)  # a loop that was too short for a fold

    def _tell_waits(self, stream: Stream, at: int) -> None:
        for wait in self._waits.pop(stream, ()):
            self._push(at, None, wait)

    def _push(self, at: int, stream: Stream | None, item: Event | Fold | WaitRecord) -> None:
        heappush(self._told, (at, stream is None, self._number, stream, item))
        self._number += 1

    def _found(self) -> tuple[int, Stream] | None:
        held = (
            (folder.oldest, stream)
            for stream, folder in self._folders.items()
            if folder.oldest is not None
        )
        return min(((at, stream) for at, stream in held if at is not None),
                   key=lambda each: each[0], default=None)  # fmt: skip

    def _due(self) -> Iterator[Event | Fold | Note]:
        told, oldest = self._told, self._oldest
        while told and (oldest is None or told[0][0] < oldest[0]):
            *_, stream, item = heappop(told)
            if isinstance(item, Fold) and item.more and self._last != stream:
                item = replace(item, apart=True)
            if stream is not None:
                self._last = stream
            yield item


class Folders:
    """Fold streams of events as they come, one for each region and vCPU: none waits for another.

    Each event is told at once. A fold that does not follow the last line of its loop is ``apart``.
    """

    def __init__(self) -> None:
        self._folders: dict[Stream, Folder] = {}
        self._last: Stream | None = None

    def add(self, event: Event) -> list[Event | Fold]:
        """Take the next event; return what can be told now, in order."""
        stream = _stream(event)
        folder = self._folders.get(stream)
        if folder is None:
            folder = self._folders[stream] = Folder(eager=True)
        return self._told(stream, folder.add(event))

    def end(self) -> list[Event | Fold]:
        """Return what is still to be told when nothing more comes."""
        told: list[Event | Fold] = []
        for stream, folder in self._folders.items():
            told += self._told(stream, folder.end())
        return told

    def _told(self, stream: Stream, told: list[Event | Fold]) -> list[Event | Fold]:
        for at, item in enumerate(told):
            if isinstance(item, Fold) and self._last != stream:
                told[at] = replace(item, apart=True)
            self._last = stream
        return told


Placed = tuple[int, Event | Fold]
"""An event or a fold that is told, behind the number of the access that it stands at."""


class Folder:
    """Fold a stream of events as it comes.

    An event may be held back until it is clear whether a loop begins with it. With ``eager`` none
    is: what is folded then are the turns after those that it takes to see a loop.
    """

    def __init__(self, *, eager: bool = False) -> None:
        self._eager = eager
        # The last events outside a loop, the first of which are told.
        self._waiting: deque[_Item] = deque()
        self._told = 0
        # A turn ends at one of the last keys alone.
        self._recent: deque[Key] = deque(maxlen=LONGEST)
        self._loop: _Loop | None = None
        self._count = 0

    def add(self, event: Event) -> list[Event | Fold]:
        """Take the next event; return what can be told now, in order."""
        told = self.take(event, self._count)
        self._count += 1
        return [item for _, item in told]

    def end(self) -> list[Event | Fold]:
        """Return what is still to be told when nothing more comes."""
        return [item for _, item in self.leave()]

    def take(self, event: Event, at: int) -> list[Placed]:
        """Take the next event, of a number that rises; return what can be told now."""
        key = _key(event)
        item = key, event, at
        told: list[Placed] = []
        if self._loop is not None:
            if self._loop.goes_on(item):
                return told
            told = self._left(self._loop)
        waiting = self._waiting
        waiting.append(item)
        period = _period(waiting) if key in self._recent else 0
        self._recent.append(key)
        while len(waiting) > FEWEST * (period or LONGEST):
            _, before, place = waiting.popleft()
            if self._told:
                self._told -= 1
            else:
                told.append((place, before))
        if self._eager:
            told += self._opened()
        if period:
            self._loop = loop = _Loop(list(waiting), period, self._told)
            told += loop.opening
            waiting.clear()
            self._told = 0
        return told

    def leave(self) -> list[Placed]:
        """Return what is still to be told when nothing more comes, with where it belongs."""
        told = [] if self._loop is None else self._left(self._loop)
        told += self._opened()
        self._waiting.clear()
        self._told = 0
        return told

    @property
    def in_loop(self) -> bool:
        """Tell whether a loop goes on."""
        return self._loop is not None

    @property
    def oldest(self) -> int | None:
        """Return the number of the first event that is held back, None where none is."""
        if self._loop is not None:
            return self._loop.oldest
        return self._waiting[self._told][2] if self._told < len(self._waiting) else None

    def let_go(self) -> list[Placed]:
        """Return what is held back; a loop that goes on is told of where it ends."""
        if self._loop is None:
            return self._opened()
        if not self._loop.more:
            return self._loop.open()
        return self._left(self._loop) + self._opened()

    def _opened(self) -> list[Placed]:
        told: list[Placed] = [(at, event) for _, event, at in list(self._waiting)[self._told :]]
        self._told = len(self._waiting)
        return told

    # Returns what a loop comes to that does not go on.
    def _left(self, loop: _Loop) -> list[Placed]:
        self._loop = None
        self._waiting.extend(loop.begun)
        self._recent.extend(key for key, _, _ in loop.begun)
        fold = loop.fold()
        told: list[Placed] = [(loop.place, fold)] if fold.turns else []
        if self._eager:
            told += self._opened()
        return told


class _Loop:
    # A loop that still goes on; `begun` is what there is of a turn that is not whole. It is made of
    # its first turns, of which so many events are `told`; with `more` its first turn is.

    def __init__(self, items: list[_Item], period: int, told: int) -> None:
        shown = -(-told // period)  # turns
        self.begun: list[_Item] = []
        self.more = shown > 0
        self.opening: list[Placed] = [(at, event) for _, event, at in items[told : shown * period]]
        self._keys = [key for key, _, _ in items[:period]]
        self._last = items[-period:]
        self._first = items[max(shown - 1, 0) * period :][:period]
        self._turns = len(items) // period - shown

    @property
    def oldest(self) -> int | None:
        if not self.more:
            return self._first[0][2]
        return self.begun[0][2] if self.begun else None

    @property
    def place(self) -> int:
        return self._last[-1][2] if self.more else self._first[0][2]

    def open(self) -> list[Placed]:
        self.more = True
        self._turns -= 1
        return [(at, event) for _, event, at in self._first]

    def goes_on(self, item: _Item) -> bool:
        if item[0] != self._keys[len(self.begun)]:
            return False
        self.begun.append(item)
        if len(self.begun) == len(self._keys):
            self._last = self.begun
            self._turns += 1
            self.begun = []
        return True

    def fold(self) -> Fold:
        first, last = (tuple(event for _, event, _ in each) for each in (self._first, self._last))
        return Fold(first, last, self._turns, self.more)


def _key(event: Event) -> Key:
    record, access = event.record, event.access
    return (
        access.offset,
        record.rip,
        access.region,
        access.direction,
        access.width,
        access.extent,
        record.vcpu,
        record.via == "stepped",  # no line tells other ways apart
        event.phase,
        record.cause,
        access.value if access.direction == "write" else None,
        access.device,
        access.skipped,
    )


# The shortest turn that the last accesses are made of, or 0.
def _period(waiting: deque[_Item]) -> int:
    newest = waiting[-1][0]
    size = len(waiting)
    for period in range(1, min(LONGEST, size // FEWEST) + 1):
        if waiting[-1 - period][0] != newest:
            continue
        if all(
            waiting[size - n][0] == waiting[size - n - period][0]
            for n in range(2, (FEWEST - 1) * period + 1)
        ):
            return period
    return 0
