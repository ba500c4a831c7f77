"""The patrol of a guest that runs by itself: does it go no further?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from tracer.qemu.console import Console

_Found = TypeVar("_Found")

_EVERY = 0.25
"""Seconds between two looks at the console."""
_LOOKS, _OF_GUEST = 4, 0.05
"""The looks, and the seconds of the guest, for which it must have printed nothing. Both are few, as
a boot loader that polls for a key makes time go slowly."""


class Started(Protocol):
    """A machine whose console is looked at."""

    @property
    def console(self) -> Console:
        """Return the console."""
        ...

    def tick(self) -> float:
        """Return the guest's time in seconds."""
        ...


async def patrol(
    machine: Started, over: Callable[[], bool], look: Callable[[bytes], _Found | None]
) -> _Found | None:
    """Return what a ``look`` at the last that was printed has found, once nothing more comes.

    None when the patrol is ``over``.
    """
    seen, looks, found = b"", 0, None
    ticks: list[float] = []
    while not over():
        recent = machine.console.recent
        if recent != seen:
            seen, looks, found = recent, 0, None
            ticks.clear()
        looks += 1
        if looks == _LOOKS:
            found = look(recent)
        # Each asking is an event of QEMU's, which can move the guest's time by microseconds.
        if found is not None:
            ticks.append(machine.tick())
            # The first tells of the time before it was asked for.
            if len(ticks) > 2 and ticks[-1] - ticks[1] >= _OF_GUEST:
                return found
        await asyncio.sleep(_EVERY)
    return None
