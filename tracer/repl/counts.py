"""Counts of a run so far, as the prompt shows them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tracer.repl.result import Screen
from tracer.trace.layout import FILE_COLUMNS
from tracer.trace.summary import Summary

if TYPE_CHECKING:
    from rich.table import Table


def stats_lines(summary: Summary, screen: Screen, limit: int) -> list[str]:
    """Return the tables of `vetrace stats`, ``limit`` rows each."""
    # Loading rich takes longer than most commands do.
    from tracer.report import tables

    shown = [
        tables.closing_table(summary),
        tables.registers_table(summary, limit),
        tables.sites_table(summary, limit),
    ]
    if summary.phases:
        shown.append(tables.phases_table(summary, limit))
    return printed(shown, screen)


def printed(shown: Iterable[Table], screen: Screen) -> list[str]:
    """Return the lines of tables."""
    from rich.console import Console

    console = Console(
        file=io.StringIO(), width=screen.columns or FILE_COLUMNS, highlight=False, markup=False,
        force_terminal=screen.colour, color_system="standard" if screen.colour else None,
    )  # fmt: skip
    for table in shown:
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n").split("\n")
