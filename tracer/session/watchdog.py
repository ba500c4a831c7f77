"""Limits to how long a run may take, and what becomes of one that takes longer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tracer.errors import GuestHung, UsageError
from tracer.session.session import Session
from tracer.text.number import nanoseconds

_BEAT = 0.1
"""Seconds between two looks at the guest's clock."""

_GRACE = 30.0
"""Seconds in which a guest that is to end stops, and tells where it stands."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Say after how many seconds a run ends: of the host's time, and of the guest's."""

    wall: float | None = None
    guest: float | None = None


class Watchdog:
    """End what runs in a block when it takes longer than its limits.

    The host's time counts from the block's begin, the guest's from its machine's. A session given
    to :meth:`guard` ends by itself, and tells where its guest stands; where it does not, or there
    is none, the block is cancelled and :exc:`GuestHung` raised behind it: ``error``, once that is
    settled. A block whose session is attended, by
    who looks at how the guest ended, goes on.
    """

    def __init__(self, limits: Limits) -> None:
        self.error: GuestHung | None = None
        self._limits = limits
        self._session: Session | None = None
        self._block: asyncio.Task[object] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._of_block = 0
        self._passed = False

    def guard(self, session: Session) -> None:
        """Have this session end by itself, and no other one any more.

        Without a limit of the guest's time its kernel is to be entered within what its system has
        the patience for.
        """
        self._session = session
        while len(self._tasks) > self._of_block:
            self._tasks.pop().cancel()  # of a session before it
        if self._limits.guest is not None:
            self._tasks.append(asyncio.create_task(self._watch_guest(session, self._limits.guest)))
        elif session.system.patience is not None:
            work = self._watch_entry(session, session.system.patience)
            self._tasks.append(asyncio.create_task(work))

    async def __aenter__(self) -> Self:
        self._block = asyncio.current_task()
        if self._limits.wall is not None:
            self._tasks.append(asyncio.create_task(self._watch_wall(self._limits.wall)))
        self._of_block = len(self._tasks)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self.error is not None and kind is asyncio.CancelledError:
            raise self.error from None

    async def _watch_wall(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._end(f"{seconds:g} s (--timeout)")

    async def _watch_guest(self, session: Session, seconds: float) -> None:
        while session.machine.tick() < seconds:
            await asyncio.sleep(_BEAT)
        await self._end(f"{seconds:g} s of its own time (--guest-timeout)")

    async def _watch_entry(self, session: Session, seconds: float) -> None:
        while not session.entered:
            if session.machine.tick() >= seconds:
                limit = f"{seconds:g} s of its own time, in which no 64-bit Linux was started"
                await self._end(limit)
                return
            await asyncio.sleep(_BEAT)

    async def _end(self, limit: str) -> None:
        if self._passed:
            return
        self._passed = True
        if self._session is None:
            self.error = GuestHung(f"the guest had not been started after {limit}")
        else:
            self._session.expire(limit)
            await asyncio.sleep(_GRACE)
            if self._session.attended:
                return
            self.error = self._session.given_up()
        assert self._block is not None
        self._block.cancel()


def seconds(option: str, text: str) -> float:
    """Return a time in seconds. Raises UsageError for what is none, or not above 0."""
    try:
        time_ns = nanoseconds(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None
    if not time_ns:
        raise UsageError(f"{option}: {text} is no time to wait: give one above 0")
    return time_ns / 1e9
