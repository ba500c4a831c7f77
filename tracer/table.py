"""Counts and comparisons as tables, for a rich console of any width."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.table import Table
from rich.text import Text

from tracer.comparison import Comparison
from tracer.render import printable
from tracer.summary import Summary, ranked


def closing_table(summary: Summary) -> Table:
    """Return what a run or a trace did to each traced region, the busiest first."""
    table = _table("region", "reads", "writes", "emulated", "stepped", "call sites")
    order = sorted(summary.regions.items(), key=lambda item: (-item[1].accesses, item[0]))
    for name, count in order:
        _row(
            table, name, count.reads, count.writes, count.emulated, count.stepped, len(count.sites)
        )
    return table


def sites_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the call sites and the region each one reached, the busiest first."""
    table = _table("call site", "region", "accesses", texts=2)
    for (site, region), count in _most(summary.sites, limit):
        _row(table, site, region, count)
    return table


def forms_table(summary: Summary, limit: int | None = None) -> Table:
    """Return the instruction forms with their intercepts, the most frequent first."""
    table = _table("instruction form", "carried out", "intercepts", texts=2)
    for (form, via), count in _most(summary.forms, limit):
        _row(table, form, via, count)
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return how the trace and QEMU's log agree on each traced region."""
    table = _table("region", "traced", "witnessed", "missing", "extra", "different")
    for name, c in sorted(comparison.regions.items()):
        _row(table, name, c.traced, c.witnessed, c.missing, c.extra, c.different)
    return table


# The last row tells of what the limit keeps out.
def _most(counts: Counter[tuple[str, str]], limit: int | None) -> list[tuple[tuple[str, str], int]]:
    order = ranked(counts)
    if limit is None or len(order) <= limit:
        return order
    rest = order[limit:]
    return [*order[:limit], ((f"… {len(rest)} more", ""), sum(count for _, count in rest))]


def _table(*headings: str, texts: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        if index < texts:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    return table


# As Text, so that brackets in a name are no markup.
def _row(table: Table, *cells: str | int) -> None:
    table.add_row(*(Text(printable(c) if isinstance(c, str) else f"{c:,}") for c in cells))
