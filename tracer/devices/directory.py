"""Find the registers that a person means by a name, among the regions that there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tracer.devices.entry import Entry
from tracer.devices.map import RegisterMap
from tracer.errors import UsageError, suggestion
from tracer.text.number import is_whole, whole


@dataclass(frozen=True, slots=True)
class Listed:
    """Hold a register with the region that it is looked up in, and the map that has it."""

    region: str
    map: RegisterMap
    entry: Entry


def look_up(text: str, regions: Mapping[str, RegisterMap]) -> list[Listed]:
    """Return the registers that a text names in these regions, each of which has its map.

    That is a region, which stands for all its registers, ``nvme.CC``, ``nvme+0x14``, or a name or
    a glob without a region, which is sought in all of them. Raise :exc:`UsageError`, with what may
    have been meant, where nothing has the name.
    """
    text = " ".join(text.split())
    if not text:
        raise UsageError("name a register: CC, nvme.CC, or nvme+0x14")
    if text in regions:
        return _listed(text, regions[text], regions[text].entries())
    place, _, offset = text.rpartition("+")
    if place in regions and is_whole(offset):
        return _at(place, whole(offset, "offset", bits=64), regions[place])
    region = region_of(text, regions)
    if region is not None:
        name = text[len(region) + 1 :]
        found = _named(name, region, regions[region])
        if not found:
            near = suggestion(name, regions[region].names())
            raise UsageError(f"{region} has no register {name}{near}")
        return found
    found = [item for name, known in regions.items() for item in _named(text, name, known)]
    if not found:
        names = (name for known in regions.values() for name in known.names())
        raise UsageError(f"no register is called {text}{suggestion(text, [*regions, *names])}")
    return found


def region_of(text: str, regions: Mapping[str, RegisterMap]) -> str | None:
    """Return the region that a text names before a point or a space, the longest that is known."""
    ends = [match.start() for match in re.finditer(r"[. ]", text)]
    return next((text[:end] for end in reversed(ends) if text[:end] in regions), None)


def _named(name: str, region: str, known: RegisterMap) -> list[Listed]:
    found = known.find(name)
    if not found and ("*" in name or "?" in name):
        found = known.search(name, region)
    return _listed(region, known, found)


# The registers that begin or lie at an offset, whatever a window shows just now.
def _at(region: str, offset: int, known: RegisterMap) -> list[Listed]:
    named = known.lookup(offset, 1)
    if named is None:
        raise UsageError(f"{region} has no register at offset {offset:#x}")
    behind = [e for e in known.entries() if e.selector is not None and _covers(e, offset)]
    found = [entry for part in named.parts for entry in known.find(part.name)]
    return _listed(region, known, found or behind)


def _covers(entry: Entry, offset: int) -> bool:
    return entry.offset <= offset < entry.offset + entry.register.width


def _listed(region: str, known: RegisterMap, found: Iterable[Entry]) -> list[Listed]:
    return [Listed(region, known, entry) for entry in found]
