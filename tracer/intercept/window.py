"""Where compiled sites lie in a guest, and how it sees them, its devices and its page tables."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.compiled.layout import DISTANCE
from tracer.errors import TracerError
from tracer.x86.paging import PhysicalMemory


class NoWindow(TracerError):
    """Tell why compiled sites cannot lie in a guest, in words behind a colon."""


@dataclass(frozen=True, slots=True)
class Window:
    """Hold the place of the block, which was the guest's RAM, and the leaves that lead to all.

    ``physical`` is the block's address, ``block`` the linear one that it has as data, and
    :data:`DISTANCE` above that it has one as code. ``base`` is the linear address of physical
    address 0: what lies below ``reach`` is seen there. ``table`` is the physical address of the
    ``entries`` of a page table that are vetrace's.
    """

    physical: int
    block: int
    base: int
    reach: int
    table: int
    entries: int

    @property
    def code(self) -> int:
        """Return the linear address of the block as code."""
        return self.block + DISTANCE

    @property
    def span(self) -> range:
        """Return the linear addresses that are vetrace's."""
        return range(self.base, self.base + self.entries * DISTANCE)

    def close(self, memory: PhysicalMemory) -> None:
        """Take the leaves away; the caller flushes every TLB. The RAM stays the block's."""
        memory.write(self.table, bytes(8 * self.entries))
