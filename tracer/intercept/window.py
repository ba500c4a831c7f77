"""Where compiled sites lie in a guest, and how it sees them, its devices and its page tables."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tracer.compiled.layout import DISTANCE
from tracer.errors import TracerError
from tracer.x86.paging import NOT_EXECUTABLE, PhysicalMemory

_DATA = NOT_EXECUTABLE | 0xE3  # present, writable, accessed, dirty, a leaf
_CODE = 0xA1  # present, accessed, a leaf


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


def open_at(memory: PhysicalMemory, base: int, table: int, entries: int, physical: int) -> Window:
    """Write the leaves for a block at a physical address, within one GiB; return the window.

    The first ``entries`` of the table of 1 GiB leaves at physical ``table``, which translates from
    linear ``base`` on, lead to all memory, and the last two to the block as data and as code.
    """
    frames = entries - 2
    frame = physical & -DISTANCE
    leaves = [number * DISTANCE | _DATA for number in range(frames)]
    leaves += [frame | _DATA, frame | _CODE]
    memory.write(table, struct.pack(f"<{entries}Q", *leaves))
    block = base + frames * DISTANCE + physical % DISTANCE
    return Window(physical, block, base, frames * DISTANCE, table, entries)
