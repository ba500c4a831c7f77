"""Choose among the device accesses of a trace."""

from __future__ import annotations

from collections.abc import Iterable

from tracer.devices.map import Named, RegisterMap, RegisterMaps
from tracer.errors import ConditionError
from tracer.query.condition.vocabulary import OF_KIND, Facts
from tracer.query.course import Marks
from tracer.query.facts import (
    Course,
    Recorded,
    facts_of_deed,
    facts_of_note,
    facts_of_region,
    facts_of_touch,
)
from tracer.query.words import Selection
from tracer.trace.call import CallRecord, SharedRecord
from tracer.trace.marker import is_marker
from tracer.trace.naming import Naming
from tracer.trace.phase import PhaseTracker
from tracer.trace.record import Intercept, LostRecord, Mark, MemoryAccess, Record, UserRecord
from tracer.trace.waiting import WaitRecord


class Sieve:
    """Apply a selection to the records of a trace as they come.

    ``named`` has the registers of those accesses of the last record that are wanted, in their
    order; without ``maps`` none has a name. ``course`` is what the trace has come to. Memory grows
    with the places accessed, not with the accesses.
    """

    def __init__(self, selection: Selection, maps: RegisterMaps | None = None) -> None:
        self.selection = selection
        self.named: list[Named | None] = []
        self._condition = selection.condition
        stretches = list(() if self._condition is None else self._condition.stretches)
        stretches += [stretch for each in selection.asked for stretch in each.stretches]
        self.course = Course(marks=Marks(stretches))
        asks = [*([self._condition.names] if self._condition is not None else ())]
        asks += [each.names for each in selection.asked]
        deltas = any(each.deltas for each in selection.asked)
        self._asks_each = deltas or not frozenset().union(*asks) <= OF_KIND
        self._facts = Recorded(self.course)
        self._phases = PhaseTracker()
        self._naming = Naming(maps or RegisterMaps())
        self._possible: dict[str, bool] = {}

    @property
    def phase(self) -> str | None:
        """Return the phase of the last record, None while it is unknown."""
        return self.course.phase

    def wanted(self, record: Record) -> list[tuple[int, MemoryAccess]]:
        """Return the device accesses of the next record that are wanted, with their numbers.

        Raises ConditionError where the condition has no answer.
        """
        course = self.course
        course.phase = self._phases.add(record)
        self.named = []
        if not isinstance(record, Intercept):
            self._learn(record)
            return []
        made = record.device_accesses()
        if self._condition is None:
            self.named = [self._naming.add(access) for _, access in made]
            return made
        found = []
        facts, condition = self._facts, self._condition
        facts.record = record
        try:
            for item in made:
                facts.seq, facts.access = seq, access = item
                region = access.region or ""
                possible = self._possible.get(region)
                if possible is None:
                    possible = self.can_be_in(region)
                if not possible:
                    continue
                # Every access of a region is named: what a window shows depends on those before.
                facts.named = named = self._naming.add(access)
                if condition.holds(facts):
                    found.append(item)
                    self.named.append(named)
        except ConditionError as error:
            raise error.of(f"access {seq}") from None
        return found

    def _learn(self, record: Record) -> None:
        self._naming.learn(record)
        self.course.marks.add(record)
        self.course.stacks.learn(record)
        if self.course.regions.learn(record):
            self._possible.clear()

    def follows(self, record: Intercept) -> bool:
        """Tell whether records like this one have to come one by one, each in its place.

        They need not where what is asked of them is the same for all that are alike, and no name
        depends on another access.
        """
        return self._asks_each or any(map(self._naming.follows, record.accesses))

    def device_of(self, region: str) -> str:
        """Return the name of the device that a region belongs to."""
        return self._naming.device_of(region)

    def can_be_in(self, region: str) -> bool:
        """Tell whether an access to a region can be wanted, whatever else it is."""
        if self._condition is None:
            return True
        known = self._possible.get(region)
        if known is None:
            facts = facts_of_region(region, self.course.regions.owners(region))
            known = self._possible[region] = self._passes([facts])
        return known

    def wanted_user(self, record: UserRecord) -> bool:
        """Tell whether what a person did is wanted, once :meth:`wanted` has had the record.

        It is not where the condition is known not to hold of it, nor of an access it made.
        """
        touched = [
            facts_of_touch(record, access, self._naming.add(access), self.course)
            for access in record.accesses
        ]
        return self._passes(touched or [facts_of_deed(record, self.course)])

    def wanted_note(self, record: Mark | LostRecord) -> bool:
        """Tell whether a mark or a loss is wanted, once :meth:`wanted` has had the record.

        Of marks only markers are ever left out.
        """
        if isinstance(record, Mark) and not is_marker(record):
            return True
        # A marker of an imported trace is in the phase that it names.
        phases = {self.phase, record.text} if isinstance(record, Mark) else {self.phase}
        return self._passes(facts_of_note(record, self.course, phase) for phase in phases)

    def wanted_call(self, record: CallRecord | SharedRecord) -> bool:
        """Tell whether a confidential guest's call is wanted, which is to no device."""
        return self._passes([facts_of_deed(record, self.course)])

    @property
    def chooses(self) -> bool:
        """Tell whether there may be anything that is not wanted."""
        return self._condition is not None

    def wanted_wait(self, record: WaitRecord) -> bool:
        """Tell whether what a loop waits for is wanted: it is of a region."""
        facts = facts_of_deed(record, self.course)
        facts.update(facts_of_region(record.region, self.course.regions.owners(record.region)))
        return self._passes([facts])

    # Tells whether the condition can hold of any, as far as is known.
    def _passes(self, several: Iterable[Facts]) -> bool:
        if self._condition is None:
            return True
        try:
            return any(self._condition.test(facts) is not False for facts in several)
        except ConditionError:
            return True

    def map_of(self, region: str) -> RegisterMap | None:
        """Return the map that a region's registers have their names from, or None."""
        return self._naming.map_of(region)
