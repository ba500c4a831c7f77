"""An event loop in a thread of its own: it begins, ends and fails with the block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

import pytest

from tracer.host.event_loop import in_its_thread


class Held:
    """A context that notes what it did, and in which thread."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.thread: threading.Thread | None = None

    @contextlib.asynccontextmanager
    async def context(self, before: bool = False) -> AsyncIterator[Held]:
        if before:
            raise ValueError("before")
        self.thread = threading.current_thread()
        try:
            yield self
        finally:
            await asyncio.sleep(0)  # it may wait as it ends
            self.done.append("ended")


def test_the_context_is_held_for_the_block_and_in_another_thread() -> None:
    with in_its_thread(Held().context()) as held:
        assert held.thread is not threading.current_thread()
        assert held.thread is not None and held.thread.is_alive()
        assert held.done == []
    assert held.done == ["ended"]
    assert not held.thread.is_alive()


def test_the_blocks_own_error_ends_it() -> None:
    with pytest.raises(KeyError), in_its_thread(Held().context()) as held:
        raise KeyError
    assert held.done == ["ended"]


def test_a_context_that_cannot_be_entered_raises() -> None:
    held = Held()
    with pytest.raises(ValueError, match="before"), in_its_thread(held.context(before=True)):
        pass
    assert held.done == []
