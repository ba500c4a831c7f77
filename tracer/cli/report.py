"""Write a trace, or two with how they differ, as a page for a browser."""

from __future__ import annotations

import argparse
import sys
from functools import reduce

from tracer.check.diff import Differ, Side
from tracer.cli import EXIT_OK, terminal
from tracer.cli.diff import add_rules, rules_of
from tracer.cli.extra import extra
from tracer.cli.filters import add_filters, register_maps, selection
from tracer.cli.output import sink
from tracer.errors import UsageError
from tracer.host.streams import warn
from tracer.host.textfile import STANDARD, are_one_file, check_once
from tracer.query.roster import Roster, check_selection
from tracer.query.source import Source
from tracer.text.amount import counted
from tracer.trace.met import check_rules
from tracer.trace.reader import TraceReader

_LARGE = 300_000
"""Accesses from which on a page is no longer there, and searched, in an instant."""

_HEAVY = 30_000_000
"""Bytes likewise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace report``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace written by `vetrace boot`")
    parser.add_argument(
        "other", metavar="OTHER", nargs="?", help="another one: how the two differ is told too"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True,
        help="write the page here: report.html; - is standard output",
    )  # fmt: skip
    add_rules(parser)
    add_filters(parser)
    parser.epilog = (
        "The page is one file, which a browser opens without a server and without a network. It"
        " takes the conditions of --if as well: docs/howto/report.md."
    )


def run(args: argparse.Namespace) -> int:
    """Write the page; return the exit status."""
    rules = rules_of(args)
    with extra("bokeh", "report", "a report"):
        from tracer.report.page import contents, document, plotting
    paths = [args.trace, *([] if args.other is None else [args.other])]
    check_once(paths)
    if any(are_one_file(path, args.output) for path in paths):
        raise UsageError(f"{args.output} is the trace itself: give the page another name")
    if args.output == STANDARD and sys.stdout.isatty():
        raise UsageError("a page is no text for a terminal: give -o a file, or use a pipe")
    chosen, maps = selection(args), register_maps(args)
    differ, sides, told, rosters = Differ(rules), list[dict[str, Side]](), [], []
    condition = None if chosen.condition is None else chosen.condition.text
    for path in paths:
        sides.append({})
        with TraceReader(path) as trace, terminal.reading(trace):
            source = Source(trace, chosen, maps)
            told.append(contents.contents(source, condition, differ, sides[-1]))
        rosters.append(source.roster)
        terminal.warn_of_losses(trace)
    roster = reduce(Roster.joined, rosters)
    check_selection(chosen, roster)
    check_rules((*args.mask, *args.ignore), roster.met, roster.trace)
    difference = None
    if len(sides) > 1:
        names = [each["trace"]["name"] for each in told]
        difference = contents.difference(sides, names, differ)
    size = 0
    with sink(args.output) as output:
        for piece in document.document(told, difference, plotting.scripts()):
            size += output.write(piece.encode())
    name = "standard output" if args.output == STANDARD else args.output
    counts = [int(each["accesses"]["count"]) for each in told]
    first = "".join(f"{count:,} and " for count in counts[:-1])
    warn(f"{first}{counted(counts[-1], 'access')} written to {name}")
    if max(counts) > _LARGE or size > _HEAVY:
        warn(
            f"a browser takes some seconds to open a page of {size / 1e6:.0f} MB and to search it:"
            " --region, --time or --if 'CONDITION' make a smaller one"
        )
    return EXIT_OK
