"""One side of the comparison: a trace or a log, read as a stream and queued by strand."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from tracer.access.region import LAPIC
from tracer.check.witness.territory import INTERRUPTS

LIMIT = 1 << 18
"""How many accesses, or entries, a side may hold: how far it may be read ahead of the other."""

_T = TypeVar("_T")


class Strand(NamedTuple):
    """Name accesses whose order means something: those of a region, by one vCPU or by all (None).

    Each vCPU has a local APIC of its own, at the address that all of them have (Intel SDM vol. 3A,
    10.4.1), and takes its own interrupts. Which of two vCPUs wrote its own first, the trace does
    not tell.
    """

    region: str
    vcpu: int | None = None


def strand_of(region: str, vcpu: int) -> Strand:
    """Return the strand that an access of a vCPU belongs to."""
    return Strand(region, vcpu if region in (LAPIC, INTERRUPTS) else None)


class Side(Generic[_T]):
    """Read items with their strands in their own order, and hand them out strand by strand.

    ``pending`` names the strands with something in their queues, ``held`` counts what is in all,
    ``ended`` tells that there is nothing more to read.
    """

    def __init__(self, source: Iterator[tuple[Strand, _T]]) -> None:
        self._source = source
        self._queues: defaultdict[Strand, deque[_T]] = defaultdict(deque)
        self.pending: set[Strand] = set()
        self.held = 0
        self.ended = False

    @property
    def strands(self) -> list[Strand]:
        """Return the strands that were met so far."""
        return list(self._queues)

    def fetch(self) -> Strand | None:
        """Read one more item; return its strand, None when there is nothing more."""
        for strand, item in self._source:
            self._queues[strand].append(item)
            self.pending.add(strand)
            self.held += 1
            return strand
        self.ended = True
        return None

    def fill(self, strand: Strand, count: int) -> bool:
        """Read until a strand has ``count`` items; tell whether it has them.

        It has not when the side ends before, or too much would have to be held.
        """
        queue = self._queues[strand]
        while len(queue) < count and self.held < LIMIT and self.fetch() is not None:
            pass
        return len(queue) >= count

    def first(self, strand: Strand) -> _T | None:
        """Return the first item of a strand, None when there is none within reach."""
        queue = self._queues[strand]
        return queue[0] if queue or self.fill(strand, 1) else None

    def view(self, strand: Strand, count: int) -> list[_T]:
        """Return the next ``count`` items of a strand, or as many as are within reach."""
        self.fill(strand, count)
        return list(islice(self._queues[strand], count))

    def size(self, strand: Strand) -> int:
        """Return how many items of a strand are held."""
        return len(self._queues[strand])

    def take(self, strand: Strand, count: int = 1) -> list[_T]:
        """Remove and return the next items of a strand."""
        queue = self._queues[strand]
        taken = [queue.popleft() for _ in range(min(count, len(queue)))]
        self.held -= len(taken)
        if not queue:
            self.pending.discard(strand)
        return taken
