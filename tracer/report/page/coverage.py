"""Which registers of a device were accessed, and which never were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tracer.devices.entry import Entry
from tracer.devices.map import RegisterMap
from tracer.trace.event import Event
from tracer.trace.naming import PORTS


class Coverage:
    """Count the accesses to each register as they come; an array is one register."""

    def __init__(self) -> None:
        # By region, the register's identity (its map keeps it) and direction.
        self._counts: Counter[tuple[str, int, str]] = Counter()
        self._first: dict[tuple[str, int], int] = {}

    def add(self, events: Iterable[Event]) -> None:
        """Take the next accesses that are wanted."""
        for event in events:
            if event.named is None:
                continue
            region = event.access.region or ""
            for register in {id(part.register) for part in event.named.parts}:
                self._counts[region, register, event.access.direction] += 1
                self._first.setdefault((region, register), event.seq)

    def objects(
        self, regions: Iterable[str], map_of: Callable[[str], RegisterMap | None]
    ) -> list[dict[str, Any]]:
        """Return, ready for JSON, each region whose registers have names, with all of these.

        Ports that no region of their own has a map for are told together, as those of a PC.
        """
        ports = map_of(PORTS)
        groups: dict[str, tuple[RegisterMap, list[str]]] = {}
        for region in sorted(set(regions)):
            found = map_of(region)
            if found is not None:
                name = PORTS if found is ports else region
                groups.setdefault(name, (found, []))[1].append(region)
        return [
            {
                "region": name,
                "title": found.title,
                "specification": found.specification,
                "registers": list(self._rows(found, names)),
            }
            for name, (found, names) in groups.items()
        ]

    def _rows(self, found: RegisterMap, regions: list[str]) -> Iterator[dict[str, Any]]:
        for entry in found.entries():
            number = id(entry.register)
            reads, writes, others = (
                sum(self._counts[region, number, direction] for region in regions)
                for direction in ("read", "write", "unknown")
            )
            firsts = [self._first[r, number] for r in regions if (r, number) in self._first]
            yield {
                "name": entry.name,
                "place": _place(entry),
                "width": entry.register.width,
                "access": entry.register.access,
                "description": entry.register.description,
                "section": entry.register.section,
                "reads": reads,
                "writes": writes,
                "unknown": others,
                "first": min(firsts, default=None),
            }


def _place(entry: Entry) -> str:
    place = f"+{entry.offset:#x}"
    return f"{place} while {entry.selector} is {entry.bank:#x}" if entry.selector else place
