"""A journey through a tape: on to the next access that is wanted, or back to the last one before.

It can be stopped at any time, and then ends at an access of which it knows that nothing between
there and its beginning is wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from tracer.query.breakpoint import Breaks
from tracer.repl.search import Search, Spot
from tracer.session.course import INTERRUPTED
from tracer.trace.tape import Tape

TURN = 256
"""Accesses after which others have their turn: Ctrl-C, above all."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Say at which place on a tape a journey has ended and why; ``breaks`` have counted their hits.

    The place behind the last access is the end of the trace.
    """

    place: int
    why: str
    breaks: Breaks


class Journey:
    """Go through a tape until a search ends, or until it is ``stopped``.

    ``passed`` is called with each access that is gone past forwards; without it a chunk that has
    nothing wanted is passed over.
    """

    def __init__(
        self, tape: Tape, search: Search, passed: Callable[[Spot], None] | None = None
    ) -> None:
        self.stopped = False
        self._tape = tape
        self._search = search
        self._passed = passed

    # ---- forwards

    async def forward(self, origin: int, last: int | None, *, stands: bool) -> Arrival:
        """Go on to the first access that is wanted, or to that at the place ``last``.

        It begins behind the access at ``origin``, or with that unless one ``stands`` there.
        """
        tape, search, untouched = self._tape, self._search, self._search.breaks
        place = origin + stands
        if search.looks_back:
            await self._primed(place)
            if self.stopped:
                return self._stays(origin, untouched)
            search.settle()
        if stands and self._passed is not None:
            self._passed(self._spot(origin))
        while place < tape.accesses or tape.more():
            if self.stopped:
                found = search.why(self._spot(place))
                return Arrival(place, found or INTERRUPTED, search.breaks)
            number, part = next(tape.parts(place, tape.accesses))
            whole = last is None or last >= part.stop
            if whole and self._passed is None and search.passes(number):
                place = part.stop
                await asyncio.sleep(0)
                continue
            async for spot in self._spots(number, part):
                found = search.why(spot) or ("step" if spot.place == last else None)
                if found is not None:
                    return Arrival(spot.place, found, search.breaks)
                if self._passed is not None:
                    self._passed(spot)
                place = spot.place + 1
        return Arrival(place, "", search.breaks)

    # ---- back

    async def backward(self, origin: int, lowest: int, otherwise: str) -> Arrival:
        """Go back from an access, or from the end, to the last that is wanted before it.

        That is the access at the place ``lowest``, at the latest; ``otherwise`` says why it is.
        """
        search, untouched = self._search, self._search.breaks
        if search.looks_back:
            found = [spot for spot in await self._primed(origin) if spot.place >= lowest]
            if self.stopped:
                return self._stays(origin, untouched)
            if found:
                return Arrival(found[-1].place, search.why_stopped(found[-1]), search.breaks)
            return Arrival(lowest, otherwise, search.breaks)
        end, width = origin, 1
        while end > lowest:
            # Windows grow, so that what is far away is not looked for chunk by chunk.
            number = max(self._tape.number_at(end - 1) - width + 1, 0)
            begin = max(self._tape.chunks[number].first, lowest)
            found = await self._met(begin, end)
            if self.stopped:
                return self._stays(end, search.breaks)
            for spot in reversed(found):
                why = search.why(spot)
                if why is not None:
                    return Arrival(spot.place, why, search.breaks)
            end, width = begin, 2 * width
        return Arrival(lowest, otherwise, search.breaks)

    # The accesses at which a search may end, from one place to another, that not included.
    async def _met(self, begin: int, end: int) -> list[Spot]:
        found = []
        for number, part in self._tape.parts(begin, end):
            if not self._search.passes(number):
                async for spot in self._spots(number, part):
                    if self._search.is_met(spot):
                        found.append(spot)
            await asyncio.sleep(0)
            if self.stopped:
                break
        return found

    # ---- either way

    async def to(self, place: int | None) -> Arrival:
        """Go to the access at a place, whatever is wanted on the way; None for the end."""
        tape, breaks = self._tape, self._search.breaks
        while place is None or place >= tape.accesses:
            if self.stopped:
                return self._stays(tape.accesses, breaks)
            if not tape.more():
                return Arrival(tape.accesses, "", breaks)
            await asyncio.sleep(0)
        return Arrival(place, f"access {tape.at(place).seq}", breaks)

    # A search that depends on all accesses before goes over them, up to a place.
    async def _primed(self, end: int) -> list[Spot]:
        self._search.forget()
        found = []
        for number, part in self._tape.parts(0, end):
            async for spot in self._spots(number, part):
                hit = self._search.prime(spot)
                if hit is not None:
                    found.append(hit)
            if self.stopped:
                break
        return found

    # The accesses of a part of one chunk; fewer once it is to stop.
    async def _spots(self, number: int, part: range) -> AsyncIterator[Spot]:
        first = self._tape.chunks[number].first
        events = self._tape.events(number)[part.start - first : part.stop - first]
        for place, event in enumerate(events, part.start):
            if place % TURN == 0:
                await asyncio.sleep(0)
                if self.stopped:
                    return
            yield Spot(place, event)

    def _spot(self, place: int) -> Spot:
        return Spot(place, self._tape.at(place))

    # At the end nothing can be stood at but the last access.
    def _stays(self, place: int, breaks: Breaks) -> Arrival:
        return Arrival(min(place, self._tape.accesses - 1), INTERRUPTED, breaks)
