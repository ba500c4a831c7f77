"""Name what the accesses of a run touch, following what its windows show.

A port is named by the map of its region, or else by its number: PCs have most ports at the same
numbers, whatever device is there. Most places have one name, which is found once and then looked
up. What a window shows depends on bytes that the guest has read or written before; these are kept,
for the few that matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tracer.devices.map import Named, RegisterMap, RegisterMaps
from tracer.trace.name import device_of
from tracer.trace.record import MemoryAccess, Record, RegionRecord
from tracer.x86.bus import Direction

PORTS: Final = "port"
"""The region whose map names ports by their numbers."""

Memory = Mapping[str, Mapping[int, int]]
"""The last byte at each offset that the name of another place depends on, by region."""

# Stands for a place whose name has to be worked out.
_ASK: Final = Named("", ())


class Naming:
    """Follow a run and name its accesses; memory grows with the places accessed, not with time."""

    def __init__(self, maps: RegisterMaps) -> None:
        self._maps = maps
        # QEMU's name and the device's, of the regions that were announced.
        self._told: dict[str, tuple[str, str]] = {}
        self._of_ports: set[str] = set()
        self._bases: dict[str, int] = {}
        self._regions: dict[str, _Region | None] = {}
        # Names that can never change, by region, offset and width.
        self._fixed: dict[tuple[str | None, int | None, int], Named | None] = {}

    @property
    def maps(self) -> RegisterMaps:
        """Return the maps that names are from."""
        return self._maps

    def learn(self, record: Record) -> None:
        """Take QEMU's name and the device's from the record that announces a region."""
        if isinstance(record, RegionRecord):
            region = record.region
            if region.space == "port":
                self._of_ports.add(region.name)
                self._bases[region.name] = region.start if region.base is None else region.base
            told = region.qemu_name, region.device
            if self._told.get(region.name) == told:
                return
            self._told[region.name] = told
            # A region's map is read when an access asks for it: many regions have none.
            if region.name in self._regions:
                known = self._regions[region.name]
                found = self._maps.of_region(region.name, *told)
                if (None if known is None else known.map) is not found:
                    self._regions[region.name] = None if found is None else _Region(found)
                    self._fixed.clear()

    def device_of(self, region: str) -> str:
        """Return the name of the device that a region belongs to."""
        told = self._told.get(region)
        return device_of(region) if told is None else told[1]

    def map_of(self, region: str) -> RegisterMap | None:
        """Return the map of a region, or None where there is none."""
        found = self._region(region)
        if found is None and region in self._of_ports:
            found = self._region(PORTS)
        return None if found is None else found.map

    def name(self, region: str, offset: int, width: int) -> Named | None:
        """Return what ``width`` bytes at an offset of a region are called now, or None."""
        found = self._region(region)
        if found is None and region in self._of_ports:
            found, offset = self._region(PORTS), offset + self._bases.get(region, 0)
        return None if found is None else found.name(offset, width)

    def note(
        self, region: str, offset: int, direction: Direction, width: int, value: int | None
    ) -> None:
        """Take notice of an access that was made; a value of None is not known."""
        found = self._region(region)
        if found is not None:
            found.note(offset, width, value)

    @property
    def memory(self) -> Memory:
        """Return what windows show by now: the bytes seen that names depend on, by region."""
        return {
            name: dict(region.seen)
            for name, region in self._regions.items()
            if region is not None and region.seen
        }

    def recall(self, memory: Memory) -> None:
        """Go back, or on, to where windows showed what they did."""
        for name, region in self._regions.items():
            if region is not None:
                region.seen = dict(memory.get(name, {}))
        for name in memory:
            region = self._region(name)
            if region is not None:
                region.seen = dict(memory[name])

    def add(self, access: MemoryAccess) -> Named | None:
        """Name an access, and take notice of it."""
        if access.space == "port":
            return self._add_port(access)
        key = access.region, access.offset, access.span
        named = self._fixed.get(key, _ASK)
        return named if named is not _ASK else self._add(access)

    def follows(self, access: MemoryAccess) -> bool:
        """Tell whether the name of an access depends on others, or another name on this one."""
        if access.space == "port":
            found, offset = self._port(access)
        elif (access.region, access.offset, access.span) in self._fixed:
            return False
        else:
            offset = access.offset
            found = self._region(access.region) if access.region is not None else None
        if found is None or offset is None:
            return False
        found.name(offset, access.span)
        return not found.is_fixed(offset, access.span)

    def _add(self, access: MemoryAccess) -> Named | None:
        if access.region is None or access.offset is None:
            return None
        found = self._region(access.region)
        if found is None:
            return None
        offset, width = access.offset, access.span
        named = found.name(offset, width)
        if found.is_fixed(offset, width):
            self._fixed[access.region, access.offset, width] = named
        else:
            found.note(offset, width, access.value)
        return named

    def _add_port(self, access: MemoryAccess) -> Named | None:
        found, offset = self._port(access)
        if found is None or offset is None:
            return None
        named = found.name(offset, access.span)
        found.note(offset, access.span, access.value)
        return named

    # The region that has the map of a port, and the offset in it.
    def _port(self, access: MemoryAccess) -> tuple[_Region | None, int | None]:
        if access.region is None:
            return None, None
        found = self._region(access.region)
        if found is not None:
            return found, access.offset
        self._of_ports.add(access.region)
        return self._region(PORTS), access.physical

    def _region(self, name: str) -> _Region | None:
        if name not in self._regions:
            found = self._maps.of_region(name, *self._told.get(name, ("", "")))
            self._regions[name] = None if found is None else _Region(found)
        return self._regions[name]


class _Region:
    # One region: the bytes last seen where they matter, and the names found so far.

    def __init__(self, found: RegisterMap) -> None:
        self.map = found
        self.seen: dict[int, int] = {}
        self._watched: dict[tuple[int, int], bool] = {}
        # By place: the offsets whose bytes its name depends on. By place and those: the name.
        self._depends: dict[tuple[int, int], tuple[int, ...]] = {}
        self._names: dict[tuple[int, ...], Named | None] = {}

    def is_fixed(self, offset: int, width: int) -> bool:
        # Tells whether a place has the same name always, and an access to it changes no other's.
        return not self._depends[offset, width] and not self._watches(offset, width)

    def name(self, offset: int, width: int) -> Named | None:
        depends = self._depends.get((offset, width))
        if depends is not None:
            key = (offset, width, *[self.seen.get(place, -1) for place in depends])
            if key in self._names:
                return self._names[key]
        return self._find(offset, width)

    def _find(self, offset: int, width: int) -> Named | None:
        asked = dict.fromkeys(self._depends.get((offset, width), ()))

        def state(place: int) -> int | None:
            asked[place] = None
            return self.seen.get(place)

        named = self.map.lookup(offset, width, state)
        self._depends[offset, width] = tuple(asked)
        key = (offset, width, *[self.seen.get(place, -1) for place in asked])
        self._names[key] = named
        return named

    def note(self, offset: int, width: int, value: int | None) -> None:
        if not self._watches(offset, width):
            return
        for byte in range(width):
            if value is None:
                self.seen.pop(offset + byte, None)
            else:
                self.seen[offset + byte] = value >> 8 * byte & 0xFF

    def _watches(self, offset: int, width: int) -> bool:
        place = offset, width
        if place not in self._watched:
            self._watched[place] = self.map.watches(offset, width)
        return self._watched[place]
