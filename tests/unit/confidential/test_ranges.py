"""Sets of addresses, against sets of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tracer.confidential.ranges import Ranges, add, meet, remove

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.integers(0, 12)), max_size=12)


def members(ranges: Ranges) -> set[int]:
    return {number for start, end in ranges for number in range(start, end)}


@given(STEPS)
def test_ranges_are_sets(steps: list[tuple[bool, int, int]]) -> None:
    ranges: Ranges = ()
    expected: set[int] = set()
    for adds, start, end in steps:
        if adds:
            ranges, expected = add(ranges, start, end), expected | set(range(start, end))
        else:
            ranges, expected = remove(ranges, start, end), expected - set(range(start, end))
        assert members(ranges) == expected
        assert all(a < b for a, b in ranges), "none is empty"
        pairs = pairwise(ranges)
        assert all(before[1] < after[0] for before, after in pairs), "sorted, and they do not touch"
        assert meet(ranges, 3, 9) == len(expected & set(range(3, 9)))
