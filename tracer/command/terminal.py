"""What the commands need to know of the terminal, if there is one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from tracer.render import Layout, layout
from tracer.streams import forced_colour, shows_colour, warn
from tracer.tracefile import TraceReader

if TYPE_CHECKING:
    from rich.console import Console

# Wide enough that no table in a file or a pipe is ever folded.
_FILE_COLUMNS = 240


def line_layout(stream: TextIO) -> Layout:
    """Return the layout that access lines on ``stream`` should have now."""
    columns = shutil.get_terminal_size().columns if stream.isatty() else None
    return layout(columns, shows_colour(stream))


def table_console(stream: TextIO) -> Console:
    """Return a console that prints tables to ``stream``, in colour where that is wanted."""
    # Loading rich takes longer than showing a short trace does.
    from rich.console import Console

    return Console(
        file=stream,
        width=None if stream.isatty() else _FILE_COLUMNS,
        highlight=False,
        markup=False,
        no_color=None if forced_colour() is None else not forced_colour(),
        force_terminal=forced_colour(),
    )


def warn_of_losses(trace: TraceReader) -> None:
    """Tell the reader what of a trace, read to its end, is missing or was skipped."""
    if trace.damage is not None:
        warn(f"{trace.name}: {trace.damage}")
    for kind, count in sorted(trace.unknown.items()):
        warn(f"{trace.name}: skipped {count} records of unknown type {kind!r}")


@contextlib.contextmanager
def progress(stream: TextIO, task: str) -> Iterator[Callable[[tuple[int, int] | None], None]]:
    """Show a progress bar on ``stream`` while the block runs, if that is a terminal.

    What is yielded takes how much is done and how much there is, or None when nobody knows.
    """
    if not stream.isatty():
        yield lambda done: None
        return
    from rich.progress import Progress  # see table_console

    with Progress(console=table_console(stream), transient=True) as bar:
        number = bar.add_task(task, total=None)

        def advance(done: tuple[int, int] | None) -> None:
            if done is not None:
                bar.update(number, completed=done[0], total=done[1])

        yield advance
