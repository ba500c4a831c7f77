"""Sets of guest-physical addresses as sorted ranges, first and behind the last, that do not touch.

They are what MapGPA converts: a boot converts thousands of pages one by one, in a few ranges.
"""

from __future__ import annotations

Ranges = tuple[tuple[int, int], ...]


def add(ranges: Ranges, start: int, end: int) -> Ranges:
    """Return the ranges with all from ``start`` to before ``end`` in them."""
    if start >= end:
        return ranges
    apart = [(a, b) for a, b in ranges if b < start or end < a]
    met = [(a, b) for a, b in ranges if not (b < start or end < a)]
    merged = min([start, *(a for a, _ in met)]), max([end, *(b for _, b in met)])
    return tuple(sorted([*apart, merged]))


def remove(ranges: Ranges, start: int, end: int) -> Ranges:
    """Return the ranges with nothing from ``start`` to before ``end`` in them."""
    if start >= end:
        return ranges
    kept = []
    for a, b in ranges:
        kept += [(a, min(b, start)), (max(a, end), b)]
    return tuple(sorted({(a, b) for a, b in kept if a < b}))


def meet(ranges: Ranges, start: int, end: int) -> int:
    """Return how many of the addresses from ``start`` to before ``end`` are in the ranges."""
    return sum(max(0, min(b, end) - max(a, start)) for a, b in ranges)
