"""Complete the trace of a vetrace that was killed, from the ring that was saved beside it."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from tracer.cli import EXIT_OK
from tracer.cli.output import output_file
from tracer.errors import TraceError, UsageError
from tracer.text.amount import counted
from tracer.text.file_error import unread
from tracer.trace import codec
from tracer.trace.reader import TraceReader
from tracer.trace.record import Header, Line
from tracer.trace.recorder import joined
from tracer.trace.recovery import Recovery
from tracer.trace.writer import TraceWriter, earlier_of, ring_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace recover``."""
    parser.add_argument("trace", metavar="TRACE", type=Path, help="a trace without an end")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=output_file,
        help="write here, and leave TRACE as it is",
    )
    parser.epilog = (
        "Accesses of compiled sites are in the guest's memory until vetrace takes them. Where it is"
        " killed, they are saved as TRACE.ring; move the two files together. Without -o TRACE is"
        " completed and the ring removed. Of a run with --last what came before TRACE, which is"
        " beside it as well, is put before it."
    )


def run(args: argparse.Namespace) -> int:
    """Write the trace with what its ring has; return the exit status."""
    trace, output = args.trace, args.output
    if output is not None and output.exists() and output.samefile(trace):
        raise UsageError(f"{output} is the trace: leave -o out to complete it in its place")
    files = _files(trace)
    header, ended = _looked_at(files[-1])
    if ended:
        print(f"{trace} has its end: there is nothing to recover")
        return EXIT_OK
    ring = ring_of(trace)
    try:
        block = ring.read_bytes()
    except FileNotFoundError:
        raise TraceError(
            f"there is no {ring}: either the run still goes on, or {trace} was moved without it,"
            " or it has all there was"
        ) from None
    except OSError as error:
        raise TraceError(unread(str(ring), error)) from error
    recovery = Recovery(header)
    new = trace.with_name(f"{trace.stem}.recovering{trace.suffix}") if output is None else output
    try:
        _write(files, new, ring, recovery, block)
    except BaseException:
        with contextlib.suppress(OSError):
            if new.is_file():  # a pipe or a device is the user's
                new.unlink()
        raise
    if output is None:
        new.replace(trace)
        ring.unlink()
        for file in files:
            if file != trace:
                file.unlink()
    print(f"{counted(recovery.recovered, 'access')} recovered: {output or trace}")
    return EXIT_OK


# The files of a run, in order: with --last there may be an earlier one, and that alone where a new
# one was about to be begun.
def _files(trace: Path) -> list[Path]:
    earlier = earlier_of(trace)
    if not earlier.is_file():
        return [trace]
    if not trace.exists():
        return [earlier]
    same = _looked_at(earlier)[0] == _looked_at(trace)[0]
    return [earlier, trace] if same else [trace]


# Tells whether a trace has its end, which is its last line.
def _looked_at(path: Path) -> tuple[Header, bool]:
    with TraceReader(path) as trace:
        for _ in trace.lines():
            pass
        return trace.header, trace.end is not None


def _write(files: list[Path], new: Path, ring: Path, recovery: Recovery, block: bytes) -> None:
    with TraceWriter(new, recovery.header) as writer:
        for line, text, place in joined(files):
            if not isinstance(line, codec.Unknown):
                try:
                    recovery.follow(line)
                except TraceError as error:
                    raise TraceError(f"{place}: {error}") from error
            writer.copy(text)
        try:
            rest: list[Line] = list(recovery.rest(block))
        except TraceError as error:
            raise TraceError(f"{ring} is not the ring of {files[-1]}: {error}") from error
        for line in rest:
            writer.append(line)
