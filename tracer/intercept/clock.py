"""The guest's time while no access tells it: of a guest that idles, or computes."""

from __future__ import annotations

from tracer.access.want import GuestTime
from tracer.intercept.view import GuestView


async def look_at_clock(view: GuestView) -> None:
    """Note the guest's time as it is now.

    In real time, the time that the guest has run stands in for it.
    """
    if view.realtime:
        view.tell_time(0)
        return
    before = view.told
    time_ns = await GuestTime()
    # A stop meanwhile told a later time than that.
    if time_ns is not None and view.told == before:
        # It is told in microseconds, and the last access's in nanoseconds.
        view.tell_time(max(time_ns, view.time_ns))
