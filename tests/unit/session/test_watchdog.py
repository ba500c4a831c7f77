"""Limits to a run: by the host's time and by the guest's, kept by guests that stop and that do not.

The limits are tiny, and nothing is asserted of how long anything took.
"""

from __future__ import annotations

import asyncio

import pytest
from simulated import Guest, accesses

from scripts.patience import patience
from tracer.errors import GuestHung, UsageError
from tracer.session import watchdog
from tracer.session.watchdog import Limits, Watchdog, seconds


def watched(limits: Limits, guest: Guest) -> list[str]:
    """Run a guest that idles within limits; return what is told of it when it is ended."""
    told: list[str] = []

    async def body() -> None:
        session = guest.session()
        session.journal.progress = told.append
        async with Watchdog(limits) as dog:
            dog.guard(session)
            await session.trap()
            try:
                await session.run()
            finally:
                told.append(f"expired: {session.expired}")

    with pytest.raises(GuestHung):
        asyncio.run(asyncio.wait_for(body(), patience(60)))
    return told


def test_the_hosts_time() -> None:
    told = watched(Limits(wall=0.05), Guest(accesses(), idles=True))
    assert any(line.startswith("vcpu0 is in ") for line in told)
    assert told[-1] == "expired: 0.05 s (--timeout)"


def test_the_guests_own_time() -> None:
    guest = Guest(accesses(), idles=True)
    guest.clock = 1.5
    told = watched(Limits(guest=1.5), guest)
    assert told[-1] == "expired: 1.5 s of its own time (--guest-timeout)"


def test_the_guests_own_time_is_not_the_hosts() -> None:
    guest = Guest(accesses(), idles=True)
    told = watched(Limits(wall=0.3, guest=0.01), guest)
    assert told[-1] == "expired: 0.3 s (--timeout)"


def test_a_session_that_another_one_follows_ends_nobody_any_more() -> None:
    async def body() -> None:
        slow, idle = Guest(accesses(), idles=True), Guest(accesses(), idles=True)
        slow.clock = 1.5
        async with Watchdog(Limits(guest=1.5)) as dog:
            dog.guard(slow.session())
            dog.guard(idle.session())
            await asyncio.sleep(0.2)
            idle.clock = 1.5
            await asyncio.sleep(patience(60))

    with pytest.raises(GuestHung):
        asyncio.run(body())


def watched_on_its_way(limits: Limits, *, entered: bool) -> list[str]:
    """The same for a guest whose system has the patience of a second."""
    told: list[str] = []

    async def body() -> None:
        guest = Guest(accesses(), idles=True)
        guest.clock = 1.5
        session = guest.session()
        session.system.patience, session.entered = 1.0, entered
        async with Watchdog(limits) as dog:
            dog.guard(session)
            await session.trap()
            try:
                await session.run()
            finally:
                told.append(session.expired)

    with pytest.raises(GuestHung):
        asyncio.run(asyncio.wait_for(body(), patience(60)))
    return told


def test_a_guest_that_enters_no_kernel() -> None:
    (told,) = watched_on_its_way(Limits(), entered=False)
    assert told == "1 s of its own time, in which no 64-bit Linux was started"


def test_a_kernel_that_was_entered_has_all_the_time_there_is() -> None:
    (told,) = watched_on_its_way(Limits(wall=0.5), entered=True)
    assert told == "0.5 s (--timeout)"


def test_a_limit_of_the_readers_is_in_place_of_the_systems() -> None:
    (told,) = watched_on_its_way(Limits(guest=1.2), entered=False)
    assert told == "1.2 s of its own time (--guest-timeout)"


def test_a_guest_that_does_not_stop_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(Guest):
        async def pause(self) -> None:
            """It does not hear."""

    monkeypatch.setattr(watchdog, "_GRACE", 0.01)
    told = watched(Limits(wall=0.5), Deaf(accesses(), idles=True))
    assert "where it stands is not known: it does not stop" in told


def test_a_run_in_time_is_left_alone() -> None:
    async def body() -> None:
        session = Guest(accesses()).session()
        async with Watchdog(Limits(wall=patience(60), guest=60)) as dog:
            dog.guard(session)
            await session.trap()
            assert (await session.run()).status == 0
            assert not session.expired
        assert all(task.cancelling() or task.done() for task in dog._tasks)

    asyncio.run(body())


def test_what_has_not_been_started_is_ended_too() -> None:
    async def body() -> None:
        async with Watchdog(Limits(wall=0.01)):
            await asyncio.sleep(patience(60))

    with pytest.raises(GuestHung, match=r"not been started after 0\.01 s"):
        asyncio.run(body())


def test_a_person_who_looks_at_how_it_ended_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_GRACE", 0.01)

    async def body() -> None:
        session = Guest(accesses(), idles=True).session()
        async with Watchdog(Limits(wall=0.05)) as dog:
            session.attended = True
            dog.guard(session)
            await session.trap()
            with pytest.raises(GuestHung):
                await session.run()
            await asyncio.gather(*dog._tasks)  # it has looked, and left the block alone
            assert dog.error is None

    asyncio.run(body())


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("0.5", 0.5), ("20ms", 0.02)])
def test_a_number_of_seconds(text: str, value: float) -> None:
    assert seconds("--timeout", text) == value


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1 s", "0x10", "ten", "1e3"])
def test_what_is_no_number_of_seconds(text: str) -> None:
    with pytest.raises(UsageError, match=r"--timeout: .* is no time: 1\.5"):
        seconds("--timeout", text)


@pytest.mark.parametrize("text", ["0", "0.0", "0ms"])
def test_no_time_to_wait(text: str) -> None:
    with pytest.raises(UsageError, match=r"--timeout: .* give one above 0"):
        seconds("--timeout", text)
