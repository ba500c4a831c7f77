"""Multiboot kernels of 64 bits as QEMU is given them."""

from __future__ import annotations

import struct

import pytest
from bare_sample import CODE, LOW, NOTE, elf

from tracer.bare.elf import EXECUTABLE, NARROW, WIDE, layout_of
from tracer.bare.image import is_bare, parse
from tracer.bare.multiboot import multiboot_of, narrowed
from tracer.errors import KernelImageError

HEADER = struct.pack("<III", 0x1BADB002, 0, -0x1BADB002 & 0xFFFF_FFFF)
HIGH = 0xFFFF_FFFF_8000_0000
DATA = HEADER + CODE


def linked(
    *segments: tuple[int, int, int, bytes, int], entry: int, start: int = 64, gap: int = 0
) -> bytes:
    """A file of 64 bits with these: kind, linear, physical, data and bytes of zeros behind.

    The first one's data is the file from its beginning on, with that ``gap`` behind the headers.
    """
    body = start + 56 * len(segments) + gap
    table, data = b"", b""
    for number, (kind, linear, physical, part, zeros) in enumerate(segments):
        offset, size = (body + len(data), len(part)) if number else (0, body + len(part))
        table += struct.pack(
            "<IIQQQQQQ", kind, 5, offset, linear, physical, size, size + zeros, 4096
        )
        data += part
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, entry, start, 0, 0,
        64, 56, len(segments), 64, 0, 0,
    )  # fmt: skip
    return header.ljust(start, b"\0") + table + bytes(gap) + data


def loaded(image: bytes) -> tuple[int, dict[int, tuple[bytes, int]]]:
    """A file as a loader loads it: where it is entered, and the bytes at each address."""
    layout = layout_of(image)
    assert layout is not None
    header = layout.header.unpack_from(image)
    found = {}
    for number in range(header[10]):
        fields = layout.segment.unpack_from(image, header[5] + header[9] * number)
        _, offset, _, stored, whole, physical = (fields[part] for part in layout.parts)
        if fields[0] == 1:
            found[physical] = image[offset : offset + stored], whole
    return header[4], found


def test_it_is_loaded_and_entered_as_the_file_of_64_bits() -> None:
    image = linked(
        (1, HIGH + LOW, LOW, HEADER + b"text", 0),
        (4, 0, 0, NOTE, 0),
        (1, HIGH + 0x20_0000, 0x20_0000, b"data", 0x300),
        (1, HIGH + 0x30_0000, 0x30_0000, b"", 0),
        entry=HIGH + LOW + 0x40,
    )
    narrow = narrowed(image)
    assert narrow is not None and layout_of(narrow) is NARROW
    entry, there = loaded(narrow)
    assert entry == LOW + 0x40
    wide = loaded(image)[1]
    del wide[0x30_0000]
    assert there == wide and there[LOW][0].startswith(image[:64])
    assert there[0x20_0000] == (b"data", 0x304)
    flags = [NARROW.segment.unpack_from(narrow, NARROW.header.unpack_from(narrow)[5])[6]]
    assert flags[0] & EXECUTABLE
    first, second = multiboot_of(image), multiboot_of(narrow)
    assert first == second is not None


def test_an_entry_that_is_physical_stays() -> None:
    narrow = narrowed(linked((1, HIGH + LOW, LOW, DATA, 0), entry=LOW + 4))
    assert narrow is not None and loaded(narrow)[0] == LOW + 4


def test_names_are_those_of_the_file_of_64_bits() -> None:
    image = elf(DATA)
    assert is_bare(image) and narrowed(image) is not None
    assert parse(image).symbols.address_of("start") == LOW


def test_others_are_started_as_they_are() -> None:
    with_addresses = struct.pack("<III", 0x1BADB002, 1 << 16, -0x1BAEB002 & 0xFFFF_FFFF)
    for image in (elf(CODE), HEADER + bytes(64), elf(with_addresses + CODE), b"\x7fELF\x01\x01"):
        assert narrowed(image) is None
    assert is_bare(elf(with_addresses + bytes(64)))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (linked((1, HIGH, HIGH, DATA, 0), entry=LOW), "at physical 0xffffffff80000000, beyond"),
        (linked((1, LOW, LOW, DATA, 1 << 32), entry=LOW), "at physical 0x100000, beyond the 4 GiB"),
        (linked((1, LOW, LOW, DATA, 0), entry=HIGH), "at physical 0xffffffff80000000, beyond"),
        (linked((1, LOW, LOW, DATA, 0), entry=LOW)[:68] + HEADER, "a damaged file"),
    ],
)
def test_one_that_cannot_be_loaded_is_told(image: bytes, why: str) -> None:
    with pytest.raises(KernelImageError, match=why):
        narrowed(image)


def test_one_that_just_fits_is_loaded() -> None:
    image = linked((1, LOW, (1 << 32) - 0x1000, DATA, 0), entry=LOW)
    size = len(image)
    narrow = narrowed(linked((1, LOW, (1 << 32) - size, DATA, 0), entry=LOW))
    assert narrow is not None and WIDE.header.size == 64
    with pytest.raises(KernelImageError):
        narrowed(linked((1, LOW, (1 << 32) - size + 1, DATA, 0), entry=LOW))
