"""What a benchmark found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True, slots=True)
class Result:
    """Hold what was measured, in words, and the figures.

    ``rows`` are a label and a figure each. ``kept`` is False when a limit that vetrace promises,
    which ``rows`` then name, is not kept.
    """

    measured: str
    rows: tuple[tuple[str, str], ...]
    kept: bool = True


def spread(seconds: Sequence[float]) -> str:
    """Return median, tenth and ninetieth percentile of durations, in milliseconds."""
    tenths = quantiles(seconds, n=10)
    return (
        f"{median(seconds) * 1e3:6.3f} ms   (10 %: {tenths[0] * 1e3:.3f}, "
        f"90 %: {tenths[-1] * 1e3:.3f}, of {len(seconds)})"
    )
