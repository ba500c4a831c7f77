"""Choosing accesses: conditions, breaks, places, and the facts that they ask for."""

__all__ = ("breakpoint", "condition", "facts", "place")
