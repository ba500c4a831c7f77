"""The beginning of a strand in a log that has more before it."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.check.comparison import TracedAccess
from tracer.check.qemu_log import LogEntry
from tracer.check.witness.recovery import Place, agreement
from tracer.check.witness.side import Side, Strand

ROOM = 1 << 16
"""Entries held before those that nothing will ask for are given up."""

_BEGINNING = 16  # accesses in a row that tell where a region begins in a log with more before it
_DISTINCT = 8  # of them that differ: a row without is a loop's, and may be in many places
_LONGEST = 1 << 12  # accesses among which they are sought
_SEARCHED = 64  # entries looked at for a beginning at once


def begin(
    traced_side: Side[TracedAccess], logged_side: Side[LogEntry], strand: Strand, *, first: bool
) -> int:
    """Take the entries before a strand's beginning; return how many of the next pairs differ.

    The ``first`` strand may begin anywhere in a long log: what is oldest is forgotten. Where no
    beginning is found all entries of the strand are taken.
    """
    traced = traced_side.view(strand, _LONGEST)
    needed = min(_BEGINNING, len(traced))
    while True:
        logged = logged_side.view(strand, _SEARCHED + _BEGINNING)
        for skipped in range(min(len(traced) - needed, len(logged), _BEGINNING) + 1):
            _, end = agreement(traced, logged, Place(skipped, skipped), 8 * _BEGINNING)
            if end.accesses - skipped >= needed:
                further = _further(logged_side, strand, traced)
                if further is None:
                    return skipped
                logged_side.take(strand, further)
                return 0
        if first and logged_side.held >= ROOM:
            for other in logged_side.strands:
                if other != strand:
                    logged_side.take(other, logged_side.size(other) // 2)
        if not logged_side.take(strand):
            return 0


# How many entries further all agrees that tells a beginning from the turns of a loop, None
# where it does nowhere.
def _further(side: Side[LogEntry], strand: Strand, traced: Sequence[TracedAccess]) -> int | None:
    row = _telling(traced)
    logged: Sequence[LogEntry] = ()
    for at in range(ROOM):
        if at + len(row) > len(logged):
            logged = side.view(strand, 2 * (at + len(row)))
            if at + len(row) > len(logged):
                break
        _, end = agreement(row, logged, Place(0, at), len(logged))
        if end.accesses == len(row):
            return at
    return None


# The first accesses, as many as it takes that enough of them differ.
def _telling(traced: Sequence[TracedAccess]) -> Sequence[TracedAccess]:
    seen = set()
    for count, access in enumerate(traced, 1):
        seen.add((access.direction, access.address, access.value))
        if count >= _BEGINNING and len(seen) >= _DISTINCT:
            return traced[:count]
    return traced
