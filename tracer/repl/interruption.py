"""Ctrl-C, for the whole life of a prompt: before there is a guest, while it runs, and after."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any


class Interruption:
    """Take SIGINT from :meth:`install` on, and hand it to who is in charge.

    Until there is somebody, the first tells the reader that the guest will stop by itself, and the
    second ends the session.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.on_interrupt: Callable[[], object] | None = None
        self._tell = tell
        self._early = 0
        self._task: asyncio.Task[Any] | None = None

    def install(self, task: asyncio.Task[Any]) -> None:
        """Take SIGINT from here on; ``task`` is cancelled to end the session."""
        self._task = task
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupted)

    def _interrupted(self) -> None:
        if self.on_interrupt is not None:
            self.on_interrupt()
            return
        self._early += 1
        if self._early == 1:
            self._tell("the guest will stop at its kernel's entry; Ctrl-C again quits")
        elif self._task is not None:
            self._task.cancel()
