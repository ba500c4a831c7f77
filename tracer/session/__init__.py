"""One run: the loop, its traps and driver, its limits, and a person who holds it."""

__all__ = (
    "control",
    "course",
    "driver",
    "host",
    "loop",
    "mutation",
    "outlook",
    "own_host",
    "queues",
    "session",
    "traps",
    "waits",
    "watchdog",
)
