"""Tell markers, which somebody set for a reader, from the marks that are a trace's own business."""

from __future__ import annotations

from tracer.trace import Mark

ENTRY = "kernel entry"
"""The text of the mark at the kernel's first instruction."""

PHASE = "phase: "
"""Opens the text of a mark that names a phase."""

LOG_LINES = ("PCIDEV ", "LSPCI ", "UNMAP ")
"""Open the texts that are lines of a log, of which a trace has no record."""

NOT_UNDERSTOOD = "not understood: "
"""Opens the text that is a line of a log which nobody understood."""


def is_marker(mark: Mark) -> bool:
    """Tell whether a mark is to be shown to a reader of the trace.

    It is not when it only says where the trace begins, names a phase (which has a way of its own
    to be shown) or keeps a line of a log.
    """
    return mark.text != ENTRY and not mark.text.startswith((PHASE, *LOG_LINES))


def names_stretch(mark: Mark) -> bool:
    """Tell whether a mark can name what comes after it: a marker that somebody set on purpose."""
    return is_marker(mark) and not mark.text.startswith(NOT_UNDERSTOOD)
