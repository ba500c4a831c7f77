"""Fold what repeats in a stream of accesses: a polling loop is told once.

One turn of a loop is up to eight accesses in a row; it is folded from the third turn on. Accesses
are alike when the same code accesses the same place in the same way on the same vCPU, whatever a
read gave; writes must write the same. So no value that the guest wrote is ever folded away, and
no access that a person changed into one that is as it came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tracer.trace.event import Event, Note
from tracer.trace.waiting import WaitRecord

LONGEST = 8
"""The most accesses in one turn of a loop."""

FEWEST = 3
"""The fewest turns that are folded."""


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


def folded(items: Iterable[Event | Note]) -> Iterator[Event | Fold | Note]:
    """Yield each event, or a fold in the place of those it stands for; hold a few dozen at most.

    What stands between them ends every loop, and comes in its place.
    """
    folder, waits = Folder(), list[WaitRecord]()
    for item in items:
        if isinstance(item, Event):
            told = folder.add(item)
        elif isinstance(item, WaitRecord):
            waits.append(item)  # it is about the loop that it came upon
            continue
        else:
            told = [*folder.end()]
        yield from told
        if told and waits:
            yield from waits
            waits = []
        if not isinstance(item, Event):
            yield item
    yield from folder.end()
    yield from waits


class Folders:
    """Fold streams of events as they come, one for each region and vCPU: none waits for another.

    Each event is told at once. A fold that does not follow the last line of its loop is ``apart``.
    """

    def __init__(self) -> None:
        self._folders: dict[tuple[str | None, int], Folder] = {}
        self._last: tuple[str | None, int] | None = None

    def add(self, event: Event) -> list[Event | Fold]:
        """Take the next event; return what can be told now, in order."""
        stream = event.access.region, event.record.vcpu
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

    def _told(self, stream: tuple[str | None, int], told: list[Event | Fold]) -> list[Event | Fold]:
        for at, item in enumerate(told):
            if isinstance(item, Fold) and self._last != stream:
                told[at] = replace(item, apart=True)
            self._last = stream
        return told


class Folder:
    """Fold a stream of events as it comes.

    An event may be held back until it is clear whether a loop begins with it. With ``eager`` none
    is: what is folded then are the turns after those that it takes to see a loop.
    """

    def __init__(self, *, eager: bool = False) -> None:
        self._eager = eager
        # The last events outside a loop. If eager, they are told.
        self._waiting: deque[tuple[Key, Event]] = deque()
        # A turn ends at one of the last keys alone.
        self._recent: deque[Key] = deque(maxlen=LONGEST)
        self._loop: _Loop | None = None

    def add(self, event: Event) -> list[Event | Fold]:
        """Take the next event; return what can be told now, in order."""
        key = _key(event)
        item = key, event
        told: list[Event | Fold] = []
        if self._loop is not None:
            if self._loop.goes_on(item):
                return told
            told = self._left(self._loop)
        waiting = self._waiting
        waiting.append(item)
        period = _period(waiting) if key in self._recent else 0
        self._recent.append(key)
        while len(waiting) > FEWEST * (period or LONGEST):
            _, before = waiting.popleft()
            if not self._eager:
                told.append(before)
        if self._eager:
            told.append(event)
        if period:
            self._loop = _Loop(list(waiting), period, more=self._eager)
            waiting.clear()
        return told

    def end(self) -> list[Event | Fold]:
        """Return what is still to be told when nothing more comes."""
        told = [] if self._loop is None else self._left(self._loop)
        if not self._eager:
            told += [event for _, event in self._waiting]
        self._waiting.clear()
        return told

    # Returns what a loop comes to that does not go on.
    def _left(self, loop: _Loop) -> list[Event | Fold]:
        self._loop = None
        self._waiting.extend(loop.begun)
        self._recent.extend(key for key, _ in loop.begun)
        fold = loop.fold()
        told: list[Event | Fold] = [fold] if fold.turns else []
        if self._eager:
            told += [event for _, event in loop.begun]
        return told


class _Loop:
    # A loop that still goes on; `begun` is what there is of a turn that is not whole.

    def __init__(self, items: list[tuple[Key, Event]], period: int, *, more: bool) -> None:
        self.begun: list[tuple[Key, Event]] = []
        self._keys = [key for key, _ in items[:period]]
        self._last = tuple(event for _, event in items[-period:])
        self._first = self._last if more else tuple(event for _, event in items[:period])
        self._turns = 0 if more else len(items) // period
        self._more = more

    def goes_on(self, item: tuple[Key, Event]) -> bool:
        if item[0] != self._keys[len(self.begun)]:
            return False
        self.begun.append(item)
        if len(self.begun) == len(self._keys):
            self._last = tuple(event for _, event in self.begun)
            self._turns += 1
            self.begun = []
        return True

    def fold(self) -> Fold:
        return Fold(self._first, self._last, self._turns, self._more)


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
        record.via,
        event.phase,
        record.cause,
        access.value if access.direction == "write" else None,
        access.device,
        access.skipped,
    )


# The shortest turn that the last accesses are made of, or 0.
def _period(waiting: deque[tuple[Key, Event]]) -> int:
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
