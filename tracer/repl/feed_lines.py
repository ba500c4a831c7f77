"""Write the accesses of a feed as lines for the screen at hand."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.repl.feed import Item, Seen, Skipped, Ticking, Waited, skipped_line, ticking_line
from tracer.repl.result import Screen
from tracer.text.colour import paint
from tracer.text.printable import wrapped
from tracer.trace.event import Event
from tracer.trace.fold import Fold
from tracer.trace.layout import layout
from tracer.trace.lines import access_line, change_lines, decoded_lines, fold_line
from tracer.trace.waiting_words import waited_line


def item_lines(item: Item, screen: Screen, kept: str) -> Sequence[str]:
    """Return the lines of an access, a fold, or what was left out; ``kept`` says where that is."""
    aside = _aside(item, kept)
    if aside is not None:
        return [dim(part, screen) for part in wrapped(aside, screen.columns)]
    assert isinstance(item, Event)
    shape = layout(screen.columns, screen.colour)
    line = access_line(item, shape)
    before = item.before if isinstance(item, Seen) else None
    if before is None:
        below = decoded_lines(item.access, item.named, shape)
    else:
        below = change_lines(item.access, item.named, before, shape)
    return [line, *(dim(text, screen) for text in below)]


def _aside(item: Item, kept: str) -> str | None:
    # The line of what is no access.
    match item:
        case Skipped():
            return skipped_line(item, kept)
        case Ticking():
            return ticking_line(item)
        case Waited():
            return waited_line(item.poll, item.named)
        case Fold():
            return fold_line(item)
    return None


def console_lines(text: str, screen: Screen) -> list[str]:
    """Return a line of the guest's console so that it is told from an access."""
    shown = "".join(char for char in text.expandtabs() if char.isprintable())
    head = f"{'':10}  │ "
    columns = None if screen.columns is None else max(screen.columns - len(head), 20)
    return [dim(f"{head}{part}", screen) for part in wrapped(shown, columns)]


def dim(text: str, screen: Screen) -> str:
    """Return a line that stands back, where colours show."""
    return paint(text, "time", screen.colour)
