"""Device accesses as events: the one place that makes them of records.

An event is an access with all that is known of it: its record, its number, its register, the phase
that the guest was in, and what came before it. Whatever shows, counts, compares or writes accesses
takes events, from a file or of a run that goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from tracer.devices.map import Named
from tracer.trace.call import CallRecord, SharedRecord
from tracer.trace.loss import Losses
from tracer.trace.marker import is_marker
from tracer.trace.member import Space
from tracer.trace.name import device_of
from tracer.trace.naming import Naming
from tracer.trace.phase import PhaseTracker
from tracer.trace.queue import QueueRecord
from tracer.trace.record import Intercept, LostRecord, Mark, MemoryAccess, Record, UserRecord
from tracer.trace.waiting import WaitRecord


# A struct and no dataclass: one is made for each access, in a fifth of the time.
class Event(msgspec.Struct, frozen=True):
    """Hold one device access with the record it is of, its number, and its phase, if known.

    ``named`` is the register that it is to, None where that has no name, ``device`` the device
    that its region belongs to. ``mark`` is the text of
    the marker before it, None where there was none. ``lost`` is how many events were lost since the
    access before it, None where that is not known.
    """

    seq: int
    record: Intercept
    access: MemoryAccess
    phase: str | None = None
    named: Named | None = None
    mark: str | None = None
    lost: int | None = 0
    device: str = ""

    @property
    def space(self) -> Space:
        """Return what the access is to: memory, a port, configuration space, an interrupt."""
        return self.access.space


Note = UserRecord | Mark | LostRecord | CallRecord | SharedRecord | WaitRecord | QueueRecord
"""A line between the accesses: a person's doing, a marker, a loss, a confidential guest's call."""


class Chooser(Protocol):
    """Choose among the device accesses of a run, and tell what is known of those chosen."""

    @property
    def phase(self) -> str | None:
        """Return the phase of the last record, None while it is unknown."""

    @property
    def named(self) -> Sequence[Named | None]:
        """Return the registers of the accesses last chosen, in their order."""

    def wanted(self, record: Record) -> list[tuple[int, MemoryAccess]]:
        """Return the device accesses of the next record that are chosen, with their numbers."""

    def device_of(self, region: str) -> str:
        """Return the name of the device that a region belongs to."""


class Everything:
    """Choose every access, and name it where there is a ``naming``."""

    def __init__(self, naming: Naming | None = None, phases: PhaseTracker | None = None) -> None:
        self.named: list[Named | None] = []
        self._naming = naming
        self._phases = phases or PhaseTracker()

    @property
    def phase(self) -> str | None:
        """Return the phase of the last record, None while it is unknown."""
        return self._phases.phase

    def wanted(self, record: Record) -> list[tuple[int, MemoryAccess]]:
        """Return all device accesses of the next record, with their numbers."""
        self._phases.add(record)
        naming = self._naming
        if not isinstance(record, Intercept):
            if naming is not None:
                naming.learn(record)
            return []
        made = record.device_accesses()
        self.named = [None if naming is None else naming.add(access) for _, access in made]
        return made

    def device_of(self, region: str) -> str:
        """Return the name of the device that a region belongs to."""
        return device_of(region) if self._naming is None else self._naming.device_of(region)


class Events:
    """Make events of the accesses that a chooser wants, by default of all, as records come.

    ``mark`` is the text of the marker before the first, None without.
    """

    def __init__(self, chooser: Chooser | None = None, mark: str | None = None) -> None:
        self.chooser = chooser or Everything()
        self._mark = mark
        self._losses: Losses | None = None

    def add(self, record: Record) -> list[Event]:
        """Take the next record; return an event for each of its accesses that is wanted."""
        chooser = self.chooser
        wanted = chooser.wanted(record)
        if not wanted or not isinstance(record, Intercept):
            return []
        phase, mark = chooser.phase, self._mark
        lost = 0 if self._losses is None else self._losses.known
        self._losses = None
        events = []
        for (seq, access), named in zip(wanted, chooser.named, strict=True):
            device = chooser.device_of(access.region or "")
            events.append(Event(seq, record, access, phase, named, mark, lost, device))
            lost = 0
        return events

    def note(self, record: Record) -> None:
        """Take a marker or a loss that the events after it are to tell of."""
        if isinstance(record, Mark):
            if is_marker(record):
                self._mark = record.text
        else:
            self._losses = self._losses or Losses()
            self._losses.add(record)


def events_of(record: Record) -> list[Event]:
    """Return an event for each device access of one record, of which nothing else is known."""
    if not isinstance(record, Intercept):
        return []
    return [Event(seq, record, access) for seq, access in record.device_accesses()]
