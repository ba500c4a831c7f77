"""The signals that end vetrace: one exit status each, at every moment of a run.

SIGINT, SIGTERM and SIGHUP end a run in order: the guest is ended, the trace gets its last record,
and the exit status is 128 and the signal's number, as a shell would report it. They do so even
where a script that starts vetrace in the background has had SIGINT ignored. SIGHUP is left alone
where it was ignored at the start, as nohup(1) asks for.

This comes before everything else, so it imports nothing that takes long.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

_T = TypeVar("_T")

_ENDING = tuple(
    number
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
)
_PATIENCE = 3
"""A person who sends so many does not want to wait for the end in order."""


class Ended(KeyboardInterrupt):
    """A signal ends the run; ``number`` is the signal's."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


def status_of(number: int) -> int:
    """Return the exit status of a run that a signal ended."""
    return 128 + number


def words_of(number: int) -> str:
    """Return how a run ended that a signal ended: ``interrupted``, and by which if not Ctrl-C."""
    return (
        "interrupted"
        if number == signal.SIGINT
        else f"interrupted by {signal.Signals(number).name}"
    )


def take() -> None:
    """Raise :class:`Ended` in the main thread at each of the signals from here on."""
    for number in _ENDING:
        signal.signal(number, _raise)


def leave_at_once() -> None:
    """End the process at each of the signals from here on: all that there was is in order."""
    for number in _ENDING:
        signal.signal(number, _leave)


def run(work: Coroutine[Any, Any, _T], *, interruptible: bool = True) -> _T:
    """Run a coroutine in an event loop; a signal cancels it, and raises :class:`Ended` behind it.

    Without ``interruptible`` SIGINT is left to whom the coroutine leaves it.
    """
    import asyncio

    received: list[int] = []

    async def guarded() -> _T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def end(number: int) -> None:
            received.append(number)
            if len(received) == 1:
                task.cancel()
            elif len(received) == _PATIENCE:
                os._exit(status_of(number))

        for number in _ENDING:
            if interruptible or number != signal.SIGINT:
                loop.add_signal_handler(number, end, number)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise Ended(received[0] if received else signal.SIGINT) from None
    finally:
        take()


def _raise(number: int, frame: FrameType | None) -> None:
    raise Ended(number)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(status_of(number))
