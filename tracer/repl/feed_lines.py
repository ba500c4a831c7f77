"""Write the accesses of a feed as lines for the screen at hand."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.repl.feed import Item, Seen, Skipped, Ticking, Waited, skipped_line, ticking_line
from tracer.repl.result import Screen
from tracer.text.colour import paint
from tracer.text.printable import wrapped
from tracer.trace.fold import Fold
from tracer.trace.layout import layout
from tracer.trace.lines import access_line, change_lines, decoded_lines, fold_line
from tracer.trace.waiting_words import waited_line


def item_lines(item: Item, screen: Screen, kept: str) -> Sequence[str]:
    """Return the lines of an access, a fold, or what was left out; ``kept`` says where that is."""
    shape = layout(screen.columns, screen.colour)
    if isinstance(item, Skipped):
        return [dim(skipped_line(item, kept), screen)]
    if isinstance(item, Ticking):
        return [dim(ticking_line(item), screen)]
    if isinstance(item, Waited):
        return [dim(waited_line(item.poll, item.named), screen)]
    if isinstance(item, Fold):
        return [dim(fold_line(item), screen)]
    line = access_line(item, shape)
    before = item.before if isinstance(item, Seen) else None
    if before is None:
        below = decoded_lines(item.access, item.named, shape)
    else:
        below = change_lines(item.access, item.named, before, shape)
    return [line, *(dim(text, screen) for text in below)]


def console_lines(text: str, screen: Screen) -> list[str]:
    """Return a line of the guest's console so that it is told from an access."""
    shown = "".join(char for char in text.expandtabs() if char.isprintable())
    head = f"{'':10}  │ "
    columns = None if screen.columns is None else max(screen.columns - len(head), 20)
    return [dim(f"{head}{part}", screen) for part in wrapped(shown, columns)]


def dim(text: str, screen: Screen) -> str:
    """Return a line that stands back, where colours show."""
    return paint(text, "time", screen.colour)
