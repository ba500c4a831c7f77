"""The accesses of a guest that runs, on standard output as they happen."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from time import monotonic

from tracer.cli import terminal
from tracer.devices.map import Named
from tracer.host.streams import STATUS_MARGIN, erase_status, show_status
from tracer.intercept.journal import Subscriber
from tracer.report.objects import access_object
from tracer.text.printable import wrapped
from tracer.trace.event import Event, Events, Everything
from tracer.trace.fold import Fold, Folders
from tracer.trace.lines import access_line, fold_line
from tracer.trace.naming import Naming
from tracer.trace.poll import Poll
from tracer.trace.polls import Polls
from tracer.trace.record import End, Record
from tracer.trace.waiting_words import fitted_poll_line, waited_line

_PAUSE = 0.25
"""Seconds between two looks at what is waited for."""


class LinePrinter:
    """Print a line an access, at once, and one where a wait is over.

    On a terminal a loop, such as that of a driver that polls or the timer's, is its first turns
    and a count, and what is waited for is told in a line that is updated in place. ``now`` is the
    time in seconds of a clock that only goes forward.
    """

    def __init__(self, naming: Naming, now: Callable[[], float] = monotonic) -> None:
        self._naming = naming
        self._events = Events(Everything(naming))
        self._folder = Folders() if sys.stdout.isatty() else None
        self._polls = Polls()
        self._now = now
        self._told = 0.0

    def __call__(self, record: Record) -> None:
        """Print what a record tells."""
        shape = terminal.line_layout(sys.stdout)
        items: list[Event | Fold] = []
        for event in self._events.add(record):
            items += [event] if self._folder is None else self._folder.add(event)
        over = self._polls.add(record)
        if isinstance(record, End):
            items += [] if self._folder is None else self._folder.end()
            if record.outcome == "poweroff":
                over = self._polls.open()
        waited = [
            part
            for poll in over
            if poll.is_wait
            for part in wrapped(waited_line(poll, self._name(poll)), shape.columns)
        ]
        lines = []
        for item in items:
            if isinstance(item, Fold):
                lines += wrapped(fold_line(item), shape.columns) + waited
                waited = []
            else:
                lines.append(access_line(item, shape))
        lines += waited
        if lines:
            erase_status()
            print("\n".join(lines), flush=True)
        if self._folder is not None:
            self._tell_wait(ended=isinstance(record, End))

    def _name(self, poll: Poll) -> Named | None:
        return self._naming.name(poll.region, poll.offset, poll.width)

    # Tells on a terminal what goes on without a line.
    def _tell_wait(self, *, ended: bool) -> None:
        now = self._now()
        if ended or now - self._told < _PAUSE:
            if ended:
                erase_status()
            return
        self._told = now
        for poll in self._polls.waiting():
            named = self._name(poll)
            if poll.is_wait or (poll.lasts and poll.may_wait(named)):
                columns = shutil.get_terminal_size().columns
                line = fitted_poll_line(poll, named, columns - STATUS_MARGIN)
                show_status(sys.stdout, line, columns)
                return
        erase_status()


def json_printer(naming: Naming) -> Subscriber:
    """Print a JSON object an access, at once."""
    events = Events(Everything(naming))

    def show(record: Record) -> None:
        for event in events.add(record):
            print(json.dumps(access_object(event)), flush=True)

    return show
