"""Numbers of the accesses of a trace: they count up from 0 without a gap.

A line that was taken out, is there twice or has another's place is a record like any other, and the
numbers alone tell of it.
"""

from __future__ import annotations

from tracer.trace.compiled import BlockRecord
from tracer.trace.record import Intercept, Line, LostRecord


class Numbering:
    """Follow the lines of a trace; ``fault`` says in words where numbers first go wrong, or None.

    Those of a trace of the last accesses begin behind what was left out.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        self._due = 0

    def follow(self, line: Line, number: int) -> None:
        """Take the next line, with its number in the file."""
        if isinstance(line, Intercept):
            made = sum(access.region is not None for access in line.accesses)
        elif isinstance(line, BlockRecord):
            made = line.accesses
        else:
            if isinstance(line, LostRecord) and line.seq is not None:
                self._due = line.seq
            return
        if line.seq != self._due and self.fault is None:
            self.fault = (
                f"access {line.seq:,} is at line {number}, where {self._due:,} is due:"
                " lines are missing, twice there, or not in their order"
            )
        self._due = line.seq + made
