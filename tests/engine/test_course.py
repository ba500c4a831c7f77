"""A guest under control: from state to state, as a person says and as the guest comes along."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stop_sample
from guest_sample import trapped
from simulated import DEVICE, LINEAR, RIP, Guest, Made, accesses

from scripts.patience import patience
from tracer.access.decision import Go, Inject, Pending
from tracer.errors import UsageError
from tracer.session.control import Control
from tracer.session.course import (
    Ended,
    Halt,
    Leaving,
    Redoing,
    Running,
    Skipping,
    Standing,
    Stepping,
    ToHandler,
    Unstarted,
    Until,
    nearer,
    why_stand,
)
from tracer.session.custody import SILENCE_NS

PENDING = stop_sample.stop("8b06")


# ---- why to stand


@pytest.mark.parametrize(
    ("course", "found", "interrupting", "why"),
    [
        (Running(), None, False, None),
        (Running(), "break 1", False, "break 1"),
        (Running(), None, True, "interrupted"),
        (Running(), "break 1", True, "break 1"),
        (Stepping(1), None, False, None),
        (Stepping(0), None, False, "step"),
        (Stepping(0), "break 1", False, "break 1"),
        (Stepping(3), None, True, "interrupted"),
        (Until("there", lambda pending: True), None, False, "there"),
        (Until("there", lambda pending: False), None, False, None),
        (Until("there", lambda pending: True), None, True, "there"),
        (ToHandler(), None, False, None),
        (Redoing("step", None), "break 1", True, "step"),  # type: ignore[arg-type]
        (Skipping(None), None, False, None),  # type: ignore[arg-type]
    ],
)
def test_why_a_guest_is_held(
    course: Any, found: str | None, interrupting: bool, why: str | None
) -> None:
    assert why_stand(course, PENDING, found, interrupting=interrupting) == why


def test_only_a_step_comes_nearer_by_an_access() -> None:
    assert nearer(Stepping(2)) == Stepping(1)
    assert nearer(Running()) == Running() and nearer(Leaving()) == Leaving()


# ---- a control


class Held:
    """A guest under control."""

    def __init__(self, guest: Guest) -> None:
        self.guest, self.made = guest, Made()
        self.session = guest.session()
        self.asked: list[tuple[int, bool]] = []
        self.wanted: Callable[[Pending, bool], str | None] = lambda pending, answered: None
        self.control = Control(self.session, self._breaks)
        self.session.subscribers.append(self.made)

    def _breaks(self, pending: Pending, answered: bool) -> str | None:
        self.asked.append((pending.seq, answered))
        return self.wanted(pending, answered)

    async def go(self) -> Halt:
        halt = await asyncio.wait_for(self.control.wait(), patience(60))
        assert halt is not None, self.control.outcome
        return halt


def run(test: Callable[[Held], Awaitable[None]], **options: Any) -> None:
    async def body() -> None:
        held = Held(Guest(accesses(), **options))
        assert isinstance(held.control.custody.course, Unstarted)
        with pytest.raises(UsageError, match="not been started"):
            held.control.resume()
        await trapped(held.session)
        halt = await held.control.start()
        assert (halt.reason, held.control.state) == ("kernel entry", "stopped")
        try:
            await test(held)
        finally:
            await held.control.close()

    asyncio.run(body())


def test_from_the_entry_to_the_end() -> None:
    async def test(held: Held) -> None:
        held.control.resume()
        assert isinstance(held.control.custody.course, Running)
        assert await held.control.wait() is None
        assert (
            held.control.custody.course == Ended("poweroff") and held.control.outcome == "poweroff"
        )
        assert held.asked[0] == (0, False) and (0, True) in held.asked
        with pytest.raises(UsageError, match="has ended"):
            held.control.step()

    run(test)


def test_a_step_counts_accesses_and_a_break_comes_before_its_end() -> None:
    async def test(held: Held) -> None:
        held.control.step(2)
        halt = await held.go()
        assert halt.text == "step" and halt.pending is not None and halt.pending.seq == 1
        held.wanted = lambda pending, answered: "here" if pending.seq == 2 else None
        held.control.step(4)
        halt = await held.go()
        assert halt.text == "here"
        # The rest of the steps is forgotten.
        held.wanted = lambda pending, answered: None
        held.control.resume()
        assert await held.control.wait() is None

    run(test)


def test_a_value_that_is_given_goes_with_the_guest_and_no_further() -> None:
    async def test(held: Held) -> None:
        held.control.step()
        await held.go()
        held.control.give(0x77)
        assert held.control.given == 0x77
        with pytest.raises(UsageError, match="does not fit"):
            held.control.give(1 << 32)
        held.control.step()
        assert held.control.given is None
        await held.go()
        assert held.made.made == [("read", 0x77)] and held.control.given is None

    run(test)


def test_behind_an_instruction_that_was_skipped_registers_can_be_set() -> None:
    async def test(held: Held) -> None:
        held.control.step()
        await held.go()
        behind = await held.control.skip(5)
        assert behind is not None and (behind.reason, behind.cpu.rip) == ("completed", RIP + 2)
        assert isinstance(held.control.custody.course, Standing)
        await held.control.set_register("rbx", 0x1234)
        assert held.control.stopped().cpu.gpr[3] == 0x1234
        held.control.step()
        await held.go()
        assert held.made.made == [("skip", 5)]

    run(test)


def test_a_register_that_takes_the_access_away_leaves_the_guest_behind_it() -> None:
    async def test(held: Held) -> None:
        held.control.step()
        await held.go()
        await held.control.set_register("rsi", 0xFFFF_C900_0001_0000)  # the stack
        halt = held.control.stopped()
        assert halt.reason == "completed" and "no device now" in halt.text
        held.control.resume()
        assert await held.control.wait() is None
        assert len(held.made.made) == 5

    run(test)


def test_a_register_that_makes_the_instruction_fault_leaves_the_guest_at_the_handler() -> None:
    async def test(held: Held) -> None:
        held.control.step()
        await held.go()
        await held.control.set_register("rsi", 0x1000)  # nothing is mapped there
        halt = held.control.stopped()
        assert (halt.reason, halt.text) == ("fault", "the exception is delivered")

    run(test)


def test_an_exception_in_its_place() -> None:
    async def test(held: Held) -> None:
        held.control.step()
        await held.go()
        halt = await held.control.inject("gp", Inject(13, 0))
        assert halt is not None and halt.reason == "fault"
        held.control.step()
        await held.go()
        assert held.guest.faults == [13] and held.made.made == []

    run(test)


def test_a_guest_that_idles_is_interrupted_looked_at_and_goes_on() -> None:
    async def test(held: Held) -> None:
        held.control.resume()
        while len(held.made.made) < 6:
            await asyncio.sleep(0.001)
        assert held.control.state == "running" and held.control.halt is None
        with pytest.raises(UsageError, match="interrupt it first"):
            held.control.step()
        await held.control.interrupt()
        halt = await held.go()
        assert (halt.reason, halt.text, halt.pending) == ("interrupt", "interrupted", None)
        with pytest.raises(UsageError, match="no access waits"):
            held.control.give(1)
        await held.control.set_register("rflags", 0x202)
        assert held.guest.registers_now["eflags"] == 0x202
        assert await held.control.peek(DEVICE + 0x1C, 4) == 1
        assert await held.control.peek(DEVICE + 8, 8) == 0x10400  # the vCPU makes this one
        assert not held.session.interrupting

    run(test, idles=True)


def test_a_guest_that_goes_on_to_a_time_is_due_once_it_is_silent_from_then_on() -> None:
    async def test(held: Held) -> None:
        custody, control = held.control.custody, held.control
        assert not custody.is_due(SILENCE_NS)  # it stands
        for _ in range(2):  # each time anew
            custody.enter(Until("until 5 ns", lambda pending: False, time_ns=5))
            assert not custody.is_due(4 + SILENCE_NS // 2)
            assert not custody.is_due(3 + SILENCE_NS)
            assert custody.is_due(4 + SILENCE_NS // 2 + SILENCE_NS)
        custody.enter(Until("until a symbol", lambda pending: False))
        assert not custody.is_due(9 * SILENCE_NS)
        assert control.state == "running"

    run(test)


def test_an_interruption_before_the_next_access_holds_the_guest_there() -> None:
    async def test(held: Held) -> None:
        await held.control.interrupt()  # it stands already
        held.session.interrupting = True
        held.control.resume()
        halt = await held.go()
        assert halt.text == "interrupted"

    run(test)


def test_a_running_guest_is_let_go() -> None:
    async def test(held: Held) -> None:
        held.control.resume()
        while len(held.made.made) < 6:
            await asyncio.sleep(0.001)
        await held.control.detach()
        assert held.control.state == "detached"
        assert await held.control.wait() is None
        assert held.guest.detached and held.control.outcome == "poweroff"
        leaf = held.guest.space.leaf(LINEAR)
        assert leaf is not None and not leaf.poisoned

    run(test, idles=True)


def test_a_guest_that_is_let_go_is_held_by_no_break_on_its_way() -> None:
    async def test(held: Held) -> None:
        held.control.step()
        await held.go()
        held.wanted = lambda pending, answered: "here"
        before = len(held.asked)
        await held.control.detach()
        with pytest.raises(UsageError, match="without vetrace"):
            held.control.resume()
        assert await held.control.custody.before(PENDING) == Go()
        assert await held.control.wait() is None and len(held.asked) == before

    run(test)


def test_a_control_that_is_closed_ends_its_guest_as_interrupted() -> None:
    async def body() -> None:
        held = Held(Guest(accesses()))
        await trapped(held.session)
        ended: list[str] = []
        held.control.on_end.append(lambda: ended.append(held.control.state))
        await held.control.start()
        held.control.step()
        await held.go()
        await held.control.close()
        assert (held.control.outcome, held.control.error, ended) == ("interrupted", None, ["ended"])

    asyncio.run(body())
