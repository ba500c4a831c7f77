"""A kernel that runs already, read out of the guest's RAM: release, symbols, types.

Its image lies at linear addresses between :data:`START` and the modules, wherever KASLR has put it,
and its kallsyms are in it, with the addresses that it runs at. What the kernel has given back of
its image (``.init``, gaps between sections) is not mapped any more, or is somebody else's.

Ref: Linux Documentation/arch/x86/x86_64/mm.rst ("kernel text mapping"); arch/x86/mm/init.c
(free_kernel_image_pages); include/asm-generic/vmlinux.lds.h (BTF: ``__start_BTF``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from operator import add

from tracer.access.symbols import SymbolTable, table_of
from tracer.errors import KernelImageError
from tracer.linux.bzimage import banners, release_of
from tracer.linux.kallsyms import find_symbols
from tracer.linux.kaslr import KERNEL_MAP
from tracer.x86.paging import Paging, PhysicalMemory, range_leaves
from tracer.x86.state import PAGE_SIZE

START = KERNEL_MAP
"""First linear address that a kernel's image may be at."""
_ROOM = 1 << 30
"""Bytes from there on that belong to it alone, with KASLR."""
_LARGEST = 256 << 20
"""Bytes of the largest image."""
_GAP = 16 << 20
"""Bytes of an image that may be missing in one piece."""
_BANNER = "linux_banner"
_BTF = "__start_BTF", "__stop_BTF"


@dataclass(frozen=True, slots=True)
class Resident:
    """Hold what is known of a kernel that runs, by the linear addresses that it runs at.

    ``btf`` are its types as it has them itself, empty when it was built without.
    """

    release: str
    banner: str
    symbols: SymbolTable
    btf: bytes


@dataclass(frozen=True, slots=True)
class _Piece:
    # So many bytes at a linear address lie at a physical one.
    linear: int
    physical: int
    size: int


def find_kernel(memory: PhysicalMemory, paging: Paging) -> Resident:
    """Return the kernel that page tables map.

    Raises KernelImageError when they map none, such as those of a program under PTI, or when it
    has no kallsyms.
    """
    found: KernelImageError | None = None
    for pieces in _images(memory, paging):
        image = _contents(memory, pieces)
        if not banners(image):
            continue
        start = pieces[0].linear
        try:
            symbols = table_of(find_symbols(image, partial(add, start)))
            return _checked(image, start, symbols)
        except KernelImageError as error:
            found = error
    raise found or KernelImageError("no Linux kernel is mapped where one runs")


def _checked(image: bytes, start: int, symbols: SymbolTable) -> Resident:
    # The kernel's own text tells whether its symbols were read right.
    place = symbols.address_of(_BANNER)
    known = dict(banners(image))
    banner = None if place is None else known.get(place - start)
    if banner is None:
        raise KernelImageError("its kallsyms do not lead to its version text")
    first, last = (symbols.address_of(name) for name in _BTF)
    btf = image[first - start : last - start] if first and last else b""
    return Resident(release_of(banner), banner, symbols, btf)


def _images(memory: PhysicalMemory, paging: Paging) -> Iterator[list[_Piece]]:
    # Yields what may be an image each: pieces with no large gap in between.
    pieces: list[_Piece] = []
    for leaf in range_leaves(memory, paging, START, _ROOM):
        piece = _Piece(leaf.linear, leaf.physical, leaf.size)
        if pieces and piece.linear - (pieces[-1].linear + pieces[-1].size) > _GAP:
            yield pieces
            pieces = []
        pieces.append(piece)
    if pieces:
        yield pieces


def _contents(memory: PhysicalMemory, pieces: list[_Piece]) -> bytes:
    # Gaps are left as zeros.
    start = pieces[0].linear
    image = bytearray(min(pieces[-1].linear + pieces[-1].size - start, _LARGEST))
    for piece in pieces:
        at = piece.linear - start
        size = min(piece.size, len(image) - at)
        for offset, data in _readable(memory, piece.physical, size):
            image[at + offset : at + offset + len(data)] = data
    return bytes(image)


def _readable(memory: PhysicalMemory, physical: int, size: int) -> Iterator[tuple[int, bytes]]:
    # RAM may end within a large page.
    if size <= 0:
        return
    try:
        yield 0, memory.read(physical, size)
        return
    except LookupError:
        if size <= PAGE_SIZE:
            return
    for offset in range(0, size, PAGE_SIZE):
        yield from (
            (offset + within, data)
            for within, data in _readable(memory, physical + offset, min(PAGE_SIZE, size - offset))
        )
