"""A qcow2 image that lacks its end: what its tables lead to lies behind the end of the file.

QEMU reads zeros there, so that a guest finds a disk with holes in it.

Ref: QEMU docs/interop/qcow2.txt (header, L1 and L2 tables); block/qcow2-refcount.c
(qcow2_inc_refcounts_imrt: a region that begins behind the end is a corruption).
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tracer.errors import UsageError

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COPIED, _COMPRESSED = 1 << 63, 1 << 62
_OWN_DATA, _WIDE = 1 << 2, 1 << 4
"""Features: data in a file of its own, L2 entries of 16 bytes."""
_CLUSTERS = range(9, 22)  # bits
_MAX_L1 = 32 << 20  # bytes (QEMU block/qcow2.h, QCOW_MAX_L1_SIZE)


def check_whole(image: Path) -> None:
    """Raise UsageError for a qcow2 image whose file ends before what its tables lead to."""
    with image.open("rb") as file:
        size = file.seek(0, 2)
        last = max(_offsets(file, size), default=0)
    if last >= size:
        raise UsageError(
            f"the disk image {image} is cut or damaged: its file has {size:,} bytes, and its "
            f"tables lead to {last:,}: copy it anew (qemu-img check tells more)"
        )


def _offsets(file: BinaryIO, size: int) -> Iterator[int]:
    # Offsets in the file: of every table, and of the last data that each of these leads to.
    file.seek(0)
    head = file.read(0x50).ljust(0x50, b"\0")
    _, version, _, _, bits, _, _, entries, l1, refcounts, *_ = _HEADER.unpack_from(head)
    (features,) = struct.unpack_from(">Q", head, 72) if version > 2 else (0,)
    if bits not in _CLUSTERS or 8 * entries > _MAX_L1:
        return  # QEMU refuses it, in its own words
    yield from (l1, refcounts)
    for entry in _table(file, l1, entries):
        place = entry & _OFFSET
        if not place:
            continue
        yield place
        if place < size and not features & _OWN_DATA:
            wide = 2 if features & _WIDE else 1
            yield _last(_table(file, place, (1 << bits) // 8)[::wide], bits)


def _table(file: BinaryIO, place: int, entries: int) -> array[int]:
    file.seek(place)
    table = array("Q", file.read(8 * entries).ljust(8 * entries, b"\0"))
    if sys.byteorder == "little":
        table.byteswap()
    return table


def _last(table: array[int], bits: int) -> int:
    # Entries that are marked as copied, which most are, come in the order of their offsets.
    top = max(table)
    if top & _COPIED:
        return top & _OFFSET
    plain = (1 << (62 - (bits - 8))) - 1
    return max(entry & (plain if entry & _COMPRESSED else _OFFSET) for entry in table)
