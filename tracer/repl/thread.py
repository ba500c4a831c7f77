"""Run a person's Python beside the event loop, where Ctrl-C can end it."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class UserThread:
    """Run one call at a time in a thread of its own; :meth:`interrupt` raises in it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Tell whether a call is under way."""
        return self._thread is not None

    async def run(self, call: Callable[[], _T]) -> _T:
        """Make a call and return or raise what it does; the event loop goes on meanwhile."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def settle(give: Callable[[], None]) -> None:
            if not done.done():
                give()

        def work() -> None:
            try:
                value = call()
            except BaseException as error:  # KeyboardInterrupt among them
                problem = error
                loop.call_soon_threadsafe(settle, lambda: done.set_exception(_told(problem)))
            else:
                loop.call_soon_threadsafe(settle, lambda: done.set_result(value))

        # A daemon, so that a call that never ends does not keep the process.
        self._thread = threading.Thread(target=work, name="vetrace-py", daemon=True)
        self._thread.start()
        try:
            return await done
        finally:
            self._thread = None

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the call that is under way."""
        if self._thread is not None and self._thread.ident is not None:
            # Ref: Python C API, PyThreadState_SetAsyncExc.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident), ctypes.py_object(KeyboardInterrupt)
            )


class Stopped(Exception):
    """Tell that the call was ended by Ctrl-C, or by ``exit()``."""


# A future takes no StopIteration, and these two would end the event loop.
def _told(error: BaseException) -> BaseException:
    if isinstance(error, (KeyboardInterrupt, SystemExit, StopIteration)):
        told = Stopped(type(error).__name__)
        told.__cause__ = error
        return told
    return error
