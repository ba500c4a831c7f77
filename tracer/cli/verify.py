"""Compare a trace with the log in which QEMU itself noted the same run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import msgspec

from tracer.check import witness
from tracer.check.comparison import Comparison
from tracer.check.lines import difference_line, divergence_lines
from tracer.check.replay import compiled_again
from tracer.cli import EXIT_MISMATCH, EXIT_OK, terminal
from tracer.errors import TraceError
from tracer.host.streams import warn
from tracer.text.file_error import unread
from tracer.text.printable import printable
from tracer.trace.reader import TraceReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace verify``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace written by `vetrace boot`")
    parser.add_argument(
        "--qemu-log", metavar="FILE", required=True, help="QEMU's log of the same run"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "missing: QEMU saw it and the trace lacks it. extra: the trace has it and QEMU did not see"
        " it. Exit status 3 tells that they do not agree, or that there was nothing to compare; 1"
        " that they cannot be compared: the log is cut."
    )


def run(args: argparse.Namespace) -> int:
    """Print how the trace and the log agree; return the exit status."""
    with TraceReader(args.trace) as trace, terminal.reading(trace):
        comparison = compared(trace, Path(args.qemu_log))
    if args.json:
        print(msgspec.json.encode(_object(comparison)).decode())
    else:
        print_comparison(comparison, sys.stdout)
    terminal.warn_of_losses(trace)
    if not comparison.traced:
        warn(f"nothing was compared: {trace.name} has no device access")
    elif not comparison.entries:
        warn(
            f"{args.qemu_log} has no access from where tracing began:"
            " QEMU must run with -trace 'memory_region_ops_*'"
        )
    return verdict(comparison, Path(args.qemu_log))


def compared(trace: TraceReader, log: Path) -> Comparison:
    """Return how a trace agrees with a log. Raises TraceError when the log cannot be read."""
    try:
        if log.is_char_device():
            raise TraceError(f"cannot read QEMU's log {log}: it is a device")
        with log.open("rb") as file:
            return witness.compare(trace, file, vcpus=trace.header.vcpus)
    except OSError as error:
        raise TraceError(unread(f"QEMU's log {log}", error)) from error


def check_run(trace: Path, log: Path, *, quiet: bool) -> int:
    """Compare a trace with QEMU's log of the run, and tell; return the exit status.

    What its compiled accesses are said to have done is carried out again. Lines go to standard
    error where ``quiet``.
    """
    stream = sys.stderr if quiet else sys.stdout
    with TraceReader(trace) as reader:
        comparison = compared(reader, log)
    print_comparison(comparison, stream)
    if not comparison.traced:
        warn("nothing was traced, so nothing was compared")
    with TraceReader(trace) as reader:
        again, divergence = compiled_again(reader, reader.header.vcpus)
    if divergence is not None:
        print(*divergence_lines(divergence), sep="\n", file=stream)
        return EXIT_MISMATCH
    if again.replayed:
        print(f"{again.replayed:,} compiled accesses carried out again: no divergence", file=stream)
    return verdict(comparison, log)


def verdict(comparison: Comparison, log: Path) -> int:
    """Return the exit status of a comparison; raises TraceError when the log is cut."""
    if comparison.cut is not None:
        raise TraceError(f"{log}: {comparison.cut}")
    return EXIT_OK if comparison.agrees else EXIT_MISMATCH


def print_comparison(comparison: Comparison, stream: TextIO) -> None:
    """Print a comparison as a table, its first differences, and a closing line."""
    from tracer.report.tables import comparison_table  # rich: see terminal.table_console

    terminal.table_console(stream).print(comparison_table(comparison))
    for difference in comparison.telling:
        print(difference_line(difference), file=stream)
    total = comparison.missing + comparison.extra + comparison.different
    if total > len(comparison.differences):
        print(f"… and {total - len(comparison.differences):,} more", file=stream)
    if comparison.switched:
        print(
            f"not compared, as not traced all the time: {', '.join(comparison.switched)}",
            file=stream,
        )
    if comparison.messages:
        left_out = "" if "msi" in comparison.regions else " left out"
        print(f"{comparison.messages} MSI messages from devices{left_out}", file=stream)
    if comparison.sources:
        told = (f"{printable(name or 'unknown')} {count:,}" for name, count in _sources(comparison))
        print(f"sent by: {', '.join(told)}", file=stream)
    if comparison.attributed or comparison.misattributed:
        other = comparison.misattributed
        wrong = f", {other:,} a cause that these do not tell" if other else ""
        print(
            f"{comparison.attributed:,} interrupts have the cause that the messages tell{wrong}",
            file=stream,
        )
    if comparison.unrecorded:
        print(
            f"{comparison.unrecorded:,} messages of the log have no record: no interrupt came of"
            " them, or one with others",
            file=stream,
        )
    if comparison.firmware:
        print(f"{comparison.firmware} accesses of firmware left out", file=stream)
    if comparison.absent:
        print(
            f"{comparison.absent:,} accesses to PCI configuration space where no function is:"
            " the log has their ports alone",
            file=stream,
        )
    if comparison.late:
        print(
            f"{comparison.late:,} interrupts came where the trace says, and QEMU gave them to the"
            " guest further on",
            file=stream,
        )
    if comparison.unwitnessed:
        told = (f"{count:,} {name}" for name, count in sorted(comparison.unwitnessed.items()))
        print(f"without a witness in QEMU's log: {', '.join(told)}", file=stream)
    if comparison.overlooked:
        told = (f"{printable(name)} {count:,}" for name, count in _overlooked(comparison))
        print(f"accessed by vCPUs and not looked at: {', '.join(told)}", file=stream)
    # Programs read this line: a number has digits alone.
    print(
        f"{comparison.missing} missing, {comparison.extra} extra,"
        f" {comparison.different} different over {comparison.traced} accesses"
        f" in {comparison.compared_regions} regions",
        file=stream,
    )


def _sources(comparison: Comparison) -> list[tuple[str | None, int]]:
    # The most messages first.
    return sorted(comparison.sources.items(), key=lambda item: (-item[1], item[0] or ""))


def _overlooked(comparison: Comparison) -> list[tuple[str, int]]:
    # The most accesses first.
    return sorted(comparison.overlooked.items(), key=lambda item: (-item[1], item[0]))


def _object(comparison: Comparison) -> dict[str, Any]:
    return {
        "agrees": comparison.agrees,
        "accesses": comparison.traced,
        "missing": comparison.missing,
        "extra": comparison.extra,
        "different": comparison.different,
        "messages": comparison.messages,
        "sources": [{"source": name, "messages": count} for name, count in _sources(comparison)],
        "attributed": comparison.attributed,
        "misattributed": comparison.misattributed,
        "unrecorded": comparison.unrecorded,
        "firmware": comparison.firmware,
        "late": comparison.late,
        "marked": comparison.marked,
        "switched": comparison.switched,
        "overlooked": [
            {"region": name, "accesses": count} for name, count in _overlooked(comparison)
        ],
        "unwitnessed": comparison.unwitnessed,
        "absent": comparison.absent,
        "cut": None if comparison.cut is None else asdict(comparison.cut),
        "regions": [
            {"region": name, **asdict(counts)}
            for name, counts in sorted(comparison.regions.items())
        ],
        "differences": [difference_line(difference) for difference in comparison.telling],
    }
