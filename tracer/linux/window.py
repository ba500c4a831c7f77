"""Room for compiled sites in a Linux guest: RAM that its kernel leaves alone, and leaves to it.

The kernel has not read its memory map yet: a piece of RAM is entered there as reserved.

The leaves, of 1 GiB each, go into ``level3_kernel_pgt``: it belongs to the kernel's image, and all
page tables that there will be share it or copy its entries (Linux: arch/x86/kernel/head_64.S;
arch/x86/platform/efi/efi_64.c, efi_sync_low_kernel_mappings). Its first 444 entries are the "unused
hole" below EFI's region, at the same place with 5 levels (Documentation/arch/x86/x86_64/mm.rst). A
table of our own would not do: CONFIG_DEBUG_WX reads tables through the kernel's map of RAM, which
lacks what is reserved. It is why data and code are two leaves, too: none is writable and
executable.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable
from tracer.compiled.layout import DISTANCE
from tracer.intercept.ring.window import NoWindow, Window, far_devices, open_at
from tracer.linux import mapping
from tracer.x86.paging import PhysicalMemory, steps

_ROOT = "init_top_pgt"
"""The kernel's own page table (Linux: arch/x86/kernel/head_64.S; in use from ``init_mem_mapping``
on)."""

_BASE = 0xFFFF_FF80_0000_0000
_ENTRIES = 444
_FRAMES = _ENTRIES - 2
_GIB = DISTANCE

# Offsets in struct boot_params (Linux: arch/x86/include/uapi/asm/bootparam.h).
_RAMDISK_HIGH, _EFI, _COUNT, _RAMDISK = 0xC0, 0x1C0, 0x1E8, 0x218
_SETUP_DATA, _TABLE = 0x250, 0x2D0
_SIZE = 4096
_ROW = struct.Struct("<QQI")
_MOST_ROWS = 128
_RAM, _RESERVED = 1, 2

_NODE = struct.Struct("<QII")
_MOST_NODES = 64
_INDIRECT = 1 << 31  # SETUP_INDIRECT: a node leads to more data
_CONVENTIONAL = 7  # EfiConventionalMemory

_ALIGNMENT = 2 << 20
_LOWEST = 16 << 20
"""Below, there may be what ISA devices and a second kernel need."""


def open_window(
    memory: PhysicalMemory, space: AddressSpace, symbols: SymbolTable, size: int, second: int = 0
) -> Window:
    """Take ``size`` bytes of RAM from the kernel, which stands at its entry, and map them.

    RAM is there a ``second`` time where its physical addresses have that bit, 0 for none. Raises
    NoWindow, with nothing changed, where that cannot be.
    """
    table = hole(memory, space, symbols)
    far = far_devices(space.regions.regions, _FRAMES * _GIB)
    physical = take_room(memory, space, symbols, size, _FRAMES * _GIB - len(far), second)
    root = root_of(space, symbols)
    return replace(open_at(memory, _BASE, table, _ENTRIES, physical, far), root=root)


def root_of(space: AddressSpace, symbols: SymbolTable) -> int:
    """Return the physical address of the table by which the kernel's addresses are looked up."""
    # A kernel that does not name it goes on with the present one for as long as it starts.
    if symbols.address_of(_ROOT) is None:
        return space.paging.cr3
    return _physical(space, symbols, _ROOT)


def open_borrowed(memory: PhysicalMemory, space: AddressSpace, table: int, physical: int) -> Window:
    """Map RAM that a kernel which runs has lent at a physical address.

    ``space`` are its own page tables, and ``table`` is what :func:`hole` tells. Raises NoWindow
    where it lies too far away.
    """
    far = far_devices(space.regions.regions, _FRAMES * _GIB)
    if physical >= _FRAMES * _GIB - len(far):
        raise NoWindow(f"the RAM that the kernel lends lies far away, at physical {physical:#x}")
    found = open_at(memory, _BASE, table, _ENTRIES, physical, far)
    return replace(found, root=space.paging.root)


def hole(memory: PhysicalMemory, space: AddressSpace, symbols: SymbolTable) -> int:
    """Return the physical address of the table whose first entries nobody uses. Raises NoWindow."""
    entry = symbols.address_of(mapping.STUB_PLACE) or symbols.address_of(mapping.ENTRY) or 0
    found = [step.table for step in steps(memory, space.paging, entry) if step.level == 3]
    if not found or any(memory.read(found[0], 8 * _ENTRIES)):
        raise NoWindow("the kernel uses the addresses below its own that should be free")
    return found[0]


