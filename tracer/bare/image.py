"""The image of a bare guest: a file that QEMU starts by its PVH note, or as a multiboot kernel.

Ref: System V ABI, Object Files (Elf32_Ehdr, Elf64_Ehdr and what they lead to); Xen
docs/misc/pvh.pandoc; Multiboot Specification 0.6.96, 3.1; QEMU hw/i386/multiboot.c, hw/i386/x86.c.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tracer.access.symbols import SymbolTable, elf_symbols, parse_system_map, table_of
from tracer.errors import KernelImageError

_ELF = b"\x7fELF"
_386, _X86_64 = 3, 62
_LOAD, _EXECUTABLE, _SYMBOLS = 1, 1, 2
_LINUX = b"Linux version "
_LOWEST = 1  # a bare guest may lie anywhere
_NOTES = tuple(struct.pack("<III4s", 4, size, 18, b"Xen\0") for size in (4, 8))

_MULTIBOOT = struct.Struct("<IIIIIIII")  # magic, flags, checksum; header, load, end, bss, entry
_MULTIBOOT_MAGIC = 0x1BADB002
_MULTIBOOT_SEARCHED = 8192  # bytes
_HAS_ADDRESSES = 1 << 16
_ALLOCATED = 2  # SHF_ALLOC
_FILLING = re.compile(rb"\xcc{64,}|\x90{64,}", re.DOTALL)
"""What assemblers and linkers fill code up with, in lengths that no code is made of."""


@dataclass(frozen=True, slots=True)
class _Layout:
    # How the structures of one class of ELF files lie; ``segment`` are the places in theirs of
    # flags, offset, linear address, size in the file and in memory.
    header: struct.Struct
    segment: struct.Struct
    parts: tuple[int, int, int, int, int]
    section: struct.Struct


_LAYOUTS = {
    b"\x01\x01": _Layout(
        struct.Struct("<16sHHIIIIIHHHHHH"), struct.Struct("<IIIIIIII"), (6, 1, 2, 4, 5),
        struct.Struct("<IIIIIIIIII"),
    ),
    b"\x02\x01": _Layout(
        struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ"), (1, 2, 3, 5, 6),
        struct.Struct("<IIQQQQIIQQ"),
    ),
}  # fmt: skip
"""By class and byte order: 32 and 64 bits, little-endian."""
_WIDE = _LAYOUTS[b"\x02\x01"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Hold what is loaded at a linear address; ``size`` is in bytes, with what is zero."""

    linear: int
    size: int
    code: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class Image:
    """Hold the segments and the symbols of an image, at the addresses it was linked for.

    ``free`` are linear addresses in its executable segments that are nobody's: what fills it up
    behind code, and what lies between its sections. Zeros alone tell nothing: they may be data.
    """

    segments: tuple[Segment, ...]
    symbols: SymbolTable
    free: tuple[range, ...] = ()


def is_bare(image: bytes) -> bool:
    """Tell whether a file is an image that QEMU can enter, and not of Linux."""
    if _LINUX in image:
        return False
    layout, multiboot = _layout(image), _multiboot(image) is not None
    if layout is _WIDE and multiboot:
        return False  # a PVH note is not looked for then
    return multiboot or (layout is not None and any(note in image for note in _NOTES))


def why_not_entered(image: bytes) -> str | None:
    """Return in words why QEMU cannot enter an ELF image for x86, None for any other file."""
    layout = _layout(image)
    if layout is None or _LINUX in image or is_bare(image) or len(image) < layout.header.size:
        return None
    if layout.header.unpack_from(image)[2] not in (_386, _X86_64):
        return None
    if layout is not _WIDE:
        return "QEMU starts no ELF file with neither a multiboot header nor a PVH note"
    how = "objcopy -O elf32-i386 makes one of this file, which then is its --symbols"
    if _multiboot(image) is None:
        return (
            "QEMU starts no 64-bit ELF file without a PVH note; one of 32 bits with a multiboot "
            f"header it does: {how}"
        )
    return f"QEMU starts no 64-bit ELF file that has a multiboot header, but one of 32 bits: {how}"


