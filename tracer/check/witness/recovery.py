"""After a difference: the nearest place from which on a trace and a log agree again.

They agree again where eight log entries in a row are the next accesses of the trace. Of all such
places the one is taken before which the fewest accesses, or entries where those are more, are left
out. A near one is found by trying; a far one by prints of eight entries in a row, so that its price
grows with the distance and not with its square.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from tracer.check.comparison import TracedAccess
from tracer.check.qemu_log import LogEntry
from tracer.check.witness.alignment import cost
from tracer.check.witness.fingerprint import IN_A_ROW, Fingerprints, Manner
from tracer.check.witness.reading import fit
from tracer.check.witness.side import Side, Strand

_NEAR = 32  # accesses or entries within which every place is tried
_MARGIN = 64  # entries beyond a place, enough for eight in a row of accesses told by several
_LONG = 512  # entries over which places at the same distance are told apart
_TRIED = 4  # places with the same print that are tried
_WIDEST = 16  # entries of one access


class Place(NamedTuple):
    """Tell how many accesses and how many entries come before a place."""

    accesses: int
    entries: int


def agreement(
    traced: Sequence[TracedAccess], logged: Sequence[LogEntry], place: Place, enough: int
) -> tuple[int, Place]:
    """Return over how many entries both agree from a place on, and the place where that ends.

    It ends after ``enough`` entries. What an access of unknown extent may have been does not count.
    """
    count, (i, j) = 0, place
    while count < enough and i < len(traced):
        used, agrees = fit(traced[i], logged, j)
        if not agrees:
            break
        count += used if traced[i].width else 0
        i, j = i + 1, j + used
    return count, Place(i, j)


class _Table:
    # The rows of both sides by their prints.

    def __init__(self, *, values: bool) -> None:
        self._ours, self._theirs = Fingerprints(values=values), Fingerprints(values=values)
        self._here: defaultdict[int, list[int]] = defaultdict(list)
        self._there: defaultdict[int, list[int]] = defaultdict(list)

    def extend(
        self, traced: Sequence[TracedAccess], logged: Sequence[LogEntry], manner: Manner
    ) -> None:
        self._ours.add_accesses(traced[len(self._ours.starts) :], manner)
        self._theirs.add_entries(logged[len(self._theirs.starts) :])

    # The places at this distance where a row of one side has the print of one of the other.
    def meet(self, number: int) -> Iterator[Place]:
        ours = self._ours.row(number)
        if ours is not None:
            self._here[ours].append(number)
        theirs = self._theirs.row(number)
        if theirs is not None:
            self._there[theirs].append(number)
            yield from (Place(access, number) for access in self._here.get(theirs, ())[:_TRIED])
        if ours is not None:
            yield from (Place(number, entry) for entry in self._there.get(ours, ())[:_TRIED])


class Recovery:
    """Look for the place where one strand's accesses and entries agree again."""

    def __init__(self, traced: Side[TracedAccess], logged: Side[LogEntry], strand: Strand) -> None:
        self._traced = traced
        self._logged = logged
        self._strand = strand
        self._accesses: list[TracedAccess] = []
        self._entries: list[LogEntry] = []
        self._ended = False  # nothing more on either side is within reach

    def place(self) -> Place:
        """Return the nearest place at which both sides agree again, or end."""
        self._look(_NEAR)
        found = self._near() or self._far()
        if found is not None:
            return found
        everything = Place(len(self._accesses), len(self._entries))
        if (self._traced.ended and self._logged.ended) or self._have_much_in_common():
            return everything
        # The trace lacks more than can be held.
        return Place(0, everything.entries)

    def agrees(self, place: Place) -> bool:
        """Tell whether both sides agree from a place on, over enough entries or to their ends."""
        if place == (0, 0):
            return False  # the difference
        count, (i, j) = agreement(self._accesses, self._entries, place, IN_A_ROW)
        ended = self._ended and i == len(self._accesses) and j == len(self._entries)
        return count >= IN_A_ROW or ended

    # See at least so many accesses and entries, and what tells that they agree.
    def _look(self, count: int) -> None:
        wanted = count + _MARGIN
        self._accesses = self._traced.view(self._strand, wanted)
        self._entries = self._logged.view(self._strand, wanted)
        self._ended = len(self._accesses) < wanted and len(self._entries) < wanted

    def _near(self) -> Place | None:
        for distance in range(1, _NEAR + 1):
            places = [place for place in self._around(distance) if self.agrees(place)]
            if places:
                return self._best(places)
        return None

    def _around(self, distance: int) -> Iterator[Place]:
        if distance <= len(self._accesses):
            for entries in range(min(distance, len(self._entries) + 1)):
                yield Place(distance, entries)
        if distance <= len(self._entries):
            for accesses in range(min(distance, len(self._accesses)) + 1):
                yield Place(accesses, distance)

    # Several places agree for a while where accesses repeat.
    def _best(self, places: Sequence[Place]) -> Place:
        if len(places) == 1:
            return places[0]
        self._look(_NEAR + _LONG)
        runs = {
            place: agreement(self._accesses, self._entries, place, _LONG)[0] for place in places
        }
        longest = max(runs.values())
        return min(
            (place for place in places if runs[place] == longest),
            key=lambda place: (
                cost(self._accesses[: place.accesses], self._entries[: place.entries]),
                abs(place.accesses - place.entries),
            ),
        )

    def _far(self) -> Place | None:
        manner, learnt, distance, size = Manner(), 0, 0, _NEAR
        # Values tell places apart where addresses repeat; where they are not known, addresses do.
        tables = _Table(values=True), _Table(values=False)
        while True:
            size *= 2
            self._look(size)
            manner.learn(self._entries[learnt:])
            learnt = len(self._entries)
            for table in tables:
                table.extend(self._accesses, self._entries, manner)
            seen = max(len(self._accesses), len(self._entries))
            whole = seen < size + _MARGIN
            for number in range(distance, seen if whole else size):
                places = chain.from_iterable(table.meet(number) for table in tables)
                found = next((place for place in places if self.agrees(place)), None)
                if found is not None:
                    return self._backwards(found)
            if whole:
                return None
            distance = size

    # An item without a print of its own may agree before.
    def _backwards(self, place: Place) -> Place:
        accesses, entries = place
        while accesses and self._accesses[accesses - 1].width:
            access = self._accesses[accesses - 1]
            for used in range(1, min(entries, _WIDEST) + 1):
                if fit(access, self._entries[entries - used : entries]) == (used, True):
                    accesses, entries = accesses - 1, entries - used
                    break
            else:
                break
        return Place(accesses, entries) if accesses or entries else place

    def _have_much_in_common(self) -> bool:
        ours, theirs, manner = Fingerprints(), Fingerprints(), Manner()
        manner.learn(self._entries)
        ours.add_accesses(self._accesses, manner)
        theirs.add_entries(self._entries)
        common = Counter(ours.numbers) & Counter(theirs.numbers)
        return 2 * common.total() >= min(len(ours.numbers), len(theirs.numbers))
