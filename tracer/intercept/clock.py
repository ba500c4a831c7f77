"""The guest's time while no access tells it: of a guest that idles, or computes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tracer.errors import QemuError
from tracer.intercept.view import GuestView
from tracer.qemu.pm_timer import earliest

_EVERY = 0.1
"""Seconds of the host's time between two looks. The guest's clock, which goes no faster than QEMU's
main loop beats the metronome, gets some tenths of a second further meanwhile, and the timer begins
anew after 4.69."""


class IdleClock:
    """Follow the power-management timer of one guest, where it has one.

    In real time, the time that the guest has run stands in for it.
    """

    def __init__(self, view: GuestView) -> None:
        self._view = view

    async def look(self) -> None:
        """Note the guest's time as it is now."""
        view = self._view
        if view.machine.config.realtime:
            view.tell_time(0)
            return
        before = view.told
        ticks = await view.machine.timer_ticks()
        # A stop meanwhile told a later time than that.
        if ticks is not None and view.told == before:
            view.tell_time(earliest(ticks, view.time_ns))

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Look again and again, so that no turn of the timer is missed."""
        task = None
        if not self._view.machine.config.realtime:
            task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    async def _follow(self) -> None:
        with contextlib.suppress(QemuError):  # it has ended
            while True:
                await asyncio.sleep(_EVERY)
                await self.look()
