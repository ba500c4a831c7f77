"""Tallies of a guest that runs: what has been counted, and who takes what comes."""

from __future__ import annotations

from collections.abc import Callable

from tracer.errors import TracerError
from tracer.query.facts import Recorded
from tracer.query.tally import Counted, Tally
from tracer.repl.feed import Seen


class Running:
    """Count what a tally asks for of accesses as they are made, until that ``failed``.

    ``facts`` returns what is known of an access. ``since`` is the number of the first access that
    could be counted. ``complain`` is told of what failed.
    """

    def __init__(self, asked: Tally, facts: Callable[[Seen], Recorded], since: int) -> None:
        self.counted = Counted(asked)
        self.since = since
        self.failed = ""
        self.complain: Callable[[str], None] = lambda text: None
        self._facts = facts

    def listener(self, seen: Seen) -> None:
        """Count an access. One without an answer ends the tally, and not the run."""
        if self.failed:
            return
        known, condition = self._facts(seen), self.counted.tally.condition
        try:
            if condition is None or condition.holds(known):
                self.counted.add(known)
        except TracerError as error:
            self.failed = f"access {seen.seq}: {error}"
            self.complain(f"{self.failed}; it counts no more")
