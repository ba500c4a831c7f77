"""Aggregates: many numbers as one, or as how many of them lie where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tracer.query.condition import Expression

Kind = Literal["count", "sum", "min", "max", "avg", "stats", "hist", "lhist"]
"""Ways to sum numbers up: bpftrace has the same by the same names."""

MOST_STEPS = 1000
"""Buckets of a linear histogram, at most: those beyond its ends are two more."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """Part the numbers from ``first`` to before ``last`` into steps; without one, by powers of 2.

    A power of 2 begins a bucket which ends before the next; 0 and 1 have one each, and all numbers
    below 0 have one together.
    """

    first: int = 0
    last: int = 0
    step: int | None = None

    def of(self, number: int) -> int:
        """Return the index of the bucket that a number is in; indices are in order."""
        if self.step is None:
            return -1 if number < 0 else number.bit_length()
        if number < self.first:
            return -1
        if number >= self.last:
            return -(-(self.last - self.first) // self.step)
        return (number - self.first) // self.step

    def ends(self, index: int) -> tuple[int | None, int | None]:
        """Return the first number of a bucket, and the one behind its last; None for no end."""
        if self.step is None:
            if index < 0:
                return None, 0
            return (1 << index - 1, 1 << index) if index else (0, 1)
        if index < 0:
            return None, self.first
        start = self.first + index * self.step
        if start >= self.last:
            return self.last, None
        return start, min(start + self.step, self.last)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Say what is made of which numbers: of none to ``count``. ``text`` is as typed."""

    kind: Kind
    text: str
    expression: Expression | None = None
    buckets: Buckets | None = None


class Held:
    """Hold what numbers came to, in memory that does not grow with how many they are.

    Where there are ``buckets``, it is counted which they were in.
    """

    __slots__ = ("_bucket", "count", "counts", "least", "most", "total")

    def __init__(self, buckets: Buckets | None = None) -> None:
        self.count = 0
        self.total = 0
        self.least: int | None = None
        self.most: int | None = None
        self.counts: Counter[int] = Counter()
        self._bucket: Callable[[int], int] | None = None if buckets is None else buckets.of

    def add(self, number: int, times: int = 1) -> None:
        """Take a number that came so many times."""
        self.count += times
        self.total += number * times
        if self.least is None or number < self.least:
            self.least = number
        if self.most is None or number > self.most:
            self.most = number
        if self._bucket is not None:
            self.counts[self._bucket(number)] += times

    @property
    def average(self) -> float | None:
        """Return the mean, None of no numbers; infinite where a float is too small for it."""
        if not self.count:
            return None
        try:
            return self.total / self.count
        except OverflowError:
            return float("inf") if self.total > 0 else float("-inf")

    def weight(self, kind: Kind) -> float:
        """Return by what groups are put in order, the highest first."""
        match kind:
            case "sum":
                return self.total
            case "min":
                return float("-inf") if self.least is None else self.least
            case "max":
                return float("-inf") if self.most is None else self.most
            case "avg":
                return float("-inf") if self.average is None else self.average
        return self.count
