"""The linear addresses of a guest, and where they lead: page tables, RAM and regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from tracer.access.region import RegionMap
from tracer.x86.legacy_paging import legacy_walk
from tracer.x86.nested import NestedTables
from tracer.x86.paging import Leaf, Paging, PhysicalMemory, pages_of, walk
from tracer.x86.state import PAGE_SIZE

_LONG_LEVELS = 4


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """Join what decides where a linear address leads.

    With ``nested`` tables poison is there: a leaf is what a TLB has of both, a page.
    """

    memory: PhysicalMemory
    paging: Paging
    regions: RegionMap
    nested: NestedTables | None = None

    @property
    def legacy(self) -> bool:
        """Tell whether the code that is there is outside long mode."""
        return self.paging.levels < _LONG_LEVELS

    def leaf(self, linear: int) -> Leaf | None:
        """Return the translation of a linear address, poisoned or not."""
        find = legacy_walk if self.legacy else walk
        leaf = find(self.memory, self.paging, linear)
        if leaf is None or self.nested is None:
            return leaf
        start = linear & -PAGE_SIZE
        physical = leaf.translate(start)
        faults = self.nested.faults(physical)
        return replace(leaf, linear=start, physical=physical, size=PAGE_SIZE, poisoned=faults)

    def behind(self, linear: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the physical addresses of bytes from a linear one on, page by page, with these.

        They end where nothing is mapped.
        """
        for page in pages_of(linear, len(data)):
            start = max(page, linear)
            leaf = self.leaf(start)
            if leaf is None:
                return
            yield leaf.translate(start), data[start - linear : page + PAGE_SIZE - linear]

    def glance(self, known: Iterable[Leaf] = ()) -> Glance:
        """Return a look at this moment; ``known`` are translations of it."""
        return Glance(self, known)

    def read(self, linear: int, size: int) -> bytes:
        """Return up to ``size`` bytes of RAM at a linear address; fewer where RAM ends."""
        return _read(self.memory, self.leaf, linear, size)

    def word(self, linear: int) -> int | None:
        """Return the quadword in RAM at a linear address, or None when there is none."""
        data = self.read(linear, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None

    def set_word(self, linear: int, value: int) -> bool:
        """Write a quadword of data to RAM at a linear address; tell whether it could be.

        One that is not whole in its page is not written.
        """
        leaf = self.leaf(linear)
        if leaf is None or linear % PAGE_SIZE > PAGE_SIZE - 8:
            return False
        try:
            self.memory.write(leaf.translate(linear), value.to_bytes(8, "little"))
        except LookupError:
            return False
        return True


class Glance:
    """Look linear addresses up at one moment: each page is walked to once.

    Nothing clears it. It must not outlive the moment: once the guest has run, or anybody has
    written to its memory, tables may be others.
    """

    def __init__(self, space: AddressSpace, known: Iterable[Leaf] = ()) -> None:
        self.regions = space.regions
        self._memory = space.memory
        self._walk = space.leaf
        self._found = list(known)

    def leaf(self, linear: int) -> Leaf | None:
        """Return the translation of a linear address, poisoned or not."""
        for known in self._found:
            if known.linear <= linear < known.linear + known.size:
                return known
        leaf = self._walk(linear)
        if leaf is not None:
            self._found.append(leaf)
        return leaf

    def read(self, linear: int, size: int) -> bytes:
        """Return up to ``size`` bytes of RAM at a linear address; fewer where RAM ends."""
        return _read(self._memory, self.leaf, linear, size)


def _read(
    memory: PhysicalMemory, leaf_of: Callable[[int], Leaf | None], linear: int, size: int
) -> bytes:
    data = bytearray()
    while len(data) < size:
        here = linear + len(data)
        leaf = leaf_of(here)
        if leaf is None:
            break
        physical, left = leaf.translate(here), size - len(data)
        try:
            data += memory.read(physical, min(left, leaf.size - here % leaf.size))
            continue
        except LookupError:
            pass  # RAM may end within a large page
        try:
            data += memory.read(physical, min(left, PAGE_SIZE - here % PAGE_SIZE))
        except LookupError:
            break
    return bytes(data)
