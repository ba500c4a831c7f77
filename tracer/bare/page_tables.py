"""The page tables that a root leads to, and the linear addresses at which they can be written.

Ref: Intel SDM vol. 3A, 4.5 (4-level and 5-level paging).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tracer.x86.paging import (
    PRESENT,
    Budget,
    Leaf,
    Paging,
    PhysicalMemory,
    covered,
    extended,
    is_leaf,
)
from tracer.x86.state import PAGE_SIZE

_TABLE = struct.Struct("<512Q")
_INDEX_BITS = 9


@dataclass(frozen=True, slots=True)
class Table:
    """Hold one table: its physical address, its ``level`` and its bytes.

    Its first entry is for linear address ``base``, without the bits that repeat the topmost one.
    """

    physical: int
    level: int
    base: int
    data: bytes

    def changed(self, now: bytes) -> Iterator[tuple[int, int, int]]:
        """Yield what differs: the linear address, the entry before and the one now."""
        pairs = zip(_TABLE.unpack(self.data), _TABLE.unpack(now), strict=True)
        for index, (before, after) in enumerate(pairs):
            if before != after:
                yield self.base + index * covered(self.level), before, after


def tables(memory: PhysicalMemory, paging: Paging) -> dict[int, Table]:
    """Return the tables that the root leads to, by physical address, each as it is first met.

    Raises TablesUnending.
    """
    found: dict[int, Table] = {}
    budget = Budget()

    def below(physical: int, level: int, base: int) -> None:
        if physical in found:
            return
        budget.spend()
        try:
            data = memory.read(physical, PAGE_SIZE)
        except LookupError:
            return
        found[physical] = Table(physical, level, base, data)
        if level == 1:
            return
        for index, entry in enumerate(_TABLE.unpack(data)):
            if entry & PRESENT and not is_leaf(entry, level):
                below(paging.table(entry), level - 1, base + index * covered(level))

    below(paging.root, paging.levels, 0)
    return found


def aliases(
    known: Mapping[int, Table], leaves: Iterable[Leaf], paging: Paging
) -> dict[int, set[int]]:
    """Return the linear addresses at which each table can be written, by physical address.

    ``leaves`` are those of the same root. An entry of the root may lead to the root itself: then
    the tables are seen through that, each in a place of its own.
    """
    places: dict[int, set[int]] = {physical: set() for physical in known}
    ordered = sorted(known)
    for leaf in leaves:
        first = bisect_left(ordered, leaf.physical)
        for physical in ordered[first : bisect_left(ordered, leaf.physical + leaf.size)]:
            places[physical].add(leaf.linear + physical - leaf.physical)
    for slot in _loops(known, paging):
        for table in known.values():
            places[table.physical].add(_through(slot, table, paging.levels))
    return places


def leads_to(tables: Sequence[int], physical: int, size: int) -> bool:
    """Tell whether a table, of physical addresses in order, lies within ``size`` bytes."""
    return bisect_left(tables, physical) != bisect_left(tables, physical + size)


def _loops(known: Mapping[int, Table], paging: Paging) -> list[int]:
    # The numbers of the root's entries that lead to the root itself.
    root = known.get(paging.root)
    if root is None:
        return []
    entries = enumerate(_TABLE.unpack(root.data))
    return [
        slot for slot, entry in entries if entry & PRESENT and paging.table(entry) == paging.root
    ]


def _through(slot: int, table: Table, levels: int) -> int:
    # Each time that the loop is taken, a table is the page that a level further up would map.
    bits = 12 + _INDEX_BITS * levels
    top = bits - _INDEX_BITS
    linear = table.base
    for _ in range(table.level):
        linear = slot << top | (linear & (1 << bits) - 1) >> _INDEX_BITS
    return extended(linear & -PAGE_SIZE, levels)
