"""Ctrl-C, for the whole life of a prompt: before there is a guest, while it runs, and after.

asyncio ends a program at Ctrl-C, and prompt_toolkit puts its own handler in the place of others:
neither is let. So there is one handler, and it knows who is in charge.

Ref: Python signal.set_wakeup_fd: the number of each signal is written for the event loop, whatever
handler there is.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from tracer.host.signals import Ended
from tracer.repl.thread import LoopCall


class Interruption:
    """Take SIGINT from :meth:`begin` on, and hand it to ``on_interrupt``.

    ``loop_call`` is what the event loop calls of a person's code. Until there is an
    ``on_interrupt``, the first tells a person that the guest will stop by itself, and the second
    ends the session; without a person the first does.
    """

    def __init__(self, tell: Callable[[str], None], *, person: bool) -> None:
        self.on_interrupt: Callable[[], object] | None = None
        self._tell = tell
        self._left = 2 if person else 1
        self._task: asyncio.Task[Any] | None = None
        self.loop_call = LoopCall()

    def begin(self) -> None:
        """Take SIGINT before there is an event loop."""

        def handle(number: int, frame: FrameType | None) -> None:
            self._interrupted()

        signal.signal(signal.SIGINT, handle)

    def install(self, task: asyncio.Task[Any]) -> None:
        """Take SIGINT in the event loop from here on; ``task`` is cancelled to end the session."""
        self._task = task
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupted)

        # In place of asyncio's, which does nothing: the event loop learns of a signal otherwise,
        # but not while it calls a person's code that does not end.
        def handle(number: int, frame: FrameType | None) -> None:
            self.loop_call.interrupt()

        signal.signal(signal.SIGINT, handle)
        signal.siginterrupt(signal.SIGINT, False)

    def _interrupted(self) -> None:
        if self.on_interrupt is not None:
            self.on_interrupt()
            return
        self._left -= 1
        if self._left > 0:
            self._tell("the guest will stop at its kernel's entry; Ctrl-C again quits")
        elif self._task is not None:
            self._task.cancel()
        else:
            raise Ended
