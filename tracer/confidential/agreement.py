"""A guest's own handler asks its host for an access: is it the one that its instruction makes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracer.confidential.handler import Member, Verdict
from tracer.confidential.request import Mmio
from tracer.x86.bus import Direction

_ACCESS: frozenset[Member] = frozenset({"access"})


@dataclass(frozen=True, slots=True)
class Made:
    """Hold an access that an instruction makes: ``physical``, ``width`` in bytes.

    ``value`` is what a write writes, None for a read, or where it is not known.
    """

    direction: Direction
    width: int
    physical: int
    value: int | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Tell in which members two differ, in none where they agree, and what was foretold of that.

    ``unforetold`` are the members that a verdict says nothing of. ``note`` is what it says of the
    others.
    """

    differs: frozenset[Member] = frozenset()
    unforetold: frozenset[Member] = frozenset()
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Return whether they do not differ at all."""
        return not self.differs

    @property
    def explained(self) -> bool:
        """Return whether they do not differ, or as it was foretold."""
        return not self.unforetold


AGREED = Agreement()
"""Two that do not differ."""


def agreement(made: Sequence[Made], asked: Mmio | None, verdict: Verdict) -> Agreement:
    """Hold what was asked, None for nothing, to the access that is made first, if there is one.

    The accesses are those of one instruction, as far as it could be foretold; ``verdict`` is what
    the handler was expected to do with it. A handler that gives up asks for nothing.
    """
    expected = made[0] if made and verdict.outcome == "emulated" else None
    if expected is None and asked is None:
        return AGREED
    if expected is None or asked is None:
        return Agreement(_ACCESS, _ACCESS)
    return compared(differing(expected, asked), verdict)


def differing(made: Made, asked: Mmio) -> frozenset[Member]:
    """Return the members in which what was asked is another access than the one that is made."""
    found: set[Member] = set()
    if asked.direction != made.direction:
        found.add("direction")
    if asked.width != made.width:
        found.add("width")
    if asked.physical != made.physical:
        found.add("physical")
    if made.value is not None and asked.value != made.value:
        found.add("value")
    return frozenset(found)


def compared(differs: frozenset[Member], verdict: Verdict) -> Agreement:
    """Return members that differ as an agreement, and which of them a verdict foretells."""
    told = verdict.note if differs & verdict.differs else ""
    return Agreement(differs, differs - verdict.differs, told)
