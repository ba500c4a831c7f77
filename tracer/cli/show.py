"""Show the device accesses of a trace."""

from __future__ import annotations

import argparse
import shlex
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tracer.cli import EXIT_OK, terminal
from tracer.cli.filters import add_filters, register_maps, selection
from tracer.cli.parser import count
from tracer.errors import UsageError
from tracer.export.mmiotrace import MmiotraceLog
from tracer.host.streams import warn
from tracer.host.textfile import STANDARD
from tracer.query.source import Source
from tracer.report.objects import access_object
from tracer.text.printable import wrapped
from tracer.trace.event import Event
from tracer.trace.fold import Fold, folded
from tracer.trace.lines import AccessLines, explained_lines, fold_line, note_line, phase_line
from tracer.trace.queue import QueueRecord, queue_object
from tracer.trace.reader import TraceReader

_POLL = 0.2
"""Seconds between two looks at a trace that is followed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace show``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace written by `vetrace boot`")
    parser.add_argument("--limit", metavar="N", type=count, help="stop after N accesses")
    parser.add_argument(
        "--unfold", action="store_true", help="show every access of a loop, not the first turn only"
    )
    parser.add_argument(
        "--follow", action="store_true",
        help="wait for the trace where it is not there yet, and go on with what is still written,"
        " none folded, to its end or Ctrl-C",
    )  # fmt: skip
    parser.add_argument(
        "--phases", action="store_true", help="head the accesses of each phase of the boot"
    )
    parser.add_argument(
        "--decode",
        action="store_true",
        help="tell below each access what its register and the bits that are set mean, and what "
        "a doorbell was about (`vetrace boot --queues`)",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--format", choices=("text", "json", "mmiotrace"), default="text",
        help="lines of text (default), JSON objects, or the kernel's mmiotrace format",
    )  # fmt: skip
    shape.add_argument(
        "--json", dest="format", action="store_const", const="json",
        help="print one JSON object per access, none folded, and one of what a doorbell was about",
    )  # fmt: skip
    add_filters(parser)
    parser.epilog = (
        "A line has guest time in seconds, vCPU, call site, instruction, region+offset, register,"
        " R or W with the width in bytes (~: carried out by a native step), and the value."
        " A narrow terminal has no room for the vCPU and the instruction, and then none for the"
        " offset of a register that has a name, and for the call site."
        " Where a device's lines are the same three times or more, whatever others do meanwhile,"
        " they are shown once, and then how often, how long and the last values read."
        " A marker, events that a log lost, and what a person did at the prompt of"
        " `vetrace boot -i` have a line of their own; an access that a person changed tells behind"
        " the value what the device had, or that it was skipped."
    )


def run(args: argparse.Namespace) -> int:
    """Print the accesses that the arguments select; return the exit status."""
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: give a number of accesses from 1 on")
    if args.follow and args.trace != STANDARD:
        _await(args.trace)
    with TraceReader(args.trace) as trace:
        if args.follow:
            trace.more = _written(trace, args.trace)
        software = trace.header.software
        if software and args.format not in ("mmiotrace", "json"):
            warn(f"{trace.name} is of a guest with {shlex.join(software)}")
        source = Source(trace, selection(args), register_maps(args), args.limit)
        if args.format == "mmiotrace":
            lines = _mmiotrace(source)
        elif args.format == "json":
            lines = _json(source)
        else:
            folds = not (args.unfold or args.follow)
            lines = _text(source, folds=folds, phases=args.phases, decodes=args.decode)
        with terminal.reading(trace, prints=True):
            sys.stdout.writelines(f"{line}\n" for line in lines)
    if source.shown == args.limit:
        return EXIT_OK
    source.check_names()
    terminal.warn_of_losses(trace)
    if not source.shown:
        warn(f"{trace.name} has no such access")
    return EXIT_OK


# Waits until a trace begins, but for no folder, which may be a slip. What is no trace is the
# reader's to refuse.
def _await(name: str) -> None:
    path, told = Path(name), False
    while _is_awaited(path) and not name.endswith("/"):
        if not told:
            warn(f"waiting for {name}, which is not written yet; Ctrl-C ends")
        told = True
        time.sleep(_POLL)


def _is_awaited(path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return path.parent.is_dir()
    except (OSError, ValueError):  # a name with a NUL is the latter
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


# Waits until a trace has grown.
def _written(trace: TraceReader, path: str) -> Callable[[], bool]:
    if not trace.is_file:
        raise UsageError(f"--follow waits for a file to grow, and {trace.name} is none")
    read = 0

    def wait() -> bool:
        nonlocal read
        sys.stdout.flush()
        # The size before what was written meanwhile is read.
        while (size := Path(path).stat().st_size) == read:
            time.sleep(_POLL)
        read = size
        return True

    return wait


def _json(source: Source) -> Iterator[str]:
    encode = msgspec.json.Encoder().encode
    for item in source.items(queues=True):
        if isinstance(item, QueueRecord):
            yield encode(queue_object(item)).decode()
        if not isinstance(item, Event):
            continue
        shown = access_object(item)
        shown |= {"note": item.record.note, "mark": item.mark, "lost": item.lost}
        yield encode(shown).decode()


def _mmiotrace(source: Source) -> Iterator[str]:
    log = MmiotraceLog()
    yield from log.opening()
    for record, events in source:
        yield from log.lines(record, events)


def _text(source: Source, *, folds: bool, phases: bool, decodes: bool) -> Iterator[str]:
    shape = terminal.line_layout(sys.stdout)
    lines = AccessLines(shape)
    phase = None
    items = source.items(queues=decodes)
    for item in folded(items) if folds else items:
        if isinstance(item, Event):
            turn: tuple[Event, ...] = (item,)
        elif isinstance(item, Fold):
            turn = () if item.more else item.first
        else:
            yield from wrapped(note_line(item), shape.columns)
            continue
        if phases and turn and turn[0].phase != phase:
            phase = turn[0].phase
            yield from wrapped(phase_line(phase), shape.columns)
        for event in turn:
            yield lines.line(event)
            if decodes:
                yield from explained_lines(event.access, event.named, shape)
        if isinstance(item, Fold):
            yield from wrapped(fold_line(item), shape.columns)
