"""A guest's own handler asks its host for an access: is it the one that its instruction makes?"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.confidential.handler import Member, Verdict
from tracer.confidential.request import Mmio
from tracer.x86.bus import Direction


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
    """Tell in which members two differ, in none where they agree.

    ``unforetold`` are those of them that a verdict says nothing of.
    """

    differs: frozenset[Member] = frozenset()
    unforetold: frozenset[Member] = frozenset()

    @property
    def agrees(self) -> bool:
        """Return whether they do not differ at all."""
        return not self.differs


AGREED = Agreement()
"""Two that do not differ."""


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
    return Agreement(differs, differs - verdict.differs)
