"""The client of GDB: who waits for the target to stop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scripts.patience import patience
from tracer.access.stop import Stopped
from tracer.errors import DebuggerError, TargetGone
from tracer.gdb.client import GdbClient

STOP = Stopped(signal="SIGTRAP", thread=1)


def test_a_stop_that_comes_as_the_wait_is_broken_off_is_not_lost() -> None:
    async def body() -> None:
        client = GdbClient()
        waits = asyncio.create_task(client.stopped())
        await asyncio.sleep(0)
        client._receive(STOP)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert await asyncio.wait_for(client.stopped(), patience(60)) == STOP

    asyncio.run(body())


def test_who_waits_no_longer_is_not_told_that_gdb_died() -> None:
    told: list[dict[str, Any]] = []

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, it: told.append(it))
        client = GdbClient()
        for seconds in (0, 0.001):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(seconds):
                    await client.stopped()
        client.process_exited()
        with pytest.raises(DebuggerError):
            await client.stopped()

    asyncio.run(body())
    assert not told


async def parted() -> tuple[GdbClient, asyncio.Task[Stopped]]:
    """Return a client whose connection has been closed, and who waits for a stop."""
    client = GdbClient()
    waits = asyncio.create_task(client.stopped())
    await asyncio.sleep(0)
    client.pipe_data_received(1, b'=thread-group-exited,id="i1"\n')
    return client, waits


def test_a_connection_that_is_closed_is_told_to_who_waits_and_to_who_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracer.gdb.client._PARTING", 0.001)

    async def body() -> None:
        client, waits = await parted()
        for waiting in (waits, client.stopped()):
            with pytest.raises(DebuggerError, match="typed `gdbserver`"):
                await waiting

    asyncio.run(body())


def test_the_end_of_qemu_comes_before_the_end_of_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracer.gdb.client._PARTING", 0.001)

    async def body() -> None:
        client, waits = await parted()
        client.fail(TargetGone())
        await asyncio.sleep(0.01)
        for waiting in (waits, client.stopped()):
            with pytest.raises(TargetGone):
                await waiting

    asyncio.run(body())
