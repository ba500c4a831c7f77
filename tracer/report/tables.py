"""Counts and comparisons as tables, for a rich console of any width."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

from tracer.check.comparison import Comparison
from tracer.confidential.audit import Audit, Site, side_by_side
from tracer.confidential.host_inputs import Site as InputSite
from tracer.devices.map import Breach
from tracer.text.printable import printable
from tracer.trace.layout import FILE_COLUMNS
from tracer.trace.place import bare_name, spot
from tracer.trace.poll import Poll
from tracer.trace.summary import Names, Summary, ranked
from tracer.trace.waiting_words import poll_words

_NARROWEST_NAME = 16  # columns below which a name is not folded


class Fitting(Table):
    """A table that closes its columns up, and folds its headings, where it would be too wide.

    Where that does not make room for its numbers, each row has lines of its own.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield what rich prints."""
        # Rich measures every cell several times where no column has a width yet.
        for column in self.columns:
            column.width = _least_width(column)
        wide = self.__rich_measure__(console, options.update_width(FILE_COLUMNS * 4)).maximum
        if wide > options.max_width:
            self._close_up()
            if self._least() > options.max_width:
                yield from self._stacked(options.max_width)
                return
        yield from super().__rich_console__(console, options)

    # Numbers, and names that can be read, have at least this room.
    def _close_up(self) -> None:
        self.padding = 0
        for column in self.columns:
            column.width = None
            if column.no_wrap:
                column.header = str(column.header).replace(" ", "\n")
                column.min_width = _least_width(column)
            else:
                column.min_width = min(_least_width(column), _NARROWEST_NAME)

    def _least(self) -> int:
        return 2 + sum(1 + (each.min_width or 0) for each in self.columns)

    # A row's name, and below it what the other columns have, by their headings.
    def _stacked(self, width: int) -> Iterator[RenderableType]:
        headings = [str(each.header).replace("\n", " ") for each in self.columns]
        head = next((n for n, each in enumerate(self.columns) if not each.no_wrap), 0)
        for row in zip(*(map(str, each.cells) for each in self.columns), strict=True):
            yield Text(row[head], style="bold", overflow="fold")
            told = [
                f"{heading} {cell}".replace(" ", _UNBROKEN)
                for n, (heading, cell) in enumerate(zip(headings, row, strict=True))
                if cell and n != head
            ]
            for line in textwrap.wrap("  ".join(told), max(width - 2, 1), break_on_hyphens=False):
                yield Text(f"  {line.replace(_UNBROKEN, ' ')}", overflow="fold")
        yield "" if self.caption is None else Text.assemble("\n", self.caption)


_UNBROKEN = "\xa0"


def _least_width(column: Column) -> int:
    return max(_width(cell) for cell in (column.header, *column.cells))


def _width(cell: RenderableType) -> int:
    return max(map(cell_len, str(cell).split("\n")))


def _table() -> Table:
    return Fitting(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", caption_justify="left")


def made_table(*headings: str, texts: int = 1) -> Table:
    """Return a table without rows: ``texts`` columns of text, then numbers."""
    table = _table()
    for index, heading in enumerate(headings):
        if index < texts:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    return table


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
            _row(table, name, *cells, len(count.sites))
    idle = ", ".join(name for name, count in order if not count.accesses)
    if idle:
        table.caption = Text(f"traced, not accessed: {printable(idle)}")
    return table


def sites_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the call sites and the region each one reached, the busiest first."""
    table = made_table("call site", "region", "accesses", texts=2)
    for (site, region), count in _most(summary.sites, limit):
        _row(table, site, region, count)
    return table


def forms_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the instruction forms with their intercepts, the most frequent first."""
    table = made_table("instruction form", "carried out", "intercepts", texts=2)
    for (form, via), count in _most(summary.forms, limit):
        _row(table, form, via, count)
    return table


def calls_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the calls of a confidential guest that are no device accesses, by name."""
    table = made_table("call", "times", texts=1)
    for name, count in _most(Counter({(name,): n for name, n in summary.calls.items()}), limit):
        _row(table, *name, count)
    return table


def causes_table(summary: Summary, limit: int | None = None) -> Table:
    """Return what has sent the interrupts, the busiest first."""
    table = made_table("sent by", "interrupts", texts=1)
    for (cause,), count in _most(Counter({(c,): n for c, n in summary.causes.items()}), limit):
        _row(table, cause, count)
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
        _row(table, region, where, " ".join(told), count)
    return table


_AGAINST: dict[Breach, str] = {"read-only": "written", "write-only": "read"}


def polls_table(polls: Sequence[Poll], limit: int | None = None) -> Table:
    """Return what loops wait for, with the longest time that each did, the longest first."""
    table = made_table("waits for", "loop", "gives up", "times", "seconds", texts=3)
    for poll in polls[:limit]:
        register, awaited, gives_up = poll_words(poll)
        seconds = f"{poll.duration_ns / 1e9:.6f}"
        site = poll.site if poll.told is None else poll.told.loop or poll.site
        _row(table, f"{poll.region} {register} {awaited}", site, gives_up, poll.turns, seconds)
    if limit is not None and len(polls) > limit:
        _row(table, f"… {len(polls) - limit} more", "", "", "", "")
    return table


def phases_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the phases of the boot and the regions accessed in each, the busiest first."""
    table = made_table("phase", "region", "accesses", texts=2)
    for (phase, region), count in _most(summary.phases, limit):
        _row(table, phase, region, count)
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return how the trace and QEMU's log agree on each region that either has accesses to."""
    table = made_table("region", "traced", "witnessed", "missing", "extra", "different")
    for name, c in sorted(comparison.regions.items()):
        if c.traced or c.witnessed:
            _row(table, name, c.traced, c.witnessed, c.missing, c.extra, c.different)
    return table


def audit_table(audits: Sequence[Audit], limit: int | None = None) -> Table:
    """Return what handlers would make of each call site: fatal ones first, then the busiest."""
    table = _table()
    for heading in ("exits", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    names = [audit.profile.name for audit in audits]
    for heading in ("function", "module", "instruction", *names):
        table.add_column(heading, overflow="fold")
    rows, total = side_by_side(audits), max(audits[0].exits, 1)
    for row in rows[:limit]:
        site = row[0]
        offset = f"+{site.offset}" if site.offset else ""
        _row(
            table,
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
        _row(table, count, f"{count / total:.1%}", f"… {len(rest)} more", *blank)
    return table


def host_inputs_table(sites: Sequence[InputSite], limit: int | None, columns: int) -> Table:
    """Return the code that reads what its host chooses, and what that is, a line each.

    Of each space there are ``limit`` call sites at most. What is read is cut to the width.
    """
    table = made_table("space", "call site", "reads", "accesses", texts=3)
    widest = max(len(printable(site.name)) for site in sites)
    room = max(columns - widest - _BESIDE_READS, _LEAST_READS)
    for column in table.columns:
        column.no_wrap = True
    for space, group in groupby(sites, lambda site: site.space):
        of_space = list(group)
        for site in of_space[:limit]:
            _row(table, space, site.name, _cut(site.texts, room), site.accesses)
        rest = [] if limit is None else of_space[limit:]
        if rest:
            count = sum(site.accesses for site in rest)
            _row(table, space, f"… {len(rest)} more", "", count)
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


# As Text, so that brackets in a name are no markup.
def _row(table: Table, *cells: str | int) -> None:
    table.add_row(*(Text(printable(c) if isinstance(c, str) else f"{c:,}") for c in cells))
