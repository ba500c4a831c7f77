"""A pattern: which accesses are wanted, and what a guest may do without anybody being asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracer.access.decision import NO_LEEWAY, Leeway, Origin
from tracer.access.region import UNASSIGNED, RegionMap
from tracer.query.condition import Condition
from tracer.query.condition.vocabulary import Facts
from tracer.query.facts import Partial, facts_of_region
from tracer.query.input_flags import flags_of
from tracer.query.input_place import InputSpot
from tracer.query.origin import NAMELESS, facts_of_origin, may_refuse
from tracer.query.place import Place
from tracer.x86.bus import Direction


@dataclass(frozen=True, slots=True)
class Pattern:
    """Say which accesses are wanted; what is None lets all of them pass."""

    direction: Direction | None = None
    place: Place | InputSpot | None = None
    condition: Condition | None = None

    def fits(self, facts: Facts) -> bool:
        """Tell whether an access has the direction and the place, whatever the condition."""
        return (self.direction is None or facts["direction"] == self.direction) and (
            self.place is None or self.place.holds(facts)
        )

    def wants(self, facts: Facts) -> bool:
        """Tell whether an access fits and the condition holds.

        Raises ConditionError where the condition has no answer.
        """
        return self.fits(facts) and (self.condition is None or self.condition.holds(facts))

    @property
    def needs_value(self) -> bool:
        """Tell whether a read can be judged only once the device has answered."""
        return self.condition is not None and self.condition.needs_value

    @property
    def facts(self) -> frozenset[str]:
        """Return the names of the facts that it asks for."""
        spots = self.place.spots if self.place is not None else ()
        asked = [spot.condition.names for spot in spots]
        if self.condition is not None:
            asked.append(self.condition.names)
        return frozenset().union(*asked)

    def places(self, regions: RegionMap) -> Sequence[range] | None:
        """Return the physical addresses of what it may want, None for any.

        A condition that counts accesses has to see all of them.
        """
        if self.place is not None:
            return list(self.place.ranges(regions))
        condition = self.condition
        if condition is None or "count" in condition.names:
            return None
        found = [
            range(region.start, region.end + 1)
            for region in regions.regions
            if condition.can_hold(facts_of_region(region.name, region.owners))
        ]
        if len(found) == len(regions.regions):
            return None
        if condition.can_hold(facts_of_region(UNASSIGNED, (UNASSIGNED,))):
            found += regions.unassigned
        return found

    def may_come_from(self, origin: Origin) -> bool:
        """Tell whether an instruction, by all that is known of it, can make what it may want."""
        judged = self.condition if self._is_judged_apart else None
        return any(
            (self.direction is None or facts["direction"] in (None, self.direction))
            and (judged is None or judged.can_hold(facts))
            for facts in facts_of_origin(origin)
        )

    @property
    def _is_judged_apart(self) -> bool:
        # Tells whether what the condition says of one access depends on no other one.
        condition = self.condition
        return condition is not None and condition.names.isdisjoint(_OF_OTHERS)

    @property
    def _is_of_code(self) -> bool:
        condition = self.condition
        if condition is None or not self._is_judged_apart:
            return False
        return not condition.can_hold(NAMELESS)

    @property
    def _is_of_instructions(self) -> bool:
        asked = self.condition.names if self.condition and self._is_judged_apart else ()
        return self.direction is not None or not _OF_INSTRUCTIONS.isdisjoint(asked)

    def _begins(self, now_ns: int) -> Leeway | None:
        # Returns the leeway until it may want anything at all, None where that is now.
        condition = self.condition
        if condition is None or not condition.moments or not self._is_judged_apart:
            return None
        times = (
            now_ns,
            *(time for at in condition.moments for time in (at, at + 1) if time > now_ns),
        )
        may = [time for time in times if condition.can_hold(Partial(time=time))]
        if not may:
            return Leeway()
        return None if may[0] == now_ns else Leeway(until_ns=may[0])

    def leeway(self, regions: RegionMap, now_ns: int) -> Leeway:
        """Return which accesses it wants in no case, from the guest's time ``now_ns`` on.

        What says most is taken: which code makes them; or where they are; or from which time on
        they are; or which instructions make them. Inputs are told by where they are.
        """
        found = self._leeway(regions, now_ns)
        if found.until_ns is not None or not regions.inputs:
            return found
        return replace(found, inputs=self.inputs(regions))

    def inputs(self, regions: RegionMap) -> int:
        """Return the set of inputs that it may want."""
        conditions: list[tuple[Condition, ...]] = []
        if self.condition is not None:
            conditions.append((self.condition,))
        if self.place is not None:
            conditions.append(tuple(spot.condition for spot in self.place.spots))
        near = self.place.span if isinstance(self.place, InputSpot) else None
        return flags_of(self.direction, tuple(conditions), regions.inputs, regions.ports, near)

    @property
    def of_registers(self) -> bool:
        """Tell whether one register that CPUID gives is wanted, and another may not be."""
        asked = {"offset", "address", "register", "value", "changes"}
        if self.condition is not None and not self.condition.names.isdisjoint(asked):
            return True
        if isinstance(self.place, InputSpot):
            return self.place.of_register
        return self.place is not None and not self.facts.isdisjoint(asked)

    def _leeway(self, regions: RegionMap, now_ns: int) -> Leeway:
        interested = Leeway(interests=(self,))
        if self._is_of_code:
            return interested
        places = self.places(regions)
        if places is not None:
            return Leeway(places)
        begins = self._begins(now_ns)
        if begins is not None:
            return begins
        return interested if self._is_of_instructions else NO_LEEWAY


_OF_OTHERS = frozenset(("count", "changes"))
"""Facts for which an access that nobody was asked about has to be known."""

_OF_INSTRUCTIONS = frozenset(
    (
        "$rip", "symbol", "function", "module", "mnemonic", "direction", "width", "extent",
        "cpl", "via", "space", "port", "msr", "leaf", "subleaf", "data", "cause",
        "source",
    )
)  # fmt: skip
"""Facts that are the same for all accesses that an instruction makes, or nearly."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Be interested in what the handler of a profile may not survive, as far as it is wanted."""

    profile: str
    pattern: Pattern

    def may_come_from(self, origin: Origin) -> bool:
        """Tell whether an instruction can make such an access."""
        return self.pattern.may_come_from(origin) and may_refuse(self.profile, origin)
