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
    seen, looks, since = b"", 0, 0.0
    while not over():
        recent, now = machine.console.recent, machine.tick()
        if recent != seen:
            seen, looks, since = recent, 0, now
        looks += 1
        if looks >= _LOOKS and now - since >= _OF_GUEST:
            found = look(recent)
            if found is not None:
                return found
            looks, since = 0, now
        await asyncio.sleep(_EVERY)
    return None
