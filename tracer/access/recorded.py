"""Accesses as a trace records them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracer.access.region import UNASSIGNED, Region, RegionMap
from tracer.access.transfer import Meddling, Transfer, located
from tracer.trace.compiled import Place
from tracer.trace.record import MemoryAccess


def memory_access(transfer: Transfer, meddling: Meddling | None = None) -> MemoryAccess:
    """Return a transfer as it is recorded."""
    device = None if meddling is None else meddling.device
    name, offset = located(transfer)
    return MemoryAccess(
        direction=transfer.direction,
        width=transfer.width,
        linear=transfer.linear,
        physical=transfer.physical,
        value=transfer.value,
        region=name if transfer.traced else None,
        offset=offset if transfer.traced else None,
        device=device,
        skipped=meddling is not None and meddling.skipped,
        extent=transfer.extent,
        space=transfer.space,
    )


def places(regions: RegionMap, ports: Iterable[Region] = ()) -> Iterator[Place]:
    """Yield where the traced regions are, those of memory first, sorted and disjoint."""
    for start, end in regions.traced:
        while start <= end:
            region = regions.find(start)
            size = regions.room(start, end - start + 1)
            yield Place(
                region=UNASSIGNED if region is None else region.name,
                start=start,
                end=start + size - 1,
                base=0 if region is None else region.base,
                reads=regions.is_recorded(start, read=True),
            )
            start += size
    for port in ports:
        yield Place(region=port.name, start=port.start, end=port.end, base=port.base, space="port")
