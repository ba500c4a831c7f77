"""What is shown of a feed, as lines for the paper at hand."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.fold import Fold
from tracer.render import access_line, fold_line, layout, printable
from tracer.repl.feed import Item, Seen, Skipped, skipped_line
from tracer.repl.result import Paper

_INDENT = " " * 12


def item_lines(item: Item, paper: Paper, kept: str) -> Sequence[str]:
    """Return the lines of an access, a fold, or what was left out; ``kept`` says where that is."""
    shape = layout(paper.columns, paper.colour)
    if isinstance(item, Skipped):
        return [dim(skipped_line(item, kept), paper)]
    if isinstance(item, Fold):
        lines = [access_line(event.record, event.access, shape) for event in item.first]
        return [*lines, dim(fold_line(item), paper)]
    return [access_line(item.record, item.access, shape), *_meaning(item, paper)]


def _meaning(seen: Seen, paper: Paper) -> list[str]:
    told = " ".join(filter(None, (seen.named.text if seen.named else "", seen.change)))
    if not told:
        return []
    line = f"{_INDENT}{printable(told)}"
    if paper.columns is not None and len(line) > paper.columns:
        line = line[: paper.columns - 1] + "…"
    return [dim(line, paper)]


def console_line(text: str, paper: Paper) -> str:
    """Return a line of the guest's console so that it is told from an access."""
    shown = "".join(char for char in text if char == "\t" or char.isprintable())
    return dim(f"{'':10}  │ {shown}", paper)


def dim(text: str, paper: Paper) -> str:
    """Return a line that stands back, where colours show."""
    return f"\x1b[2m{text}\x1b[0m" if paper.colour else text