def parse(image: bytes, symbol_file: bytes | None = None) -> Image:
    """Return what an image holds; ``symbol_file`` is another ELF file, or a System.map.

    Where that has the code as well, it says at which linear addresses. Raises KernelImageError for
    a file that is damaged or not for x86.
    """
    try:
        linked, segments = image, _segments(image)
        symbols = _symbols(image if symbol_file is None else symbol_file)
        if symbol_file is not None and _layout(symbol_file) is not None:
            others = _segments(symbol_file)
            if any(segment.executable and segment.code for segment in others):
                linked, segments = symbol_file, others
        free = tuple(_free(segments, _sections(linked)))
    except (struct.error, UnicodeDecodeError) as error:
        raise KernelImageError(f"a damaged file: {error}") from error
    if not any(segment.executable for segment in segments):
        raise KernelImageError("a file without any code")
    return Image(tuple(segments), symbols, free)


def _layout(file: bytes) -> _Layout | None:
    return _LAYOUTS.get(file[4:6]) if file.startswith(_ELF) else None


def _multiboot(image: bytes) -> tuple[int, tuple[int, ...]] | None:
    # Returns where the multiboot header is in a file, and its fields.
    head = image[:_MULTIBOOT_SEARCHED].ljust(_MULTIBOOT_SEARCHED + _MULTIBOOT.size, b"\0")
    for at in range(0, _MULTIBOOT_SEARCHED - 12 + 1, 4):
        fields = _MULTIBOOT.unpack_from(head, at)
        if fields[0] == _MULTIBOOT_MAGIC and not sum(fields[:3]) & 0xFFFF_FFFF:
            return at, fields
    return None


def _segments(image: bytes) -> list[Segment]:
    layout = _layout(image)
    if layout is None:
        return _flat(image)
    header = layout.header.unpack_from(image)
    machine, start, size, count = header[2], header[5], header[9], header[10]
    if machine not in (_386, _X86_64):
        raise KernelImageError(f"an image for machine {machine} of ELF, not for x86-64")
    found = []
    for number in range(count):
        fields = layout.segment.unpack_from(image, start + size * number)
        flags, offset, linear, stored, whole = (fields[part] for part in layout.parts)
        if fields[0] == _LOAD:
            code = image[offset : offset + stored]
            found.append(Segment(linear, whole, code, bool(flags & _EXECUTABLE)))
    return found


def _flat(image: bytes) -> list[Segment]:
    # A file that is no ELF file, whose multiboot header has the addresses.
    found = _multiboot(image)
    if found is None or not found[1][1] & _HAS_ADDRESSES:
        raise KernelImageError(
            "a multiboot image that is no ELF file and does not say where it lies (flag 16)"
        )
    at, (_, _, _, header, load, end, bss, _) = found
    first = at - (header - load)
    if first < 0 or header < load:
        raise KernelImageError("a damaged multiboot header: it lies before its image")
    code = image[first : first + end - load] if end else image[first:]
    return [Segment(load, max(bss - load, len(code)), code, True)]


def _sections(file: bytes) -> list[tuple[int, ...]]:
    layout = _layout(file)
    if layout is None:
        return []
    header = layout.header.unpack_from(file)
    start, size, count = header[6], header[11], header[12]
    return [layout.section.unpack_from(file, start + size * number) for number in range(count)]


def _free(segments: list[Segment], sections: list[tuple[int, ...]]) -> Iterator[range]:
    # Yields the fillings, then the gaps.
    code = [segment for segment in segments if segment.executable]
    for segment in code:
        for match in _FILLING.finditer(segment.code):
            yield range(segment.linear + match.start(), segment.linear + match.end())
    taken = sorted(
        (section[3], section[3] + section[5]) for section in sections if section[2] & _ALLOCATED
    )
    for segment in code if taken else []:
        at, stop = segment.linear, segment.linear + segment.size
        for start, end in (*taken, (stop, stop)):
            if at < min(start, stop) and at != segment.linear:
                yield range(at, min(start, stop))
            at = max(at, end)


def _symbols(file: bytes) -> SymbolTable:
    layout = _layout(file)
    if layout is None:
        if _multiboot(file) is not None:
            return table_of([])
        return parse_system_map(file.decode("ascii"), _LOWEST)
    sections = _sections(file)
    for section in sections:
        kind, offset, length, link = section[1], section[4], section[5], section[6]
        if kind == _SYMBOLS and link < len(sections):
            names = sections[link]
            text = file[names[4] : names[4] + names[5]]
            table = file[offset : offset + length]
            return table_of(elf_symbols(table, text, wide=layout is _WIDE), lowest=_LOWEST)
    return table_of([])
