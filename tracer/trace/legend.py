"""The legend of a trace, by which rows are read: sites by number, and regions by address.

Earlier lines have told both. A region is found by a physical address, or by a port: the last
:class:`PlacesRecord` counts, as devices move.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from tracer.compiled.layout import LARGEST_ADDRESS_BITS
from tracer.compiled.reading import accesses, transfers
from tracer.compiled.ring import Raw
from tracer.errors import TraceError
from tracer.trace.compiled import Place, PlacesRecord, SiteRecord
from tracer.trace.record import MemoryAccess
from tracer.trace.site import Site, site_of
from tracer.x86.bus import Direction

_MASK64 = (1 << 64) - 1
_PHYSICAL = 1 << LARGEST_ADDRESS_BITS
_MOST_FOUND = 1 << 16


class Legend:
    """Know the sites that rows name by number, and the regions that their accesses reach.

    Memory grows with the sites, not with the rows.
    """

    def __init__(self) -> None:
        self._sites: dict[int, Site] = {}
        self._memory = self._ports = _Places(())
        # By physical address and direction: region and offset, or nothing that is traced.
        self._found: dict[tuple[int, Direction], tuple[str, int] | None] = {}

    def copy(self) -> Legend:
        """Return one that knows the same."""
        made = Legend()
        made._sites = dict(self._sites)
        made._memory, made._ports = self._memory, self._ports
        return made

    def learn(self, line: SiteRecord | PlacesRecord) -> None:
        """Take a line in: of rows behind it the site, or where devices are."""
        if isinstance(line, SiteRecord):
            self._sites[line.number] = site_of(line)
            return
        self._memory = _Places([place for place in line.places if place.space == "memory"])
        self._ports = _Places([place for place in line.places if place.space == "port"])
        self._found.clear()

    def site(self, number: int) -> Site:
        """Return a site. Raise :exc:`TraceError` where no line has told of it."""
        site = self._sites.get(number)
        if site is None:
            raise TraceError(f"a record of site {number}, which is not known")
        return site

    def find(self, physical: int, direction: Direction) -> tuple[str, int] | None:
        """Return region and offset of a physical address, None where nothing is traced.

        Raise :exc:`TraceError` at an address that no CPU has.
        """
        key = physical, direction
        try:
            return self._found[key]
        except KeyError:
            if not 0 <= physical < _PHYSICAL:
                raise TraceError(f"an access at {physical:#x}") from None
        if len(self._found) >= _MOST_FOUND:
            self._found.clear()
        self._found[key] = self._memory.find(physical, direction)
        return self._found[key]

    def find_port(self, port: int, direction: Direction) -> tuple[str, int] | None:
        """Return region and offset of a port, None where nothing is traced."""
        return self._ports.find(port, direction)

    def accesses(self, site: Site, raw: Raw, window: int) -> list[MemoryAccess]:
        """Return what a row of a compiled site accessed, in bus order.

        ``window`` is the linear address at which the site sees physical address 0. Raise
        :exc:`TraceError` as :meth:`find`.
        """
        made = []
        if site.parts is not None:
            linear, physical = raw.linear, raw.alias - window & _MASK64
            for direction, at, width in site.parts:
                data = raw.read if direction == "read" else raw.written
                value = int.from_bytes(data[at : at + width], "little")
                made.append(self._access(direction, linear + at, physical + at, width, value))
            return made
        assert site.insn is not None
        for whole in accesses(site.insn, raw, window):
            for each in transfers(whole):
                direction = "write" if each.write else "read"
                made.append(
                    self._access(direction, each.linear, each.physical, each.width, each.value)
                )
        return made

    def _access(
        self, direction: Direction, linear: int, physical: int, width: int, value: int
    ) -> MemoryAccess:
        found = self.find(physical, direction)
        if found is None:
            return MemoryAccess(
                direction=direction, width=width, linear=linear, physical=physical, value=value
            )
        return MemoryAccess(
            direction=direction, width=width, linear=linear, physical=physical, value=value,
            region=found[0], offset=found[1],
        )  # fmt: skip


class _Places:
    # Regions of one space, by address.

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._starts = [place.start for place in places]

    def find(self, address: int, direction: Direction) -> tuple[str, int] | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        place = self._places[index]
        if address > place.end or not (place.reads or direction == "write"):
            return None
        return place.region, address - place.base
