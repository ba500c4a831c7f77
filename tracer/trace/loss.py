"""Count the events that a trace is known to lack."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.text.amount import counted
from tracer.trace.record import LostRecord, Record


@dataclass(slots=True)
class Losses:
    """Count lost events; ``uncounted`` is how often nobody knew how many they were.

    ``left_out`` are accesses that were not wanted in the trace.

    Linux tells of the same events twice: of all that its buffers lost when a log is opened or goes
    on, and of those of one CPU in their place. The greater sum is what is known. Ref: Linux,
    kernel/trace/trace_mmiotrace.c ``mmio_read``, kernel/trace/trace.c ``print_trace_line``.
    """

    of_all: int = 0
    of_one: int = 0
    uncounted: int = 0
    left_out: int = 0

    def __bool__(self) -> bool:
        return bool(self.events or self.uncounted)

    @property
    def events(self) -> int:
        """Return how many were counted."""
        return max(self.of_all, self.of_one) + self.left_out

    @property
    def known(self) -> int | None:
        """Return how many there were, None where that is not known."""
        return None if self.uncounted else self.events

    def add(self, record: Record) -> None:
        """Take the next record of a trace."""
        if not isinstance(record, LostRecord):
            return
        if record.seq is not None:
            self.left_out += record.count or 0
        elif record.count is None:
            self.uncounted += 1
        elif record.vcpu is None:
            self.of_all += record.count
        else:
            self.of_one += record.count

    @property
    def words(self) -> str:
        """Return how many there were: ``1,205 events lost``."""
        if self.left_out and self.left_out == self.events and not self.uncounted:
            return f"{counted(self.left_out, 'access')} left out"
        if not self.events:
            return "an unknown number of events lost" if self.uncounted else "no events lost"
        more = " and an unknown number more" if self.uncounted else ""
        return f"{counted(self.events, 'event')} lost{more}"
