"""Counts of a run so far, as the prompt shows them."""

from __future__ import annotations

import io

from tracer.repl.result import Screen
from tracer.trace.layout import FILE_COLUMNS
from tracer.trace.summary import Summary


def stats_lines(summary: Summary, screen: Screen, limit: int) -> list[str]:
    """Return the tables of `vetrace stats`, ``limit`` rows each."""
    # Loading rich takes longer than most commands do.
    from rich.console import Console

    from tracer.report import tables

    console = Console(
        file=io.StringIO(), width=screen.columns or FILE_COLUMNS, highlight=False, markup=False,
        force_terminal=screen.colour, color_system="standard" if screen.colour else None,
    )  # fmt: skip
    console.print(tables.closing_table(summary))
    console.print(tables.registers_table(summary, limit))
    console.print(tables.sites_table(summary, limit))
    if summary.phases:
        console.print(tables.phases_table(summary, limit))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n").split("\n")
