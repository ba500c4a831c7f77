"""Pair the accesses and the log entries of a stretch in which a trace and a log differ.

What is paired agrees, or is one access told in two ways; what is left over is on one side alone.
The pairing is the one with the fewest faults. A long stretch is cut where accesses and entries are
the same, the longest common subsequence, and the fewest faults are sought in between.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tracer.check.comparison import TracedAccess
from tracer.check.qemu_log import LogEntry
from tracer.check.witness.fingerprint import Fingerprints, Manner
from tracer.check.witness.reading import fit

_SMALL = 1 << 12
"""Accesses times entries up to which every pairing is weighed."""

_BLOCK = 1 << 11
"""Accesses and entries of which the longest common subsequence is sought at once."""

# An access in the place of another is one fault, but what is alike is paired rather.
_FAULT, _REPLACED = 2, 3


class Step(NamedTuple):
    """Hold an access, the entries that are paired with it, and whether they agree.

    Without an access the entries, without entries the access is on one side alone.
    """

    access: TracedAccess | None
    entries: Sequence[LogEntry]
    agrees: bool = False


def align(traced: Sequence[TracedAccess], logged: Sequence[LogEntry]) -> list[Step]:
    """Return the pairing of a stretch, in order."""
    if not traced or not logged or len(traced) * len(logged) <= _SMALL:
        return list(_weighed(traced, logged))
    return list(_cut(traced, logged))


def cost(traced: Sequence[TracedAccess], logged: Sequence[LogEntry]) -> int:
    """Return what the pairing of a short stretch costs: more for more faults."""
    return _Weights(traced, logged).costs[0][0]


# For each pair of positions what all that follows costs at least, and how many accesses and
# entries the best step from there takes.
class _Weights:
    def __init__(self, traced: Sequence[TracedAccess], logged: Sequence[LogEntry]) -> None:
        rows, columns = len(traced) + 1, len(logged) + 1
        self.costs = [[_FAULT * (columns - 1 - j) for j in range(columns)] for _ in range(rows)]
        self.steps = [[(0, 1, False)] * columns for _ in range(rows)]
        for i in range(rows - 2, -1, -1):
            for j in range(columns - 1, -1, -1):
                self.costs[i][j], self.steps[i][j] = min(
                    (price + self.costs[i + accesses][j + entries], (accesses, entries, agrees))
                    for price, accesses, entries, agrees in _moves(traced[i], logged, j)
                )


# Price, accesses and entries of what an access may be paired with, and whether it agrees.
def _moves(
    access: TracedAccess, logged: Sequence[LogEntry], at: int
) -> Iterator[tuple[int, int, int, bool]]:
    used, agrees = fit(access, logged, at)
    if agrees:
        yield 0, 1, used, True
    elif 0 < used <= len(logged) - at:
        yield _FAULT, 1, used, False
    yield _FAULT, 1, 0, False
    if at < len(logged):
        yield _FAULT, 0, 1, False
        yield _REPLACED, 1, _as_wide(access.width, logged, at), False
        if access.width and access.address % access.width:
            # Two aligned pieces, as an unaligned load is told.
            yield _REPLACED, 1, _as_wide(2 * access.width, logged, at), False


# How many entries without a gap are as wide as this, 1 where none are.
def _as_wide(width: int, logged: Sequence[LogEntry], at: int) -> int:
    first = logged[at]
    cursor, last = first.address, first.address + width
    for count, entry in enumerate(logged[at : at + width], 1):
        if entry.address != cursor or entry.direction != first.direction:
            break
        cursor += entry.width
        if cursor == last:
            return count
    return 1


def _weighed(traced: Sequence[TracedAccess], logged: Sequence[LogEntry]) -> Iterator[Step]:
    if not traced:
        yield from (Step(None, [entry]) for entry in logged)
        return
    if not logged:
        yield from (Step(access, [], fit(access, ())[1]) for access in traced)
        return
    weights = _Weights(traced, logged)
    i = j = 0
    while i < len(traced) or j < len(logged):
        accesses, entries, agrees = weights.steps[i][j]
        yield Step(traced[i] if accesses else None, logged[j : j + entries], agrees)
        i, j = i + accesses, j + entries


def _cut(traced: Sequence[TracedAccess], logged: Sequence[LogEntry]) -> Iterator[Step]:
    i = j = 0
    for access, entry, used in _common(traced, logged):
        if access >= i and entry >= j:
            yield from _between(traced[i:access], logged[j:entry])
            yield Step(traced[access], logged[entry : entry + used], agrees=True)
            i, j = access + 1, entry + used
    yield from _between(traced[i:], logged[j:])


# Positions of accesses and of the entries that they are, in order, and how many those are.
def _common(
    traced: Sequence[TracedAccess], logged: Sequence[LogEntry]
) -> Iterator[tuple[int, int, int]]:
    ours, theirs, manner = Fingerprints(), Fingerprints(), Manner()
    manner.learn(logged)
    ours.add_accesses(traced, manner)
    theirs.add_entries(logged)
    accesses = {start: item for item, start in enumerate(ours.starts)}
    for number, entry in _alike(ours.numbers, theirs.numbers):
        access = accesses.get(number)
        if access is not None and traced[access].width:
            used, agrees = fit(traced[access], logged, entry)
            if agrees:
                yield access, entry, used


# A common subsequence as positions in both, in order.
def _alike(first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[int, int]]:
    i = j = 0
    for here, there in (*_once(first, second), (len(first), len(second))):
        # Blocks, as the price grows with the square.
        for start in range(0, max(here - i, there - j), _BLOCK):
            begins = i + start, j + start
            ends = min(here, i + start + _BLOCK), min(there, j + start + _BLOCK)
            yield from _longest(first, second, begins, ends)
        if here < len(first):
            yield here, there
        i, j = here + 1, there + 1


# Accesses that either side has once are the same; the longest row of such pairs that keeps both
# orders is found by patience sorting.
def _once(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    there = {number: position for position, number in enumerate(second)}
    often, other = Counter(first), Counter(second)
    pairs = [
        (position, there[number])
        for position, number in enumerate(first)
        if often[number] == 1 == other[number]
    ]
    tops: list[int] = []  # of each pile, the position in `second`
    piles: list[int] = []  # of each pile, the number of its top pair
    before: list[int | None] = []
    for number, (_, position) in enumerate(pairs):
        pile = bisect_left(tops, position)
        before.append(piles[pile - 1] if pile else None)
        tops[pile : pile + 1] = [position]
        piles[pile : pile + 1] = [number]
    row: list[tuple[int, int]] = []
    at = piles[-1] if piles else None
    while at is not None:
        row.append(pairs[at])
        at = before[at]
    return row[::-1]


def _longest(
    first: Sequence[int], second: Sequence[int], begins: tuple[int, int], ends: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    from rapidfuzz.distance import Levenshtein  # only traces that differ wait for it

    (i, j), (here, there) = begins, ends
    if i >= here or j >= there:
        return
    for code in Levenshtein.opcodes(first[i:here], second[j:there]):
        if code.tag == "equal":
            yield from zip(
                range(i + code.src_start, i + code.src_end),
                range(j + code.dest_start, j + code.dest_end),
                strict=True,
            )


def _between(traced: Sequence[TracedAccess], logged: Sequence[LogEntry]) -> Iterator[Step]:
    if len(traced) * len(logged) <= _SMALL:
        yield from _weighed(traced, logged)
        return
    # Nothing is in common: one after the other.
    i = j = 0
    while i < len(traced) and j < len(logged):
        used, agrees = fit(traced[i], logged, j)
        if not agrees and not used:
            used = min(entries for _, _, entries, _ in _moves(traced[i], logged, j) if entries)
        yield Step(traced[i], logged[j : j + used], agrees)
        i, j = i + 1, j + used
    yield from _weighed(traced[i:], ())
    yield from _weighed((), logged[j:])
