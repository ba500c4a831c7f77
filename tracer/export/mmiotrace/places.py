"""Name the physical addresses of a log: by its marks, by its devices' BARs, by its mappings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from tracer.trace.record import RegionInfo
from tracer.x86.state import PAGE_SIZE

_UNKNOWN = "unknown"  # whose device a place is, where only mappings and accesses tell of it


class Rank(IntEnum):
    """Say where a place is known from; of places that overlap the higher rank names an access."""

    PAGE = 0  # from an access alone
    MAPPING = 1
    BAR = 2
    MARK = 3  # of a trace of vetrace's own


@dataclass(frozen=True, slots=True)
class Place:
    """Hold a named range of physical addresses, both ends included.

    ``slot`` is where a PCI device is on its bus (``00:03.0``), empty where that is not known.
    """

    start: int
    end: int
    name: str
    device: str
    rank: Rank
    slot: str = ""

    @property
    def info(self) -> RegionInfo:
        """Return the place as a trace announces it."""
        return RegionInfo(
            name=self.name, start=self.start, end=self.end, qemu_name="",
            device=self.device, traced=True,
            within=[self.slot] if self.slot else [],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """Describe a memory BAR by its number, and by start and length in bytes."""

    number: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """Return the last address."""
        return self.start + self.length - 1


class Places:
    """Collect the places of one log; no two have the same name, but one that moved or grew."""

    def __init__(self) -> None:
        self._places: list[Place] = []  # but for pages, of which there may be many
        self._pages: dict[int, Place] = {}
        self._known: set[Place] = set()
        self._devices: set[str] = set()
        self._drivers: Counter[str] = Counter()
        self._identities: set[tuple[str, ...]] = set()
        self._in_page: dict[int, tuple[Place, ...]] = {}

    def find(self, physical: int) -> Place | None:
        """Return the place of an address: the smallest, and then the last, of the highest rank."""
        page = physical // PAGE_SIZE
        known = self._in_page.get(page)
        if known is None:
            start = page * PAGE_SIZE
            overlapping = reversed(self._overlapping(start, start + PAGE_SIZE - 1))
            known = self._in_page[page] = tuple(sorted(overlapping, key=_precedence))
        within = (place for place in known if place.start <= physical <= place.end)
        return next(within, self._pages.get(page))

    def add_mark(self, info: RegionInfo) -> bool:
        """Add what a mark announces; tell whether it is new.

        What vetrace announced of a log that it had imported is what it was in that log.
        """
        start, end = info.start, info.end
        rank = Rank.MARK
        if not info.qemu_name:
            rank = Rank.MAPPING if info.device == _UNKNOWN else Rank.BAR
            if (info.name, start, end) == (_page_name(start), *_page_of(start)):
                rank = Rank.PAGE
        slot = info.within[0] if rank is Rank.BAR and info.within else ""
        place = Place(start, end, info.name, info.device, rank, slot)
        if rank < Rank.MARK and place in self._known:
            return False
        self._add(place)
        return True

    def add_device(
        self, driver: str, slot: str, identity: tuple[str, ...], bars: Iterable[Bar]
    ) -> list[Place]:
        """Add the memory BARs of a PCI device and return them.

        A further device of the same driver is ``nvme#2``, ``nvme#3`` in the order of the log, as in
        a trace of vetrace's own. ``identity`` is what it is known by when it comes again: then it
        adds nothing.
        """
        if identity in self._identities:
            return []
        self._identities.add(identity)
        device = ""
        while not device or device in self._devices:
            self._drivers[driver] += 1
            number = self._drivers[driver]
            device = driver if number == 1 else f"{driver}#{number}"
        self._devices.add(device)
        return [
            self._add(
                Place(bar.start, bar.end, f"{device}.bar{bar.number}", device, Rank.BAR, slot)
            )
            for bar in bars
        ]

    def add_mapping(self, start: int, end: int) -> tuple[list[str], Place | None]:
        """Add what was mapped where no place covers it: one place, however many pages it has.

        Return the names of the places within, and what was added. A mapping that begins where an
        earlier one does, and is longer, is the same place grown.
        """
        known = self._overlapping(start, end)
        names = list(dict.fromkeys(place.name for place in known))
        if _cover(known, start, end):
            return names, None
        place = self._add(Place(start, end, f"map-{start:#x}", _UNKNOWN, Rank.MAPPING))
        return list(dict.fromkeys([*names, place.name])), place

    def add_page(self, physical: int) -> Place:
        """Add the page of an address of which nothing else is known, and return it."""
        start, end = _page_of(physical)
        return self._add(Place(start, end, _page_name(start), _UNKNOWN, Rank.PAGE))

    def _add(self, place: Place) -> Place:
        self._known.add(place)
        if place.rank is Rank.PAGE:
            self._pages[place.start // PAGE_SIZE] = place
        else:
            self._places.append(place)
            self._in_page.clear()
        return place

    def _overlapping(self, start: int, end: int) -> list[Place]:
        return [place for place in self._places if place.start <= end and start <= place.end]


def _page_of(physical: int) -> tuple[int, int]:
    start = physical - physical % PAGE_SIZE
    return start, start + PAGE_SIZE - 1


def _page_name(start: int) -> str:
    return f"page-{start:#x}"


def _precedence(place: Place) -> tuple[int, int]:
    return -place.rank, place.end - place.start


def _cover(places: list[Place], start: int, end: int) -> bool:
    for place in sorted(places, key=lambda place: place.start):
        if place.start > start:
            return False
        start = max(start, place.end + 1)
    return start > end
