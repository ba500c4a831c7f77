"""The pace of a guest's time-stamp counter in real time: from moments at which both were told."""

from __future__ import annotations

from tracer.trace.compiled import Rate

_APART = 1 << 20
"""Ticks that two moments are apart at least: the time of each is known to some microseconds."""


class Pace:
    """Learn how values of the counter map to the guest's time in nanoseconds."""

    def __init__(self) -> None:
        self._first: tuple[int, int] | None = None
        self._last: tuple[int, int] | None = None

    def note(self, counter: int, time_ns: int) -> None:
        """Take a moment at which both were told."""
        if self._first is None:
            self._first = counter, time_ns
        elif counter - self._first[0] >= _APART:
            self._last = counter, time_ns

    @property
    def rate(self) -> Rate | None:
        """Return how the counter tells the guest's time; None before two moments are known."""
        if self._first is None or self._last is None:
            return None
        return Rate(
            counter=self._last[0],
            time_ns=self._last[1],
            ticks=self._last[0] - self._first[0],
            span_ns=self._last[1] - self._first[1],
        )
