"""Choosing accesses: conditions, breaks, places, and the facts that they ask for."""

__all__ = (
    "aggregate",
    "breakpoint",
    "called",
    "condition",
    "course",
    "facts",
    "past",
    "pending",
    "place",
    "roster",
    "rule",
    "sieve",
    "source",
    "tally",
    "words",
)
