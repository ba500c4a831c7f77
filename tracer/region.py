"""Physical regions of a guest: parsed from QEMU's memory map, named, and chosen for tracing.

Ref: QEMU ``info mtree -f -o`` (softmmu/memory.c, mtree_print_flatview).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tracer.errors import UsageError
from tracer.selection import names_region
from tracer.trace import RegionInfo
from tracer.x86 import PAGE_SIZE

_LINE = re.compile(
    r"^\s*(?P<start>[0-9a-f]{16})-(?P<end>[0-9a-f]{16}) \(prio -?\d+, (?P<kind>[^)]+)\): "
    r"(?P<name>.*?)(?: @(?P<offset>[0-9a-f]{16}))?"
    r"(?: (?:owner|parent):\{(?P<owner>[^}]*)\})*\s*$"
)
_SPACE = re.compile(r'^\s*AS "(?P<name>[^"]*)"')

_DEVICE_KINDS = frozenset({"i/o"})

_WELL_KNOWN = {
    "apic-msi": "lapic",
    "kvm-apic-msi": "lapic",
    "pcie-mmcfg-mmio": "ecam",
    "vga-lowmem": "vga.window",
}
"""Names that Linux people use, by QEMU's."""

_FRAME_BUFFERS = frozenset({"vga-lowmem", "cirrus-low-memory", "cirrus-linear-io"})
"""Regions that are memory to the guest: thousands of accesses that mean nothing one by one."""

_VIRTIO_PART = re.compile(r"^virtio-pci-(?P<part>common|isr|device|notify)\b")

LAPIC = "lapic"
"""The region that only a vCPU can reach: each has its own device behind the same address."""


@dataclass(frozen=True, slots=True)
class FlatRange:
    """Hold one line of a flat view; ``end`` is inclusive, ``offset`` is into the region named.

    ``owner`` is QEMU's word for the device: ``dev id=nvme``, ``dev path=/machine/q35``.
    """

    start: int
    end: int
    kind: str
    name: str
    offset: int
    owner: str


@dataclass(frozen=True, slots=True)
class Region:
    """Name a range of physical addresses that a device answers.

    ``end`` is inclusive. ``base`` is the physical address of offset 0, below ``start`` when
    another region covers the beginning.
    """

    name: str
    start: int
    end: int
    base: int
    device: str
    qemu_name: str

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


def region_info(region: Region, traced: bool) -> RegionInfo:
    """Return a region as it is announced in a trace."""
    return RegionInfo(
        name=region.name,
        start=hex(region.start),
        end=hex(region.end),
        qemu_name=region.qemu_name,
        device=region.device,
        traced=traced,
    )


Range = tuple[int, int]
"""First and last physical address."""


def parse_flat_view(text: str) -> list[FlatRange]:
    """Return the ranges of the flat view that CPUs see, out of ``info mtree -f -o``.

    Raises ValueError when there is none.
    """
    for view in text.split("FlatView #")[1:]:
        lines = view.splitlines()
        spaces = {match["name"] for line in lines if (match := _SPACE.match(line))}
        if "memory" in spaces:
            return [_flat_range(match) for line in lines if (match := _LINE.match(line))]
    raise ValueError('no address space "memory" in QEMU\'s memory map')


def _flat_range(match: re.Match[str]) -> FlatRange:
    return FlatRange(
        start=int(match["start"], 16),
        end=int(match["end"], 16),
        kind=match["kind"],
        name=match["name"],
        offset=int(match["offset"] or "0", 16),
        owner=match["owner"] or "",
    )


def owner_path(owner: str) -> str | None:
    """Return the QOM path of an owner without an id of its own, or None."""
    return owner.partition("path=")[2] or None


def name_regions(ranges: Iterable[FlatRange], types: Mapping[str, str]) -> list[Region]:
    """Return the device regions among the ranges, each with a name a person would type.

    ``types`` has the QOM type of each owner path. A device's name is its id, else its type, with
    ``#2``, ``#3`` for further ones of the same type; a device with several regions gives each
    its own part: ``nvme.msix-table``.
    """
    devices = [item for item in ranges if item.kind in _DEVICE_KINDS]
    names = _device_names(devices, types)
    parts: dict[str, set[str]] = {}
    for item in devices:
        parts.setdefault(item.owner, set()).add(item.name)
    return [
        Region(
            name=_region_name(item.name, names[item.owner], alone=len(parts[item.owner]) == 1),
            start=item.start,
            end=item.end,
            base=item.start - item.offset,
            device=names[item.owner],
            qemu_name=item.name,
        )
        for item in devices
    ]


