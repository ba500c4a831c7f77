"""Lines of labelled text and of aligned cells, within a number of columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tracer.text.colour import paint
from tracer.text.printable import printable, unparted

NARROWEST = 40
"""Columns below which a view does not fold any further."""

_LABEL = 12
_NARROWEST_CELL = 24


@dataclass(frozen=True, slots=True)
class Cell:
    """Hold a piece of text that is not broken, and its style: see
    :func:`tracer.text.colour.paint`."""

    text: str
    style: str = ""

    def painted(self, colour: bool, width: int = 0) -> str:
        """Return the text, escaped and padded to ``width`` characters."""
        return paint(printable(self.text).ljust(width), self.style, colour)

    @property
    def width(self) -> int:
        """Return how many characters it takes."""
        return len(printable(self.text))


def words(text: str, style: str = "") -> list[Cell]:
    """Return the words of a text, between which a line may be broken."""
    return [Cell(word, style) for word in unparted(text)]


def flow(
    cells: Iterable[Cell], columns: int, colour: bool, indent: str = "", first: str | None = None
) -> list[str]:
    """Return cells one after the other with a space between, in as many lines as it takes.

    A line begins with ``indent``, the first with ``first`` where that is given.
    """
    lines: list[str] = []
    line = indent if first is None else first
    used, empty = len(line), True
    room = max(columns, _NARROWEST_CELL)
    for cell in cells:
        if not empty and used + 1 + cell.width > room:
            lines.append(line)
            line, used, empty = indent, len(indent), True
        line += ("" if empty else " ") + cell.painted(colour)
        used += cell.width + (not empty)
        empty = False
    return [*lines, line.rstrip()] if not empty or first is not None else lines


def labelled(label: str, cells: Iterable[Cell], columns: int, colour: bool) -> list[str]:
    """Return cells under a label that stands to their left."""
    head = paint(f"{label:<{_LABEL}}", "time", colour)
    lines = flow(cells, columns, colour, " " * _LABEL, " " * _LABEL)
    return [head + lines[0][_LABEL:], *lines[1:]]


def aligned(
    rows: Sequence[Sequence[Cell]], colour: bool, indent: str = "", right: Sequence[int] = ()
) -> list[str]:
    """Return rows of cells in columns as wide as what they hold; those in ``right`` end flush."""
    widths = [max(cell.width for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        shown = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - cell.width)
            text = cell.painted(colour)
            shown.append(gap + text if number in right else text + gap)
        lines.append((indent + "  ".join(shown)).rstrip())
    return lines


def under(label: str, lines: Sequence[str], colour: bool) -> list[str]:
    """Return lines that are already laid out, with a label left of the first."""
    head = paint(f"{label:<{_LABEL}}", "time", colour)
    return [(head if number == 0 else " " * _LABEL) + line for number, line in enumerate(lines)]


def room(columns: int) -> int:
    """Return how many columns there are beside a label."""
    return max(columns, NARROWEST) - _LABEL


def folded(rows: Sequence[Sequence[Cell]], columns: int, colour: bool) -> list[str]:
    """Return rows of cells in columns, of which the last is folded where it does not fit.

    What has no room beside the other cells comes below them, indented.
    """
    if not rows:
        return []
    widths = [max(cell.width for cell in column) for column in zip(*rows, strict=True)][:-1]
    start = sum(widths) + 2 * len(widths)
    widest = max(row[-1].width for row in rows)
    beside = columns - start >= min(widest, _NARROWEST_CELL)
    lines: list[str] = []
    for row in rows:
        head = "  ".join(
            cell.painted(colour) + " " * (width - cell.width)
            for cell, width in zip(row[:-1], widths, strict=True)
        )
        last = words(row[-1].text, row[-1].style)
        if beside:
            below = flow(last, columns, colour, " " * start) or [""]
            lines += [f"{head}  {below[0][start:]}".rstrip(), *below[1:]]
        else:
            lines += [head.rstrip(), *flow(last, columns, colour, " " * 4)]
    return lines
