"""The image of a bare guest: a file that QEMU starts by its PVH note, or as a multiboot kernel.

Ref: System V ABI, Object Files; Xen docs/misc/pvh.pandoc; QEMU hw/i386/x86.c.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tracer.access.symbols import SymbolTable, elf_symbols, parse_system_map, table_of
from tracer.bare.elf import EXECUTABLE, INTEL_386, LOAD, WIDE, X86_64, layout_of
from tracer.bare.multiboot import is_second, multiboot_of
from tracer.errors import KernelImageError

_SYMBOLS = 2
_LINUX = b"Linux version "
_LOWEST = 1  # a bare guest may lie anywhere
_NOTES = tuple(struct.pack("<III4s", 4, size, 18, b"Xen\0") for size in (4, 8))
_ALLOCATED = 2  # SHF_ALLOC
_FILLING = re.compile(rb"\xcc{64,}|\x90{64,}", re.DOTALL)
"""What assemblers and linkers fill code up with, in lengths that no code is made of."""


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
    """Tell whether a file is an image that can be entered, and not of Linux."""
    if _LINUX in image:
        return False
    noted = layout_of(image) is not None and any(note in image for note in _NOTES)
    return noted or multiboot_of(image) is not None


def why_not_entered(image: bytes) -> str | None:
    """Return in words why QEMU cannot enter an ELF image for x86, None for any other file."""
    layout = layout_of(image)
    if layout is None or _LINUX in image or is_bare(image) or len(image) < layout.header.size:
        return None
    if layout.header.unpack_from(image)[2] not in (INTEL_386, X86_64):
        return None
    why = "QEMU starts no ELF file with neither a multiboot header nor a PVH note"
    if is_second(image):
        why += "; that of Multiboot 2 is for a boot loader, such as GRUB on a disk (--disk)"
    return why


def parse(image: bytes, symbol_file: bytes | None = None) -> Image:
    """Return what an image holds; ``symbol_file`` is another ELF file, or a System.map.

    Where that has the code as well, it says at which linear addresses. Raises KernelImageError for
    a file that is damaged or not for x86.
    """
    try:
        linked, segments = image, _segments(image)
        symbols = _symbols(image if symbol_file is None else symbol_file)
        if symbol_file is not None and layout_of(symbol_file) is not None:
            others = _segments(symbol_file)
            if any(segment.executable and segment.code for segment in others):
                linked, segments = symbol_file, others
        free = tuple(_free(segments, _sections(linked)))
    except (struct.error, UnicodeDecodeError) as error:
        raise KernelImageError(f"a damaged file: {error}") from error
    if not any(segment.executable for segment in segments):
        raise KernelImageError("a file without any code")
    return Image(tuple(segments), symbols, free)


def _segments(image: bytes) -> list[Segment]:
    layout = layout_of(image)
    if layout is None:
        return _flat(image)
    header = layout.header.unpack_from(image)
    machine, start, size, count = header[2], header[5], header[9], header[10]
    if machine not in (INTEL_386, X86_64):
        raise KernelImageError(f"an image for machine {machine} of ELF, not for x86-64")
    found = []
    for number in range(count):
        fields = layout.segment.unpack_from(image, start + size * number)
        flags, offset, linear, stored, whole = (fields[part] for part in layout.parts[:5])
        if fields[0] == LOAD:
            code = image[offset : offset + stored]
            found.append(Segment(linear, whole, code, bool(flags & EXECUTABLE)))
    return found


def _flat(image: bytes) -> list[Segment]:
    # A file that is no ELF file, whose multiboot header has the addresses.
    found = multiboot_of(image)
    if found is None or found.addresses is None:
        raise KernelImageError(
            "a multiboot image that is no ELF file and does not say where it lies (flag 16)"
        )
    there = found.addresses
    load = there.load
    first = found.at - (there.header - load)
    if first < 0 or there.header < load:
        raise KernelImageError("a damaged multiboot header: it lies before its image")
    code = image[first : first + there.end - load] if there.end else image[first:]
    return [Segment(load, max(there.bss - load, len(code)), code, True)]


def _sections(file: bytes) -> list[tuple[int, ...]]:
    layout = layout_of(file)
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
    layout = layout_of(file)
    if layout is None:
        if multiboot_of(file) is not None:
            return table_of([])
        return parse_system_map(file.decode("ascii"), _LOWEST)
    sections = _sections(file)
    for section in sections:
        kind, offset, length, link = section[1], section[4], section[5], section[6]
        if kind == _SYMBOLS and link < len(sections):
            names = sections[link]
            text = file[names[4] : names[4] + names[5]]
            table = file[offset : offset + length]
            return table_of(elf_symbols(table, text, wide=layout is WIDE), lowest=_LOWEST)
    return table_of([])
