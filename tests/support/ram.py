"""Guest RAM in a dictionary of pages, with page tables made to order."""

from __future__ import annotations

import struct

from tracer.x86.paging import LARGE, PRESENT, USER, WRITABLE, Paging
from tracer.x86.state import PAGE_SIZE

ROOT = 0x10_0000
POISON = 1 << 51
PAGING = Paging(ROOT, 4, POISON)


class Ram:
    """Physical memory from 0 to ``size``; beyond are devices."""

    def __init__(self, size: int = 0x40_0000) -> None:
        self.data = bytearray(size)
        self._next_table = ROOT + PAGE_SIZE

    def read(self, physical: int, size: int) -> bytes:
        if not 0 <= physical <= len(self.data) - size:
            raise LookupError(physical)
        return bytes(self.data[physical : physical + size])

    def write(self, physical: int, data: bytes) -> None:
        self.read(physical, len(data))
        self.data[physical : physical + len(data)] = data

    def entry(self, address: int) -> int:
        (entry,) = struct.unpack("<Q", self.read(address, 8))
        return int(entry)

    def map(
        self,
        linear: int,
        physical: int,
        flags: int = PRESENT | WRITABLE,
        level: int = 1,
        paging: Paging = PAGING,
    ) -> int:
        """Enter a translation at a level, making the tables above; return the entry's address."""
        table = paging.cr3
        for depth in range(paging.levels, level, -1):
            address = table + 8 * (linear >> (12 + 9 * (depth - 1)) & 511)
            if not self.entry(address) & PRESENT:
                below = self._next_table | PRESENT | WRITABLE | USER
                self.write(address, struct.pack("<Q", below))
                self._next_table += PAGE_SIZE
            table = self.entry(address) & 0x000F_FFFF_FFFF_F000
        address = table + 8 * (linear >> (12 + 9 * (level - 1)) & 511)
        large = LARGE if level > 1 else 0
        self.write(address, struct.pack("<Q", physical | flags | large))
        return address
