"""Write a trace in another tool's format."""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import IO

from tracer.cli import EXIT_OK, terminal
from tracer.cli.extra import extra
from tracer.cli.filters import add_filters, register_maps, selection
from tracer.cli.output import sink
from tracer.errors import TraceError, UsageError
from tracer.export.mmiotrace import MmiotraceLog
from tracer.host.scratch import scratch_folder
from tracer.host.streams import warn
from tracer.host.textfile import STANDARD, are_one_file
from tracer.query.source import Source
from tracer.text.amount import counted
from tracer.trace.event import Event
from tracer.trace.reader import TraceReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace export``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace written by `vetrace boot`")
    parser.add_argument(
        "--format",
        choices=sorted(_FORMATS),
        required=True,
        help="the kernel's mmiotrace text, a Perfetto trace, a Parquet table, an SQLite database,"
        " or registers over time for waveform viewers (VCD)",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True,
        help="write the result here; - is standard output",
    )  # fmt: skip
    add_filters(parser)


def run(args: argparse.Namespace) -> int:
    """Write the accesses that the arguments select; return the exit status."""
    write, maps, chosen = _FORMATS[args.format], register_maps(args), selection(args)
    if are_one_file(args.trace, args.output):
        raise UsageError(f"{args.output} is the trace itself: give the result another name")
    is_text = args.format in _TEXTS
    if args.output == STANDARD and not is_text and sys.stdout.isatty():
        raise UsageError(f"{args.format} is no text for a terminal: give -o a file, or use a pipe")
    with TraceReader(args.trace) as trace:
        if args.format == _TWICE and not trace.is_file:
            raise UsageError(f"{args.format} takes a trace that can be read twice: give it a file")
        source = Source(trace, chosen, maps)
        prints = args.output == STANDARD
        with sink(args.output) as output, terminal.reading(trace, prints=prints):
            left_out = write(source, output)
        source.check_names()
    terminal.warn_of_losses(trace)
    name = "standard output" if args.output == STANDARD else args.output
    warn(f"{counted(source.shown - left_out, 'access')} written to {name}")
    if left_out:
        why = _LACKS[args.format]
        warn(f"{counted(left_out, 'access')} left out: {args.format} has {why}")
    return EXIT_OK


# Each writes what a source has in a format, and returns how many accesses that cannot tell.
def _mmiotrace(source: Source, sink: IO[bytes]) -> int:
    log = MmiotraceLog()
    lines = log.opening()
    for record, events in source:
        lines += log.lines(record, events)
        sink.write("".join(f"{line}\n" for line in lines).encode())
        lines = []
    sink.write("".join(f"{line}\n" for line in lines).encode())
    return log.left_out


def _perfetto(source: Source, sink: IO[bytes]) -> int:
    with extra("perfetto"):
        from tracer.export import perfetto
    perfetto.write(source.items(queues=True), sink)
    return 0


def _parquet(source: Source, sink: IO[bytes]) -> int:
    with extra("pyarrow"):
        from tracer.export import parquet
    try:
        parquet.write(source.trace.header, source.events(), sink)
    except ValueError as error:
        raise TraceError(f"{source.trace.name}: {error}") from error
    return 0


def _sqlite(source: Source, sink: IO[bytes]) -> int:
    import sqlite3

    from tracer.export import sqlite

    # SQLite writes files alone.
    with scratch_folder() as folder:
        path = folder / "database"
        try:
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
                items = source.items(queues=True)
                sqlite.write(source.trace.header, items, source.stacks, database)
        except sqlite3.OperationalError as error:
            why = f"{error}; make room there, or name another place with TMPDIR"
            raise TraceError(f"cannot make the database in {folder}: {why}") from error
        with path.open("rb") as file:
            shutil.copyfileobj(file, sink)
    return 0


def _vcd(source: Source, sink: IO[bytes]) -> int:
    with extra("pyvcd"):
        from tracer.export import vcd

    first = [source]

    def passes() -> Iterator[Event]:
        if first:
            yield from first.pop().events()
            return
        with TraceReader(source.trace.name) as trace:
            yield from Source(trace, source.chosen, source.maps).events()

    text = io.TextIOWrapper(sink, encoding="utf-8", newline="\n")
    try:
        return vcd.write(source.trace.header, passes, text)
    finally:
        text.flush()
        text.detach()


_TEXTS = ("mmiotrace", "vcd")
_TWICE = "vcd"
_FORMATS: dict[str, Callable[[Source, IO[bytes]], int]] = {
    "mmiotrace": _mmiotrace,
    "perfetto": _perfetto,
    "parquet": _parquet,
    "sqlite": _sqlite,
    "vcd": _vcd,
}
_LACKS = {
    "mmiotrace": "memory alone, no ports and the like",
    "vcd": "no place for one without a width",
}
