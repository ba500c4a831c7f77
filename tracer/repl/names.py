"""What names at the prompt are checked against: the regions of this guest and their registers."""

from __future__ import annotations

from collections.abc import Collection

from tracer.naming import Naming
from tracer.place import Known
from tracer.region import RegionMap
from tracer.selection import Span


def known_places(regions: RegionMap, names: Naming) -> Known:
    """Return the regions, devices and registers that a person can name."""
    own = dict.fromkeys(region.name for region in regions.regions)
    devices = dict.fromkeys(owner for region in regions.regions for owner in region.owners)
    owners = {region.name: region.owners for region in regions.regions}

    def span(region: str, register: str) -> Span | None:
        found = names.map_of(region)
        places = [] if found is None else found.find(register)
        if not places:
            return None
        offset, width, _ = places[0]
        return Span(offset, offset + width - 1)

    def registers(region: str) -> Collection[str]:
        found = names.map_of(region)
        return () if found is None else tuple(found.names())

    alone = tuple(name for name in devices if name not in own)
    return Known((*own, *alone), span, registers, alone, owners)
