"""Count what a trace holds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from tracer.cli import EXIT_OK, terminal
from tracer.cli.filters import add_filters, register_maps, selection
from tracer.cli.parser import count
from tracer.devices.map import RegisterMaps
from tracer.errors import TraceError
from tracer.query.source import Source
from tracer.query.words import Selection
from tracer.text.amount import counted
from tracer.trace.flame import FoldedStacks
from tracer.trace.poll import Poll
from tracer.trace.polls import Polls
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept, RegionRecord
from tracer.trace.summary import Summary, summary_object
from tracer.trace.waiting import WaitRecord
from tracer.trace.waiting_words import poll_object


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace stats``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace written by `vetrace boot`")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=count,
        default=20,
        help="rows a table (default 20; 0: all)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON object, with all rows")
    how.add_argument(
        "--folded",
        action="store_true",
        help="print accesses by call chain (`vetrace boot --stacks`), for flame-graph tools",
    )
    add_filters(parser)


def run(args: argparse.Namespace) -> int:
    """Print the counts per region, register, call site, form and phase; return the exit status."""
    chosen, maps = selection(args), register_maps(args)
    if args.folded:
        return _print_folded(args.trace, chosen, maps)
    summary, waits = Summary(), list[WaitRecord]()
    everything = chosen.condition is None
    with TraceReader(args.trace) as trace, terminal.reading(trace):
        source = Source(trace, chosen, maps)
        # A file is read once more where there is a wait, which most have not.
        polls = None if trace.is_file else Polls()
        each = ((record, events, 1) for record, events in source)
        for record, events, times in source.kinds() if polls is None else each:
            if polls is not None:
                polls.add(record)
            # A selection has only the regions that it touches, and the intercepts.
            if everything or events or not isinstance(record, RegionRecord | Intercept):
                summary.add(record, events, times=times)
            if isinstance(record, WaitRecord) and record.awaited:
                waits.append(record)
        source.check_names()
    awaited = _awaited(args.trace, waits, polls)
    if args.json:
        told = [poll_object(poll) for poll in awaited]
        print(msgspec.json.encode(_object(summary, trace) | {"waits": told}).decode())
    else:
        _print_tables(summary, awaited, args.limit or None)
    terminal.warn_of_losses(trace)
    return EXIT_OK


def _awaited(path: str, waits: Sequence[WaitRecord], polls: Polls | None) -> list[Poll]:
    # Returns the longest poll of each register that a loop waits for.
    if not waits:
        return []
    if polls is None:
        polls = Polls()
        with TraceReader(path) as trace:
            for record in trace:
                polls.add(record)
    wanted = {wait.place for wait in waits}
    return [poll for poll in polls.all() if poll.place in wanted]


def _print_folded(path: str, chosen: Selection, maps: RegisterMaps) -> int:
    folded = FoldedStacks()
    with TraceReader(path) as trace, terminal.reading(trace):
        source = Source(trace, chosen, maps)
        for record, events in source:
            folded.add(record, len(events))
        source.check_names()
    if not folded.stacks:
        raise TraceError(
            f"{trace.name} has no call chains: record them with `vetrace boot --stacks`"
        )
    for line in folded.lines():
        print(line)
    terminal.warn_of_losses(trace)
    return EXIT_OK


def _print_tables(summary: Summary, polls: Sequence[Poll], limit: int | None) -> None:
    from tracer.report import tables  # rich: see terminal.table_console

    console = terminal.table_console(sys.stdout)
    console.print(tables.closing_table(summary))
    console.print(tables.registers_table(summary, limit))
    console.print(tables.sites_table(summary, limit))
    console.print(tables.forms_table(summary, limit))
    if polls:
        console.print(tables.polls_table(polls, limit))
    if summary.phases:
        console.print(tables.phases_table(summary, limit))
    if summary.causes:
        console.print(tables.causes_table(summary, limit))
    if summary.calls:
        console.print(tables.calls_table(summary, limit))
    notes = _notes(summary)
    if notes:
        console.print(", ".join(notes), soft_wrap=True)
    actions = summary.user_actions
    by_hand = f"; {counted(actions, 'user action')}" if actions else ""
    others = summary.stepped_intercepts + summary.compiled_intercepts + summary.guest_intercepts
    emulated = summary.intercepts - others - summary.monitor_intercepts
    compiled = f" {summary.compiled_intercepts:,} compiled," if summary.compiled_intercepts else ""
    guest = f" {summary.guest_intercepts:,} by the guest itself," if summary.guest else ""
    monitor = f" {summary.monitor_intercepts:,} by the monitor," if summary.monitor else ""
    console.print(
        f"{counted(summary.accesses, 'access')} by {counted(summary.intercepts, 'intercept')}:"
        f" {emulated:,} emulated,{compiled}{guest}{monitor}"
        f" {summary.stepped_intercepts:,} stepped{by_hand}",
        soft_wrap=True,
    )


# The tables do not tell these.
def _notes(summary: Summary) -> list[str]:
    notes = []
    if summary.markers:
        notes.append(counted(summary.markers, "marker"))
    if summary.losses:
        notes.append(summary.losses.words)
    if summary.disagreements:
        notes.append(f"{summary.disagreements:,} that the guest asked for otherwise")
    if summary.valueless:
        notes.append(f"{counted(summary.valueless, 'access')} without a value")
    if summary.breaches:
        count = summary.breaches.total()
        notes.append(f"{counted(count, 'access')} against a register being read-only or write-only")
    return notes


def _object(summary: Summary, trace: TraceReader) -> dict[str, Any]:
    return {
        **summary_object(summary),
        "outcome": summary.end.outcome if summary.end else None,
        "damage": trace.damage,
        "unknown_records": dict(trace.unknown),
    }
