"""What a run tells: records to whoever subscribes, counts, and what could not be traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tracer.intercept.view import GuestView
from tracer.trace.record import End, Intercept, Mark, Record

Subscriber = Callable[[Record], None]


class Journal:
    """Keep the records of one run going, at the guest's time.

    Every record goes to the ``subscribers`` in order, the first time it is known. ``counts`` counts
    stops by what they were for, ``warnings`` tell what could not be traced. ``progress`` is called
    with a line of text when the run takes long. ``last`` is the last record of an access.
    """

    def __init__(self, view: GuestView) -> None:
        self._view = view
        self.subscribers: list[Subscriber] = []
        self.counts: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.progress: Callable[[str], None] = lambda _: None
        self.last: Intercept | None = None

    def publish(self, record: Record) -> None:
        """Hand a record to every subscriber, in order."""
        if isinstance(record, Intercept):
            self.last = record
        for subscriber in self.subscribers:
            subscriber(record)

    def mark(
        self, text: str, qemu_log_offset: int | None = None, qemu_log_from: int | None = None
    ) -> None:
        """Publish a mark at this moment of the run."""
        now = self._view.time_ns
        self.publish(
            Mark(
                time_ns=now,
                text=text,
                qemu_log_offset=qemu_log_offset,
                qemu_log_from=qemu_log_from,
            )
        )

    def remark(self, text: str) -> None:
        """Tell in the trace, and once at the end, what could not be traced."""
        if text not in self.warnings:
            self.warnings.append(text)
        self.mark(text)

    def end(self, outcome: str) -> None:
        """Publish the closing record."""
        self.publish(End(time_ns=self._view.time_ns, outcome=outcome, counts=dict(self.counts)))
