"""Numbers that tell accesses and log entries apart, alike where they may be the same.

An access that a device's log tells in several entries is as many numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tracer.check.comparison import TracedAccess
from tracer.check.qemu_log import LogEntry
from tracer.check.witness.reading import Piece, bytewise, covers, lowest
from tracer.x86.bus import Direction

IN_A_ROW = 8
"""Entries that one print is taken of."""


class Manner:
    """Learn from a device's log entries in what pieces it tells accesses."""

    def __init__(self) -> None:
        self._widest = 0
        self._places: set[tuple[Direction, int]] = set()

    def learn(self, entries: Iterable[LogEntry]) -> None:
        """Take notice of entries."""
        for entry in entries:
            self._places.add((entry.direction, entry.address))
            if entry.width > self._widest and not entry.refused:
                self._widest = entry.width

    def pieces(self, access: TracedAccess) -> Sequence[Piece]:
        """Return the pieces in which an access is likely to be told."""
        address, width = access.address, access.width
        if width.bit_count() > 1:
            return [*lowest(address, width)]
        if address % width:
            if (access.direction, address) not in self._places:
                return [*covers(address, width)]
            if access.direction == "write" and (access.direction, address + 1) in self._places:
                return [*bytewise(address, width)]
            return [*lowest(address, width)]
        each = min(width, self._widest or width)
        return [(begin, each) for begin in range(address, address + width, each)]


class Fingerprints:
    """Hold the numbers of one side's items, in order, and print rows of them.

    ``starts`` has the index in ``numbers`` of each item's first. Without ``values`` direction and
    address alone tell items apart. An access of unknown extent has no number.
    """

    def __init__(self, *, values: bool = True) -> None:
        self.numbers: list[int] = []
        self.starts: list[int] = []
        self._values = values

    def add_accesses(self, accesses: Iterable[TracedAccess], manner: Manner) -> None:
        """Add accesses to a device."""
        for access in accesses:
            self.starts.append(len(self.numbers))
            for begin, width in manner.pieces(access) if access.width else ():
                value = None
                if access.value is not None and begin >= access.address:
                    shift = 8 * (begin - access.address)
                    value = access.value >> shift & ((1 << 8 * width) - 1)
                self._add(access.direction, begin, width, value)

    def add_entries(self, entries: Iterable[LogEntry]) -> None:
        """Add log entries."""
        for entry in entries:
            self.starts.append(len(self.numbers))
            self._add(entry.direction, entry.address, entry.width, entry.value)

    def _add(self, direction: Direction, address: int, width: int, value: int | None) -> None:
        if not self._values:
            number = hash((direction, address))
        elif value is None:
            number = hash((direction, address, len(self.numbers), None))  # like nothing else
        else:
            number = hash((direction, address, width, value))
        self.numbers.append(number)

    def row(self, item: int) -> int | None:
        """Return the print of the row that begins with an item, None where too few follow."""
        if item >= len(self.starts):
            return None
        start = self.starts[item]
        if start + IN_A_ROW > len(self.numbers):
            return None
        return hash(tuple(self.numbers[start : start + IN_A_ROW]))
