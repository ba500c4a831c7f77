"""The guest's time while no access tells it: of a guest that idles, or computes."""

from __future__ import annotations

from tracer.access.want import TimerTicks
from tracer.intercept.view import GuestView
from tracer.qemu.pm_timer import earliest


async def look_at_clock(view: GuestView) -> None:
    """Note the guest's time as it is now, by its power-management timer, where it has one.

    In real time, the time that the guest has run stands in for it.
    """
    if view.realtime:
        view.tell_time(0)
        return
    before = view.told
    ticks = await TimerTicks()
    # A stop meanwhile told a later time than that.
    if ticks is not None and view.told == before:
        view.tell_time(earliest(ticks, view.time_ns))
