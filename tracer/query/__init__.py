"""Choosing accesses: conditions, breaks, places, and the facts that they ask for."""

__all__ = (
    "breakpoint",
    "called",
    "condition",
    "course",
    "facts",
    "pending",
    "place",
    "roster",
    "rule",
    "sieve",
    "source",
    "words",
)
