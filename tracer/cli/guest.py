"""A guest that a command traces: how it is opened, what of it is recorded, how long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from tracer.compiled.inputs import Input
from tracer.session.session import Session
from tracer.session.watchdog import Limits


@dataclass(frozen=True, slots=True)
class Guest:
    """Say how a guest is opened, and what of it is recorded.

    ``open`` takes who gets the bytes of its console, and who gets lines about what takes long.
    After ``seconds``, if any are given, the guest goes on without vetrace. One that is somebody
    else's cannot be opened ``again``.
    """

    open: Callable[
        [Callable[[bytes], None], Callable[[str], None]], AbstractAsyncContextManager[Session]
    ]
    limits: Limits
    inputs: frozenset[Input] = frozenset()
    qemu_log: Path | None = None
    nested: bool = False
    seconds: float | None = None
    again: bool = True


@contextlib.asynccontextmanager
async def detached_after(session: Session, seconds: float | None) -> AsyncIterator[None]:
    """Detach a session after so long, within the block, the guest going on; None is never."""

    async def end(seconds: float) -> None:
        await asyncio.sleep(seconds)
        await session.detach()

    task = None if seconds is None else asyncio.create_task(end(seconds))
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
