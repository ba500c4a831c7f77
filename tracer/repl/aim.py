"""What `peek` and `poke` are aimed at: one place in a device, and how wide."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.access.region import Region, RegionMap
from tracer.devices.map import Breach, Named, RegisterMap
from tracer.errors import UsageError
from tracer.query.place import parse_place
from tracer.repl.names import known_places
from tracer.trace.naming import Naming

_WIDTH = 4


@dataclass(frozen=True, slots=True)
class Aim:
    """Hold a place in a region, and how wide an access there should be, in bytes."""

    region: Region
    offset: int
    width: int
    registers: RegisterMap | None

    @property
    def physical(self) -> int:
        """Return the physical address."""
        return self.region.base + self.offset

    @property
    def text(self) -> str:
        """Return region and offset, and the register's name where it has one."""
        named = self._named(self.width)
        return f"{self.region.name}+{self.offset:#x}" + (f" {named.text}" if named else "")

    def breach(self, direction: str, width: int) -> Breach | None:
        """Return what the registers there are, where such an access is against it."""
        named = self._named(width)
        return None if named is None else named.breach(direction)

    def describe(self, value: int, width: int) -> str:
        """Return the fields of a value that are not 0, in one line."""
        named = self._named(width)
        return "" if named is None else named.describe(value)

    def fields(self, value: int, width: int) -> dict[str, int | str]:
        """Return the fields of a value by name, each a number or what the number means."""
        named = self._named(width)
        found = [] if named is None else named.fields(value)
        return {name: meaning or number for name, _, number, meaning in found}

    def _named(self, width: int) -> Named | None:
        return None if self.registers is None else self.registers.lookup(self.offset, width)


def aim(text: str, regions: RegionMap, names: Naming) -> Aim:
    """Return the one place that ``text`` names: ``nvme.CSTS``, ``nvme+0x1c``, ``0xfee00020``.

    Raises UsageError for a name that nothing has, and for a pattern.
    """
    text = " ".join(text.split())
    if not text:
        raise UsageError("name a place: nvme+0x1c, nvme.CSTS, or a physical address")
    place = parse_place(text, known_places(regions, names))
    spot = place.spots[0]
    span = spot.span
    if spot.register is not None or (spot.region is not None and "*" in spot.region):
        raise UsageError(f"{text} can be several places: name one")
    if spot.region is None:
        assert span is not None and span.first is not None  # an address was given
        region = regions.find(span.first)
        if region is None:
            raise UsageError(f"no device answers at physical {span.first:#x}: `info devices`")
        return Aim(region, span.first - region.base, _WIDTH, names.map_of(region.name))
    region = next((r for r in regions.regions if r.name == spot.region), None)
    if region is None:
        inside = dict.fromkeys(r.name for r in regions.named(spot.region))
        raise UsageError(f"{text} has several regions: {', '.join(inside)}")
    first = 0 if span is None or span.first is None else span.first
    if not region.start <= region.base + first <= region.end:
        raise UsageError(f"{region.name} ends at offset {region.end - region.base:#x}")
    return Aim(region, first, _width(first, names.map_of(region.name)), names.map_of(region.name))


# The width of the register that begins there.
def _width(offset: int, registers: RegisterMap | None) -> int:
    named = None if registers is None else registers.lookup(offset, 1)
    if named is None or named.parts[0].first or named.register.width not in (1, 2, 4, 8):
        return _WIDTH
    return named.register.width
