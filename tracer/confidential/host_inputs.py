"""What a guest reads of its host: all that a guest which does not trust it has to filter.

A read of a device's register is one, of a port, of PCI configuration space, of a model-specific
register, CPUID and the time-stamp counter: whoever runs the guest chooses what it gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tracer.confidential.audit import Place, locate
from tracer.trace.event import Event
from tracer.trace.member import Space
from tracer.trace.place import place, spot
from tracer.trace.record import Record

SPACES: tuple[Space, ...] = ("memory", "config", "port", "msr", "cpuid", "tsc")
"""Where inputs are, in the order in which they are told."""


@dataclass(frozen=True, slots=True)
class Source:
    """Name what is read: a register by its region and offset, or by its number in its space.

    ``number`` is a port, the index of an MSR, a leaf of CPUID; ``register`` its name, if known.
    """

    space: Space
    region: str
    offset: int | None
    number: int | None
    subleaf: int | None
    register: str | None
    text: str


@dataclass(slots=True)
class Site:
    """Count the reads of one instruction in one space; ``rip`` is linear."""

    space: Space
    name: str
    symbol: str | None
    rip: int
    sources: Counter[Source] = field(default_factory=Counter)

    @property
    def accesses(self) -> int:
        """Return how many accesses it made."""
        return self.sources.total()

    @property
    def place(self) -> Place:
        """Return the function and its module."""
        return locate(self.symbol)[0]

    @property
    def texts(self) -> list[str]:
        """Return what it reads, the most often read first, each once."""
        counts: Counter[str] = Counter()
        for source, count in self.sources.items():
            counts[source.text] += count
        return [text for text, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


class HostInputs:
    """Count reads as they come, in memory that grows with the call sites and what they read.

    A write is no input. Neither is an access that was never made, nor an interrupt or its message:
    the vector is all that a host chooses there, and no instruction asks for it.
    """

    def __init__(self) -> None:
        self._sites: dict[tuple[Space, int, str | None], Site] = {}

    def add(self, record: Record, events: Sequence[Event], *, times: int = 1) -> None:
        """Count the events of a record; there are ``times`` like it."""
        for event in events:
            access = event.access
            if access.direction == "write" or access.skipped or access.space not in SPACES:
                continue
            key = access.space, event.record.rip, event.record.symbol
            site = self._sites.get(key)
            if site is None:
                told = event.record
                site = self._sites[key] = Site(access.space, told.site, told.symbol, told.rip)
            site.sources[_source(event)] += times

    @property
    def sites(self) -> list[Site]:
        """Return the call sites by their spaces, the busiest of each first."""
        return sorted(
            self._sites.values(),
            key=lambda site: (SPACES.index(site.space), -site.accesses, site.name, site.rip),
        )

    def totals(self) -> list[tuple[Space, int, int]]:
        """Return of each space that has any how many call sites and accesses there are."""
        found = []
        for space in SPACES:
            counts = [site.accesses for site in self._sites.values() if site.space == space]
            if counts:
                found.append((space, len(counts), sum(counts)))
        return found


def _source(event: Event) -> Source:
    access, name = event.access, None if event.named is None else event.named.text
    space, region, offset = access.space, access.region or "", access.offset
    number = None if space in ("memory", "tsc") else access.physical
    match space:
        case "memory":
            text = place(access) if name is None else f"{region}.{name}"
        case "msr" | "port":
            text = f"{access.physical:#x} {name or ('' if space == 'msr' else region)}".strip()
        case "cpuid":
            # Its four registers are one input: CPUID reads all of them.
            text = spot(space, offset)
        case "tsc":
            text = "TSC"
        case _:
            text = name or place(access)
    if space != "cpuid":
        return Source(space, region, offset, number, None, name, text)
    offset = None if offset is None else offset & ~0xF
    where = 0 if offset is None else offset // 16
    return Source(space, region, offset, where & (1 << 32) - 1, where >> 32, None, text)
