"""Physical regions of a guest, looked up by address and chosen for tracing by name."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from tracer.compiled.flagging import ALL_INPUTS, NO_INPUTS
from tracer.errors import UsageError, advice
from tracer.text.number import ends, hexadecimal
from tracer.trace.member import Space
from tracer.trace.name import names_owner, names_region
from tracer.trace.record import RegionInfo
from tracer.x86.state import PAGE_SIZE

_FRAME_BUFFERS = frozenset({"vga-lowmem", "cirrus-low-memory", "cirrus-linear-io"})
"""Regions that are memory to the guest: thousands of accesses that mean nothing one by one."""

_CONFIGURATION = "pcie-mmcfg-mmio"

UNASSIGNED = "unassigned"
"""The name that an access has for its region where no device answers."""

LAPIC = "lapic"
"""The region that only a vCPU can reach: each has its own device behind the same address."""


@dataclass(frozen=True, slots=True)
class Region:
    """Name a range of physical addresses that a device answers.

    ``end`` is inclusive. ``base`` is the physical address of offset 0, below ``start`` when
    another region covers the beginning. ``within`` names the devices that ``device`` is a part of,
    the nearest first, ``types`` QEMU's types of all of these that no device is called by.
    ``shows_memory`` tells that reads come from memory and no device sees them: a flash chip, unless
    a command is under way.
    """

    name: str
    start: int
    end: int
    base: int
    device: str
    qemu_name: str
    within: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    shows_memory: bool = False

    @property
    def whole(self) -> str:
        """Return the name of the outermost device that the region belongs to."""
        return (self.device, *self.within)[-1]

    @property
    def owners(self) -> tuple[str, ...]:
        """Return every name that stands for a device which the region belongs to."""
        return (self.device, *self.within, *self.types)

    @property
    def frame_buffer(self) -> bool:
        """Tell whether the guest uses the region as memory, so that it is off by default."""
        return self.qemu_name in _FRAME_BUFFERS

    @property
    def vcpu_only(self) -> bool:
        """Tell whether an access must be made by the vCPU itself."""
        return self.name == LAPIC


def place_of(physical: int, region: Region | None, *, ram: bool) -> str:
    """Say what is at a physical address: a region and offset (``nvme+0x1c``), or RAM."""
    if region is not None:
        return f"{region.name}+{physical - region.base:#x}"
    return "RAM" if ram else "nothing answers there"


def region_info(region: Region, traced: bool, space: Space = "memory") -> RegionInfo:
    """Return a region as it is announced in a trace."""
    return RegionInfo(
        name=region.name,
        start=region.start,
        end=region.end,
        qemu_name=region.qemu_name,
        device=region.device,
        within=list(region.within),
        types=list(region.types),
        traced=traced,
        base=None if region.base == region.start else region.base,
        space=space,
    )


def apart(ports: Iterable[Region], names: Collection[str]) -> list[Region]:
    """Return regions of I/O ports, sorted, whose names no region of memory has."""
    named = [
        replace(port, name=f"{port.name}.io") if port.name in names else port for port in ports
    ]
    return sorted(named, key=lambda port: port.start)


Range = tuple[int, int]
"""First and last physical address."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Hold what the command line says is traced: names, device names or physical ranges.

    No ``wanted`` means the default: every device region but the frame buffers.
    """

    wanted: tuple[str, ...] = ()
    bypassed: tuple[str, ...] = ()


def traced_ranges(regions: Sequence[Region], choice: Choice) -> list[Range]:
    """Return the sorted, disjoint physical ranges to trace."""
    found: list[Range] = []
    for region in regions:
        if choice.wanted:
            for spec in choice.wanted:
                found += _intersection(region, spec)
        elif not region.frame_buffer:
            found.append((region.start, region.end))
    kept = _merge(found)
    for spec in choice.bypassed:
        for region in regions:
            for hole in _intersection(region, spec):
                kept = [piece for span in kept for piece in _subtract(span, hole)]
    return kept


def unmatched(regions: Sequence[Region], choice: Choice) -> list[str]:
    """Return what the command line asks for and no region answers to."""
    return [
        spec
        for spec in (*choice.wanted, *choice.bypassed)
        if not any(_intersection(region, spec) for region in regions)
    ]


def check_choice(regions: Sequence[Region], choice: Choice) -> None:
    """Raise UsageError, with what may be meant, when a choice names what is not there."""
    for missing in unmatched(regions, choice):
        names = {name for region in regions for name in (region.name, region.device)}
        raise UsageError(f"no region is called {missing}{advice(missing, names)}")


def left_out(regions: Sequence[Region], choice: Choice) -> list[str]:
    """Say, a line each, that a device was chosen and other parts of the same device were not.

    Who names one region, or says what to bypass, knows.
    """
    traced = RegionMap(regions, traced_ranges(regions, choice), ())
    lines: list[str] = []
    for spec in choice.wanted:
        wholes = {region.whole for region in regions if names_owner(spec, region.owners)}
        if any(region.name == spec for region in regions):
            continue
        rest = dict.fromkeys(
            region.name
            for region in regions
            if region.whole in wholes
            and not (region.frame_buffer or traced.is_traced_region(region))
            and not any(_intersection(region, bypassed) for bypassed in choice.bypassed)
        )
        if rest:
            device = ", ".join(sorted(wholes))
            lines.append(f"{spec} is a part of {device}, of which is not traced: {', '.join(rest)}")
    return lines


def parse_range(spec: str) -> Range | None:
    """Return the physical range in ``START-END`` (hex, END inclusive), or None for a name.

    Raises UsageError when END is before START.
    """
    return ends(spec, hexadecimal) if _RANGE.fullmatch(spec) else None


# A name may be of hexadecimal digits as well, so a short one is none.
_HIGH = 1 << 32
"""Behind what firmware gives devices of 32 bits."""
_RANGE = re.compile(r"(?:0x)?[0-9a-fA-F]{3,16}-(?:0x)?[0-9a-fA-F]{3,16}")


def _intersection(region: Region, spec: str) -> list[Range]:
    if names_region(spec, region.name, region.owners) or spec == region.qemu_name:
        return [(region.start, region.end)]
    span = parse_range(spec)
    if span is None:
        return []
    start, end = max(region.start, span[0]), min(region.end, span[1])
    return [(start, end)] if start <= end else []


def _merge(spans: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _subtract(span: Range, hole: Range) -> list[Range]:
    pieces = [(span[0], min(span[1], hole[0] - 1)), (max(span[0], hole[1] + 1), span[1])]
    return [(start, end) for start, end in pieces if start <= end]


class RegionMap:
    """Look up physical addresses among the device regions, the RAM and what is traced.

    Of the rest, RAM and devices that are not traced are nothing to be seen (*quiet*). Where nothing
    answers at all (*vacant*) a device may be any moment: the guest moves one there by a port write,
    which stops nobody. So what leads there has to be watched like what leads to a traced device.
    ``ports`` are the regions of I/O ports, where they are traced, ``inputs`` the spaces beside
    memory that are.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        traced: Sequence[Range],
        ram: Sequence[Range],
        ports: Sequence[Region] = (),
        inputs: Sequence[Space] = (),
    ) -> None:
        self.ports = tuple(ports)
        self.inputs = tuple(inputs)
        self.regions = tuple(sorted(regions, key=lambda region: region.start))
        self.traced = tuple(traced)
        self.ram = tuple(_merge(ram))
        spans = [(region.start, region.end) for region in self.regions]
        untraced = [piece for span in spans for piece in _cut_out(span, self.traced)]
        self._quiet = tuple(_merge([*ram, *untraced]))
        self._starts = [region.start for region in self.regions]
        self._edges = sorted(
            {edge for start, end in (*spans, *self.traced, *self.ram) for edge in (start, end + 1)}
        )

    def find(self, physical: int) -> Region | None:
        """Return the device region at a physical address."""
        index = bisect_right(self._starts, physical) - 1
        if index >= 0 and physical <= self.regions[index].end:
            return self.regions[index]
        return None

    def room(self, physical: int, size: int) -> int:
        """Return how many of ``size`` bytes from a physical address on are of the same kind.

        That is, of the same region, or RAM, or nothing, and traced or not.
        """
        index = bisect_right(self._edges, physical)
        return min(size, self._edges[index] - physical) if index < len(self._edges) else size

    def named(self, pattern: str) -> list[Region]:
        """Return the regions that a person means: see
        :func:`tracer.trace.name.names_region`."""
        return [r for r in self.regions if names_region(pattern, r.name, r.owners)]

    @property
    def every_input(self) -> int:
        """Return the set of all inputs, where some are traced."""
        return ALL_INPUTS if self.inputs else NO_INPUTS

    @property
    def configuration(self) -> range:
        """Return the physical addresses at which PCI configuration is: a write may move devices."""
        found = [region for region in self.regions if region.qemu_name == _CONFIGURATION]
        return range(found[0].start, found[-1].end + 1) if found else range(0)

    @property
    def shown(self) -> list[Range]:
        """Return where reads come from memory by now, and no device sees them."""
        return [(at.start, at.end) for at in self.regions if at.shows_memory]

    @property
    def unassigned(self) -> list[range]:
        """Return the physical addresses that are traced, and no region's."""
        spans = [(region.start, region.end) for region in self.regions]
        pieces = [piece for span in self.traced for piece in _cut_out(span, spans)]
        return [range(start, end + 1) for start, end in pieces]

    def is_traced(self, physical: int) -> bool:
        """Tell whether a physical address is a traced device's."""
        return _covers(self.traced, physical)

    def is_recorded(self, physical: int, *, read: bool) -> bool:
        """Tell whether an access at a physical address is one that a traced device sees."""
        if not self.is_traced(physical):
            return False
        return not read or not self.shows(physical)

    def is_ram(self, physical: int) -> bool:
        """Tell whether a physical address is guest RAM or ROM."""
        return _covers(self.ram, physical)

    def shows(self, physical: int) -> bool:
        """Tell whether reads at a physical address come from memory, and no device sees them."""
        region = self.find(physical)
        return region is not None and region.shows_memory

    def touches_traced(self, start: int, end: int) -> bool:
        """Tell whether any address from ``start`` to ``end`` is traced."""
        return _meets(self.traced, start, end)

    def touches_ram(self, start: int, end: int) -> bool:
        """Tell whether any address from ``start`` to ``end`` is RAM."""
        return _meets(self.ram, start, end)

    def is_quiet(self, start: int, end: int) -> bool:
        """Tell whether there is nothing to be seen from ``start`` to ``end``."""
        return any(first <= start and end <= last for first, last in self._quiet)

    def is_watched(self, start: int, end: int) -> bool:
        """Tell whether accesses through a page from ``start`` to ``end`` have to be seen.

        It leads to a traced device, or all of it to nothing.
        """
        return self.touches_traced(start, end) or not _meets(self._quiet, start, end)

    def watched(self, highest: int) -> tuple[list[range], list[range]]:
        """Return the pages up to a physical address at which accesses have to be seen.

        First those of all accesses, then those of writes alone. See :meth:`is_watched`. Where
        nothing is, that is above 4 GiB alone: below firmware polls for devices that are not there,
        and whoever asks has to ask again once one comes.
        """
        vacant = _cut_out((_HIGH, highest), [*self._quiet, *self.traced])
        whole = [range(start + -start % PAGE_SIZE, (end + 1) & -PAGE_SIZE) for start, end in vacant]
        shown = self.shown
        devices = [piece for span in self.traced for piece in _cut_out(span, shown)]
        writes = [piece for span in shown for piece in _shared(span, self.traced)]
        every = [*filter(None, whole), *map(_pages_of, devices)]
        return sorted(every, key=lambda span: span.start), list(map(_pages_of, writes))

    def outdates(self, old: RegionMap) -> bool:
        """Tell whether pages have to be looked at again that were right under an ``old`` map.

        Not when devices have only left their places, or come to where nothing was: what leads
        there has been watched all the time.
        """
        if self._quiet != old._quiet:
            return True
        new = [piece for span in self.traced for piece in _cut_out(span, old.traced)]
        return any(_meets(old._quiet, a & -PAGE_SIZE, b | (PAGE_SIZE - 1)) for a, b in new)

    def traced_names(self, start: int, end: int) -> list[str]:
        """Return the names of the traced regions between two addresses, sorted."""
        return sorted(
            {
                region.name
                for region in self.regions
                if region.start <= end and start <= region.end and self.is_traced_region(region)
            }
        )

    def is_traced_region(self, region: Region) -> bool:
        """Tell whether a region is traced, in whole or in part."""
        return self.touches_traced(region.start, region.end)


def _cut_out(span: Range, holes: Sequence[Range]) -> list[Range]:
    pieces = [span]
    for hole in holes:
        pieces = [piece for whole in pieces for piece in _subtract(whole, hole)]
    return pieces


def _shared(span: Range, others: Sequence[Range]) -> list[Range]:
    pieces = [(max(span[0], start), min(span[1], end)) for start, end in others]
    return [(start, end) for start, end in pieces if start <= end]


def _pages_of(span: Range) -> range:
    return range(span[0] & -PAGE_SIZE, (span[1] & -PAGE_SIZE) + PAGE_SIZE)


def _meets(spans: Sequence[Range], start: int, end: int) -> bool:
    return any(first <= end and start <= last for first, last in spans)


def pages(start: int, end: int) -> range:
    """Return the addresses of the pages from the one holding ``start`` to the one of ``end``."""
    return range(start & -PAGE_SIZE, (end & -PAGE_SIZE) + 1, PAGE_SIZE)


def _covers(spans: Sequence[Range], physical: int) -> bool:
    index = bisect_right(spans, physical, key=lambda span: span[0]) - 1
    return index >= 0 and physical <= spans[index][1]
