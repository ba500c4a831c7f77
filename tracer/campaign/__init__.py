"""Campaigns: many boots of one guest, each with mutations of a seed of its own."""

__all__ = ("job", "processes", "table")
