"""The contents of a page about a trace, or about two: read once, and ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracer.check.diff import Differ, Line, Side, Step, compare
from tracer.check.lines import step_changes
from tracer.confidential.audit import Audit, Site, exits_of, side_by_side
from tracer.confidential.handler import PROFILES
from tracer.query.source import Source
from tracer.report.page.accesses import Accesses
from tracer.report.page.column import text
from tracer.report.page.coverage import Coverage
from tracer.report.page.language import language
from tracer.report.page.waits import Waits, foretold, queue_objects
from tracer.trace.call import SharedRecord, TdcallRecord, VmgexitRecord
from tracer.trace.layout import padded, short
from tracer.trace.marker import is_marker
from tracer.trace.place import bare_name, spot
from tracer.trace.queue import QueueRecord
from tracer.trace.record import Intercept, LostRecord, Mark, RegionRecord, UserRecord
from tracer.trace.summary import Summary, summary_object
from tracer.trace.waiting import WaitRecord

CONTEXT = 3
"""Lines that are alike around a difference."""

_MOST_HUNKS = 1000  # of a region: no reader goes through more


def contents(
    source: Source, condition: str | None, differ: Differ, sides: dict[str, Side]
) -> dict[str, Any]:
    """Read a trace to its end; return what is wanted of it, and add it to the ``sides``.

    ``condition`` is the one that chose, in words.

    Raise what reading a trace and testing a condition raise.
    """
    trace = source.trace
    names = source.roster.regions[0]
    accesses = Accesses(source.stacks, names.owners)
    summary, coverage, waits = Summary(), Coverage(), Waits()
    queues: list[QueueRecord] = []
    audits = [Audit(profile) for profile in PROFILES.values()]
    traced: list[str] = []
    for record, events in source:
        match record:
            case Intercept():
                if not events:
                    continue
                accesses.add(record, events)
                coverage.add(events)
                waits.add(record, events)
                for event in events:
                    differ.add(sides, event)
                exits = exits_of(record, events)
                for audit in audits:
                    audit.judge(record, exits)
            case Mark():
                accesses.mark(record)
                if is_marker(record):
                    accesses.note(record)
            case UserRecord() | LostRecord() | TdcallRecord() | VmgexitRecord() | SharedRecord():
                accesses.note(record)
            case WaitRecord():
                waits.learn(record)
                if record.awaited:
                    accesses.aside(record)
            case QueueRecord():
                queues.append(record)
            case RegionRecord() if record.region.traced:
                traced.append(record.region.name)
        summary.add(record, events)
    roster = source.roster
    touched = [name for name, count in summary.regions.items() if count.accesses]
    regions = [name for name in (*traced, *touched) if roster.can_be_in(name)]
    end = trace.end
    return {
        "language": language(),
        "trace": {
            "name": trace.name,
            "header": _header(source),
            "outcome": None if end is None else end.outcome,
            "missing": trace.missing(),
            "condition": condition,
        },
        "accesses": accesses.object(),
        "statistics": summary_object(summary),
        "waits": waits.objects(),
        "queues": text(queue_objects(queues)) if queues else None,
        "foretold": foretold(),
        "audit": _audit(audits),
        "coverage": coverage.objects(regions, roster.map_of),
    }


def _header(source: Source) -> dict[str, Any]:
    header = source.trace.header
    return {
        "kernel": header.kernel,
        "command line": header.command_line,
        "clock": header.clock,
        "vCPUs": header.vcpus,
        "memory": f"{header.memory >> 20:,} MiB",
        "QEMU": header.qemu,
        "GDB": header.gdb,
        "written by": header.tool,
        "created": header.created,
    }


def _audit(audits: Sequence[Audit]) -> dict[str, Any]:
    rows = side_by_side(audits)
    return {
        "profiles": [
            {
                "name": audit.profile.name,
                "kernels": audit.profile.kernels,
                "exits": audit.exits,
                "fatal": audit.fatal_sites,
                "unjudged": audit.unjudged,
                "inside": dict(audit.inside),
            }
            for audit in audits
        ],
        "sites": [
            {
                "rip": hex(row[0].rip),
                "code": row[0].code.hex(" "),
                "text": row[0].text,
                "function": row[0].place.function,
                "offset": row[0].offset,
                "module": row[0].place.module,
                "regions": sorted(row[0].regions),
                "exits": max(site.exits for site in row),
                "verdicts": [_verdict(site) for site in row],
            }
            for row in rows
        ],
    }


def _verdict(site: Site) -> list[str]:
    outcome = "oops" if site.fatal else site.verdict.outcome
    return [outcome, site.verdict.reason, site.verdict.note]


def difference(
    sides: Sequence[Mapping[str, Side]], names: Sequence[str], differ: Differ
) -> dict[str, Any]:
    """Return how two traces that ``differ`` has read stand to each other, region by region."""
    first, second = sides
    regions = []
    for region in sorted(first.keys() | second.keys()):
        found = compare(region, first.get(region, Side()), second.get(region, Side()), CONTEXT)
        hunks = found.hunks[:_MOST_HUNKS]
        regions.append({
            "region": region,
            "same": found.same,
            "changed": found.changed,
            "first": found.first,
            "second": found.second,
            "touched": found.touched,
            "unknown": found.unknown,
            "hunks": [list(map(_line, hunk)) for hunk in hunks],
            "more": len(found.hunks) - len(hunks),
        })  # fmt: skip
    return {"names": list(names), "left_out": differ.passed, "regions": regions}


def _line(line: Line) -> dict[str, Any]:
    first, second = line.first, line.second
    told: dict[str, Any] = {"kind": line.kind, "sides": [_step(first), _step(second)]}
    if line.kind == "changed" and first is not None and second is not None:
        told["fields"] = step_changes(first, second)
    return told


def _step(step: Step | None) -> dict[str, Any] | None:
    if step is None:
        return None
    named = step.named
    return {
        "how": short(step.direction, step.width),
        "place": spot(step.space, step.offset, step.extent),
        "register": bare_name(step.space, step.offset) if named is None else named.text,
        "value": padded(step.value, step.width),
        "turns": step.turns,
        "seq": step.seq,
        "site": step.site,
        "touched": step.skipped or step.device is not None,
        "mark": step.mark,
    }
