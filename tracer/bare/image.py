"""The image of a bare guest: an ELF file that QEMU starts by its PVH note.

Ref: System V ABI, Object Files (Elf64_Ehdr, Elf64_Phdr, Elf64_Shdr); Xen docs/misc/pvh.pandoc.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tracer.access.symbols import SymbolTable, elf_symbols, parse_system_map, table_of
from tracer.errors import KernelImageError

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_X86_64 = 62
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_LOAD, _EXECUTABLE, _SYMBOLS = 1, 1, 2
_LINUX = b"Linux version "
_LOWEST = 1  # a bare guest may lie anywhere
_NOTES = tuple(struct.pack("<III4s", 4, size, 18, b"Xen\0") for size in (4, 8))


@dataclass(frozen=True, slots=True)
class Segment:
    """Hold what is loaded at a linear address; ``size`` is in bytes, with what is zero."""

    linear: int
    size: int
    code: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class Image:
    """Hold the segments and the symbols of an image, at the addresses it was linked for."""

    segments: tuple[Segment, ...]
    symbols: SymbolTable


def is_bare(image: bytes) -> bool:
    """Tell whether a file is an ELF image that QEMU can enter, and not of Linux."""
    return (
        image.startswith(_MAGIC) and any(note in image for note in _NOTES) and _LINUX not in image
    )


def parse(image: bytes, symbol_file: bytes | None = None) -> Image:
    """Return what an ELF image holds; ``symbol_file`` is another ELF file, or a System.map.

    Raises KernelImageError for a file that is damaged or not for x86-64.
    """
    try:
        segments = tuple(_segments(image))
        symbols = _symbols(image if symbol_file is None else symbol_file)
    except (struct.error, UnicodeDecodeError) as error:
        raise KernelImageError(f"a damaged ELF file: {error}") from error
    if not any(segment.executable for segment in segments):
        raise KernelImageError("an ELF file without any code")
    return Image(segments, symbols)


def _segments(image: bytes) -> list[Segment]:
    header = _HEADER.unpack_from(image)
    machine, start, size, count = header[2], header[5], header[9], header[10]
    if machine != _X86_64:
        raise KernelImageError(f"an image for machine {machine} of ELF, not for x86-64")
    found = []
    for number in range(count):
        kind, flags, offset, linear, _, stored, whole, _ = _SEGMENT.unpack_from(
            image, start + size * number
        )
        if kind == _LOAD:
            code = image[offset : offset + stored]
            found.append(Segment(linear, whole, code, bool(flags & _EXECUTABLE)))
    return found


def _symbols(file: bytes) -> SymbolTable:
    if not file.startswith(_MAGIC):
        return parse_system_map(file.decode("ascii"), _LOWEST)
    header = _HEADER.unpack_from(file)
    start, size, count = header[6], header[11], header[12]
    sections = [_SECTION.unpack_from(file, start + size * number) for number in range(count)]
    for section in sections:
        kind, offset, length, link = section[1], section[4], section[5], section[6]
        if kind == _SYMBOLS and link < len(sections):
            names = sections[link]
            text = file[names[4] : names[4] + names[5]]
            return table_of(elf_symbols(file[offset : offset + length], text), lowest=_LOWEST)
    return table_of([])
