"""The moments that a condition holds the time against."""

from __future__ import annotations

from tracer.query.condition.node import Node


class Moments:
    """Collect them, by the places in the text at which the time is mentioned."""

    def __init__(self) -> None:
        self._held: dict[int, list[int | None]] = {}

    def mention(self, start: int) -> None:
        """Note that the time is mentioned at a place."""
        self._held[start] = []

    def hold(self, node: Node, *others: Node | None) -> None:
        """Note that an expression, which may be the time, is held against others."""
        if node.name == "time":
            # A moment that is no constant is None.
            held = [each.run({}) if each.constant else None for each in others if each is not None]
            self._held.setdefault(node.start, []).extend(held)

    @property
    def told(self) -> tuple[int, ...] | None:
        """Return the moments in order; None where the time is asked for in another way."""
        told = [moment for held in self._held.values() for moment in held]
        if not all(self._held.values()) or None in told:
            return None
        return tuple(sorted({moment for moment in told if moment is not None}))
