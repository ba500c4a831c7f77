"""Tallies of a guest that runs: what has been counted, and who takes what comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracer.query.tally import Counted
from tracer.repl.feed import Seen


@dataclass(slots=True)
class Running:
    """Hold a tally that goes on; ``listener`` takes accesses until it ``failed``.

    ``since`` is the number of the first access that it could count.
    """

    counted: Counted
    since: int
    listener: Callable[[Seen], None]
    failed: str = ""
