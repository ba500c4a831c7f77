"""Nested tables: where a guest's physical addresses lead, with holes where accesses are to fault.

Each address leads to itself. A table is a page of the guest's RAM; levels and entries are those of
its own tables, and an access of the guest's counts as one of user code.

Ref: AMD64 Architecture Programmer's Manual vol. 2, 15.25.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tracer.x86.paging import LARGE, PRESENT, TABLE_ENTRIES, USER, WRITABLE, PhysicalMemory, covered
from tracer.x86.state import PAGE_SIZE

_RIGHTS = PRESENT | WRITABLE | USER
_LEVELS = 4
_SPARE = 16
"""Pages at the end of the room for tables that lead into a large hole for a moment."""


class NestedTables:
    """Own the nested tables in ``room``, physical addresses of whole pages; the first is the root.

    What lies in a hole faults at each access, and what only ``shows`` memory at each write.
    """

    def __init__(self, memory: PhysicalMemory, room: range) -> None:
        self._memory = memory
        self._room = room
        self._holes: tuple[range, ...] = ()
        self._shows: tuple[range, ...] = ()
        self._open: list[range] = []
        self._spare: Iterator[int] = iter(())

    def cover(self, holes: Iterable[range], shows: Iterable[range], highest: int) -> None:
        """Have these ranges fault, and all else up to the physical address ``highest`` not.

        They are taken in whole pages. Every vCPU stands, and the caller flushes their TLBs. Raises
        LookupError, with nothing changed, where there is no room for so many tables.
        """
        holes, shows = _pages(holes), _pages(shows)
        written = _Writing(self._room[: -_SPARE * PAGE_SIZE], holes, shows)
        written.fill(highest)
        self._holes, self._shows = holes, shows
        self._memory.write(self._room.start, written.bytes())

    def faults(self, physical: int) -> bool:
        """Tell whether an access at a physical address may fault."""
        if any(physical in span for span in self._open):
            return False
        return any(physical in span for span in (*self._holes, *self._shows))

    @contextmanager
    def opened(self, pages: Iterable[int]) -> Iterator[None]:
        """Have the pages at these physical addresses not fault for this long.

        No other vCPU runs. No translation of them is in the TLB before, and the caller flushes it
        after. Raises LookupError where there is no room for so many.
        """
        undo: list[tuple[int, bytes]] = []
        self._spare = iter(self._room[-_SPARE * PAGE_SIZE :: PAGE_SIZE])
        try:
            for page in {page & -PAGE_SIZE for page in pages}:
                self._put(self._entry(page, undo), page | _RIGHTS, undo)
                self._open.append(range(page, page + PAGE_SIZE))
            yield
        finally:
            self._open.clear()
            for place, data in reversed(undo):
                self._memory.write(place, data)

    def _entry(self, physical: int, undo: list[tuple[int, bytes]]) -> int:
        # The place of the entry of a page that is in a hole: the tables to it are made.
        table = self._room.start
        for level in range(_LEVELS, 1, -1):
            place = table + 8 * (physical // covered(level) % TABLE_ENTRIES)
            entry = int.from_bytes(self._memory.read(place, 8), "little")
            if not entry & PRESENT:
                spare = next(self._spare, None)
                if spare is None:
                    raise LookupError("no room for more nested tables")
                self._memory.write(spare, bytes(PAGE_SIZE))
                entry = spare | _RIGHTS
                self._put(place, entry, undo)
            table = entry & -PAGE_SIZE
        return table + 8 * (physical // PAGE_SIZE % TABLE_ENTRIES)

    def _put(self, place: int, entry: int, undo: list[tuple[int, bytes]]) -> None:
        undo.append((place, self._memory.read(place, 8)))
        self._memory.write(place, struct.pack("<Q", entry))


class _Writing:
    # Makes the tables: a hole has an entry for each of its pages.

    def __init__(self, room: range, holes: tuple[range, ...], shows: tuple[range, ...]) -> None:
        self._room = room
        self._tables: list[list[int]] = []
        self._holes = holes
        self._shows = shows

    def fill(self, highest: int) -> None:
        self._table(_LEVELS, 0, highest)

    def bytes(self) -> bytes:
        words = (struct.pack(f"<{TABLE_ENTRIES}Q", *table) for table in self._tables)
        return b"".join(words)

    def _table(self, level: int, start: int, highest: int) -> int:
        # Returns the physical address of a new table for what begins at ``start``.
        place = self._room.start + PAGE_SIZE * len(self._tables)
        if place not in self._room:
            raise LookupError("no room for more nested tables")
        table = [0] * TABLE_ENTRIES
        self._tables.append(table)
        size = covered(level)
        for index in range(TABLE_ENTRIES):
            span = range(start + index * size, start + (index + 1) * size)
            if span.start > highest:
                break
            table[index] = self._one(level, span, highest)
        return place

    def _one(self, level: int, span: range, highest: int) -> int:
        if any(hole.start <= span.start and span.stop <= hole.stop for hole in self._holes):
            return 0
        hole, shown = _met(span, self._holes), _met(span, self._shows)
        if level == 1:
            return span.start | (_RIGHTS & ~WRITABLE if shown else _RIGHTS)
        if level <= _LEVELS - 1 and not hole and not shown:
            return span.start | _RIGHTS | LARGE
        return self._table(level - 1, span.start, highest) | _RIGHTS


def _met(span: range, others: tuple[range, ...]) -> bool:
    return any(other.start < span.stop and span.start < other.stop for other in others)


def _pages(spans: Iterable[range]) -> tuple[range, ...]:
    return tuple(
        range(span.start & -PAGE_SIZE, -(-span.stop // PAGE_SIZE) * PAGE_SIZE) for span in spans
    )
