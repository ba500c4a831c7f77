"""Accesses as objects; counts and comparisons as tables."""

__all__ = ("allow_list", "objects", "tables", "tally")
