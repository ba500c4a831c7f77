"""One run: the loop, its start, and a person who holds it."""

__all__ = ("control", "launch", "loop", "watchdog")
