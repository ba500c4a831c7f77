"""The window: where compiled sites lie in a guest, by which it sees devices and page tables."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tracer.access.region import Region
from tracer.access.space import AddressSpace
from tracer.compiled.layout import DISTANCE, RING
from tracer.compiled.ring import far_seen
from tracer.errors import TracerError
from tracer.x86.paging import NOT_EXECUTABLE, PhysicalMemory

# QEMU's TCG takes leaves of 1 GiB whatever CPUID says of them (PDPE1GB): 7.2 and 10.0 do.
_DATA = NOT_EXECUTABLE | 0xE3  # present, writable, accessed, dirty, a leaf
_CODE = 0xA1  # present, accessed, a leaf
_FAR = 128 * DISTANCE
"""Bytes of memory far away that are seen, where devices are there."""


REACH = 512 * DISTANCE - 2 * DISTANCE - _FAR
"""Where what a monitor's own window sees of the lowest memory ends."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Hold the physical address of RAM that is no longer the guest's, and a root table.

    By ``root`` the software's own linear addresses are looked up, whatever else runs.
    """

    physical: int
    root: int


class NoWindow(TracerError):
    """Tell why compiled sites cannot lie in a guest, in words behind a colon."""


@dataclass(frozen=True, slots=True)
class Window:
    """Hold the place of the block, which was the guest's RAM, and the leaves that lead to all.

    ``physical`` is the block's address, ``block`` the linear one that it has as data, and
    :data:`DISTANCE` above that it has one as code. ``base`` is the linear address of physical
    address 0: what lies below ``reach`` is seen there, and what lies in ``far`` behind it.
    ``table`` is the physical address of the ``entries`` of a page table that are vetrace's, and
    ``root`` that of the table by which the software's own linear addresses are looked up, whatever
    else runs.
    """

    physical: int
    block: int
    base: int
    reach: int
    table: int
    entries: int
    far: range = range(0)
    root: int = 0

    @property
    def code(self) -> int:
        """Return the linear address of the block as code."""
        return self.block + DISTANCE

    @property
    def guest_code(self) -> range:
        """Return the linear addresses of all code in the block but a monitor's."""
        return range(self.code, self.code + RING)

    def seen(self, data: bytes) -> bytes:
        """Return records in which each device far away is seen at its physical address, too."""
        return far_seen(data, self.base, self.reach, self.far)

    def pieces(self, parts: Iterable[range]) -> Iterator[range]:
        """Yield what of ranges of physical addresses the window has, each in one piece."""
        for part in parts:
            for there in (range(self.reach), self.far):
                piece = range(max(part.start, there.start), min(part.stop, there.stop))
                if piece:
                    yield piece

    def place(self, physical: int) -> int:
        """Return the linear address at which the window has a physical one."""
        offset = physical if physical < self.reach else self.reach + physical - self.far.start
        return self.base + offset

    def linear(self, physical: int, space: AddressSpace) -> int | None:
        """Return the linear address that leads to a physical one by the page tables of a space.

        None where these, as a program's may, lack the window, and for what it does not have.
        """
        linear = self.place(physical)
        leaf = space.leaf(linear)
        return linear if leaf is not None and leaf.translate(linear) == physical else None

    @property
    def span(self) -> range:
        """Return the linear addresses that are vetrace's."""
        return range(self.base, self.base + self.entries * DISTANCE)

    def close(self, memory: PhysicalMemory) -> None:
        """Take the leaves away; the caller flushes every TLB. The RAM stays the block's."""
        memory.write(self.table, bytes(8 * self.entries))


def far_devices(regions: Iterable[Region], reach: int) -> range:
    """Return where devices are from physical ``reach`` on: whole GiB, with room for more.

    UEFI firmware puts 64-bit BARs far above all RAM. Of more than the window has room for, the
    lowest are in it.
    """
    beyond = [region for region in regions if region.start >= reach]
    if not beyond:
        return range(0)
    first = min(region.start for region in beyond) & -DISTANCE
    return range(first, first + _FAR)


def open_at(
    memory: PhysicalMemory, base: int, table: int, entries: int, physical: int, far: range
) -> Window:
    """Write the leaves for a block at a physical address, within one GiB; return the window.

    The first ``entries`` of the table of 1 GiB leaves at physical ``table``, which translates from
    linear ``base`` on, lead to the lowest memory, then to what is ``far``, and the last two to the
    block as data and as code.
    """
    frames = entries - 2 - len(far) // DISTANCE
    frame = physical & -DISTANCE
    leaves = [number * DISTANCE | _DATA for number in range(frames)]
    leaves += [start | _DATA for start in far[::DISTANCE]]
    leaves += [frame | _DATA, frame | _CODE]
    memory.write(table, struct.pack(f"<{entries}Q", *leaves))
    block = base + (entries - 2) * DISTANCE + physical % DISTANCE
    return Window(physical, block, base, frames * DISTANCE, table, entries, far)
