"""The terminal, if there is one, as far as the commands need to know it."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tracer.host.streams import forced_colour, shows_colour, warn
from tracer.text.printable import printable
from tracer.trace.layout import FILE_COLUMNS, Layout, layout
from tracer.trace.reader import TraceReader

if TYPE_CHECKING:
    from rich.console import Console

_PATIENCE = 1.0
"""Seconds that somebody waits without wondering."""


def line_layout(stream: TextIO) -> Layout:
    """Return the layout that access lines on ``stream`` should have now."""
    columns = shutil.get_terminal_size().columns if stream.isatty() else None
    return layout(columns, shows_colour(stream))


def table_console(stream: TextIO) -> Console:
    """Return a console that prints tables to ``stream``, in colour where that is wanted."""
    # Loading rich takes longer than showing a short trace does.
    from rich.console import Console

    class Table(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich calls this where it has caught BrokenPipeError

    return Table(
        file=stream,
        width=None if stream.isatty() else FILE_COLUMNS,
        highlight=False,
        markup=False,
        no_color=None if forced_colour() is None else not forced_colour(),
        force_terminal=forced_colour(),
    )


def warn_of_losses(trace: TraceReader) -> None:
    """Tell the reader what of a trace, read to its end, is missing or was skipped."""
    for text in trace.missing():
        warn(text)


@contextlib.contextmanager
def progress(stream: TextIO, task: str) -> Iterator[Callable[[tuple[int, int] | None], None]]:
    """Show a progress bar on ``stream`` while the block runs, if that is a terminal.

    What is yielded takes how much is done and how much there is, or None when nobody knows. What is
    done in a moment has no bar.
    """
    if not stream.isatty():
        yield lambda done: None
        return
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        show: Callable[[int, int], None] | None = None

        def advance(done: tuple[int, int] | None) -> None:
            nonlocal show
            if done is None or time.monotonic() - begun < _PATIENCE:
                return
            show = show or stack.enter_context(_bar(stream, task))
            show(*done)

        yield advance


@contextlib.contextmanager
def _bar(stream: TextIO, task: str) -> Iterator[Callable[[int, int], None]]:
    from rich.markup import escape  # see table_console
    from rich.progress import Progress

    # Output that is printed meanwhile is for where it goes, and not for this terminal.
    with Progress(
        console=table_console(stream), transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        number = bar.add_task(escape(printable(task)), total=None)
        yield lambda completed, total: bar.update(number, completed=completed, total=total)


@contextlib.contextmanager
def reading(trace: TraceReader, *, prints: bool = False) -> Iterator[None]:
    """Show on standard error how far a trace has been read, while the block reads it.

    Not where the block ``prints`` on the same terminal.
    """
    if prints and sys.stdout.isatty():
        yield
        return
    with progress(sys.stderr, f"reading {Path(trace.name).name}") as advance:
        trace.watch = lambda: advance(trace.progress())
        yield
