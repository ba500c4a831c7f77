"""The processor time of the QEMU that this process has started."""

from __future__ import annotations

import time
from pathlib import Path

_NAME = "qemu-system"
_SCHEDULER = 2
"""The clock of a whole process, in nanoseconds (Linux kernel/time/posix-cpu-timers.c)."""


class QemuClock:
    """Read the clock of the only QEMU among the children of this process."""

    def __init__(self) -> None:
        self._clock = ~_child() << 3 | _SCHEDULER

    def seconds(self) -> float:
        """Return the user and system time that it has had so far; it is there, or was just now."""
        return time.clock_gettime(self._clock)


def _child() -> int:
    for task in Path("/proc/self/task").iterdir():
        for word in (task / "children").read_text().split():
            if Path(f"/proc/{word}/comm").read_text().startswith(_NAME):
                return int(word)
    raise LookupError(f"this process has no child {_NAME}")
