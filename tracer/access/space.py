"""The linear addresses of a guest, and where they lead: page tables, RAM and regions."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.access.region import RegionMap
from tracer.x86.paging import Leaf, Paging, PhysicalMemory, walk
from tracer.x86.state import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """Join what decides where a linear address leads."""

    memory: PhysicalMemory
    paging: Paging
    regions: RegionMap

    def leaf(self, linear: int) -> Leaf | None:
        """Return the translation of a linear address, poisoned or not."""
        return walk(self.memory, self.paging, linear)

    def read(self, linear: int, size: int) -> bytes:
        """Return up to ``size`` bytes of RAM at a linear address; fewer where RAM ends."""
        data = bytearray()
        while len(data) < size:
            here = linear + len(data)
            leaf = self.leaf(here)
            if leaf is None:
                break
            length = min(size - len(data), PAGE_SIZE - here % PAGE_SIZE)
            try:
                data += self.memory.read(leaf.translate(here), length)
            except LookupError:
                break
        return bytes(data)
