"""Descriptor chains of a split virtqueue, followed as far as they can be.

Ref: VIRTIO 1.2, 2.7 (split virtqueues), 2.7.2 (legacy ones), 2.7.5.3 (indirect descriptors).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

NEXT, WRITE, INDIRECT = 1, 2, 4
_SIZE = 16
_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
MOST_INDIRECT = 1024
"""Descriptors of an indirect table, at most."""


Quiet = Callable[[int, int], bytes | None]
"""Returns bytes at a physical address, None where that is not all RAM."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Hold one descriptor, with its ``index`` in its table and the physical ``place`` of it there.

    ``address`` is that of its buffer, of ``length`` bytes; with ``indirect`` it is in the table of
    another descriptor.
    """

    index: int
    place: int
    data: bytes
    address: int
    length: int
    flags: int
    next: int
    indirect: bool

    @property
    def text(self) -> str:
        """Return in words what the buffer is for."""
        if self.flags & INDIRECT:
            return f"table of {self.length // _SIZE} at {self.address:#x}"
        way = "writes" if self.flags & WRITE else "reads"
        return f"device {way} {self.length} bytes at {self.address:#x}"


@dataclass(frozen=True, slots=True)
class Chain:
    """Hold the descriptors of a chain in order; ``fault`` says why it is not followed further."""

    head: int
    descriptors: tuple[Descriptor, ...]
    fault: str = ""


def chain_of(read: Quiet, table: int, size: int, head: int) -> Chain:
    """Return the chain that begins at ``head`` of a table of ``size`` descriptors."""
    found: list[Descriptor] = []
    fault = _follow(read, table, size, head, found, indirect=False)
    return Chain(head, tuple(found), fault)


def _follow(
    read: Quiet, table: int, size: int, head: int, found: list[Descriptor], *, indirect: bool
) -> str:
    # Appends the descriptors of one table; returns what is wrong with them.
    seen: set[int] = set()
    at = head
    while True:
        if at >= size:
            return f"descriptor {at} lies outside the {size} of its table"
        if at in seen:
            return f"descriptor {at} comes twice: the chain has no end"
        seen.add(at)
        place = table + _SIZE * at
        data = read(place, _SIZE)
        if data is None:
            return f"descriptor {at} at physical {place:#x} is not in RAM"
        address, length, flags, next_ = _DESCRIPTOR.unpack(data)
        found.append(Descriptor(at, place, data, address, length, flags, next_, indirect))
        if flags & INDIRECT:
            if indirect:
                return "a table has a table"
            fault = fault_of_table(length)
            if fault:
                return fault
            return _follow(read, address, length // _SIZE, 0, found, indirect=True)
        if not flags & NEXT:
            return ""
        at = next_


def legacy_areas(start: int, size: int, align: int) -> tuple[int, int, int]:
    """Return the physical addresses of descriptors, available and used ring of a legacy queue.

    They follow each other from ``start`` on, the last aligned to ``align`` bytes (VIRTIO 1.2,
    2.7.2).
    """
    available = start + _SIZE * size
    end = available + 2 * (3 + size)
    return start, available, -(-end // align) * align


def fault_of_table(length: int) -> str:
    """Return why an indirect table cannot have ``length`` bytes, an empty text where it can."""
    if not length or length % _SIZE:
        return f"a table of {length} bytes"
    if length // _SIZE > MOST_INDIRECT:
        return f"a table of {length // _SIZE} descriptors"
    return ""


def used_of(data: bytes) -> tuple[int, int]:
    """Return of an entry of the used ring the first descriptor of its chain, and bytes written."""
    head, length = _USED.unpack(data)
    return head, length
