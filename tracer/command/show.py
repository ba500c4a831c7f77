"""Show the device accesses of a trace."""

from __future__ import annotations

import argparse
import sys

import msgspec

from tracer.command import EXIT_OK, terminal
from tracer.errors import UsageError
from tracer.render import access_line, access_object
from tracer.selection import Selection, names_region
from tracer.trace import Intercept, RegionRecord
from tracer.tracefile import TraceReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace show``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace written by `vetrace boot`")
    parser.add_argument(
        "--region", metavar="R", help="only this region: its name, its device's name, or a glob"
    )
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument(
        "--read", dest="direction", action="store_const", const="read", help="only reads"
    )
    direction.add_argument(
        "--write", dest="direction", action="store_const", const="write", help="only writes"
    )
    parser.add_argument(
        "--symbol", metavar="S", help="only accesses from this function or call site, or a glob"
    )
    parser.add_argument("--limit", metavar="N", type=int, help="stop after N accesses")
    parser.add_argument("--json", action="store_true", help="print one JSON object per access")
    parser.epilog = (
        "A line has guest time in seconds, vCPU, call site, instruction, region+offset,"
        " R or W with the width in bytes (~: carried out by a native step), and the value."
    )


def run(args: argparse.Namespace) -> int:
    """Print the accesses that the arguments select; return the exit status."""
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: give a number of accesses from 1 on")
    selection = Selection(region=args.region, symbol=args.symbol, direction=args.direction)
    shape = terminal.line_layout(sys.stdout)
    to_json = msgspec.json.Encoder().encode
    regions: set[str] = set()
    shown = 0
    with TraceReader(args.trace) as trace:
        for record in trace:
            if isinstance(record, RegionRecord):
                regions.add(record.region.name)
            if not isinstance(record, Intercept):
                continue
            for seq, access in record.device_accesses():
                regions.add(access.region or "")
                if not selection.wants(record, access):
                    continue
                if args.json:
                    print(to_json(access_object(record, seq, access)).decode())
                else:
                    print(access_line(record, access, shape))
                shown += 1
                if shown == args.limit:
                    return EXIT_OK
    if args.region is not None and not any(names_region(args.region, name) for name in regions):
        known = ", ".join(sorted(regions)) or "none at all"
        raise UsageError(f"no region of {args.trace} is called {args.region}; it has: {known}")
    terminal.warn_of_losses(trace)
    if not shown:
        terminal.warn(f"{args.trace} has no such access")
    return EXIT_OK
