"""Count what is asked for in one line, over the device accesses of a trace."""

from __future__ import annotations

import argparse
import sys

import msgspec

from tracer.cli import EXIT_OK, terminal
from tracer.cli.filters import add_filters, register_maps, selection
from tracer.cli.parser import count
from tracer.cli.phrase import Phrase
from tracer.errors import ConditionError
from tracer.query.facts import Recorded
from tracer.query.source import Source
from tracer.query.tally import Counted, parse_tally
from tracer.text.printable import encodable
from tracer.trace.reader import TraceReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace tally``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace written by `vetrace boot`")
    parser.add_argument(
        "tally", metavar="TALLY", type=Phrase(parse_tally),
        help="'count by register if region == nvme', 'hist(value & 0xffff)',"
        " 'delta(time) by function': docs/tally.md",
    )  # fmt: skip
    parser.add_argument(
        "--limit", metavar="N", type=count, default=20, help="groups shown (default 20; 0: all)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, with all groups"
    )
    add_filters(parser)
    parser.epilog = (
        "TALLY is AGGREGATE[, ...] [by EXPRESSION[, ...]] [if CONDITION]. Aggregates are count;"
        " sum, min, max, avg, stats and hist (by powers of 2) of a number; lhist(NUMBER, FIRST,"
        " LAST, STEP); and delta(NUMBER), which is how much it differs from the access before in"
        " the same group. Expressions and conditions are those of docs/conditions.md."
    )


def run(args: argparse.Namespace) -> int:
    """Print what the tally comes to; return the exit status."""
    tally = parse_tally(args.tally)
    counted = Counted(tally)
    chosen, maps = selection(args).tallied(tally), register_maps(args)
    with TraceReader(args.trace) as trace, terminal.reading(trace):
        source = Source(trace, chosen, maps)
        facts = Recorded(source.course)
        for _, events, times in source.kinds():
            for event in events:
                try:
                    counted.add(facts.at(event.record, event.access, event.seq, event.named), times)
                except ConditionError as error:
                    raise error.of(f"access {event.seq}") from None
        source.check_names()
    _print(counted, args.limit or None, as_json=args.json)
    terminal.warn_of_losses(trace)
    return EXIT_OK


def _print(counted: Counted, limit: int | None, *, as_json: bool) -> None:
    from tracer.report import tally as report  # rich: see terminal.table_console

    if as_json:
        print(msgspec.json.encode(encodable(report.tally_object(counted))).decode())
        return
    console = terminal.table_console(sys.stdout)
    table = report.tally_table(counted, limit)
    if table is not None:
        console.print(table)
    bars = report.histogram_lines(counted, console.width, limit)
    for line in (*bars, *([""] if table is None else []), report.closing_line(counted)):
        console.print(line, soft_wrap=True)
