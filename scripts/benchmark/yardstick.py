"""A fixed piece of plain Python, which limits are told in: how fast this machine is right now.

It does what the emulator and the replay do all the time: calls, small values, integers of 64 bits,
dictionaries. It is no part of vetrace, so it changes with the machine, the interpreter and the load
alone; what runs right beside it meets the same of all three.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

_STEPS = 16


@dataclass(frozen=True, slots=True)
class _Value:
    number: int
    width: int
    place: str | None = None


def _piece() -> int:
    known: dict[int, _Value] = {}
    total = 0
    for step in range(_STEPS):
        value = _Value(step * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF, 1 << (step & 3))
        total += value.number >> 8 * value.width & 0xFF
        known[value.number & 7] = value
    return total + len(known)


def laps(clock: Callable[[], float] = time.perf_counter, rounds: int = 1) -> float:
    """Return how many seconds of ``clock`` the piece takes, the mean of some rounds."""
    began = clock()
    for _ in range(rounds):
        _piece()
    return (clock() - began) / rounds


def in_laps(measure: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Return the median of what ``measure`` takes, in seconds and in laps run right beside it."""
    figures = [(measure(), laps()) for _ in range(rounds)]
    return median(each for each, _ in figures), median(each / lap for each, lap in figures)
