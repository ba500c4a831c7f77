"""Count device accesses by call chain, as folded stacks: the input of flame-graph tools.

A line is the functions from the outermost to the innermost, joined by semicolons, a space, and
the count. Ref: https://github.com/brendangregg/FlameGraph, README, "Fold stacks".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tracer.trace.record import Intercept, Record, StackRecord

UNKNOWN = "[unknown]"
"""Stands for the callers of a stack whose outermost functions are missing."""


class FoldedStacks:
    """Count the accesses of a trace's records; ``stacks`` is how many stacks the trace tells."""

    def __init__(self) -> None:
        self.stacks = 0
        self._chains: dict[int, str] = {}
        self._counts: Counter[str] = Counter()

    def add(self, record: Record, accesses: int) -> None:
        """Take the next record, with the number of its device accesses that are to be counted."""
        if isinstance(record, StackRecord):
            self.stacks += 1
            names = [_function(frame.site) for frame in reversed(record.frames)]
            self._chains[record.id] = ";".join([UNKNOWN, *names] if record.lost else names)
        elif isinstance(record, Intercept) and accesses:
            alone = _function(record.site)
            chain = None if record.stack is None else self._chains.get(record.stack)
            self._counts[chain or alone] += accesses

    def lines(self) -> Iterator[str]:
        """Yield the lines, sorted."""
        for chain, count in sorted(self._counts.items()):
            yield f"{chain} {count}"


# A trace may come from anywhere: a name must not add a frame or a line.
def _function(site: str) -> str:
    name, _, rest = site.partition("+")
    _, owned, owner = rest.partition(" ")
    text = f"{name}{owned}{owner}".replace(";", ":")
    return "".join(char if char.isprintable() else "?" for char in text)
