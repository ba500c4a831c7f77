"""A ring whose doorbell is written an index: the driver's entries, and those of the device.

The device's have a phase, a bit that is the other one in each lap.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.devices.queue import Layout, Queue
from tracer.intercept.queue.told import MOST_ENTRIES, Told

MOST_COUNT = 1 << 16
"""Entries of a ring, at most."""


@dataclass(slots=True)
class Ring:
    """Follow one ring: ``count`` entries from the physical address ``base`` on.

    Both are None where that is not known. ``last`` is the index that its doorbell has told. The
    device's entries are known up to ``seen``, the next of which will have ``phase``. An index of
    None is not known.
    """

    base: int | None = None
    count: int | None = None
    last: int | None = 0
    seen: int | None = 0
    phase: bool = True

    def take(
        self, queue: Queue, layout: Layout, value: int, told: Told, mask: int
    ) -> list[dict[str, int]]:
        """Tell the entries up to ``value``, which the doorbell was written; return their numbers.

        ``mask`` is that of the bits that are of a physical address.
        """
        base, count = self.base, self.count
        if base is None or count is None:
            told.notes.append("where it is was not seen")
            self.last = self.seen = None
            return []
        if not 1 <= count <= MOST_COUNT:
            told.notes.append(f"it is to have {count} entries")
            return []
        if value >= count:
            told.notes.append(f"index {value} lies outside its {count} entries")
            return []
        first = (value - 1) % count if self.last is None or self.last >= count else self.last
        if self.last is None:
            told.notes.append("entries before this one may be new as well")
        self.last = value
        total = (value - first) % count
        if queue.phase and (self.seen is None or (self.seen - first) % count < total):
            self._see(queue, layout, base + (value - 1) % count * layout.size, value, told)
        found = []
        for index in range(first, first + total):
            if told.full:
                told.notes.append(f"{total - MOST_ENTRIES} more entries")
                break
            at = index % count
            physical = base + at * layout.size & mask
            data = told.read(physical, layout.size)
            if data is None:
                break
            told.entry(layout, at, physical, data)
            found.append(layout.numbers(data))
        return found

    def _see(self, queue: Queue, layout: Layout, physical: int, value: int, told: Told) -> None:
        # All before an index is known: the last of that tells the phase of what comes there.
        data = told.look(physical, layout.size)
        self.seen = None if data is None else value
        if data is not None:
            self.phase = bool(layout.numbers(data)[queue.phase]) ^ (value == 0)

    def complete(self, queue: Queue, layout: Layout, told: Told, mask: int) -> None:
        """Tell the device's entries since; ``mask`` is as of :meth:`take`."""
        base, count = self.base, self.count
        if not base or not count or count > MOST_COUNT or self.seen is None:
            return
        while not told.full and self.seen < count:
            at = self.seen
            physical = base + at * layout.size & mask
            data = told.look(physical, layout.size)
            # The driver leaves one entry free, so that a full ring is not taken for an empty one.
            last = (at + 1) % count == self.last
            if data is None or last or bool(layout.numbers(data)[queue.phase]) != self.phase:
                return
            told.entry(layout, at, physical, data)
            self.seen = (at + 1) % count
            self.phase ^= self.seen == 0
