"""One access within one page: what goes over the bus, and how an access is cut into such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tracer.access.region import UNASSIGNED, Region
from tracer.access.space import Glance
from tracer.trace.member import Space
from tracer.x86.bus import Direction
from tracer.x86.paging import Leaf
from tracer.x86.state import (
    PAGE_SIZE,
)

MAX_TRANSFER = 8
"""Widest device access in bytes: what a processor's load or store unit sends at once here."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Hold one access within one page, at most 8 bytes wide.

    ``value`` is what is written, or what was read once that is known. ``region`` is the device
    region, None for RAM and for addresses that nothing answers. ``traced`` accesses are recorded
    as device accesses. Where ``width`` is 0 any number of accesses are made within the ``extent``
    bytes from ``linear`` on: see :class:`tracer.trace.record.MemoryAccess`. ``space`` is where the
    address lies that is ``physical`` in memory; elsewhere ``place`` is its region and offset.
    """

    direction: Direction
    linear: int
    physical: int
    width: int
    value: int | None
    region: Region | None
    traced: bool
    ram: bool
    extent: int | None = None
    space: Space = "memory"
    place: tuple[str, int] | None = None

    @property
    def span(self) -> int:
        """Return how many bytes from ``linear`` on the transfer may touch."""
        return self.width or self.extent or 1


def cut(
    linear: int, width: int, alike: Callable[[int, int], int] = lambda linear, size: size
) -> Iterator[tuple[int, int]]:
    """Yield the transfers of an access as linear address and width in bytes, lowest first.

    An access within a page and up to 8 bytes goes whole, aligned or not. Others are cut at page
    ends and into powers of two, and where one device ends and another one, or RAM, begins:
    ``alike`` tells how many of ``size`` bytes from a linear address on belong together.
    """
    end = linear + width
    while linear < end:
        room = min(end - linear, PAGE_SIZE - linear % PAGE_SIZE, MAX_TRANSFER)
        room = alike(linear, room)
        size = 1 << (room.bit_length() - 1)
        yield linear, size
        linear += size


@dataclass(frozen=True, slots=True)
class Piece:
    """Hold what :func:`cut` yields, and its translation, None where it has none.

    A piece reaches one device, or RAM, or nothing.
    """

    linear: int
    width: int
    leaf: Leaf | None


def pieces_of(linear: int, width: int, glance: Glance) -> list[Piece]:
    """Return the pieces of an access, lowest first."""
    regions = glance.regions

    def room(start: int, size: int) -> int:
        leaf = glance.leaf(start)
        return size if leaf is None else regions.room(leaf.translate(start), size)

    return [Piece(start, size, glance.leaf(start)) for start, size in cut(linear, width, room)]


@dataclass(frozen=True, slots=True)
class Meddling:
    """Tell how a person or a rule changed one transfer.

    ``device`` is what the device gave or got, None where it was the instruction's own value;
    ``skipped`` tells that nothing reached the device.
    """

    device: int | None = None
    skipped: bool = False


def located(transfer: Transfer) -> tuple[str, int]:
    """Return the name of the region that a transfer goes to, and the offset in it in bytes.

    What nothing answers is ``unassigned``, with the physical address as the offset.
    """
    if transfer.place is not None:
        return transfer.place
    region = transfer.region
    if region is None:
        return UNASSIGNED, transfer.physical
    return region.name, transfer.physical - region.base
