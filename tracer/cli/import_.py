"""Read another tool's log as a trace."""

from __future__ import annotations

import argparse
import contextlib
import datetime
from collections import deque
from collections.abc import Iterable
from itertools import chain

from tracer.cli import EXIT_FAILED, EXIT_OK
from tracer.errors import Interrupted, TraceError, UsageError
from tracer.export.mmiotrace import LONGEST_LINE, MmiotraceReader, header
from tracer.host.signals import Ended, words_of
from tracer.host.streams import warn
from tracer.host.textfile import TextFile, are_one_file
from tracer.text.amount import counted
from tracer.trace.record import End, Record
from tracer.trace.writer import TraceWriter

# How many lines that nobody understood are kept of those before the first that somebody does: a
# log that was taken from a serial console begins with the boot's messages.
_PROLOGUE = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace import``."""
    parser.add_argument(
        "log", metavar="LOG",
        help="a log of the kernel's own mmiotrace, which may be compressed (gzip, xz, zstd);"
        " - is standard input",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="TRACE", required=True,
        help="write the trace here; - is standard output",
    )  # fmt: skip
    parser.epilog = (
        "What is not understood is kept as marks, and counted in the last line. The log has no"
        " instructions and no registers: `show`, `stats`, `diff` and `export` can work with the"
        " trace, `replay` and `audit` cannot. Exit status 1 tells that no line was understood, or"
        " that the log is damaged."
    )


def run(args: argparse.Namespace) -> int:
    """Write the accesses of the log as a trace; return the exit status."""
    if are_one_file(args.log, args.output):
        raise UsageError(f"{args.output} is the log itself: give the trace another name")
    log, reader = TextFile(args.log, 4 * LONGEST_LINE + 1), MmiotraceReader()
    records = (record for number, line in log for record in reader.records(line, number))
    # A file that is no log leaves an older trace as it is.
    before: deque[Record] = deque(maxlen=_PROLOGUE)
    for record in records:
        before.append(record)
        if reader.told:
            break
    if not reader.told and (reader.first is not None or not reader.opened):
        number, why = reader.first or (1, "empty, and no mmiotrace log")
        none = "; none of its lines is" if reader.failed > 1 else ""
        raise TraceError(f"{log.name}: line {number}: {why}{none}")
    _write(reader, chain(before, records), log, args.output)
    if log.damage is not None:
        warn(f"{log.name}: {log.damage}; what came before is in the trace")
    if reader.remarks:
        warn(", ".join(reader.remarks))
    return EXIT_OK if log.damage is None or log.cut else EXIT_FAILED


# The records come as the log does, so that a pipe can be followed.
def _write(reader: MmiotraceReader, records: Iterable[Record], log: TextFile, output: str) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    time_ns = 0

    def end(damage: str | None) -> End:
        outcome = "imported" if damage is None else f"imported in part: {damage}"
        return End(time_ns=time_ns, outcome=outcome, counts=_counts(reader))

    with TraceWriter(output, header("vetrace import of an mmiotrace log", now)) as trace:
        try:
            for record in records:
                time_ns = record.time_ns
                trace.append(record)
        except (Ended, TraceError) as error:
            damage = words_of(error.number) if isinstance(error, Ended) else str(error)
            with contextlib.suppress(TraceError):  # the disk may be full
                trace.append(end(damage))
            if isinstance(error, TraceError):
                raise
            raise Interrupted(error.number, f"{damage}; {_told(reader, trace)}") from None
        trace.append(end(log.damage))
    wide = f"; values cut to the width of their access: {reader.wide:,}" if reader.wide else ""
    warn(f"{_told(reader, trace)}{wide}")


def _told(reader: MmiotraceReader, trace: TraceWriter) -> str:
    return f"{counted(reader.accesses, 'access')} written to {trace.name}"


def _counts(reader: MmiotraceReader) -> dict[str, int]:
    return {
        "accesses": reader.accesses, "intercepts": reader.accesses, "emulated": 0,
        "stepped": reader.accesses, "stops": 0, "hooks": 0, "lost": reader.losses.events,
        "not_understood": reader.failed,
    }  # fmt: skip
