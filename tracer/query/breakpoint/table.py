"""The table of breaks, and what an access does to it. Each change returns a new value."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from tracer.access.decision import Leeway
from tracer.access.region import RegionMap
from tracer.errors import ConditionError, UsageError
from tracer.query.breakpoint.state import CALLS, Break, Judged, Kind, counted
from tracer.query.called import CalledFacts, check_of_call
from tracer.query.condition import Condition
from tracer.query.condition.vocabulary import Facts
from tracer.text.number import ends, whole
from tracer.x86.bus import Direction

_break_number = partial(whole, what="number of a break", like="2 is, and 2-4 are")


@dataclass(frozen=True, slots=True)
class Row:
    """Hold a line of ``info breaks``."""

    number: int
    kind: Kind
    enabled: bool
    hits: int
    text: str
    note: str


@dataclass(frozen=True, slots=True)
class Breaks:
    """Hold all breaks, oldest first; ``last`` is the highest number that was ever given.

    ``met`` has the numbers of those that an access was stopped by last.
    """

    items: tuple[Break, ...] = ()
    last: int = 0
    met: tuple[int, ...] = ()

    def added(self, item: Break) -> Breaks:
        """Return them with one more, at the end, under a number of its own."""
        number = self.last + 1
        return replace(self, items=(*self.items, replace(item, number=number)), last=number)

    def find(self, number: int) -> Break:
        """Return the break with a number. Raises UsageError when there is none."""
        for item in self.items:
            if item.number == number:
                return item
        there = ", ".join(str(item.number) for item in self.items)
        raise UsageError(f"there is no break {number}; there are: {there or 'none at all'}")

    def numbers(self, text: str) -> tuple[int, ...]:
        """Return the numbers in ``1 3-5``, each of a break there is; of all for no text.

        Raises UsageError.
        """
        found: list[int] = []
        for word in text.split():
            first, last = ends(word, _break_number)
            if first == last:
                found.append(self.find(first).number)
                continue
            inside = [item.number for item in self.items if first <= item.number <= last]
            if not inside:
                raise UsageError(f"there is no break from {first} to {last}")
            found += inside
        if not text.strip():
            found = [item.number for item in self.items]
        return tuple(dict.fromkeys(found))

    def deleted(self, numbers: Iterable[int]) -> Breaks:
        """Return them without some. Raises UsageError for a number there is not."""
        gone = {self.find(number).number for number in numbers}
        return replace(self, items=tuple(i for i in self.items if i.number not in gone))

    def enabled(self, numbers: Iterable[int], enabled: bool = True) -> Breaks:
        """Return them with some enabled, or disabled. Raises UsageError as :meth:`find`."""
        chosen = {self.find(number).number for number in numbers}
        return replace(
            self,
            items=tuple(
                replace(item, enabled=enabled) if item.number in chosen else item
                for item in self.items
            ),
        )

    def ignoring(self, number: int, count: int) -> Breaks:
        """Return them with one that does not stop at its next ``count`` hits; 0 takes that back.

        Raises UsageError for a negative count, and as :meth:`find`.
        """
        if count < 0:
            raise UsageError(f"break {number} cannot ignore {count} hits")
        return self._replaced(replace(self.find(number), ignore=count))

    def conditioned(self, number: int, condition: Condition | None) -> Breaks:
        """Return them with another condition of one, or with none. Raises as :meth:`find`."""
        item = self.find(number)
        if item.kind in CALLS:
            check_of_call(condition)
        return self._replaced(replace(item, pattern=replace(item.pattern, condition=condition)))

    def _replaced(self, item: Break) -> Breaks:
        items = (item if old.number == item.number else old for old in self.items)
        return replace(self, items=tuple(items))

    def anew(self) -> Breaks:
        """Return them for a guest that begins again: none has been hit yet."""
        items = tuple(replace(item, hits=0, fitted=0) for item in self.items)
        return replace(self, items=items, met=())

    @property
    def needs_stack(self) -> bool:
        """Tell whether any that is enabled asks for the functions under way."""
        return any(item.enabled and item.needs_stack for item in self.items)

    @property
    def needs_value(self) -> bool:
        """Tell whether any that is enabled has to see a read's answer."""
        return any(item.enabled and item.needs_value for item in self.items)

    def check(self, facts: Judged, *, answered: bool | None = False) -> Checked:
        """Judge one access, and count it.

        Before a read is made, those that need its value are left out; once it is ``answered``
        they alone are judged; of one that was recorded, which is None, all are. A break whose stops
        are used up is gone from what is returned.
        """

        def concerned(item: Break) -> bool:
            reads = facts["direction"] == "read" and facts["space"] not in ("irq", "msi")
            waits = item.needs_value and reads
            return (answered is None or waits is answered) and item.fits(facts)

        return self._checked(facts, concerned)

    def check_call(self, facts: CalledFacts) -> Checked:
        """Judge one call of a confidential guest, and count it, likewise."""
        return self._checked(facts, lambda item: item.takes(facts.called))

    def _checked(self, facts: Facts, concerned: Callable[[Break], bool]) -> Checked:
        kept: list[Break] = []
        stops: list[Break] = []
        errors: list[ConditionError] = []
        changed = False
        for item in self.items:
            if not item.enabled or not concerned(item):
                kept.append(item)
                continue
            changed = True
            try:
                item, stopped = counted(item, facts)
            except ConditionError as error:
                errors.append(error.of(f"break {item.number}"))
                item, stopped = replace(item, fitted=item.fitted + 1), False
            if stopped:
                stops.append(item)
            if item.remaining != 0:
                kept.append(item)
        met = tuple(item.number for item in stops)
        after = replace(self, items=tuple(kept), met=met) if changed else self
        return Checked(after, tuple(stops), tuple(errors))

    def leeway(self, regions: RegionMap, now_ns: int) -> Leeway:
        """Return which accesses the guest may make without a stop for any of them."""
        found = Leeway()
        for item in self.items:
            found = found.within(item.leeway(regions, now_ns))
        return found

    def passed(self, direction: Direction | None) -> Breaks:
        """Return them with an access counted that the guest has made without a stop."""
        if not any(item.counts for item in self.items):
            return self
        return replace(self, items=tuple(item.passed(direction) for item in self.items))

    def describe(self) -> list[Row]:
        """Return the rows of ``info breaks``."""
        return [
            Row(item.number, item.kind, item.enabled, item.hits, item.text, item.note)
            for item in self.items
        ]


@dataclass(frozen=True, slots=True)
class Checked:
    """Hold what an access did to the breaks.

    ``stops`` are those that stop the guest, counted up; ``errors`` name the breaks whose condition
    has no answer, which stop it too.
    """

    breaks: Breaks
    stops: tuple[Break, ...] = ()
    errors: tuple[ConditionError, ...] = ()

    @property
    def stopped(self) -> bool:
        """Tell whether the guest is to stop."""
        return bool(self.stops or self.errors)
