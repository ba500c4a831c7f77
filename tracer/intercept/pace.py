"""The pace of a guest's time-stamp counter in real time: from moments at which both were told."""

from __future__ import annotations

_APART = 1 << 20
"""Ticks that two moments are apart at least: the time of each is known to some microseconds."""


class Pace:
    """Map values of the counter to the guest's time in nanoseconds."""

    def __init__(self) -> None:
        self._first: tuple[int, int] | None = None
        self._last: tuple[int, int] | None = None

    def note(self, counter: int, time_ns: int) -> None:
        """Take a moment at which both were told."""
        if self._first is None:
            self._first = counter, time_ns
        elif counter - self._first[0] >= _APART:
            self._last = counter, time_ns

    def time_ns(self, counter: int) -> int | None:
        """Return the guest's time at a value of the counter; None before two moments are known."""
        if self._first is None or self._last is None:
            return None
        ticks, span = self._last[0] - self._first[0], self._last[1] - self._first[1]
        return self._last[1] + (counter - self._last[0]) * span // ticks
