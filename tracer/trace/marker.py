"""Tell markers, which somebody set for a reader, from the marks that are a trace's own business."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from tracer.trace.record import Mark, Record

ENTRY = "kernel entry"
"""The text of the mark at the kernel's first instruction."""

LOG_END = "end of QEMU's log"
"""The text of the mark that tells how long the log was when the guest had ended."""

PHASE = "phase: "
"""Opens the text of a mark that names a phase."""

LOG_LINES = ("PCIDEV ", "LSPCI ", "UNMAP ")
"""Open the texts that are lines of a log, of which a trace has no record."""

NOT_UNDERSTOOD = "not understood: "
"""Opens the text that is a line of a log which nobody understood."""


_RULED = "by "


def rule_note(ruled: Iterable[str]) -> str | None:
    """Return the note of a record whose accesses rules have changed, None where none did.

    ``ruled`` tells of each in words; those that are empty are left out.
    """
    told = ", ".join(dict.fromkeys(filter(None, ruled)))
    return f"{_RULED}{told}" if told else None


def ruled(note: str | None) -> str:
    """Return what the note of a record tells of rules; empty where it tells nothing of them."""
    return note.partition(";")[0] if note is not None and note.startswith(_RULED) else ""


def is_marker(mark: Mark) -> bool:
    """Tell whether a mark is to be shown to a reader of the trace.

    It is not when it only says where the trace begins or QEMU's log ends, names a phase (which has
    a way of its own to be shown) or keeps a line of a log.
    """
    own = mark.text in (ENTRY, LOG_END)
    return not own and not mark.text.startswith((PHASE, *LOG_LINES))


def names_stretch(mark: Mark) -> bool:
    """Tell whether a mark can name what comes after it: a marker that somebody set on purpose."""
    return is_marker(mark) and not mark.text.startswith(NOT_UNDERSTOOD)


class Stretch:
    """Follow the marks of a trace from one to another: what lies between is ``open``.

    A marker is meant that has ``first``, and after it ``last``, in its text, or fits it as a glob;
    and a mark that opens a phase where the text asked for begins so. Where they are None, the
    stretch begins with the trace, and ends with it. Both marks lie within.
    """

    def __init__(self, first: str | None = None, last: str | None = None) -> None:
        self.open = first is None
        self.missing = [text for text in (first, last) if text is not None]
        self.known: list[str] = []
        self.bounded = first is not None
        self._ends = False

    @property
    def goes_on(self) -> bool:
        """Tell whether what comes next is within."""
        return self.open and not self._ends

    def add(self, record: Record) -> None:
        """Take the next record of the trace; an access may be left out.

        ``missing`` has the marks that are still to come, ``known`` the first markers that came;
        ``bounded`` tells that the stretch has a first mark.
        """
        if self._ends:
            self.open = self._ends = False
        if not isinstance(record, Mark) or not self.missing:
            return
        if is_marker(record) and len(self.known) < _MOST_KNOWN and record.text not in self.known:
            self.known.append(record.text)
        if not _is_meant(record, self.missing[0]):
            return
        del self.missing[0]
        if self.open:
            self._ends = True
        else:
            self.open = True


_MOST_KNOWN = 20
_WILD = frozenset("*?[")


def _is_meant(mark: Mark, pattern: str) -> bool:
    if mark.text == pattern:
        return True
    if not is_marker(mark) and not (pattern.startswith(PHASE) and mark.text.startswith(PHASE)):
        return False
    return pattern in mark.text or (bool(_WILD & set(pattern)) and fnmatchcase(mark.text, pattern))