def take_room(
    memory: PhysicalMemory,
    space: AddressSpace,
    symbols: SymbolTable,
    size: int,
    reach: int,
    second: int = 0,
) -> int:
    """Enter ``size`` bytes of RAM as reserved that hold nothing; return their physical address.

    They lie below ``reach``. Raises NoWindow, with nothing changed, where there are none.
    """
    where = _physical(space, symbols, "boot_params")
    params = memory.read(where, _SIZE)
    rows = [_ROW.unpack_from(params, _TABLE + _ROW.size * at) for at in range(params[_COUNT])]
    # The image has the parameters, the stack and the page tables, too.
    first, last = _physical(space, symbols, "_text"), _physical(space, symbols, "_end", -1)
    image = range(first & ~second, (last & ~second) + 1)
    busy = [image, *_handed_over(memory, params)]
    for at, (start, length, kind) in reversed(list(enumerate(rows))):
        end = min(start + length, reach)
        place = _highest(start, end, size, busy) if kind == _RAM else None
        if place is None:
            continue
        pieces = (
            (start, place - start, _RAM),
            (place, size, _RESERVED),
            (place + size, start + length - place - size, _RAM),
        )
        rows[at : at + 1] = [piece for piece in pieces if piece[1]]
        if len(rows) > _MOST_ROWS:
            break
        memory.write(where + _TABLE, b"".join(_ROW.pack(*row) for row in rows))
        memory.write(where + _COUNT, bytes([len(rows)]))
        return place
    raise NoWindow(f"the kernel's memory map has no {size >> 20} MiB of RAM to take")


def _highest(start: int, end: int, size: int, busy: Sequence[range]) -> int | None:
    # The highest place between two physical addresses that is free, and within one GiB.
    place = end - size & -_ALIGNMENT
    while place >= max(start, _LOWEST):
        over = [part.start for part in busy if part.start < place + size and place < part.stop]
        bound = place + size - 1 & -_GIB
        if not over and bound <= place:
            return place
        place = min([*over, bound] if bound > place else over) - size & -_ALIGNMENT
    return None


def _physical(space: AddressSpace, symbols: SymbolTable, name: str, offset: int = 0) -> int:
    address = symbols.address_of(name)
    leaf = None if address is None else space.leaf(address + offset)
    if address is None or leaf is None:
        raise NoWindow(f"the kernel has no symbol {name}, or does not map it")
    return leaf.translate(address + offset)


def _handed_over(memory: PhysicalMemory, params: bytes) -> Iterator[range]:
    # The boot loader has left these in RAM for the kernel.
    low, size = struct.unpack_from("<II", params, _RAMDISK)
    high, size_high = struct.unpack_from("<II", params, _RAMDISK_HIGH)
    yield _range(high << 32 | low, size_high << 32 | size)
    (node,) = struct.unpack_from("<Q", params, _SETUP_DATA)
    for _ in range(_MOST_NODES):
        if not node:
            break
        try:
            following, kind, length = _NODE.unpack(memory.read(node, _NODE.size))
            yield _range(node, _NODE.size + length)
            if kind == _INDIRECT:
                # struct setup_indirect: type, a reserved word, length, address
                inner, place = struct.unpack("<8xQQ", memory.read(node + _NODE.size, 24))
                yield _range(place, inner)
        except LookupError:
            raise NoWindow(f"setup_data at physical {node:#x} is not in RAM") from None
        node = following
    yield from _firmwares(memory, params)


def _firmwares(memory: PhysicalMemory, params: bytes) -> Iterator[range]:
    # UEFI's memory map does not call these free.
    signature, _, entry_size, _, low, size, _, high = struct.unpack_from("<4s7I", params, _EFI)
    if signature not in (b"EL64", b"EL32"):
        return
    place = high << 32 | low
    yield _range(place, size)
    try:
        data = memory.read(place, size)
    except LookupError:
        raise NoWindow(f"UEFI's memory map at physical {place:#x} is not in RAM") from None
    for at in range(0, len(data) - 39, max(entry_size, 40)):
        kind, start, pages = struct.unpack_from("<I4xQ8xQ", data, at)
        if kind != _CONVENTIONAL:
            yield _range(start, pages << 12)


def _range(start: int, size: int) -> range:
    return range(start, start + size)
