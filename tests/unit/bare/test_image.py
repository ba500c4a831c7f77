"""Images of bare guests: ELF files of either class, multiboot kernels, their symbols."""

from __future__ import annotations

import struct

import pytest
from bare_sample import CODE, LOW, NOTE, elf

from tracer.bare.image import Segment, is_bare, parse, why_not_entered
from tracer.errors import KernelImageError

HEADER = struct.pack("<III", 0x1BADB002, 0, -0x1BADB002 & 0xFFFF_FFFF)

SECOND = struct.pack("<I", 0xE85250D6)


def narrow(code: bytes) -> bytes:
    """An image of 32 bits, of one segment at LOW, with a symbol at its start."""
    names = b"\0start\0"
    symbols = struct.pack("<IIIBBH", 1, LOW, len(code), 0x12, 0, 1)
    body = 52 + 32
    at = [body, body + len(code), body + len(code) + len(symbols)]
    end = at[2] + len(names)
    section = struct.Struct("<IIIIIIIIII")
    table = section.pack(0, 2, 0, 0, at[1], len(symbols), 1, 0, 4, 16)
    table += section.pack(0, 3, 0, 0, at[2], len(names), 0, 0, 1, 0)
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, LOW, 52, end, 0, 52, 32, 1, 40, 2, 1
    )
    segment = struct.pack("<IIIIIIII", 1, body, LOW, LOW, len(code), len(code) + 16, 7, 4096)
    return header + segment + code + symbols + names + table


def sections(code: bytes, places: list[tuple[int, int]]) -> bytes:
    """An image whose sections are at these linear addresses, with these sizes."""
    image = elf(code)
    section = struct.Struct("<IIQQQQIIQQ")
    table = b"".join(section.pack(0, 1, 2, at, 0, size, 0, 0, 1, 0) for at, size in places)
    head = bytearray(image)
    struct.pack_into("<Q", head, 40, len(image))
    struct.pack_into("<H", head, 60, len(places))
    return bytes(head) + table


def flat(code: bytes, *, addresses: bool = True) -> bytes:
    flags = 1 << 16 if addresses else 0
    head = struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFF_FFFF)
    end = LOW + 32 + len(code)
    return bytes(16) + head + struct.pack("<IIIII", LOW, LOW, end, end + 64, LOW + 32) + code


def test_a_multiboot_image_of_32_bits_is_read() -> None:
    image = narrow(HEADER + CODE)
    assert is_bare(image) and why_not_entered(image) is None
    found = parse(image)
    whole = HEADER + CODE
    assert found.segments == (Segment(LOW, len(whole) + 16, whole, True),)
    assert found.symbols.lookup(LOW + 3) == "start+0x3"


def test_one_with_a_note_is_entered_too() -> None:
    assert is_bare(narrow(CODE + NOTE))
    assert is_bare(elf(HEADER + CODE)) and is_bare(elf(HEADER + CODE).replace(NOTE, bytes(24)))


def test_a_flat_image_lies_where_its_header_says() -> None:
    image = flat(CODE)
    assert is_bare(image)
    (segment,) = parse(image).segments
    assert segment.linear == LOW and segment.code.endswith(CODE) and segment.executable
    assert segment.size == len(segment.code) + 64
    assert not len(parse(image).symbols)
    assert parse(image, elf(b"\x90" * 4)).symbols.address_of("start") == LOW
    with pytest.raises(KernelImageError, match="does not say where it lies"):
        parse(flat(CODE, addresses=False))
    with pytest.raises(KernelImageError, match="lies before its image"):
        parse(
            flat(CODE)[16:].replace(LOW.to_bytes(4, "little"), (LOW + 8).to_bytes(4, "little"), 1)
        )


def test_a_header_is_looked_for_where_qemu_does() -> None:
    assert is_bare(bytes(8192 - 12) + HEADER)
    assert not is_bare(bytes(8192) + HEADER)
    assert not is_bare(bytes(2) + HEADER)
    assert not is_bare(HEADER[:-1] + b"\0" + bytes(64))


def test_what_fills_up_code_is_free_and_zeros_are_not() -> None:
    code = CODE + b"\xcc" * 100 + bytes(5000) + b"\x90" * 64 + b"\xcc" * 63 + b"\xc3"
    at = LOW + len(CODE)
    assert parse(elf(code)).free == (range(at, at + 100), range(at + 5100, at + 5164))
    assert parse(elf(b"\xc3", flags=5)).free == ()
    with_data = parse(narrow(HEADER + CODE), elf(code))
    assert len(with_data.free) == 2  # those of the file that says where it lies


def test_what_lies_between_sections_is_free() -> None:
    code = bytes(0x3000)
    table = [(LOW, 0x1234), (LOW + 0x2000, 0x800), (LOW + 0x2900, 0x100)]
    assert parse(sections(code, table)).free == (
        range(LOW + 0x1234, LOW + 0x2000),
        range(LOW + 0x2800, LOW + 0x2900),
        range(LOW + 0x2A00, LOW + 0x3010),
    )
    # What comes before the first one may be headers; one that is not loaded is nowhere.
    assert parse(sections(code, [(LOW + 0x100, 0x2F10)])).free == ()
    assert parse(sections(code, [(0, 0)])).free == ()


def test_where_its_code_was_linked_is_told_by_the_file_of_its_symbols() -> None:
    moved = elf(CODE).replace(LOW.to_bytes(8, "little"), (LOW + 0x4000).to_bytes(8, "little"))
    assert parse(narrow(HEADER + CODE), moved).segments[0].linear == LOW + 0x4000
    without = elf(CODE, flags=4)
    assert parse(narrow(HEADER + CODE), without).segments[0].linear == LOW


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (elf(CODE).replace(NOTE, bytes(len(NOTE))), "neither a multiboot header nor a PVH note"),
        (narrow(CODE), "neither a multiboot header nor a PVH note"),
        (narrow(bytes(12) + SECOND + CODE), "that of Multiboot 2 is for a boot loader"),
    ],
)
def test_why_an_image_is_not_entered(image: bytes, why: str) -> None:
    assert not is_bare(image) and why in str(why_not_entered(image))


def test_other_files_are_none_of_a_bare_guest() -> None:
    for other in (
        b"MZ" + bytes(64), b"\x7fELF" + bytes(200), elf(CODE + b"Linux version 6.1.0"),
        elf(CODE, machine=183).replace(NOTE, bytes(len(NOTE))), b"\x7fELF\x02\x01",
    ):  # fmt: skip
        assert not is_bare(other) and why_not_entered(other) is None
