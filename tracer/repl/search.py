"""A search through a trace: for breaks, and for what a command goes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tracer.errors import ConditionError
from tracer.query.breakpoint import CALLS, Break, Breaks, matches
from tracer.query.course import Changes, Marks
from tracer.query.facts import Course
from tracer.query.past import PastFacts, facts_of_kind, looks_back, may_stop
from tracer.repl.run import Goal
from tracer.trace.event import Event
from tracer.trace.name import RegionNames
from tracer.trace.record import Mark, RegionRecord
from tracer.trace.tape import Tape


@dataclass(frozen=True, slots=True)
class Spot:
    """Hold an access that was found, and its place on the tape; ``stops`` are breaks there."""

    place: int
    event: Event
    stops: tuple[int, ...] = ()


class Search:
    """Judge accesses by their places, counting the hits of ``breaks``.

    One that ``looks_back`` depends on accesses before: it has to be :meth:`prime`\\ d with those.
    """

    def __init__(self, tape: Tape, breaks: Breaks, goal: Goal | None) -> None:
        self.breaks = breaks
        self._tape = tape
        self._goal = goal
        enabled = [item for item in breaks.items if item.enabled and item.kind not in CALLS]
        self.looks_back = looks_back(enabled)
        self._enabled = enabled
        self._possible: dict[int, bool] = {}
        self._names = RegionNames()
        self._told = 0
        self._place = -1
        self._facts = PastFacts(Course(self._names, tape.stacks, Marks(kept=True), Changes()))

    # ---- what need not be looked at

    def passes(self, number: int) -> bool:
        """Tell whether nothing in a chunk can be wanted."""
        if self.looks_back:
            return False
        chunk, goal = self._tape.chunks[number], self._goal
        if goal is not None and goal.time_ns is not None and self._ends(number) >= goal.time_ns:
            return False
        return chunk.kinds is not None and not any(map(self._can_stop, chunk.kinds))

    # The guest's time when no access of a chunk comes any more.
    def _ends(self, number: int) -> int:
        chunks = self._tape.chunks
        return chunks[number + 1].time_ns if number + 1 < len(chunks) else self._tape.time_ns

    def _can_stop(self, number: int) -> bool:
        known = self._possible.get(number)
        if known is None:
            self._learn()
            kind = self._tape.kinds[number]
            facts = facts_of_kind(kind, self._names.owners(kind.region or ""))
            goal = self._goal
            timed = goal is not None and goal.time_ns is not None
            wanted = goal is not None and not timed and goal.may(facts)
            known = wanted or any(may_stop(item, facts) for item in self._enabled)
            self._possible[number] = known
        return known

    def _learn(self) -> None:
        told = self._tape.told
        for _, record in told[self._told :]:
            if isinstance(record, RegionRecord):
                self._names.learn(record)
        self._told = len(told)

    # ---- what is looked at

    def _at(self, spot: Spot) -> PastFacts:
        self._learn()
        course, event = self._facts.course, spot.event
        if spot.place < self._place:
            course.marks, self._place = Marks(kept=True), -1
        for record in self._marks(self._place, spot.place):
            course.marks.add(record)
        self._place = spot.place
        course.phase = event.phase
        self._facts.at(event.record, event.access, event.seq, event.named)
        return self._facts

    # The marks behind the access at one place, and before that at another.
    def _marks(self, after: int, place: int) -> Iterator[Mark]:
        tape = self._tape
        for _, record in tape.marks[tape.marks_before(after) : tape.marks_before(place)]:
            yield record

    def prime(self, spot: Spot) -> Spot | None:
        """Take notice of an access, counting what fits but no hit; return it if it is one."""
        facts = self._at(spot)
        stops = []
        items: list[Break] = []
        for item in self._enabled:
            if item.fits(facts):
                if self._hits(item, facts):
                    stops.append(item.number)
                item = replace(item, fitted=item.fitted + 1)
            items.append(item)
        self._enabled = items
        return replace(spot, stops=tuple(stops)) if stops or self._is_goal(facts) else None

    def forget(self) -> None:
        """Count from the beginning of the trace."""
        self._enabled = [replace(item, fitted=0) for item in self._enabled]

    def settle(self) -> None:
        """Have the breaks go on with what :meth:`prime` has counted."""
        fitted = {item.number: item.fitted for item in self._enabled}
        items = (
            replace(item, fitted=fitted.get(item.number, item.fitted)) for item in self.breaks.items
        )
        self.breaks = replace(self.breaks, items=tuple(items))

    def is_met(self, spot: Spot) -> bool:
        """Tell whether a break or the goal is met, counting nothing."""
        facts = self._at(spot)
        return self._is_goal(facts) or any(self._hits(item, facts) for item in self._enabled)

    def _hits(self, item: Break, facts: PastFacts) -> bool:
        try:
            return matches(item, facts)
        except ConditionError:
            return True  # which is told there

    def _is_goal(self, facts: PastFacts) -> bool:
        return self._goal is not None and self._goal.wanted(facts)

    def why(self, spot: Spot) -> str | None:
        """Return why to stand at an access, None to go on; the breaks count it."""
        facts = self._at(spot)
        checked = self.breaks.check(facts, answered=None)
        self.breaks = checked.breaks
        words = [str(error) for error in checked.errors]
        words += [f"break {item.number}: {item.text}" for item in checked.stops]
        if not words and self._goal is not None and self._is_goal(facts):
            words = [self._goal.text]
        return "; ".join(words) or None

    def why_stopped(self, spot: Spot) -> str:
        """Return the same of one that :meth:`prime` has found, counting the hits."""
        words = []
        items = []
        for item in self.breaks.items:
            if item.number in spot.stops:
                words.append(f"break {item.number}: {item.text}")
                item = replace(item, hits=item.hits + 1)
            items.append(item)
        self.breaks = replace(self.breaks, items=tuple(items), met=spot.stops)
        goal = "" if self._goal is None else self._goal.text
        return "; ".join(words) or goal
