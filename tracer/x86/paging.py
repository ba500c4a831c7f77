"""Page tables: walk, scan, poison.

A *poisoned* leaf entry has a reserved physical-address bit set. It stays present, so the guest's
own view of the mapping does not change, but any access through it raises #PF with RSVD set.

Ref: Intel SDM vol. 3A, 4.5 (4-level and 5-level paging), 4.7 (page-fault exceptions).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tracer.errors import TablesUnending
from tracer.x86.state import PAGE_SIZE, CpuState, Flag

PRESENT = 1 << 0
WRITABLE = 1 << 1
USER = 1 << 2
LARGE = 1 << 7

LARGE_SIZE = 1 << 21

LEVEL_NAMES = {5: "PML5", 4: "PML4", 3: "PDPT", 2: "PD", 1: "PT"}
"""The manuals' names for the table of each level; the last one's entries map 4 KiB."""

NOT_EXECUTABLE = 1 << 63
"""Reserved in a CPU without EFER.NXE."""
_ADDRESS = 0x000F_FFFF_FFFF_F000
_INDEX_BITS = 9
TABLE_ENTRIES = 512
"""Entries of a table, at every level."""

MAX_TABLES = 1 << 15
"""Tables that one walk reads: they map 64 GiB by pages of 4 KiB, and are read in seconds."""

USER_SLOTS = range(TABLE_ENTRIES // 2)
"""The entries of the root for the lower half of the address space: programs of the guest."""

_ENTRY = struct.Struct("<Q")
_CR0_WP = 1 << 16
_CR4_SMAP = 1 << 21
_CR4_LA57 = 1 << 12


class PhysicalMemory(Protocol):
    """Read and write guest RAM at physical addresses; device memory is not reached this way."""

    def read(self, physical: int, size: int) -> bytes:
        """Return ``size`` bytes, or raise LookupError when part of them is not RAM."""
        ...

    def write(self, physical: int, data: bytes) -> None:
        """Write bytes, or raise LookupError when part of them is not RAM."""
        ...


@dataclass(frozen=True, slots=True)
class Paging:
    """Say how the guest's CPU translates: table root, depth, and the bit used as poison.

    ``levels`` is 4 or 5 (CR4.LA57), and fewer outside long mode, where there are pages of 4 MiB if
    they are ``large``: see :mod:`tracer.x86.legacy_paging`. ``poison`` is a physical-address bit
    above the CPU's MAXPHYADDR, as a mask. The bit below it is reserved as well, and a leaf that has
    either is poisoned: see :mod:`tracer.linux.mm` for when it is the lower one. ``shared`` is the
    bit that a guest of TDX sets by itself in what it shares with its host, as a mask, 0 for none:
    reserved too, and such a leaf counts as poisoned.
    """

    cr3: int
    levels: int
    poison: int
    shared: int = 0
    large: bool = True

    @property
    def root(self) -> int:
        """Return the physical address of the topmost table."""
        return self.cr3 & _ADDRESS

    def table(self, entry: int) -> int:
        """Return the physical address of the table that an entry, which is no leaf, leads to."""
        return entry & _ADDRESS & ~self.poison

    @property
    def marks(self) -> int:
        """Return the mask of both bits."""
        return self.poison | self.poison >> 1

    @property
    def reserved(self) -> int:
        """Return the mask of every bit through which an access faults."""
        return self.marks | self.shared

    def shares(self, leaf: Leaf) -> bool:
        """Tell whether the guest itself has marked a leaf as shared with its host."""
        return bool(leaf.entry & self.shared)


@dataclass(frozen=True, slots=True)
class Leaf:
    """Hold one translation: ``size`` bytes at ``linear`` map to ``physical``.

    ``entry_address`` is the physical address of the entry; ``physical`` has no poison bit.
    ``writable`` and ``user`` combine all levels (Intel SDM vol. 3A, 4.6.1).
    """

    linear: int
    physical: int
    size: int
    entry_address: int
    entry: int
    poisoned: bool
    writable: bool
    user: bool

    def translate(self, linear: int) -> int:
        """Return the physical address behind a linear address within this leaf."""
        return self.physical + (linear - self.linear)


@dataclass(frozen=True, slots=True)
class Step:
    """Hold one level of a walk: which entry of which table it took.

    ``table`` is the table's physical address; ``entry`` is None where the table is not in RAM.
    ``level`` counts down to 1, as in :data:`LEVEL_NAMES`.
    """

    level: int
    table: int
    index: int
    entry: int | None

    @property
    def entry_address(self) -> int:
        """Return the physical address of the entry."""
        return self.table + 8 * self.index

    @property
    def present(self) -> bool:
        """Tell whether the entry leads anywhere."""
        return self.entry is not None and bool(self.entry & PRESENT)

    @property
    def leaf(self) -> bool:
        """Tell whether the entry maps a page, where it is present, and no further table."""
        return self.entry is not None and is_leaf(self.entry, self.level)

    @property
    def size(self) -> int:
        """Return how many bytes of linear addresses the entry covers."""
        return covered(self.level)


def is_leaf(entry: int, level: int) -> bool:
    """Tell whether an entry of a table of this level maps a page, where it is present."""
    return level == 1 or (level <= 3 and bool(entry & LARGE))


def covered(level: int) -> int:
    """Return how many bytes of linear addresses an entry of a table of this level covers."""
    return 1 << 12 + _INDEX_BITS * (level - 1)


def paging_of(cr3: int, cr4: int, poison: int, shared: int = 0) -> Paging:
    """Return how a vCPU in 64-bit mode translates, from its control registers."""
    return Paging(cr3, 5 if cr4 & _CR4_LA57 else 4, poison, shared)


def poison_bit(physical_bits: int) -> int:
    """Return the mask of the highest bit that is reserved with MAXPHYADDR ``physical_bits``.

    Raises ValueError when it and the one below are not reserved both (MAXPHYADDR is 51 or 52).
    """
    if not 32 <= physical_bits < 51:
        raise ValueError(
            f"no two reserved bits in page-table entries with {physical_bits} address bits"
        )
    return 1 << 51


def walk(memory: PhysicalMemory, paging: Paging, linear: int) -> Leaf | None:
    """Return the leaf that maps a linear address, or None when nothing does."""
    table = paging.root
    rights = WRITABLE | USER
    for level in range(paging.levels, 0, -1):
        shift = 12 + _INDEX_BITS * (level - 1)
        address = table + 8 * (linear >> shift & (TABLE_ENTRIES - 1))
        try:
            (entry,) = _ENTRY.unpack(memory.read(address, 8))
        except LookupError:
            return None
        if not entry & PRESENT:
            return None
        rights &= entry
        if is_leaf(entry, level):
            size = 1 << shift
            writable, user = bool(rights & WRITABLE), bool(rights & USER)
            return _leaf(linear & -size, entry, address, size, paging.reserved, writable, user)
        table = paging.table(entry)
    return None


def steps(memory: PhysicalMemory, paging: Paging, linear: int) -> tuple[Step, ...]:
    """Return every level that :func:`walk` goes through, the root first.

    The last one maps the address, is not present, or is of a table that is not in RAM.
    """
    table = paging.root
    taken: list[Step] = []
    for level in range(paging.levels, 0, -1):
        index = linear >> 12 + _INDEX_BITS * (level - 1) & (TABLE_ENTRIES - 1)
        try:
            (entry,) = _ENTRY.unpack(memory.read(table + 8 * index, 8))
        except LookupError:
            entry = None
        taken.append(Step(level, table, index, entry))
        if not taken[-1].present or taken[-1].leaf:
            break
        table = paging.table(entry)
    return tuple(taken)


def pages_of(linear: int, size: int) -> range:
    """Return the linear addresses of the pages that ``size`` bytes lie in."""
    return range(linear & -PAGE_SIZE, linear + size, PAGE_SIZE)


def canonical(linear: int, levels: int) -> bool:
    """Tell whether a CPU takes a linear address at all (Intel SDM vol. 1, 3.3.7.1)."""
    top = linear >> 11 + _INDEX_BITS * levels
    return top in (0, (1 << 53 - _INDEX_BITS * levels) - 1)


class Budget:
    """Bound how many page tables are read: a guest may link them in circles, or have any number.

    Raises TablesUnending once it is spent.
    """

    def __init__(self, tables: int = MAX_TABLES) -> None:
        self.tables = tables
        self._left = tables

    def spend(self) -> None:
        """Note that one table is read."""
        if not self._left:
            raise TablesUnending(
                f"the guest's page tables go on beyond {self.tables} tables, where vetrace gives up"
            )
        self._left -= 1


def leaves(
    memory: PhysicalMemory,
    paging: Paging,
    slots: range = range(TABLE_ENTRIES),
    budget: Budget | None = None,
) -> Iterator[Leaf]:
    """Yield every leaf below the root, in order of linear address.

    A table reached twice is walked once: aliases of kernel space in other slots of the root
    (the LDT remap, espfix, a recursive slot) lead to the same entries, and poison sits in those.
    ``slots`` are the entries of the root to go through, such as :data:`USER_SLOTS`. Raises
    TablesUnending where there are more tables than the ``budget`` has.
    """
    size = covered(paging.levels)
    return _Walk(memory, paging, slots.start * size, slots.stop * size - 1, budget).leaves()


def range_leaves(
    memory: PhysicalMemory, paging: Paging, linear: int, size: int, budget: Budget | None = None
) -> Iterator[Leaf]:
    """Yield the leaves that map ``size`` bytes from a linear address on, in order.

    What is not mapped costs no more than the tables that say so. Raises TablesUnending.
    """
    room = covered(paging.levels + 1)
    first = linear & (room - 1)
    last = min(first + size, room) - 1
    return _Walk(memory, paging, first, last, budget).leaves() if size > 0 else iter(())


class _Walk:
    # Goes through the tables of a range of linear addresses, the ends included. They are without
    # the bits that repeat the topmost one that is translated.

    def __init__(
        self, memory: PhysicalMemory, paging: Paging, first: int, last: int, budget: Budget | None
    ) -> None:
        self._memory = memory
        self._paging = paging
        self._first, self._last = first, last
        self._budget = budget or Budget()
        self._whole: set[int] = set()
        self._path: list[int] = []

    def leaves(self) -> Iterator[Leaf]:
        paging = self._paging
        return self._below(paging.root, paging.levels, 0, True, True)

    def _below(
        self, table: int, level: int, base: int, writable: bool, user: bool
    ) -> Iterator[Leaf]:
        paging = self._paging
        shift = 12 + _INDEX_BITS * (level - 1)
        start = max(self._first - base, 0) >> shift
        stop = min(self._last - base >> shift, TABLE_ENTRIES - 1) + 1
        if table in self._whole or table in self._path:
            return
        if (start, stop) == (0, TABLE_ENTRIES):
            self._whole.add(table)
        self._budget.spend()
        try:
            data = self._memory.read(table + 8 * start, 8 * (stop - start))
        except LookupError:
            return
        self._path.append(table)
        for index, (entry,) in enumerate(_ENTRY.iter_unpack(data), start):
            if not entry & PRESENT:
                continue
            linear = base | index << shift
            below_writable = writable and bool(entry & WRITABLE)
            below_user = user and bool(entry & USER)
            if is_leaf(entry, level):
                where = extended(linear, paging.levels), entry, table + 8 * index, 1 << shift
                yield _leaf(*where, paging.reserved, below_writable, below_user)
            else:
                below = paging.table(entry)
                yield from self._below(below, level - 1, linear, below_writable, below_user)
        self._path.pop()


def extended(linear: int, levels: int) -> int:
    """Return a linear address with the bits that repeat (Intel SDM vol. 1, 3.3.7.1)."""
    bits = 12 + _INDEX_BITS * levels
    return linear | -(linear >> bits - 1) << bits & 0xFFFF_FFFF_FFFF_FFFF


def set_poison(memory: PhysicalMemory, paging: Paging, leaf: Leaf, poisoned: bool) -> None:
    """Poison or heal the entry of a leaf; the caller flushes TLBs that may hold it.

    One that the guest shares gets its own bit back.
    """
    (entry,) = _ENTRY.unpack(memory.read(leaf.entry_address, 8))
    entry &= ~paging.reserved
    entry |= (leaf.entry & paging.shared or paging.poison) if poisoned else 0
    memory.write(leaf.entry_address, _ENTRY.pack(entry))


def _leaf(
    linear: int, entry: int, address: int, size: int, marks: int, writable: bool, user: bool
) -> Leaf:
    # Bit 12 of a large leaf is PAT, not address: mask down to the leaf's own size.
    physical = entry & _ADDRESS & ~marks & -size
    poisoned = bool(entry & marks)
    return Leaf(linear, physical, size, address, entry, poisoned, writable, user)


def permitted(leaf: Leaf, cpu: CpuState, *, write: bool) -> bool:
    """Tell whether a data access is allowed by the page's rights.

    Ref: Intel SDM vol. 3A, 4.6.1; protection keys are not considered.
    """
    if cpu.cpl == 3:
        return leaf.user and (leaf.writable or not write)
    if leaf.user and cpu.cr4 & _CR4_SMAP and not cpu.rflags & Flag.AC:
        return False
    return leaf.writable or not write or not cpu.cr0 & _CR0_WP
