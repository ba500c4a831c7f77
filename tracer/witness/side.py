"""One side of the comparison: a trace or a log, read as a stream and queued by region."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar

LIMIT = 1 << 18
"""How many accesses, or entries, a side may hold: how far it may be read ahead of the other."""

_T = TypeVar("_T")


class Side(Generic[_T]):
    """Read items with their regions in their own order, and hand them out region by region.

    ``pending`` names the regions with something in their queues, ``held`` counts what is in all,
    ``ended`` tells that there is nothing more to read.
    """

    def __init__(self, source: Iterator[tuple[str, _T]]) -> None:
        self._source = source
        self._queues: defaultdict[str, deque[_T]] = defaultdict(deque)
        self.pending: set[str] = set()
        self.held = 0
        self.ended = False

    @property
    def regions(self) -> list[str]:
        """Return the names of the regions that were met so far."""
        return list(self._queues)

    def fetch(self) -> str | None:
        """Read one more item; return its region, None when there is nothing more."""
        for region, item in self._source:
            self._queues[region].append(item)
            self.pending.add(region)
            self.held += 1
            return region
        self.ended = True
        return None

    def fill(self, region: str, count: int) -> bool:
        """Read until a region has ``count`` items; tell whether it has them.

        It has not when the side ends before, or too much would have to be held.
        """
        queue = self._queues[region]
        while len(queue) < count and self.held < LIMIT and self.fetch() is not None:
            pass
        return len(queue) >= count

    def first(self, region: str) -> _T | None:
        """Return the first item of a region, None when there is none within reach."""
        queue = self._queues[region]
        return queue[0] if queue or self.fill(region, 1) else None

    def view(self, region: str, count: int) -> list[_T]:
        """Return the next ``count`` items of a region, or as many as are within reach."""
        self.fill(region, count)
        return list(islice(self._queues[region], count))

    def size(self, region: str) -> int:
        """Return how many items of a region are held."""
        return len(self._queues[region])

    def take(self, region: str, count: int = 1) -> list[_T]:
        """Remove and return the next items of a region."""
        queue = self._queues[region]
        taken = [queue.popleft() for _ in range(min(count, len(queue)))]
        self.held -= len(taken)
        if not queue:
            self.pending.discard(region)
        return taken
