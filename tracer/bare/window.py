"""Room for compiled sites in a bare guest: what it leaves to them, by two symbols of its image.

Nothing else says which RAM such a guest does not use, unless the machine was made with some that it
is not told of; that will do for a monitor, which no table of the guest's leads to. Between
``vetrace_room`` and ``vetrace_room_end``, mapped in one piece of physical memory, lie the block and
the page tables that lead to all memory; they go into a slot of the root table that is free. Every
root that the guest loads must have that slot, and its stack must not lie in a device.
"""

from __future__ import annotations

import struct

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable
from tracer.compiled.layout import DISTANCE
from tracer.intercept.ring.window import NoWindow, Window, far_devices, open_at
from tracer.x86.paging import (
    PRESENT,
    TABLE_ENTRIES,
    USER_SLOTS,
    WRITABLE,
    PhysicalMemory,
    extended,
)
from tracer.x86.state import PAGE_SIZE

FIRST, END = "vetrace_room", "vetrace_room_end"
_ENTRY = struct.Struct("<Q")
_TABLE_OF_GIBS = 3
"""The level whose entries map 1 GiB (Intel SDM vol. 3A, 4.5)."""


def open_window(
    memory: PhysicalMemory, space: AddressSpace, symbols: SymbolTable, size: int
) -> Window:
    """Map all memory, and ``size`` bytes of the room as the block.

    Raises NoWindow, with nothing changed, where that cannot be.
    """
    levels = space.paging.levels
    tables = levels - _TABLE_OF_GIBS
    physical = take_room(space, symbols, tables * PAGE_SIZE + size)
    block = physical + tables * PAGE_SIZE
    root = space.paging.cr3 & -PAGE_SIZE
    slot = _free(memory.read(root, 8 * TABLE_ENTRIES))
    memory.write(physical, bytes(tables * PAGE_SIZE))
    place = root + 8 * slot
    for number in range(tables):
        table = physical + number * PAGE_SIZE
        memory.write(place, _ENTRY.pack(table | PRESENT | WRITABLE))
        place = table
    base = extended(slot << 12 + 9 * (levels - 1), levels)
    far = far_devices(space.regions.regions, (TABLE_ENTRIES - 2) * DISTANCE)
    return open_at(memory, base, place, TABLE_ENTRIES, block, far)


def take_room(space: AddressSpace, symbols: SymbolTable, size: int) -> int:
    """Return the physical address of ``size`` bytes of the room, in one GiB. Raises NoWindow."""
    first, end = symbols.address_of(FIRST), symbols.address_of(END)
    if first is None or end is None:
        raise NoWindow(
            f"the guest leaves no RAM for it: there is no symbol {FIRST}, or no {END}; --trap"
            " nested needs none of its RAM"
        )
    first += -first % PAGE_SIZE
    physical = _physical(space, first, end)
    if end - first < size:
        raise NoWindow(
            f"between {FIRST} and {END} are {end - first:,} bytes, and it takes {size:,}"
        )
    if physical // DISTANCE != (physical + size - 1) // DISTANCE:
        raise NoWindow(f"physical {physical:#x}, where its room is, crosses a GiB")
    return physical


def _physical(space: AddressSpace, first: int, end: int) -> int:
    # The physical address of the room, which is in one piece.
    places = []
    for linear in range(first, end, PAGE_SIZE):
        leaf = space.leaf(linear)
        places.append(None if leaf is None else leaf.translate(linear) - linear)
    if not places or places[0] is None or len(set(places)) != 1:
        raise NoWindow(f"the guest does not map what is between {FIRST} and {END} in one piece")
    return first + places[0]


def _free(root: bytes) -> int:
    # The number of a slot of the upper half that the guest does not use.
    for slot in range(USER_SLOTS.stop, TABLE_ENTRIES):
        if not any(root[8 * slot : 8 * slot + 8]):
            return slot
    raise NoWindow("every slot of the guest's root table is in use")
