"""A person's Python: beside the event loop, or called by it. Ctrl-C ends either."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as Waiting
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

_T = TypeVar("_T")

_TURN = 0.1  # seconds
_PATIENCE = 1.0
"""Seconds after which a call that does not heed Ctrl-C is left to itself."""


class Stopped(Exception):
    """Tell that the call was ended by Ctrl-C, or by ``exit()``.

    With ``left`` it has not ended yet: it sleeps, or waits, and is left to itself.
    """

    def __init__(self, left: bool = False) -> None:
        super().__init__()
        self.left = left

    def __str__(self) -> str:
        return "was interrupted" + (", and goes on by itself until it heeds that" * self.left)


class _Call(threading.Thread):
    # A daemon, so that a call that never ends does not keep the process.

    def __init__(self, work: Callable[[], None], give_up: Callable[[], None]) -> None:
        super().__init__(target=work, name="vetrace-py", daemon=True)
        self.give_up = give_up
        self.left = False
        self.asked = 0


class UserThread:
    """Run calls in threads of their own; :meth:`interrupt` raises in the last of them.

    A call may lead to another one: Python that carries out a command which is Python.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    @property
    def busy(self) -> bool:
        """Tell whether a call is under way."""
        return bool(self._calls)

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
                problem = _told(error)
                give = partial(done.set_exception, problem)
            else:
                give = partial(done.set_result, value)
            with contextlib.suppress(RuntimeError):  # the loop has ended first
                loop.call_soon_threadsafe(settle, give)

        thread = _Call(work, lambda: settle(lambda: done.set_exception(Stopped(left=True))))
        self._calls.append(thread)
        thread.start()
        try:
            return await done
        finally:
            self._calls.remove(thread)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the call that is under way."""
        if not self._calls:
            return
        thread = self._calls[-1]
        asked = thread.asked
        if thread.ident is not None:
            # Ref: Python C API, PyThreadState_SetAsyncExc.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt)
            )

        def lose_patience() -> None:
            if thread.asked == asked and thread in self._calls:
                thread.left = True
                thread.give_up()

        asyncio.get_running_loop().call_later(_PATIENCE, lose_patience)


def ask_loop(
    work: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop, *, cancels: bool = False
) -> _T:
    """Have the event loop do something, and wait for it in a person's thread.

    Ctrl-C gets through, and with ``cancels`` to what the loop does as well: what reaches a guest
    has to come to its end. Raises EOFError in a call that has been left to itself.
    """
    thread = threading.current_thread()
    if isinstance(thread, _Call):
        if thread.left:
            work.close()
            raise EOFError("this call was interrupted, and has nobody to ask any more")
        thread.asked += 1
    future = asyncio.run_coroutine_threadsafe(work, loop)
    while True:
        try:
            return future.result(_TURN)
        except Waiting:
            if future.done():
                raise
        except KeyboardInterrupt:
            if cancels:
                future.cancel()
            raise


class LoopCall:
    """Mark a person's code that the event loop itself calls, as a context: a filter, a subscriber.

    Nothing else goes on meanwhile, so a signal handler has to end it: by :meth:`interrupt`.
    """

    def __init__(self) -> None:
        self._under_way = False

    def __enter__(self) -> None:
        self._under_way = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._under_way = False

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt if there is such code under way."""
        if self._under_way:
            self._under_way = False  # it may be about to end
            raise KeyboardInterrupt


# A future takes no StopIteration, and what is no Exception would end the event loop or its tasks.
def _told(error: BaseException) -> BaseException:
    if isinstance(error, StopIteration) or not isinstance(error, Exception):
        told = Stopped()
        told.__cause__ = error
        return told
    return error
