"""One run: the loop, its traps and driver, its limits, and a person who holds it."""

__all__ = ("control", "course", "driver", "loop", "session", "traps", "watchdog")
