"""Tell what a guest reads of its host: ``vetrace audit --host-inputs``, which judges nothing."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from tracer.cli import EXIT_OK, terminal
from tracer.cli.filters import register_maps, selection
from tracer.confidential.host_inputs import HostInputs, Site, Source
from tracer.errors import UsageError
from tracer.host.streams import warn
from tracer.query import source
from tracer.text.amount import counted
from tracer.trace.reader import TraceReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--host-inputs``."""
    parser.add_argument(
        "--host-inputs", action="store_true",
        help="list the code that reads what the host chooses, which a guest that does not trust"
        " it has to filter; nothing is judged",
    )  # fmt: skip


def check_arguments(args: argparse.Namespace) -> None:
    """Raise UsageError for what says nothing with ``--host-inputs``."""
    if args.live:
        raise UsageError("--host-inputs is of a trace, and --live reads none: drop one of them")
    if args.profile is not None:
        raise UsageError("--host-inputs judges no handler: drop --profile, or --host-inputs")
    if args.sarif:
        raise UsageError("--host-inputs judges nothing: drop --sarif, or --host-inputs")
    if args.write:
        raise UsageError("no write is an input of the host's: drop --write, or --host-inputs")


def run(args: argparse.Namespace) -> int:
    """Print what each call site reads of the host; return the exit status."""
    inputs = HostInputs()
    with TraceReader(args.trace) as trace, terminal.reading(trace):
        chosen = source.Source(trace, selection(args), register_maps(args))
        for record, events, times in chosen.kinds():
            inputs.add(record, events, times=times)
        chosen.check_names()
    if args.json:
        print(msgspec.json.encode(_object(inputs, trace)).decode())
    else:
        _print(inputs, args.limit or None)
    terminal.warn_of_losses(trace)
    if {space for space, *_ in inputs.totals()} == {"memory"}:
        warn(f"{trace.name} has no reads of ports, MSRs or CPUID: it may be of memory alone")
    return EXIT_OK


def _print(inputs: HostInputs, limit: int | None) -> None:
    from tracer.report import tables  # rich: see terminal.table_console

    console = terminal.table_console(sys.stdout)
    sites, totals = inputs.sites, inputs.totals()
    if not sites:
        console.print("nothing is read of the host")
        return
    console.print(tables.host_inputs_table(sites, limit, console.width))
    for space, count, accesses in totals:
        console.print(f"{space}: {_counts(accesses, count)}", soft_wrap=True)
    whole = sum(accesses for _, _, accesses in totals)
    console.print(f"all: {_counts(whole, len(sites))}", soft_wrap=True)


def _counts(reads: int, sites: int) -> str:
    return f"{counted(reads, 'read')} from {counted(sites, 'call site')}"


def _object(inputs: HostInputs, trace: TraceReader) -> dict[str, Any]:
    return {
        "host_inputs": [_site(site) for site in inputs.sites],
        "totals": [
            {"space": space, "call_sites": count, "accesses": accesses}
            for space, count, accesses in inputs.totals()
        ],
        "damage": trace.damage,
        "unknown_records": dict(trace.unknown),
    }


def _site(site: Site) -> dict[str, Any]:
    return {
        "space": site.space,
        "site": site.name,
        "symbol": site.symbol,
        "function": site.place.function,
        "module": site.place.module,
        "rip": hex(site.rip),
        "accesses": site.accesses,
        "reads": [_read(read, count) for read, count in _ranked(site)],
    }


def _ranked(site: Site) -> list[tuple[Source, int]]:
    return sorted(site.sources.items(), key=lambda item: (-item[1], item[0].text, str(item[0])))


def _read(read: Source, count: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "region": read.region,
        "offset": None if read.offset is None else hex(read.offset),
        "register": read.register,
    }
    if read.space in ("port", "msr"):
        told[read.space] = hex(read.number or 0)
    elif read.space == "cpuid":
        told |= {"leaf": hex(read.number or 0), "subleaf": read.subleaf}
    return told | {"accesses": count}
