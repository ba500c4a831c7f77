"""Counts and comparisons as tables, for a rich console of any width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from tracer.check.comparison import Comparison
from tracer.confidential.audit import Audit, Site, side_by_side
from tracer.confidential.host_inputs import Site as InputSite
from tracer.devices.map import Breach
from tracer.report.table import Column, Table, made_table
from tracer.text.printable import printable
from tracer.trace.place import bare_name, spot
from tracer.trace.poll import Poll
from tracer.trace.summary import Names, Summary, ranked
from tracer.trace.waiting_words import poll_words


def closing_table(summary: Summary) -> Table:
    """Return what a run or a trace did to each traced region, the busiest first.

    The caption names the regions that were traced and never accessed.
    """
    unknown = any(count.unknown for count in summary.regions.values())
    directions = ("reads", "writes", *(("unknown",) if unknown else ()))
    some = [way for way in ("compiled", "guest", "monitor") if getattr(summary, way)]
    ways = ("emulated", *some, "stepped")
    table = made_table("region", *directions, *ways, "call sites")
    order = sorted(summary.regions.items(), key=lambda item: (-item[1].accesses, item[0]))
    for name, count in order:
        if count.accesses:
            cells = (getattr(count, column) for column in (*directions, *ways))
            table.add_row(name, *cells, len(count.sites))
    idle = ", ".join(name for name, count in order if not count.accesses)
    if idle:
        table.caption = f"traced, not accessed: {idle}"
    return table


def sites_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the call sites and the region each one reached, the busiest first."""
    table = made_table("call site", "region", "accesses", texts=2)
    for (site, region), count in _most(summary.sites, limit):
        table.add_row(site, region, count)
    return table


def forms_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the instruction forms with their intercepts, the most frequent first."""
    table = made_table("instruction form", "carried out", "intercepts", texts=2)
    for (form, via), count in _most(summary.forms, limit):
        table.add_row(form, via, count)
    return table


def calls_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the calls of a confidential guest that are no device accesses, by name."""
    table = made_table("call", "times", texts=1)
    for name, count in _most(Counter({(name,): n for name, n in summary.calls.items()}), limit):
        table.add_row(*name, count)
    return table


def causes_table(summary: Summary, limit: int | None = None) -> Table:
    """Return what has sent the interrupts, the busiest first."""
    table = made_table("sent by", "interrupts", texts=1)
    for (cause,), count in _most(Counter({(c,): n for c, n in summary.causes.items()}), limit):
        table.add_row(cause, count)
    return table


def registers_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the registers of each region that were accessed, the busiest first.

    Beside its name stands how often a read-only one was written, or a write-only one read.
    """
    table = made_table("region", "offset", "register", "accesses", texts=3)
    for (region, offset, register), count in _most(summary.registers, limit):
        known = summary.regions.get(region)  # none of the row that tells of the others
        told, where = [register], offset
        if known is not None and known.space not in ("memory", "port"):
            number = int(offset, 16)
            told = [register or bare_name(known.space, number)]
            where = spot(known.space, number).removeprefix("+")
        for breach, times in summary.breaches_of((region, offset, register)).items():
            told.append(f"({breach}, {_AGAINST[breach]}: {times:,})")
        table.add_row(region, where, " ".join(told), count)
    return table


_AGAINST: dict[Breach, str] = {"read-only": "written", "write-only": "read"}


def polls_table(polls: Sequence[Poll], limit: int | None = None) -> Table:
    """Return what loops wait for, with the longest time that each did, the longest first."""
    table = made_table("waits for", "loop", "gives up", "times", "seconds", texts=3)
    for poll in polls[:limit]:
        register, awaited, gives_up = poll_words(poll)
        seconds = f"{poll.duration_ns / 1e9:.6f}"
        site = poll.site if poll.told is None else poll.told.loop or poll.site
        table.add_row(f"{poll.region} {register} {awaited}", site, gives_up, poll.turns, seconds)
    if limit is not None and len(polls) > limit:
        table.add_row(f"… {len(polls) - limit} more", "", "", "", "")
    return table


def phases_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the phases of the boot and the regions accessed in each, the busiest first."""
    table = made_table("phase", "region", "accesses", texts=2)
    for (phase, region), count in _most(summary.phases, limit):
        table.add_row(phase, region, count)
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return how the trace and QEMU's log agree on each region that either has accesses to."""
    table = made_table("region", "traced", "witnessed", "missing", "extra", "different")
    for name, c in sorted(comparison.regions.items()):
        if c.traced or c.witnessed:
            table.add_row(name, c.traced, c.witnessed, c.missing, c.extra, c.different)
    return table


def audit_table(audits: Sequence[Audit], limit: int | None = None) -> Table:
    """Return what handlers would make of each call site: fatal ones first, then the busiest."""
    names = [audit.profile.name for audit in audits]
    numbers = [Column(heading, is_number=True) for heading in ("exits", "share")]
    table = Table([*numbers, *map(Column, ("function", "module", "instruction", *names))])
    rows, total = side_by_side(audits), max(audits[0].exits, 1)
    for row in rows[:limit]:
        site = row[0]
        offset = f"+{site.offset}" if site.offset else ""
        table.add_row(
            site.exits,
            f"{site.exits / total:.1%}",
            f"{site.place.function}{offset}" if site.place.function else hex(site.rip),
            site.place.module or ("kernel" if site.place.function else ""),
            site.text,
            *map(_outcome, row),
        )
    if limit is not None and len(rows) > limit:
        rest = rows[limit:]
        count = sum(row[0].exits for row in rest)
        blank = [""] * (2 + len(audits))
        table.add_row(count, f"{count / total:.1%}", f"… {len(rest)} more", *blank)
    return table


def host_inputs_table(sites: Sequence[InputSite], limit: int | None, columns: int) -> Table:
    """Return the code that reads what its host chooses, and what that is, a line each.

    Of each space there are ``limit`` call sites at most. What is read is cut to the width.
    """
    table = made_table("space", "call site", "reads", "accesses", texts=3)
    widest = max(len(printable(site.name)) for site in sites)
    room = max(columns - widest - _BESIDE_READS, _LEAST_READS)
    for column in table.columns:
        column.folds = False
    for space, group in groupby(sites, lambda site: site.space):
        of_space = list(group)
        for site in of_space[:limit]:
            table.add_row(space, site.name, _cut(site.texts, room), site.accesses)
        rest = [] if limit is None else of_space[limit:]
        if rest:
            count = sum(site.accesses for site in rest)
            table.add_row(space, f"… {len(rest)} more", "", count)
    return table


_BESIDE_READS = 32  # columns of the space, of a count, and between
_LEAST_READS = 20


# As many as fit, and how many more there are.
def _cut(texts: Sequence[str], room: int) -> str:
    for count in range(min(len(texts), room), 0, -1):
        left = f", … {len(texts) - count:,} more" if count < len(texts) else ""
        if len(told := ", ".join(texts[:count]) + left) <= room:
            return told
    return f"{texts[0][: room - 1]}…"


def _outcome(site: Site) -> str:
    return "oops" if site.fatal else site.verdict.outcome + (" *" if site.verdict.note else "")


# The last row tells of what the limit keeps out.
def _most(counts: Counter[Names], limit: int | None) -> list[tuple[Names | tuple[str, ...], int]]:
    order: list[tuple[Names | tuple[str, ...], int]] = [*ranked(counts)]
    if limit is None or len(order) <= limit:
        return order
    rest = order[limit:]
    blank = ("",) * (len(rest[0][0]) - 1)
    return [*order[:limit], ((f"… {len(rest)} more", *blank), sum(count for _, count in rest))]
