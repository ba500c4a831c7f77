"""An event loop in a thread of its own, for a caller who waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

_T = TypeVar("_T")


@contextlib.contextmanager
def in_its_thread(context: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
    """Hold an asynchronous context for the block, in an event loop of a thread of its own.

    Raises what the context raises, as it is entered or as it ends.
    """
    cancelling: Future[Callable[[], object]] = Future()
    entered: Future[_T] = Future()

    async def hold() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancelling.set_result(lambda: loop.call_soon_threadsafe(task.cancel))
        async with context as value:
            entered.set_result(value)
            await asyncio.Event().wait()

    with ThreadPoolExecutor(1, "vetrace") as pool:
        ended: Future[Any] = pool.submit(asyncio.run, hold())
        first: tuple[Future[Any], ...] = entered, ended
        try:
            wait(first, return_when=FIRST_COMPLETED)
            if not entered.done():
                ended.result()
            yield entered.result()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended first
                cancelling.result()()
            with contextlib.suppress(asyncio.CancelledError):
                ended.result()
