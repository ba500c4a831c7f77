"""Where a replay leaves its record."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.trace.record import Intercept


@dataclass(frozen=True, slots=True)
class Contrast:
    """Hold one thing that the record and the replay tell differently; None: it is not there."""

    name: str
    expected: str | None
    actual: str | None


@dataclass(frozen=True, slots=True)
class Divergence:
    """Hold where a replay left its record, and all that differs there.

    ``seq`` is the number of the record's first device access.
    """

    seq: int
    rip: int
    symbol: str | None
    code: bytes
    text: str
    contrasts: tuple[Contrast, ...]


def diverging(record: Intercept, *contrasts: Contrast) -> Divergence:
    """Return the divergence of a record."""
    return Divergence(
        record.seq, record.rip, record.symbol, record.code, record.text, contrasts
    )  # fmt: skip


def out_of_turn(record: Intercept, due: int) -> Divergence:
    """Return the divergence of a record that does not have the number ``due``."""
    return diverging(record, Contrast("seq", str(due), str(record.seq)))
