"""The course of a run so far, for conditions that ask for what was before an access."""

from __future__ import annotations

from collections.abc import Iterable

from tracer.query.condition.vocabulary import Between
from tracer.trace.marker import Stretch, is_marker
from tracer.trace.record import Mark, Record


class Marks:
    """Follow the marks of a run: which was the last, and which two of them the run is between.

    The stretches that will be asked for are given, or else the marks are ``kept``.
    """

    def __init__(self, stretches: Iterable[Between] = (), *, kept: bool = False) -> None:
        self.last = ""
        self.stretches = {each: Stretch(each.first, each.last) for each in stretches}
        self._past: list[Mark] | None = [] if kept else None

    def add(self, record: Record) -> None:
        """Take the next record of the run."""
        for each in self.stretches.values():
            each.add(record)
        if isinstance(record, Mark):
            if is_marker(record):
                self.last = record.text
            if self._past is not None:
                self._past.append(record)

    @property
    def count(self) -> int:
        """Return how many marks there have been, of those that are kept."""
        return len(self._past or ())

    def upto(self, count: int) -> Marks:
        """Return them as they were when there had been so many."""
        past = Marks(kept=True)
        for record in (self._past or ())[:count]:
            past.add(record)
        return past

    def between(self, name: str, *, next_: bool = True) -> bool | None:
        """Return whether the next access is between two marks, or else the last record.

        None where that is not what is asked.
        """
        if not isinstance(name, Between):
            return None
        if name not in self.stretches and self._past is not None:
            self.stretches[name] = Stretch(name.first, name.last)
            for record in self._past:
                self.stretches[name].add(record)
        found = self.stretches[name]
        return found.goes_on if next_ else found.open


class Changes:
    """Remember the last value at each place, for each who asks.

    Memory grows with the places and with who asks, not with the accesses.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[tuple[object, ...], object]] = {}

    def asked(self, asker: str, place: tuple[object, ...], value: object) -> bool:
        """Tell whether a value is another than at the last asking; one not known always is."""
        if value is None:
            return True
        known = self._last.setdefault(asker, {})
        last, known[place] = known.get(place), value
        return last != value
