"""Room in the guest for code of vetrace's: padding that the guest never runs."""

from __future__ import annotations

from tracer.access.space import AddressSpace
from tracer.x86.state import PAGE_SIZE

_FILLERS = (b"\xcc", b"\x00", b"\x90")
_ALIGNMENT = 64
_SEARCH = 1 << 20


def find_page(space: AddressSpace, start: int, size: int = _SEARCH) -> int | None:
    """Return the linear address of the first page from ``start`` on that is one filler alone.

    It lies within ``size`` bytes.

    QEMU runs code that shares a page with a breakpoint one instruction at a time, so code that is
    run often must not sit beside the kernel's own.
    """
    first = (start + PAGE_SIZE - 1) & -PAGE_SIZE
    text = space.read(first, max(start + size - first, 0))
    for offset in range(0, len(text) - PAGE_SIZE + 1, PAGE_SIZE):
        if is_filler(text[offset : offset + PAGE_SIZE]):
            return first + offset
    return None


def find_run(space: AddressSpace, start: int, size: int, search: int = _SEARCH) -> int | None:
    """Return the linear address of the first ``size`` bytes of one filler, aligned.

    They lie within the ``search`` bytes from ``start`` on.
    """
    text = space.read(start, search)
    runs = [text.find(filler * (size + 2 * _ALIGNMENT)) for filler in _FILLERS]
    found = [offset for offset in runs if offset >= 0]
    return (start + min(found) + 2 * _ALIGNMENT - 1) & -_ALIGNMENT if found else None


def is_filler(page: bytes) -> bool:
    """Tell whether bytes are one filler alone."""
    return page[:1] in _FILLERS and page == page[:1] * len(page)
