"""Counts of a run so far, as the prompt shows them."""

from __future__ import annotations

import io
from typing import Any

from tracer.repl.result import Paper
from tracer.summary import Summary, ranked


def stats_lines(summary: Summary, paper: Paper, limit: int) -> list[str]:
    """Return the tables of `vetrace stats`, ``limit`` rows each."""
    # Loading rich takes longer than most commands do.
    from rich.console import Console

    from tracer import table

    console = Console(
        file=io.StringIO(), width=paper.columns or 240, highlight=False, markup=False,
        force_terminal=paper.colour, color_system="standard" if paper.colour else None,
    )  # fmt: skip
    console.print(table.closing_table(summary))
    console.print(table.registers_table(summary, limit))
    console.print(table.sites_table(summary, limit))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n").split("\n")


def stats_object(summary: Summary) -> dict[str, Any]:
    """Return the counts by region, register and call site, ready for JSON."""
    return {
        "accesses": summary.accesses,
        "emulated": summary.emulated,
        "stepped": summary.stepped,
        "regions": [
            {"region": name, "reads": count.reads, "writes": count.writes}
            for name, count in sorted(summary.regions.items())
        ],
        "registers": [
            {"region": region, "offset": offset, "accesses": count}
            for (region, offset), count in ranked(summary.registers)
        ],
        "call_sites": [
            {"site": site, "region": region, "accesses": count}
            for (site, region), count in ranked(summary.sites)
        ],
    }