def _device_names(ranges: Sequence[FlatRange], types: Mapping[str, str]) -> dict[str, str]:
    names: dict[str, str] = {}
    used: Counter[str] = Counter()
    for item in ranges:
        if item.owner in names:
            continue
        path = owner_path(item.owner)
        stem = types.get(path, path.rpartition("/")[2]) if path else item.owner[len("dev id=") :]
        stem = stem.replace(" ", "-").lower() or item.name
        used[stem] += 1
        names[item.owner] = stem if used[stem] == 1 else f"{stem}#{used[stem]}"
    return names


def _region_name(name: str, device: str, *, alone: bool) -> str:
    if name in _WELL_KNOWN:
        return _WELL_KNOWN[name]
    if virtio := _VIRTIO_PART.match(name):
        return f"{device}.{virtio['part']}"
    if name == device:
        return device
    if alone and device.partition("#")[0].startswith(name):
        # The device's only region carries its short name: hpet, ioapic.
        return name + device[len(device.partition("#")[0]) :]
    part = re.sub(rf"^{re.escape(device)}[-.]|\[\d+\]$", "", name)
    return f"{device}.{part.replace(' ', '-')}"


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
    """Raise UsageError, with the names there are, when a choice names what is not there."""
    missing = unmatched(regions, choice)
    if missing:
        names = ", ".join(region.name for region in regions)
        raise UsageError(f"no region is called {', '.join(missing)}; there are {names}")


def parse_range(spec: str) -> Range | None:
    """Return the physical range in ``START-END`` (hex, END inclusive), or None for a name.

    Raises UsageError when START is beyond END.
    """
    match = re.fullmatch(r"(?:0x)?([0-9a-fA-F]{3,16})-(?:0x)?([0-9a-fA-F]{3,16})", spec)
    if match is None:
        return None
    start, end = (int(part, 16) for part in match.groups())
    if start > end:
        raise UsageError(f"range {spec} ends before it starts")
    return start, end


def _intersection(region: Region, spec: str) -> list[Range]:
    span = parse_range(spec)
    if span is None:
        named = names_region(spec, region.name) or spec in (region.device, region.qemu_name)
        return [(region.start, region.end)] if named else []
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
    """Look up physical addresses among the device regions, the RAM and what is traced."""

    def __init__(
        self, regions: Sequence[Region], traced: Sequence[Range], ram: Sequence[Range]
    ) -> None:
        self.regions = tuple(sorted(regions, key=lambda region: region.start))
        self.traced = tuple(traced)
        self.ram = tuple(_merge(ram))
        self._starts = [region.start for region in self.regions]

    def find(self, physical: int) -> Region | None:
        """Return the device region at a physical address."""
        index = bisect_right(self._starts, physical) - 1
        if index >= 0 and physical <= self.regions[index].end:
            return self.regions[index]
        return None

    def is_traced(self, physical: int) -> bool:
        """Tell whether accesses at a physical address are recorded."""
        return _covers(self.traced, physical)

    def is_ram(self, physical: int) -> bool:
        """Tell whether a physical address is guest RAM or ROM."""
        return _covers(self.ram, physical)

    def touches_traced(self, start: int, end: int) -> bool:
        """Tell whether any address from ``start`` to ``end`` is traced."""
        return any(first <= end and start <= last for first, last in self.traced)

    def touches_ram(self, start: int, end: int) -> bool:
        """Tell whether any address from ``start`` to ``end`` is RAM."""
        return any(first <= end and start <= last for first, last in self.ram)

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


def _covers(spans: Sequence[Range], physical: int) -> bool:
    index = bisect_right(spans, physical, key=lambda span: span[0]) - 1
    return index >= 0 and physical <= spans[index][1]


def pages(start: int, end: int) -> range:
    """Return the physical page addresses from the one holding ``start`` to the one of ``end``."""
    return range(start & -PAGE_SIZE, (end & -PAGE_SIZE) + 1, PAGE_SIZE)
