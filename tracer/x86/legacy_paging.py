"""Page tables of code outside long mode: of 32 bits, with PAE, and none at all.

Ref: Intel SDM vol. 3A, 4.3 (32-bit paging, PSE-36), 4.4 (PAE paging), 4.1.1 (modes).
"""

from __future__ import annotations

from collections.abc import Iterator

from tracer.x86.paging import LARGE, PRESENT, USER, WRITABLE, Leaf, Paging, PhysicalMemory
from tracer.x86.state import PAGE_SIZE

NONE, SHORT, PAE = 0, 2, 3
"""How many levels there are: without paging, with entries of 32 bits, and of 64."""

MARK = 1 << 63
"""Set in what a monitor tells of CR3, where the code is outside long mode: the next bits say how it
translates. No CR3 has them (Intel SDM vol. 3A, 4.5, table 4-12)."""
_PAE_MARK, _SHORT_MARK, _LARGE_MARK = 1 << 62, 1 << 61, 1 << 60
MARKS = {
    "MARK": MARK, "MARK_PAE": _PAE_MARK, "MARK_SHORT": _SHORT_MARK, "MARK_LARGE": _LARGE_MARK,
}  # fmt: skip
"""Their names in the monitor's code."""

_CR0_PG = 1 << 31
_CR4_PSE, _CR4_PAE = 1 << 4, 1 << 5
_END = 1 << 32
_PIECE = 1 << 30
"""Bytes of a leaf where there are none."""
_ADDRESS = 0x000F_FFFF_FFFF_F000
_BYTES = {SHORT: 4, PAE: 8}
_ROOT = {SHORT: 0xFFFF_F000, PAE: 0xFFFF_FFE0}


def legacy_paging_of(cr0: int, cr3: int, cr4: int) -> Paging:
    """Return how a vCPU outside long mode translates, from its control registers."""
    if not cr0 & _CR0_PG:
        return Paging(0, NONE, 0)
    if cr4 & _CR4_PAE:
        return Paging(cr3, PAE, 0)
    return Paging(cr3, SHORT, 0, large=bool(cr4 & _CR4_PSE))


def marked_paging(tables: int) -> Paging:
    """Return how code translates, by CR3 with :data:`MARK`."""
    cr3 = tables & _LARGE_MARK - 1
    if tables & _PAE_MARK:
        return Paging(cr3, PAE, 0)
    if tables & _SHORT_MARK:
        return Paging(cr3, SHORT, 0, large=bool(tables & _LARGE_MARK))
    return Paging(0, NONE, 0)


def marks_of(paging: Paging) -> int:
    """Return CR3 with :data:`MARK`, from how code outside long mode translates."""
    if paging.levels == NONE:
        return MARK
    if paging.levels == PAE:
        return MARK | _PAE_MARK | paging.cr3
    return MARK | _SHORT_MARK | (_LARGE_MARK if paging.large else 0) | paging.cr3


def legacy_walk(memory: PhysicalMemory, paging: Paging, linear: int) -> Leaf | None:
    """Return the leaf that maps a linear address, or None when nothing does."""
    linear &= _END - 1
    if paging.levels == NONE:
        return _same(linear)
    rights = WRITABLE | USER
    for level, shift, address, entry in _steps(memory, paging, linear):
        if not entry & PRESENT:
            return None
        rights &= entry if level < 3 else rights  # the four entries of the topmost have none
        if _is_leaf(paging, level, entry):
            return _leaf(paging, linear, level, shift, entry, address, rights)
    return None


def legacy_leaves(memory: PhysicalMemory, paging: Paging) -> Iterator[Leaf]:
    """Yield every leaf, in order of linear address."""
    linear = 0
    while linear < _END:
        leaf = legacy_walk(memory, paging, linear)
        if leaf is not None:
            yield leaf
            linear = leaf.linear + leaf.size
        else:
            linear += _absent(memory, paging, linear)


def _absent(memory: PhysicalMemory, paging: Paging, linear: int) -> int:
    # How far the entry that is not present reaches: that of a table as far as the table would.
    for _, shift, _, entry in _steps(memory, paging, linear):
        if not entry & PRESENT:
            return (1 << shift) - linear % (1 << shift)
    return PAGE_SIZE


def _steps(
    memory: PhysicalMemory, paging: Paging, linear: int
) -> Iterator[tuple[int, int, int, int]]:
    # Yields of each level of a walk the level, the lowest bit of its index, where the entry is, and
    # the entry: 0 where that is no memory.
    table = paging.cr3 & _ROOT[paging.levels]
    for level, shift, bits in _levels(paging):
        width = _BYTES[paging.levels]
        address = table + width * (linear >> shift & (1 << bits) - 1)
        try:
            entry = int.from_bytes(memory.read(address, width), "little")
        except LookupError:
            entry = 0
        yield level, shift, address, entry
        table = entry & _ADDRESS


def _levels(paging: Paging) -> tuple[tuple[int, int, int], ...]:
    # Level, the lowest bit of its index, and how many these are.
    if paging.levels == SHORT:
        return (2, 22, 10), (1, 12, 10)
    return (3, 30, 2), (2, 21, 9), (1, 12, 9)


def _is_leaf(paging: Paging, level: int, entry: int) -> bool:
    return level == 1 or (level == 2 and bool(entry & LARGE) and paging.large)


def _leaf(
    paging: Paging, linear: int, level: int, shift: int, entry: int, address: int, rights: int
) -> Leaf:
    size = 1 << shift
    physical = entry & _ADDRESS & -size
    if paging.levels == SHORT and level == 2:
        # Bits 20:13 are bits 39:32 of the address.
        physical = entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32
    writable, user = bool(rights & WRITABLE), bool(rights & USER)
    return Leaf(linear & -size, physical, size, address, entry, False, writable, user)


def _same(linear: int) -> Leaf:
    start = linear & -_PIECE
    return Leaf(start, start, _PIECE, 0, 0, False, True, True)
