"""A table of text and numbers, for a rich console of any width.

It is laid out here, as rich's own takes a millisecond a row, and a trace may have 100,000.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from tracer.text.printable import printable

_NARROWEST_NAME = 16  # columns below which a name is not folded
_APART, _CLOSE = 3, 1  # blanks between two columns
_EDGES = 2
_BOLD = Style(bold=True)
_UNBROKEN = "\xa0"


@dataclass(slots=True)
class Column:
    """A column: numbers, to the right, or text, which ``folds`` where it is too wide."""

    heading: str
    is_number: bool = False
    folds: bool = True


@dataclass(slots=True)
class Table:
    """Rows below headings, and a caption below them.

    Columns are closed up, and headings and names folded, where it would be too wide. Where that
    does not make room for its numbers, each row has lines of its own.
    """

    columns: Sequence[Column]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    caption: str = ""

    def add_row(self, *cells: str | int) -> None:
        """Add a row, with a cell a column; an integer has its thousands set apart."""
        self.rows.append(
            tuple(printable(each) if isinstance(each, str) else f"{each:,}" for each in cells)
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield what rich prints."""
        room, gap = options.max_width - _EDGES, _APART
        heads = [[each.heading] for each in self.columns]
        cells = [max(map(cell_len, each), default=0) for each in self._by_column()]
        widths = list(map(max, cells, map(_widest, heads)))
        if _whole(widths, gap) > room:
            gap = _CLOSE
            heads = [each.heading.split() if _is_fixed(each) else [each.heading]
                     for each in self.columns]  # fmt: skip
            widths = list(map(max, cells, map(_widest, heads)))
            least = [
                width if _is_fixed(each) else min(width, _NARROWEST_NAME)
                for width, each in zip(widths, self.columns, strict=True)
            ]
            if _whole(least, gap) > room:
                yield from self._stacked(console, options)
                return
            widths = _collapsed(widths, least, room - gap * (len(widths) - 1))
        whole = _whole(widths, gap) + _EDGES
        yield from _line(" " * whole)
        for line in self._row_lines(heads, widths, gap, console, bottom=True):
            yield from _line(line, _BOLD)
        rule = "-" if options.ascii_only else "─"
        yield from _line(f" {rule * (whole - _EDGES)} ")
        for row in self.rows:
            for line in self._row_lines([[each] for each in row], widths, gap, console):
                yield from _line(line)
        yield from _line(" " * whole)
        if self.caption:
            yield from console.render(
                Text(printable(self.caption)), options.update(width=whole, justify="left")
            )

    def _by_column(self) -> Iterator[tuple[str, ...]]:
        return zip(*self.rows, strict=True) if self.rows else iter([()] * len(self.columns))

    # The lines of a row, of which each cell has some, at the top or at the bottom.
    def _row_lines(
        self, cells: list[list[str]], widths: Sequence[int], gap: int, console: Console, *,
        bottom: bool = False,
    ) -> Iterator[str]:  # fmt: skip
        told = [
            [part for line in cell for part in _folded(line, width, console)]
            for cell, width in zip(cells, widths, strict=True)
        ]
        height = max(map(len, told))
        for index, lines in enumerate(told):
            blank = [""] * (height - len(lines))
            told[index] = [*blank, *lines] if bottom else [*lines, *blank]
        for line in zip(*told, strict=True):
            parts = map(_set, line, widths, (each.is_number for each in self.columns))
            yield f" {(' ' * gap).join(parts)} "

    # A row's name, and below it what the other columns have, by their headings.
    def _stacked(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        head = next((n for n, each in enumerate(self.columns) if not _is_fixed(each)), 0)
        for row in self.rows:
            for line in _folded(row[head], width, console):
                yield from _line(line, _BOLD)
            told = [
                f"{column.heading} {cell}".replace(" ", _UNBROKEN)
                for n, (column, cell) in enumerate(zip(self.columns, row, strict=True))
                if cell and n != head
            ]
            for line in textwrap.wrap("  ".join(told), max(width - 2, 1), break_on_hyphens=False):
                for part in _folded(f"  {line.replace(_UNBROKEN, ' ')}", width, console):
                    yield from _line(part)
        yield Segment.line()
        if self.caption:
            yield from console.render(Text(printable(self.caption)), options)


def made_table(*headings: str, texts: int = 1) -> Table:
    """Return a table without rows: ``texts`` columns of text, then numbers."""
    return Table([Column(each, is_number=n >= texts) for n, each in enumerate(headings)])


def _is_fixed(column: Column) -> bool:
    return column.is_number or not column.folds


def _widest(lines: Sequence[str]) -> int:
    return max(map(cell_len, lines), default=0)


def _whole(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * (len(widths) - 1)


# Takes from the widest first, and from none below what it needs at least.
def _collapsed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    limit = max(widths)
    while sum(found := [max(min(w, limit), low) for w, low in zip(widths, least, strict=True)]) > (
        room
    ):
        limit -= 1
    # The first columns get the remainder.
    for index, width in enumerate(widths):
        if sum(found) < room and found[index] < width:
            found[index] += 1
    return found


def _folded(text: str, width: int, console: Console) -> Sequence[str]:
    if cell_len(text) <= width:
        return [text]
    return [line.plain.rstrip() for line in Text(text).wrap(console, width, overflow="fold")]


def _set(text: str, width: int, is_number: bool) -> str:
    blank = " " * (width - cell_len(text))
    return blank + text if is_number else text + blank


def _line(text: str, style: Style | None = None) -> Iterator[Segment]:
    yield Segment(text, style)
    yield Segment.line()
