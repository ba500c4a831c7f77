"""Accesses as objects; counts and comparisons as tables."""

__all__ = ("objects", "tables", "tally")
