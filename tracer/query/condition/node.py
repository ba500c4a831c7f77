"""Expressions of a condition, typed and compiled."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.query.condition.closure import Run
from tracer.query.condition.vocabulary import Type


@dataclass(frozen=True, slots=True)
class Node:
    """Hold an expression: its type, how to evaluate it, its place in the text.

    ``name`` is that of a fact which stands alone. The value of a ``constant`` needs no facts.
    """

    type: Type
    run: Run
    start: int
    end: int
    depth: int = 1
    name: str = ""
    constant: bool = False


Ends = tuple[Node | None, Node | None]
"""The ends of a range, of which one may be open."""


def run_of(node: Node | None) -> Run | None:
    """Return how to evaluate an expression, None for none."""
    return None if node is None else node.run


TYPES: dict[Type, str] = {
    "number": "a number", "text": "text", "texts": "several texts", "truth": "true or false",
}  # fmt: skip
"""The words for an expression of each type."""
