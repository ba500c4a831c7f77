"""The leash of a guest: it makes by itself the accesses that nobody wants to see, up to a stop.

A person at a prompt, rules and a host say how far it may go (:class:`Leeway`); compiled sites and
the monitor are told what that means for them.
"""

from __future__ import annotations

from collections.abc import Iterator

from tracer.access.decision import Leeway
from tracer.intercept.recording import RecordedDevice
from tracer.intercept.ring.lookout import Lookout
from tracer.intercept.ring.sites import CompiledSites
from tracer.intercept.view import GuestView


class Leash:
    """Keep a guest to what it may do by itself.

    ``asks_itself`` tells that its own kernel asks for accesses: they are of no site, and are not
    counted. ``recorded`` answers for its regions in place of their devices.
    """

    def __init__(
        self,
        view: GuestView,
        lookout: Lookout,
        sites: CompiledSites,
        recorded: RecordedDevice | None,
        *,
        asks_itself: bool,
    ) -> None:
        self._view = view
        self._lookout = lookout
        self._sites = sites
        self._recorded = recorded
        self._asks_itself = asks_itself

    def let(self, leeway: Leeway) -> bool:
        """Have the guest make by itself what it may; tell whether it can be kept to that."""
        sites = self._sites
        places, until_ns, until = leeway.places, leeway.until_ns, None
        if places is None or sites.are_for_inputs:
            return False
        if self._asks_itself and (leeway.interests or leeway.records is not None):
            return False
        if until_ns is not None:
            rate = self._view.rate
            if rate is None or not sites.block.idle:
                return False
            until = rate.counter_at(until_ns)
        stops, regions = sites.stops, self._view.regions
        due = (range(physical, physical + 1) for physical in self._lookout.due())
        wanted = [*places, *self._answered(), *due, *self._lookout.places(regions)]
        if not stops.of(leeway.interests) or not stops.at(wanted, regions.configuration):
            return False
        sites.open(leeway.records, until)
        return True

    def inputs(self, leeway: Leeway) -> tuple[int, int | None]:
        """Return which inputs are to take stops, and from which count of the TSC on all do."""
        inputs = leeway.inputs | self._lookout.inputs(self._view.regions)
        if leeway.until_ns is None:
            return inputs, None
        rate = self._view.rate
        # Accesses to memory take stops as long as the rate is not known, and will tell it.
        return inputs, None if rate is None else rate.counter_at(leeway.until_ns)

    def also(self) -> None:
        """Have accesses stop, too, that the lookout has found meanwhile to be worth a look."""
        for physical in self._lookout.due():
            self._sites.stops.also(physical)

    def _answered(self) -> Iterator[range]:
        # Yields the physical addresses that the recording answers for.
        if self._recorded is None:
            return
        for region in self._view.regions.regions:
            if self._recorded.covers(region):
                yield range(region.start, region.end + 1)
