"""Compare two traces, region by region."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tracer.check.diff import Differ, Line, RegionDiff, Rules, Side, Step, compare
from tracer.check.lines import region_diff_lines
from tracer.cli import EXIT_MISMATCH, EXIT_OK, terminal
from tracer.cli.filters import add_filters, register_maps, selection
from tracer.cli.parser import argument, count
from tracer.host.streams import warn
from tracer.host.textfile import check_once
from tracer.query.roster import check_selection
from tracer.query.source import Source
from tracer.trace.loss import Losses
from tracer.trace.mask import parse_mask
from tracer.trace.met import check_rules
from tracer.trace.reader import TraceReader
from tracer.trace.varying import PASSING, VARYING


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace diff``."""
    parser.add_argument("first", metavar="A", help="a trace written by `vetrace boot`")
    parser.add_argument("second", metavar="B", help="another one")
    parser.add_argument(
        "--context",
        metavar="N",
        type=count,
        default=3,
        help="lines alike around a change",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=count,
        default=10,
        help="hunks a region (default 10; 0: all)",
    )
    add_rules(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all hunks")
    add_filters(parser)
    parser.epilog = (
        "Direction, offset, width and value are compared, in order, per region; addresses, times"
        " and call sites are not. Exit status 3 tells that something differs."
    )


def add_rules(parser: argparse.ArgumentParser) -> None:
    """Declare what is known to vary between two traces; :func:`rules_of` reads it."""
    rules = parser.add_argument_group(
        "what is known to vary",
        "RULE is REGION+FIRST[-LAST][%STRIDE]: bytes of a region, which may be a glob,"
        " again every STRIDE of it",
    )
    rules.add_argument(
        "--mask", metavar="RULE", type=argument(parse_mask), action="append", default=[],
        help="do not compare these bytes of the values",
    )  # fmt: skip
    rules.add_argument(
        "--ignore", metavar="RULE", type=argument(parse_mask), action="append", default=[],
        help="leave out the accesses that begin at these bytes",
    )  # fmt: skip
    rules.add_argument(
        "--exact", action="store_true",
        help="drop the built-in rules: HPET and LAPIC timers, MSI-X messages, addresses of queues",
    )  # fmt: skip


def rules_of(args: argparse.Namespace) -> Rules:
    """Return what the arguments say that varies."""
    return Rules(
        varying=(*args.mask, *(() if args.exact else VARYING)),
        passing=(*args.ignore, *(() if args.exact else PASSING)),
    )


def run(args: argparse.Namespace) -> int:
    """Print how the two traces differ; return the exit status."""
    check_once((args.first, args.second))
    differ = Differ(rules_of(args))
    chosen, maps = selection(args), register_maps(args)
    sides, sources = [], []
    for path in (args.first, args.second):
        with TraceReader(path) as trace, terminal.reading(trace):
            source = Source(trace, chosen, maps)
            sources.append(source)
            sides.append(differ.read(source.events()))
        terminal.warn_of_losses(trace)
    first, second = sides

    roster = sources[0].roster.joined(sources[1].roster)
    check_selection(chosen, roster)
    check_rules((*args.mask, *args.ignore), roster.met, roster.trace)
    results = _compared(first, second, args.context)
    if args.json:
        found = list(results)
        losses = [source.losses for source in sources]
        print(msgspec.json.encode(_object(found, differ, losses)).decode())
        agrees = all(result.agrees for result in found)
    else:
        alone = [source.trace.name for source, side in zip(sources, sides, strict=True) if not side]
        agrees = _tell(sources, alone, differ, results, args.limit or None)
    if not first and not second:
        warn("neither trace has such an access: nothing was compared")
        return EXIT_MISMATCH
    return EXIT_OK if agrees else EXIT_MISMATCH


def _compared(
    first: dict[str, Side], second: dict[str, Side], context: int
) -> Iterator[RegionDiff]:
    for region in sorted(first.keys() | second.keys()):
        yield compare(region, first.get(region, Side()), second.get(region, Side()), context)


def _tell(
    sources: Sequence[Source],
    alone: Sequence[str],
    differ: Differ,
    results: Iterator[RegionDiff],
    limit: int | None,
) -> bool:
    for source in sources:
        if source.losses:
            print(f"{source.trace.name}: {source.losses.words}, which the other may have")
    if len(alone) == 1:
        print(f"{alone[0]} has no such access: everything is only in the other trace")
    agrees = _print(results, limit, hunks=not alone)
    if differ.passed:
        print(f"{differ.passed:,} accesses that only tell of time left out")
    return agrees


def _print(results: Iterator[RegionDiff], limit: int | None, *, hunks: bool) -> bool:
    agrees = True
    for result in results:
        agrees = agrees and result.agrees
        if not hunks:
            result.hunks.clear()
        for line in region_diff_lines(result, limit):
            print(line)
    sys.stdout.flush()
    return agrees


def _object(results: list[RegionDiff], differ: Differ, losses: list[Losses]) -> dict[str, Any]:
    return {
        "agrees": all(result.agrees for result in results),
        "left_out": differ.passed,
        "lost_events": [lost.events for lost in losses],
        "lost_uncounted": [lost.uncounted for lost in losses],
        "regions": [
            {
                "agrees": result.agrees,
                "region": result.region,
                "same": result.same,
                "changed": result.changed,
                "first": result.first,
                "second": result.second,
                "touched": result.touched,
                "unknown": result.unknown,
                "hunks": [[_line(line) for line in hunk] for hunk in result.hunks],
            }
            for result in results
        ],
    }


def _line(line: Line) -> dict[str, Any]:
    return {"kind": line.kind, "first": _step(line.first), "second": _step(line.second)}


def _step(step: Step | None) -> dict[str, Any] | None:
    if step is None:
        return None
    return {
        "direction": step.direction,
        "offset": step.offset,
        "register": step.named.text if step.named is not None else None,
        "width": step.width,
        "extent": step.extent,
        "value": step.value,
        "seq": step.seq,
        "site": step.site,
        "turns": step.turns,
        "device": step.device,
        "skipped": step.skipped,
        "mark": step.mark,
        **({} if step.space == "memory" else {"space": step.space}),
    }
