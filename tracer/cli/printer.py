"""The accesses of a guest that runs, on standard output as they happen."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from tracer.cli import terminal
from tracer.intercept.journal import Subscriber
from tracer.report.objects import access_object
from tracer.trace.event import Event, Events, Everything
from tracer.trace.fold import Fold, Folders
from tracer.trace.lines import access_line, fold_line
from tracer.trace.naming import Naming
from tracer.trace.record import End, Record


class LinePrinter:
    """Print a line an access, at once.

    On a terminal a loop, such as that of a driver that polls or the timer's, is its first turns
    and a count.
    """

    def __init__(self, naming: Naming) -> None:
        self._events = Events(Everything(naming))
        self._folder = Folders() if sys.stdout.isatty() else None

    def __call__(self, record: Record) -> None:
        """Print what a record tells."""
        for event in self._events.add(record):
            self._print(self._folder.add(event) if self._folder is not None else [event])
        if isinstance(record, End) and self._folder is not None:
            self._print(self._folder.end())

    def _print(self, told: Sequence[Event | Fold]) -> None:
        shape = terminal.line_layout(sys.stdout)
        for item in told:
            if isinstance(item, Fold):
                print(fold_line(item), flush=True)
            else:
                print(access_line(item, shape), flush=True)


def json_printer(naming: Naming) -> Subscriber:
    """Print a JSON object an access, at once."""
    events = Events(Everything(naming))

    def show(record: Record) -> None:
        for event in events.add(record):
            print(json.dumps(access_object(event)), flush=True)

    return show
