"""Tell whether a guest's device accesses would survive in a TDX or SEV-ES guest."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from tracer.audit import Audit, Place, Site
from tracer.command import EXIT_MISMATCH, EXIT_OK, terminal
from tracer.errors import UsageError
from tracer.render import printable
from tracer.tracefile import TraceReader
from tracer.verdict import CURRENT, PROFILES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace audit``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace written by `vetrace boot`")
    parser.add_argument(
        "--profile", metavar="P", default=CURRENT,
        help=f"whose handler: {', '.join(PROFILES)} (default {CURRENT})",
    )  # fmt: skip
    parser.add_argument(
        "--limit", metavar="N", type=int, default=20, help="rows a table (default 20; 0: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all rows")
    parser.epilog = (
        "Exit status 3: a call site would be fatal. docs/audit.md explains the verdicts."
    )


def run(args: argparse.Namespace) -> int:
    """Print what the profile's handler would make of each call site; return the exit status."""
    profile = PROFILES.get(args.profile)
    if profile is None:
        known = ", ".join(PROFILES)
        raise UsageError(f"no profile is called {args.profile}; there are: {known}")
    if args.limit < 0:
        raise UsageError(f"--limit {args.limit}: give a number of rows, or 0 for all")
    audit = Audit(profile)
    with TraceReader(args.trace) as trace:
        for record in trace:
            audit.add(record)
    if args.json:
        print(msgspec.json.encode(_object(audit, trace)).decode())
    else:
        _print_report(audit, args.limit or None)
    terminal.warn_of_losses(trace)
    return EXIT_MISMATCH if audit.fatal_sites else EXIT_OK


def _print_report(audit: Audit, limit: int | None) -> None:
    from tracer import table  # rich: see terminal.table_console

    console = terminal.table_console(sys.stdout)
    profile, exits, sites = audit.profile, audit.exits, audit.sites
    lines = [f"{profile.name}: {profile.kernels}"]
    if not sites:
        lines.append("no device access, so nothing to judge")
    else:
        console.print(table.audit_table(audit, limit))
        differing = [site for site in sites if site.verdict.outcome == "emulated"]
        differing = [site for site in differing if site.verdict.note]
        lines += [_remark(site, site.verdict.reason) for site in sites if site.fatal]
        lines += [_remark(site, site.verdict.note) for site in differing]
        lines.append(
            f"{exits:,} exits from {len(sites):,} call sites: {audit.fatal_sites:,} would oops, "
            f"{len(differing):,} would get a result that differs from the CPU's"
        )
        costliest = audit.costliest()
        share = sum(count for _, count in costliest) / exits
        named = ", ".join(f"{_title(place)} {count / exits:.0%}" for place, count in costliest)
        lines.append(f"worth paravirtualising, {share:.0%} of all exits: {named}")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _remark(site: Site, words: str) -> str:
    at = f"{_title(site.place)}+{site.offset}" if site.offset else site.rip
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
        "sites": [
            {
                "function": site.place.function,
                "module": site.place.module,
                "offset": site.offset,
                "rip": site.rip,
                "bytes": site.code,
                "text": site.text,
                "regions": sorted(site.regions),
                "count": site.exits,
                "share": site.exits / exits,
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
