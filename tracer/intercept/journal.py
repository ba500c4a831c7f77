"""The journal of a run: records for whoever subscribes, counts, and what could not be traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tracer.compiled.message import Message
from tracer.intercept.view import GuestView
from tracer.trace.block import Blocks
from tracer.trace.compiled import BlockRecord, PlacesRecord
from tracer.trace.configuration import Latch
from tracer.trace.record import End, Intercept, Line, Mark, Record

Subscriber = Callable[[Record], None]
Scribe = Callable[[Line], None]


class Journal:
    """Keep the records of one run going, at the guest's time.

    Every line goes to the ``scribes`` as it is, in order, the first time it is known, and every
    record that it stands for to the ``subscribers``. ``counts`` counts stops by what they were for,
    ``warnings`` tell what could not be traced. ``progress`` is called with a line of text when the
    run takes long. ``blocks`` make records of lines.
    """

    def __init__(self, view: GuestView) -> None:
        self._view = view
        self.scribes: list[Scribe] = []
        self.subscribers: list[Subscriber] = []
        self.counts: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.progress: Callable[[str], None] = lambda _: None
        self.blocks = Blocks()
        self._last: Intercept | BlockRecord | None = None
        self._settled: BlockRecord | None = None

    def publish(self, line: Line) -> None:
        """Hand a line to every scribe, in order, and its records to every subscriber."""
        for scribe in self.scribes:
            scribe(line)
        if isinstance(line, BlockRecord | Intercept):
            self._settle()
        if isinstance(line, BlockRecord):
            self._last = line
            if not self.subscribers:
                return
        elif isinstance(line, PlacesRecord):
            self._last = self.last  # which they are not for
        for record in self.blocks.records(line):
            if isinstance(record, Intercept):
                self._last = record
            for subscriber in self.subscribers:
                subscriber(record)

    @property
    def last(self) -> Intercept | None:
        """Return the last record of an access."""
        last = self._last
        if isinstance(last, BlockRecord):
            made = [each for each in self.blocks.records(last) if isinstance(each, Intercept)]
            self._last = last = made[-1]
        return last

    @property
    def latch(self) -> Latch:
        """Return what leads to PCI configuration space now."""
        self._settle()
        return self.blocks.latch

    def with_messages(self, rows: bytes, window: int) -> bytes:
        """Return rows that come next, with the messages that their interrupts came of.

        ``window`` is as in a block. Raise TraceError where they are not what a guest leaves.
        """
        self._settle()
        return self.blocks.with_messages(rows, window)

    def message(self, vcpu: int, vector: int) -> tuple[str, Message | None]:
        """Return what an interrupt comes of that is given next: its cause, and its message."""
        self._settle()
        return self.blocks.message(vcpu, vector)

    # Nobody may have asked for the records of the last block.
    def _settle(self) -> None:
        last = self._last
        if isinstance(last, BlockRecord) and last is not self._settled:
            self.blocks.skip(last)
            self._settled = last

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

    def remark(self, text: str, *, last: bool = False) -> None:
        """Tell in the trace, and once at the end, what could not be traced.

        With ``last`` another guest begins, and that is what.
        """
        if text not in self.warnings:
            self.warnings.append(text)
        self.publish(Mark(time_ns=self._view.time_ns, text=text, last=last))

    def end(self, outcome: str) -> None:
        """Publish the closing record."""
        self.publish(End(time_ns=self._view.time_ns, outcome=outcome, counts=dict(self.counts)))
