"""Entries of page tables that nothing uses, taken for mappings of vetrace's own.

Ref: Intel SDM vol. 3A, 4.5 (4-level and 5-level paging).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tracer.x86.paging import (
    LARGE,
    LARGE_SIZE,
    NOT_EXECUTABLE,
    PRESENT,
    TABLE_ENTRIES,
    WRITABLE,
    Budget,
    Paging,
    PhysicalMemory,
    covered,
    extended,
    is_leaf,
    steps,
)
from tracer.x86.state import PAGE_SIZE

_TABLE = struct.Struct("<512Q")
_ENTRY = struct.Struct("<Q")
_TABLE_BITS = PRESENT | WRITABLE
_ACCESSED = 3 << 5
"""Accessed and dirty, which the CPU sets by itself."""
_DEVICE_PAGE = PRESENT | WRITABLE | LARGE | _ACCESSED | 1 << 4 | NOT_EXECUTABLE
"""A leaf of device memory: not cached (PCD), not executable."""


@dataclass(frozen=True, slots=True)
class Loan:
    """Hold an entry borrowed from the guest: ``linear`` leads to the physical address wanted.

    ``entry_address`` is the physical address of the entry.
    """

    linear: int
    entry_address: int


def place_large(memory: PhysicalMemory, paging: Paging, linear: int, physical: int) -> bool:
    """Map the 2 MiB around a physical address at a linear one that nothing uses.

    The page is for data of the supervisor and not cached. Tells whether it is there afterwards:
    it is not when the tables end above, or the entry has another use.
    """
    step = next((step for step in steps(memory, paging, linear) if step.level == 2), None)
    if step is None or step.entry is None:
        return False
    wanted = (physical & -LARGE_SIZE) | _DEVICE_PAGE
    if step.entry == 0:
        memory.write(step.entry_address, _ENTRY.pack(wanted))
        return True
    return step.entry & ~_ACCESSED == wanted & ~_ACCESSED


def borrow(memory: PhysicalMemory, paging: Paging, physical: int, width: int) -> Loan | None:
    """Map ``width`` bytes at a physical address in an unused entry, as data of the supervisor.

    The entry maps 2 MiB where there is such a one, or else 1 GiB; the highest linear address is
    taken. None when every table is full. Give it back with :func:`give_back` before the guest
    runs on; the caller flushes the translation. Raises TablesUnending.
    """
    for level in (2, 3):
        size = covered(level)
        if physical % size + width > size:
            continue
        found = _unused(memory, paging, level)
        if found is not None:
            linear, address = found
            memory.write(address, _ENTRY.pack(physical & -size | _DEVICE_PAGE & ~NOT_EXECUTABLE))
            return Loan(linear + physical % size, address)
    return None


def give_back(memory: PhysicalMemory, loan: Loan) -> None:
    """Make a borrowed entry an unused one again."""
    memory.write(loan.entry_address, bytes(8))


def _unused(memory: PhysicalMemory, paging: Paging, wanted: int) -> tuple[int, int] | None:
    # The highest linear address whose entry of the ``wanted`` level is zero, and that entry's.
    budget, seen = Budget(), set[int]()

    def below(table: int, level: int, base: int) -> tuple[int, int] | None:
        if table in seen:
            return None
        seen.add(table)
        budget.spend()
        try:
            entries = _TABLE.unpack(memory.read(table, PAGE_SIZE))
        except LookupError:
            return None
        for index in range(TABLE_ENTRIES - 1, -1, -1):
            entry, linear = entries[index], base + index * covered(level)
            if level == wanted:
                if not entry:
                    return extended(linear, paging.levels), table + 8 * index
            elif entry & _TABLE_BITS == _TABLE_BITS and not is_leaf(entry, level):
                found = below(paging.table(entry), level - 1, linear)
                if found is not None:
                    return found
        return None

    return below(paging.root, paging.levels, 0)
