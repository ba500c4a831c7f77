"""Counts and comparisons as tables."""

__all__ = ("tables",)
