"""Multiboot kernels: their header, and what QEMU is given to start one of 64 bits.

Boot loaders load a 64-bit ELF file with a multiboot header by the physical addresses of its
segments, and enter it in 32-bit mode. QEMU refuses it, and starts one of 32 bits.

Ref: Multiboot Specification 0.6.96, 3.1; QEMU hw/i386/multiboot.c (load_multiboot),
include/hw/elf_ops.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tracer.bare.elf import INTEL_386, LOAD, MAGIC, NARROW, WIDE, layout_of
from tracer.errors import KernelImageError

_HEADER = struct.Struct("<IIIIIIII")  # magic, flags, checksum; header, load, end, bss, entry
_MAGIC = 0x1BADB002
_SEARCHED = 8192  # bytes
_HAS_ADDRESSES = 1 << 16
_SECOND = struct.pack("<I", 0xE85250D6)
_SECOND_SEARCHED = 32768
_REACHED = 1 << 32


@dataclass(frozen=True, slots=True)
class Addresses:
    """Say where a header itself, its image, the end of that and of its zeros are: physical."""

    header: int
    load: int
    end: int
    bss: int


@dataclass(frozen=True, slots=True)
class Multiboot:
    """Hold where a header is in a file, in bytes, and the addresses that it has, if any."""

    at: int
    addresses: Addresses | None


def multiboot_of(image: bytes) -> Multiboot | None:
    """Return the multiboot header of a file, None for one without."""
    head = image[:_SEARCHED].ljust(_SEARCHED + _HEADER.size, b"\0")
    for at in range(0, _SEARCHED - 12 + 1, 4):
        fields = _HEADER.unpack_from(head, at)
        if fields[0] == _MAGIC and not sum(fields[:3]) & 0xFFFF_FFFF:
            return Multiboot(at, Addresses(*fields[3:7]) if fields[1] & _HAS_ADDRESSES else None)
    return None


def is_second(image: bytes) -> bool:
    """Tell whether a file has a header of Multiboot 2, which QEMU does not know."""
    return any(
        image.startswith(_SECOND, at) for at in range(0, min(len(image), _SECOND_SEARCHED), 8)
    )


def narrowed(image: bytes) -> bytes | None:
    """Return the file of 32 bits that is loaded and entered alike; None where QEMU needs none.

    Raises KernelImageError for a damaged file, or one that goes beyond 4 GiB.
    """
    found = multiboot_of(image)
    if layout_of(image) is not WIDE or found is None or found.addresses is not None:
        return None
    try:
        return _narrowed(image)
    except struct.error as error:
        raise KernelImageError(f"a damaged file: {error}") from error


def _narrowed(image: bytes) -> bytes:
    fields = WIDE.header.unpack_from(image)
    entry, start, size, count = fields[4], fields[5], fields[9], fields[10]
    entered, end, moved, segments = entry, len(image), b"", []
    for number in range(count):
        segment = WIDE.segment.unpack_from(image, start + size * number)
        flags, offset, linear, stored, whole, physical = (segment[part] for part in WIDE.parts)
        if segment[0] != LOAD or not whole:
            continue
        _reach(physical, whole)
        if linear <= entry < linear + whole:
            entered = entry - linear + physical
        if stored and offset < NARROW.header.size:
            # The file's own header is loaded with it, as it is.
            data = image[offset : offset + stored]
            offset, moved = end + len(moved), moved + data
        segments.append(
            NARROW.segment.pack(LOAD, offset, physical, physical, stored, whole, flags, 1)
        )
    _reach(entered, 1)
    header = NARROW.header.pack(
        MAGIC + b"\x01\x01" + fields[0][6:], fields[1], INTEL_386, fields[3], entered,
        end + len(moved), 0, 0, NARROW.header.size, NARROW.segment.size, len(segments), 0, 0, 0,
    )  # fmt: skip
    return header + image[len(header) :] + moved + b"".join(segments)


def _reach(physical: int, size: int) -> None:
    if physical + size > _REACHED:
        raise KernelImageError(
            f"it lies at physical {physical:#x}, beyond the 4 GiB that a multiboot kernel is "
            "loaded in: have the linker give its segments lower physical addresses (AT)"
        )
