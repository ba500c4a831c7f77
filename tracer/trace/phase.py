"""Tell in which phase of the boot a record was made, as far as a trace shows it.

A phase is how far the boot had got, or what a thread of the kernel did beside it.
A mark that begins with ``phase: `` names the phase from there on. Without such marks there are:
``decompressor``, code in the lower half of the address space before any of the kernel's own;
``early``, until the first mapping by ``ioremap_page_range``, for which the kernel's own page
allocator must run (before it there are fixed mappings alone); ``kernel``; and ``user space``, once
code at privilege level 3 has made an access itself.

Nobody knows on whose errand an access at a compiled site, or an input, was made, unless its record
has a thread or a stack: where marks tell phases, its own is unknown, but for ``user space``, which
is not left again.

A log that was imported tells nothing of these: there a phase is what follows a marker, and has its
text as its name.

Ref: Linux, Documentation/arch/x86/x86_64/mm.rst (the kernel has the upper half).
"""

from __future__ import annotations

from copy import copy

from tracer.trace.marker import PHASE, names_stretch
from tracer.trace.record import Intercept, MapRecord, Mark, Record

DECOMPRESSOR, EARLY, KERNEL, USER = "decompressor", "early", "kernel", "user space"

PHASES = (DECOMPRESSOR, EARLY, KERNEL, USER)
"""The phases that have no mark: any trace may have them."""

_UPPER_HALF = 1 << 47


def _is_unseen(record: Record) -> bool:
    if not isinstance(record, Intercept) or record.via not in ("compiled", "monitor"):
        return False
    return record.stack is None and record.thread is None


class PhaseTracker:
    """Follow the records of a trace."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._unseen = False
        self._marked = False
        self._marker: str | None = None

    def copy(self) -> PhaseTracker:
        """Return one that has followed the same records."""
        return copy(self)

    @property
    def phase(self) -> str | None:
        """Return the phase of the last record, None while it is unknown."""
        return None if self._unseen else self._phase

    def add(self, record: Record) -> str | None:
        """Take the next record; return its phase."""
        if isinstance(record, Intercept):
            self._unseen = self._marked and self._phase != USER and _is_unseen(record)
            if not self._marked:
                self._phase = self._of(record)
            return self.phase
        self._unseen = False
        if isinstance(record, Mark):
            if record.text.startswith(PHASE):
                self._phase, self._marked = record.text[len(PHASE) :], True
            elif names_stretch(record):
                self._marker = record.text
        elif self._marked:
            pass
        elif isinstance(record, MapRecord) and record.by.startswith("ioremap"):
            self._phase = KERNEL if self._phase in (None, DECOMPRESSOR, EARLY) else self._phase
        return self.phase

    def _of(self, record: Intercept) -> str | None:
        if record.imported:
            return self._marker
        if record.cpl == 3:
            return USER
        if self._phase in (None, DECOMPRESSOR):
            return DECOMPRESSOR if record.rip < _UPPER_HALF else EARLY
        return self._phase
