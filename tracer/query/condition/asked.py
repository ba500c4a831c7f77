"""The facts that a condition asks for, gathered while its text is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from tracer.query.condition.mention import Mention
from tracer.query.condition.moment import Moments
from tracer.query.condition.vocabulary import Between, Since


@dataclass(slots=True)
class Asked:
    """Gather the ``names`` of facts, and the words and moments that facts are held against.

    ``offsets`` are the first bytes that are to be touched, each with its place in the text.
    ``stretches`` are those between two marks, ``deltas`` the facts that tell of a difference.
    """

    names: set[str] = field(default_factory=set)
    mentions: list[Mention] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    stretches: list[Between] = field(default_factory=list)
    deltas: list[Since] = field(default_factory=list)
    moments: Moments = field(default_factory=Moments)
