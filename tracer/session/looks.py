"""Looks at a guest's page tables, again and again, for what nothing else tells of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from tracer.access.stop import Ran, Stopped
from tracer.access.vcpu import Change
from tracer.access.want import Await, Pause, Start

BEAT = 0.005
"""Seconds of the host's time between two looks at whether it is time."""


class Looks:
    """Have a guest stand for a ``look`` after so many ``seconds`` of the host's time, and again."""

    def __init__(self, seconds: float, look: Callable[[], Awaitable[None]]) -> None:
        self._seconds = seconds
        self._look = look
        self._ran = 0.0
        self._asked = False

    async def resume(self, changes: Sequence[Change]) -> Ran:
        """Make changes, let the guest go on, and wait for its next stop, ours among them."""
        await Start(changes)
        while True:
            ran = await Await(BEAT)
            if ran is not None:
                return ran
            await self.passed(BEAT)

    async def passed(self, seconds: float) -> None:
        """Take note that the guest has run on, and ask it to stop when it is time."""
        self._ran += seconds
        if self._ran >= self._seconds and not self._asked:
            self._asked = True
            await Pause()

    async def stopped(self, stop: Stopped) -> bool:
        """Look, if the guest was asked to stop; tell whether it stands for that alone."""
        if not self._asked:
            return False
        self._asked, self._ran = False, 0.0
        await self._look()
        return stop.interrupted and not stop.expired
