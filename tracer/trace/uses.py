"""The uses of registers: how often each was read and written, and what it had last."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tracer.devices.entry import Entry
from tracer.devices.tree import Part
from tracer.trace.event import Event
from tracer.x86.bus import Direction

_Place = tuple[str, str]  # a region, and a register's name in full


@dataclass(frozen=True, slots=True)
class Use:
    """Hold an access to a register, and which part of it the access covers."""

    event: Event
    part: Part

    @property
    def value(self) -> int | None:
        """Return the register's bits that the access told, None where it told none."""
        value = self.event.access.value
        return None if value is None else self.part.value(value)

    @property
    def is_whole(self) -> bool:
        """Tell whether the access covers all of the register."""
        return self.part.bits == 8 * self.part.register.width


@dataclass(frozen=True, slots=True)
class Uses:
    """Tell how often a register was read and written, and the last use of each kind, if any."""

    reads: int = 0
    writes: int = 0
    read: Use | None = None
    written: Use | None = None

    @property
    def last(self) -> Use | None:
        """Return the last use of all that told a value."""
        told = [use for use in (self.read, self.written) if use is not None]
        told = [use for use in told if use.value is not None]
        return max(told, key=lambda use: use.event.seq, default=None)


def use_of(event: Event, region: str, entry: Entry) -> Use | None:
    """Return how an access used a register of a region, None where it did not.

    An entry for a whole array stands for each register of it.
    """
    if event.named is None or event.access.region != region:
        return None
    for part in event.named.parts:
        if _is_of(part, entry):
            return Use(event, part)
    return None


def _is_of(part: Part, entry: Entry) -> bool:
    if "*" in entry.name:
        return part.register is entry.register
    return part.name == entry.name


class RegisterUses:
    """Keep the uses of all registers as accesses come; memory grows with the registers used."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[_Place, Direction]] = Counter()
        self._last: dict[tuple[_Place, Direction], Use] = {}

    def add(self, event: Event, times: int = 1) -> None:
        """Take the next access; ``times`` tells how many there are like it."""
        access = event.access
        if event.named is None or access.skipped:
            return
        for part in event.named.parts:
            key = ((access.region or "", part.name), access.direction)
            self._counts[key] += times
            self._last[key] = Use(event, part)

    def of(self, region: str, entry: Entry) -> Uses:
        """Return the uses of a register of a region."""
        counts: Counter[Direction] = Counter()
        last: dict[Direction, Use] = {}
        for key in self._keys(region, entry):
            use, direction = self._last[key], key[1]
            counts[direction] += self._counts[key]
            if direction not in last or last[direction].event.seq < use.event.seq:
                last[direction] = use
        return Uses(counts["read"], counts["write"], last.get("read"), last.get("write"))

    def _keys(self, region: str, entry: Entry) -> list[tuple[_Place, Direction]]:
        if "*" not in entry.name:
            either: tuple[Direction, ...] = ("read", "write")
            keys = [((region, entry.name), direction) for direction in either]
            return [key for key in keys if key in self._last]
        return [
            key
            for key, use in self._last.items()
            if key[0][0] == region and use.part.register is entry.register
        ]
