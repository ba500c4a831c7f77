"""The use of devices: places of registers that were accessed, and the values there.

It is for who filters what may be accessed, so places are told by names and offsets, which every
boot has alike, and not by addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tracer.trace.event import Event
from tracer.trace.member import Space
from tracer.x86.bus import Direction

MOST_VALUES = 16
"""Values that are told one by one; of more, which bits there were, the lowest and the highest."""


@dataclass(frozen=True, slots=True, order=True)
class Use:
    """Name a place, and how it is accessed; ``register`` is empty without a name.

    ``offset`` is in the region, -1 where a native step hid it. ``number`` is that of a port, an
    MSR, or a leaf of CPUID with its subleaf from bit 32 on; 0 in memory. ``width`` is in bytes.
    """

    region: str
    space: Space
    offset: int
    register: str
    number: int
    direction: Direction
    width: int


@dataclass(slots=True)
class Seen:
    """Hold what there was of one use.

    ``values`` has the values while they are few, None once they are not. ``ones`` has the bits that
    were set in any of them. ``hidden`` counts accesses of unknown value, ``sites`` has the call
    sites.
    """

    accesses: int = 0
    hidden: int = 0
    values: set[int] | None = field(default_factory=set)
    first: int | None = None
    last: int | None = None
    ones: int = 0
    sites: set[str] = field(default_factory=set)

    def add(self, value: int | None, site: str) -> None:
        """Take an access of this use."""
        self.accesses += 1
        self.sites.add(site)
        if value is None:
            self.hidden += 1
            return
        self.ones |= value
        self.first = value if self.first is None else min(self.first, value)
        self.last = value if self.last is None else max(self.last, value)
        if self.values is not None:
            self.values.add(value)
            if len(self.values) > MOST_VALUES:
                self.values = None


class Allowed:
    """Collect the uses of one or several traces, in memory that grows with the uses."""

    def __init__(self) -> None:
        self.accesses = 0
        self._uses: dict[Use, Seen] = {}

    def add(self, event: Event) -> None:
        """Take an access."""
        access = event.access
        use = Use(
            access.region or "",
            access.space,
            -1 if access.offset is None else access.offset,
            "" if event.named is None else event.named.text,
            0 if access.space == "memory" else access.physical,
            access.direction,
            access.width,
        )
        seen = self._uses.get(use)
        if seen is None:
            seen = self._uses[use] = Seen()
        self.accesses += 1
        seen.add(access.value, event.record.site)

    def uses(self) -> Iterator[tuple[Use, Seen]]:
        """Yield the uses by region, place, direction and width."""
        yield from sorted(self._uses.items(), key=lambda item: item[0])
