"""Tell whether a guest's device accesses would survive in a TDX or SEV-ES guest."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from tracer import __version__
from tracer.cli import EXIT_FAILED, EXIT_MISMATCH, EXIT_OK, host_inputs, live, terminal
from tracer.cli.filters import add_filters, register_maps, selection
from tracer.cli.parser import count
from tracer.confidential.audit import Audit, OwnAudit, Place, Site, exits_of, side_by_side
from tracer.confidential.handler import CURRENT, PROFILES, Profile
from tracer.confidential.kind import Kind
from tracer.errors import TraceError, UsageError
from tracer.host.streams import warn
from tracer.query.source import Source
from tracer.report.sarif import sarif_log
from tracer.text.amount import counted
from tracer.text.printable import printable
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept

ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace audit``."""
    parser.add_argument(
        "trace", metavar="TRACE", nargs="?", help="a trace written by `vetrace boot`"
    )
    parser.add_argument(
        "--profile", metavar="PROFILE",
        help=f"whose handler: {', '.join(PROFILES)} (default: that of the TDX or SEV-ES guest that"
        f" was traced, of another one {CURRENT}; with --live what --guest is of); or {ALL} of them",
    )  # fmt: skip
    parser.add_argument(
        "--limit",
        metavar="N",
        type=count,
        default=20,
        help="rows a table (default 20; 0: all)",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print one JSON object, with all rows")
    shape.add_argument(
        "--sarif", action="store_true", help="print what would not survive as SARIF 2.1.0"
    )
    host_inputs.add_arguments(parser)
    live.add_arguments(parser)
    add_filters(parser)
    parser.epilog = (
        "Exit status 3: a call site would be fatal, to one profile at least. 1: the trace does not"
        " tell the instructions, as one that was imported does not, so nothing can be said."
        " docs/audit.md explains the verdicts. With --live 3: the kernel's handler is not as"
        " foretold."
    )


def run(args: argparse.Namespace) -> int:
    """Print what the profiles' handlers would make of each call site; return the exit status."""
    if args.host_inputs:
        host_inputs.check_arguments(args)
    live.check_arguments(args)
    if args.live:
        return live.run(args)
    if args.host_inputs:
        return host_inputs.run(args)
    audits = [Audit(profile) for profile in _profiles(args.profile)]
    with TraceReader(args.trace) as trace, terminal.reading(trace):
        own = OwnAudit(trace.header.kernel)
        audits = audits or own.audits
        source = Source(trace, selection(args), register_maps(args))
        for record, events in source:
            own.hear(record)
            if isinstance(record, Intercept):
                exits = exits_of(record, events)
                for audit in audits:
                    audit.judge(record, exits)
        source.check_names()
    if not args.profile:
        audits = [own.own]
    judged, unjudged = audits[0].exits, audits[0].unjudged
    if unjudged and not judged:
        raise TraceError(
            f"{trace.name}: nothing can be said of its {counted(unjudged, 'access')}: the trace"
            " does not have their instructions, as one that was imported from a log has not"
        )
    if args.sarif:
        log = sarif_log(audits, trace.header, trace.name, __version__)
        print(msgspec.json.encode(log).decode())
    elif args.json:
        objects = [_object(audit, trace) for audit in audits]
        shown = {"profiles": objects} if args.profile == ALL else objects[0]
        print(msgspec.json.encode(shown).decode())
    else:
        why = "" if args.profile or own.kind is Kind.PLAIN else f"{own.kind.label} guest's own"
        _print_report(audits, args.limit or None, why)
    terminal.warn_of_losses(trace)
    if unjudged:
        warn(
            f"{trace.name}: not judged: {unjudged:,} of {counted(judged + unjudged, 'access')}: the"
            " trace does not have their instructions"
        )
    if any(audit.fatal_sites for audit in audits):
        return EXIT_MISMATCH
    return EXIT_FAILED if unjudged else EXIT_OK


def _profiles(name: str | None) -> list[Profile]:
    if name is None:
        return []
    if name == ALL:
        return list(PROFILES.values())
    if name not in PROFILES:
        known = ", ".join((*PROFILES, ALL))
        raise UsageError(f"no profile is called {name}; there are: {known}")
    return [PROFILES[name]]


def _print_report(audits: list[Audit], limit: int | None, why: str) -> None:
    from tracer.report import tables  # rich: see terminal.table_console

    console = terminal.table_console(sys.stdout)
    alone = len(audits) == 1
    first = audits[0]
    lines = [_heading(first.profile) + (f" (the traced {why})" if why else "")] if alone else []
    if not first.sites:
        lines.append("no device access, so nothing to judge")
        lines += map(_inside, audits)
    else:
        console.print(tables.audit_table(audits, limit))
        lines += _remarks(audits)
        exits = f"{counted(first.exits, 'exit')} from {counted(len(first.sites), 'call site')}"
        if alone:
            lines.append(f"{exits}: {_counts(first)}")
            lines.append(_inside(first))
        else:
            lines.append(exits)
            for audit in audits:
                lines += [f"{_heading(audit.profile)}: {_counts(audit)}", _inside(audit)]
        costliest = first.costliest()
        share = sum(count for _, count in costliest) / max(first.exits, 1)
        named = ", ".join(
            f"{_title(place)} {n / max(first.exits, 1):.0%}" for place, n in costliest
        )
        lines.append(f"worth paravirtualising, {share:.0%} of all exits: {named}")
    for line in filter(None, lines):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _heading(profile: Profile) -> str:
    return f"{profile.name}: {profile.kernels}"


def _inside(audit: Audit) -> str:
    # Nothing, where all inputs are exits.
    if not audit.inside:
        return ""
    told = ", ".join(f"{count:,} of {space}" for space, count in sorted(audit.inside.items()))
    return f"{audit.profile.name}: no exit, as they are carried out in the guest: {told}"


def _counts(audit: Audit) -> str:
    differing = sum(_differs(site) for site in audit.sites)
    return (
        f"{audit.fatal_sites:,} would oops, "
        f"{differing:,} would get a result that differs from the CPU's"
    )


def _differs(site: Site) -> bool:
    return site.verdict.outcome == "emulated" and bool(site.verdict.note)


# Fatal sites, then those with another result, each with the profiles that it concerns if there are
# several.
def _remarks(audits: list[Audit]) -> list[str]:
    fatal: dict[str, list[str]] = {}
    differing: dict[str, list[str]] = {}
    for row in side_by_side(audits):
        for audit, site in zip(audits, row, strict=True):
            if site.fatal:
                line = _remark(site, site.verdict.reason)
                fatal.setdefault(line, []).append(audit.profile.name)
            elif _differs(site):
                line = _remark(site, site.verdict.note)
                differing.setdefault(line, []).append(audit.profile.name)
    told = [*fatal.items(), *differing.items()]
    if len(audits) == 1:
        return [line for line, _ in told]
    return [f"{line} ({', '.join(names)})" for line, names in told]


def _remark(site: Site, words: str) -> str:
    at = f"{_title(site.place)}+{site.offset}" if site.offset else hex(site.rip)
    return f"{at}: {printable(site.text)}: {words}"


def _title(place: Place) -> str:
    if place.function is None:
        return "code without symbols"
    owner = f" [{place.module}]" if place.module else ""
    return printable(f"{place.function}{owner}")


def _object(audit: Audit, trace: TraceReader) -> dict[str, Any]:
    exits = audit.exits
    worth = {place for place, _ in audit.costliest()}
    return {
        "profile": audit.profile.name,
        "kernels": audit.profile.kernels,
        "exits": exits,
        "call_sites": len(audit.sites),
        "fatal_call_sites": audit.fatal_sites,
        "unjudged": audit.unjudged,
        "inside": dict(audit.inside),
        "sites": [
            {
                "function": site.place.function,
                "module": site.place.module,
                "offset": site.offset,
                "rip": hex(site.rip),
                "bytes": site.code.hex(),
                "text": site.text,
                "regions": sorted(site.regions),
                "count": site.exits,
                "share": site.exits / exits if exits else 0,
                "fatal": site.fatal,
                "outcome": "oops" if site.fatal else site.verdict.outcome,
                "reason": site.verdict.reason,
                "note": site.verdict.note or None,
            }
            for site in audit.sites
        ],
        "functions": [
            {
                "function": place.function,
                "module": place.module,
                "count": count,
                "share": count / exits,
                "paravirtualise": place in worth,
            }
            for place, count in audit.functions()
        ],
        "damage": trace.damage,
        "unknown_records": dict(trace.unknown),
    }
