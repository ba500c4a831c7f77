"""Which of the accesses of a running guest are shown, and when it is better to count them.

Nothing here knows a clock or a terminal: each call is told the time in seconds of any clock that
only goes forward.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tracer.devices.map import Named
from tracer.text.amount import counted
from tracer.trace.event import Event
from tracer.trace.fold import Fold, Folders
from tracer.trace.poll import Poll

LINES_PER_SECOND = 30
"""What a person can follow, and any terminal can print."""

_WINDOW = 1.0
_TAIL = 3
_SILENCE = 5.0  # seconds after which a loop that goes on is told of


class Seen(Event, frozen=True):
    """Hold an access with the value seen at its place ``before``, None where there was none.

    ``marks`` is how many marks had come.
    """

    before: int | None = None
    marks: int = 0


@dataclass(frozen=True, slots=True)
class Skipped:
    """Tell that ``count`` accesses were not shown, when there were ``rate`` a second."""

    count: int
    rate: float


@dataclass(frozen=True, slots=True)
class Ticking:
    """Tell that accesses to clocks are not shown, the first of which is this one."""

    event: Event


@dataclass(frozen=True, slots=True)
class Waited:
    """Tell of a wait that is over, and of what its register is called."""

    poll: Poll
    named: Named | None


Item = Event | Fold | Skipped | Ticking | Waited
"""What is shown of a feed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Hold what the person typed after ``filter`` or ``hide``, and whom it fits."""

    text: str
    fits: Callable[[Seen], bool]


class Feed:
    """Choose what is shown of the accesses that come in.

    An access is wanted when one of the ``filters`` fits it, or there are none, and none of the
    ``hidden`` does. ``limit`` is how many lines a second are shown, None for all; what comes beyond
    it is counted. ``on`` and ``paused`` switch the feed off; paused, it tells afterwards how much
    came. With ``folds``, the turns of a loop are told once, and every few seconds while it goes on.
    Accesses to ``clocks`` are not shown unless a filter wants them: how many were ``ticks``, and
    the first is told of as :class:`Ticking`.
    """

    def __init__(
        self, *, limit: int | None = LINES_PER_SECOND, on: bool = True, folds: bool = False
    ) -> None:
        self.limit = limit
        self.on = on
        self.paused = False
        self.filters: list[Rule] = []
        self.hidden: list[Rule] = []
        self.clocks = True
        self.ticks = 0
        self._since: float | None = None
        self._came = self._shown = self._skipped = 0
        self._folder = Folders() if folds else None
        self._waited: list[Waited] = []
        self._tail: deque[Event] = deque(maxlen=_TAIL)
        self._told = 0.0

    def wants(self, event: Seen) -> bool:
        """Tell whether an access passes the filters."""
        if self.filters and not any(rule.fits(event) for rule in self.filters):
            return False
        return not any(rule.fits(event) for rule in self.hidden)

    def add(self, event: Seen, now: float) -> list[Item]:
        """Take the next access; return what is shown for it, or in its place."""
        if not self.on or not self.wants(event):
            return []
        items = self.tick(now)
        if not self.clocks and not self.filters and _is_clock(event):
            self.ticks += 1
            return items if self.ticks > 1 else [*items, Ticking(event)]
        if self._since is None:
            self._since = now
        self._came += 1
        for item in self._folded(event, now):
            items += self._admitted(item)
            if isinstance(item, Fold):
                items += self._over()
        return [*items, *self._over()]

    def wait(self, waited: Waited) -> None:
        """Tell of a wait with the access by which it is over, which comes next."""
        if self.on and not (self.paused or self.filters):
            self._waited.append(waited)

    def _over(self) -> list[Item]:
        over, self._waited = self._waited, []
        return list(over)

    # A driver that polls for ever is seen to be alive: its loop is told, and begins anew.
    def _folded(self, event: Seen, now: float) -> list[Event | Fold]:
        if self._folder is None:
            return [event]
        told = self._folder.add(event)
        if not told and now - self._told >= _SILENCE:
            told = self._folder.end()
        if told:
            self._told = now
        return told

    def _admitted(self, item: Event | Fold) -> list[Item]:
        if not self.paused and (self.limit is None or self._shown < self.limit):
            self._shown += 1
            return [item]
        if isinstance(item, Fold):
            self._skipped += item.turns * len(item.first)
        else:
            self._skipped += 1
            self._tail.append(item)
        return []

    def tick(self, now: float) -> list[Item]:
        """Return what is due now although no access came: how many were not shown."""
        if self._since is None or self.paused or now - self._since < _WINDOW:
            return []
        return self._close(now, 0)

    def flush(self, now: float) -> list[Item]:
        """Return what is due where the guest stops: the accesses right before are shown."""
        if self._since is None or self.paused:
            return []
        loop = [] if self._folder is None else self._folder.end()
        items = [shown for item in loop for shown in self._admitted(item)]
        return [*items, *self._close(now, _TAIL)]

    def resume(self, now: float) -> list[Item]:
        """Go on after a pause; return how many accesses came, and the last of them."""
        self.paused = False
        return self.flush(now)

    def _close(self, now: float, tail: int) -> list[Item]:
        assert self._since is not None
        last = list(self._tail)[:tail]
        count = self._skipped - len(last)
        items: list[Item] = []
        if count:
            items.append(Skipped(count, self._came / max(now - self._since, _WINDOW)))
        self._since = None
        self._came = self._shown = self._skipped = 0
        self._tail.clear()
        return [*items, *last]


def _is_clock(event: Event) -> bool:
    return event.named is not None and event.named.is_clock


def ticking_line(item: Ticking) -> str:
    """Return the line that says what is not shown, and how it is."""
    named = item.event.named
    name = "" if named is None else f" such as {item.event.access.region} {named.text}"
    return f"{'':10}  … accesses to clocks{name} are not shown: `watch clocks` shows them"


def skipped_line(item: Skipped, kept: str) -> str:
    """Return the line that stands for accesses not shown; ``kept`` says where they are."""
    more = counted(item.count, "more access")
    return f"{'':10}  … {more} ({item.rate:,.0f}/s), {kept}"


class Meter:
    """Measure how many accesses a second come, over the last few seconds."""

    def __init__(self, seconds: float = 3.0) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, accesses: int, now: float) -> float:
        """Return the rate, given how many accesses there have been until now."""
        self._seen.append((now, accesses))
        while len(self._seen) > 2 and now - self._seen[0][0] > self._seconds:
            self._seen.popleft()
        (since, before), (until, after) = self._seen[0], self._seen[-1]
        return (after - before) / (until - since) if until > since else 0.0
