"""Read another tool's log as a trace."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from tracer.command import EXIT_OK
from tracer.errors import TraceError, UsageError
from tracer.mmiotrace import MmiotraceReader, header
from tracer.trace import End, Record
from tracer.tracefile import TraceWriter

_LONGEST_LINE = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace import``."""
    parser.add_argument("log", metavar="LOG", help="a log of the kernel's own mmiotrace")
    parser.add_argument(
        "-o", "--output", metavar="TRACE", required=True, help="write the trace here"
    )
    parser.epilog = (
        "The log has no instructions and no registers: `show`, `stats`, `diff` and `export` can"
        " work with the trace, `replay` cannot."
    )


def run(args: argparse.Namespace) -> int:
    """Write the accesses of the log as a trace; return the exit status."""
    if Path(args.output).exists() and Path(args.output).samefile(args.log):
        raise UsageError(f"{args.output} is the log itself: give the trace another name")
    try:
        with Path(args.log).open(encoding="utf-8", errors="replace") as log:
            accesses = _import(log, args.output)
    except OSError as error:
        raise TraceError(f"cannot read {args.log}: {error.strerror}") from error
    except TraceError as error:
        raise TraceError(f"{args.log}: {error}") from error
    print(f"vetrace: {accesses:,} accesses written to {args.output}", file=sys.stderr)
    return EXIT_OK


# A file that is no log leaves an older trace as it is. A log that goes bad after its first record,
# as one of a machine that crashed may, is a trace up to there.
def _import(log: TextIO, output: str) -> int:
    reader = MmiotraceReader()
    records = _records(reader, log)
    first = list(islice(records, 1))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    time_ns = 0
    with TraceWriter(output, header("vetrace import of an mmiotrace log", now)) as trace:
        for record in chain(first, records):
            time_ns = record.time_ns
            trace.append(record)
        counts = {"accesses": reader.accesses, "intercepts": reader.accesses}
        counts |= {"emulated": 0, "stepped": reader.accesses, "stops": 0, "hooks": 0}
        trace.append(End(time_ns=time_ns, outcome="imported", counts=counts))
    return reader.accesses


def _records(reader: MmiotraceReader, log: TextIO) -> Iterator[Record]:
    number = 0
    while line := log.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise TraceError(f"line {number}: too long for an mmiotrace log")
        yield from reader.records(line, number)
    if not number:
        raise TraceError("line 1: empty, and no mmiotrace log")
