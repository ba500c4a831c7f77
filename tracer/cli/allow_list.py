"""Tell which registers and values a driver really uses, for who filters access to a device."""

from __future__ import annotations

import argparse
import functools

import msgspec

from tracer.cli import EXIT_OK, terminal
from tracer.cli.filters import add_filters, register_maps, selection
from tracer.host.textfile import check_once
from tracer.query.roster import Roster, check_selection
from tracer.query.source import Source
from tracer.report.allow_list import allow_object, allow_text
from tracer.text.printable import encodable, printable
from tracer.trace.allowed import MOST_VALUES, Allowed
from tracer.trace.reader import TraceReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace allow-list``."""
    parser.add_argument(
        "traces", metavar="TRACE", nargs="+",
        help="a trace written by `vetrace boot`; what any of them has is in the list",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object, not TOML")
    add_filters(parser)
    parser.epilog = (
        "An entry has a region, offset and register, direction and width, how many accesses there"
        f" were, from which call sites, and the values: each of {MOST_VALUES} at most; of more the"
        " lowest, the highest, and the bits that any of them had. docs/audit.md has the format."
    )


def run(args: argparse.Namespace) -> int:
    """Print what the accesses that the arguments select use; return the exit status."""
    check_once(args.traces)
    chosen, maps = selection(args), register_maps(args)
    allowed, rosters, readers = Allowed(), list[Roster](), []
    for path in args.traces:
        with TraceReader(path) as trace, terminal.reading(trace):
            source = Source(trace, chosen, maps)
            for event in source.events():
                allowed.add(event)
        rosters.append(source.roster)
        readers.append(trace)
    check_selection(
        chosen, functools.reduce(Roster.joined, rosters), registers=not allowed.accesses
    )
    names = [trace.name for trace in readers]
    if args.json:
        shown = encodable(allow_object(allowed, names))
        print(msgspec.json.encode(shown).decode())
    else:
        for line in allow_text(allowed, [printable(name) for name in names]):
            print(line)
    for trace in readers:
        terminal.warn_of_losses(trace)
    return EXIT_OK
