"""Device regions, devices, and where the guest has mapped them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracer.access.region import Region, RegionMap
from tracer.errors import UsageError, advice
from tracer.look.sheet import Cell, aligned, folded
from tracer.trace.record import MapRecord


def find_region(regions: RegionMap, name: str) -> list[Region]:
    """Return the ranges of the region of a name. Raises UsageError, naming those there are."""
    found = [region for region in regions.regions if region.name == name]
    if not found:
        names = {region.name for region in regions.regions}
        raise UsageError(f"no region is called {name}{advice(name, names)}")
    return found


def region_object(region: Region, *, traced: bool) -> dict[str, Any]:
    """Return a region as a JSON-ready object."""
    return {
        "name": region.name,
        "start": hex(region.start),
        "end": hex(region.end),
        "size": region.end - region.start + 1,
        "device": region.device,
        "within": list(region.within),
        "types": list(region.types),
        "qemu_name": region.qemu_name,
        "traced": traced,
    }


def region_objects(
    found: Sequence[Region], regions: RegionMap, accesses: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return a JSON-ready object a region; ``accesses`` counts them so far by region."""
    return [
        {
            **region_object(region, traced=regions.is_traced_region(region)),
            "vcpu_only": region.vcpu_only,
            "accesses": accesses.get(region.name, 0),
        }
        for region in found
    ]


def region_lines(
    found: Sequence[Region], regions: RegionMap, accesses: Mapping[str, int], columns: int = 80,
    colour: bool = False,
) -> list[str]:  # fmt: skip
    """Return regions in full, a few lines each."""
    lines: list[str] = []
    for region, told in zip(found, region_objects(found, regions, accesses), strict=True):
        traced = "traced" if told["traced"] else "not traced"
        rows = [
            ["region", told["name"]],
            ["physical", f"{told['start']}-{told['end']} ({told['size']:#x} bytes)"],
            ["device", ", a part of ".join((region.device, *region.within))],
            ["QEMU name", told["qemu_name"]],
            ["accesses", f"{told['accesses']:,} so far, {traced}"],
        ]
        if told["vcpu_only"]:
            rows.append(["reached by", "the vCPU alone: each has its own device here"])
        cells = [[Cell(name, "time"), Cell(text)] for name, text in rows]
        lines += folded(cells, columns, colour)
    return lines


def devices_lines(
    regions: RegionMap, accesses: Mapping[str, int], columns: int = 80, colour: bool = False
) -> list[str]:
    """Return a row a region, those of a device together."""
    rows = [[Cell(text, "time") for text in ("device", "region", "physical", "accesses")]]
    for region in sorted(regions.regions, key=lambda region: (region.device, region.start)):
        rows.append([
            Cell(region.device, "symbol"),
            Cell(region.name, "place"),
            Cell(f"{region.start:#x}-{region.end:#x}"),
            Cell(_counted(accesses.get(region.name, 0), regions.is_traced_region(region)), "value"),
        ])  # fmt: skip
    lines = aligned(rows, False, right=(len(rows[0]) - 1,))
    if max(map(len, lines)) > columns:
        # The device comes first in the names of all regions but a few.
        rows = [row[1:] for row in rows]
    return aligned(rows, colour, right=(len(rows[0]) - 1,))


def _counted(count: int, traced: bool) -> str:
    return f"{count:,}" if traced else f"{count:,}, not traced" if count else "not traced"


def mapping_lines(
    mappings: Sequence[MapRecord], columns: int = 80, colour: bool = False
) -> list[str]:
    """Return a row a mapping of a traced region: linear, physical, size, region, by whom."""
    if not mappings:
        return ["no traced region is mapped yet"]
    rows = [[Cell(text, "time") for text in ("linear", "physical", "size", "region", "by")]]
    for record in mappings:
        rows.append([
            Cell(f"{record.linear:#018x}"),
            Cell(hex(record.physical)),
            Cell(f"{record.size:#x}"),
            Cell(", ".join(record.regions), "place"),
            Cell(record.by, "symbol"),
        ])  # fmt: skip
    return folded(rows, columns, colour)


def mapping_objects(mappings: Sequence[MapRecord]) -> list[dict[str, Any]]:
    """Return a JSON-ready object a mapping."""
    return [
        {
            "linear": hex(record.linear),
            "physical": hex(record.physical),
            "size": record.size,
            "regions": record.regions,
            "by": record.by,
        }
        for record in mappings
    ]
