"""The queues of devices that a guest had set up before it was traced."""

from __future__ import annotations

from tracer.access.region import RegionMap
from tracer.access.want import ReadPhysical, Virtqueues
from tracer.intercept.queue.doorbell import Doorbells


async def take_over(doorbells: Doorbells, regions: RegionMap, *, begun: bool) -> None:
    """Learn of the queues that were set up before, as QEMU and the devices tell them.

    A guest whose kernel has not ``begun`` sets its devices up anew.
    """
    doorbells.adopt((*regions.regions, *regions.ports), await Virtqueues())
    if not begun:
        return
    for region in regions.regions:
        if not regions.is_traced_region(region):
            continue
        values = {}
        for entry in doorbells.asked(region):
            values[entry.name] = 0
            for at in range(0, entry.register.width, 4):
                part = await ReadPhysical(region.base + entry.offset + at, 4)
                values[entry.name] |= part << 8 * at
        if values:
            doorbells.begin(region, values)
