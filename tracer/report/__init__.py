"""Accesses as objects; counts and comparisons as tables; a trace as a page."""

__all__ = ("allow_list", "objects", "page", "sarif", "tables", "tally")
