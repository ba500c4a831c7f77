"""The driver: serves wants, throws errors where they belong, and stops a guest when asked to."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from guest_sample import MAPS
from simulated import BASE, LINEAR, READ, Guest, Made, Step, accesses
from simulated import STACK as TOP

from scripts.patience import patience
from tracer.access import want
from tracer.access.decision import Go
from tracer.access.stop import Stopped
from tracer.access.vcpu import SetRegister
from tracer.errors import GuestHung, InterceptError, QemuError, TargetGone
from tracer.session.control import Control
from tracer.session.driver import Driver
from tracer.trace.naming import Naming
from tracer.trace.record import RELEASED, Intercept, UserRecord
from tracer.x86.state import CpuState


def driver(guest: Any = None, machine: Any = None) -> Driver:
    guest = guest or Guest()
    if isinstance(guest, Guest):
        guest.session()
    return Driver(guest, machine or guest)


def test_every_kind_of_want_has_a_way() -> None:
    kinds = {
        kind for kind in vars(want).values()
        if isinstance(kind, type) and issubclass(kind, want.Want) and kind is not want.Want
    }  # fmt: skip
    assert set(driver()._ways) == kinds


def test_wants_are_served_and_the_result_comes_back() -> None:
    async def work() -> tuple[int, int, tuple[int, int]]:
        await want.MakeChanges([SetRegister("rax", 7)])
        return await want.Register("rax"), await want.Vcpu(), await want.StackAndTables()

    rax, vcpu, (stack, _) = asyncio.run(driver().drive(work()))
    assert (rax, vcpu, stack) == (7, 0, TOP)


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        (want.Registers(), None), (want.FlushTlb(0x10_0000), None), (want.FlushAllTlbs(), None),
        (want.StepAlone(), BASE + 0x8000), (want.ReadPhysical(0xFEBF_001C, 4), 1),
        (want.WritePhysical(0xFEBF_0014, 4, 1), None), (want.WriteCode(BASE, b"\x90"), None),
        (want.SetBreakpoint(BASE), 1), (want.WatchStores(BASE), 1), (want.WatchReads(BASE), 1),
        (want.WatchAccesses(BASE, 8), 1),
        (want.DeleteBreakpoint(1), None), (want.VcpuStates(), None), (want.Tables(), None),
        (want.Sleeps(0), False), (want.HasMachineCheck(), True), (want.MemoryMap(), None),
        (want.HasNoExecute(), False), (want.Start(), None), (want.Pause(), None),
        (want.MapChanged(), False), (want.Woken(), None), (want.LogSize(), None),
        (want.GuestTime(), None), (want.LogAccesses(), None), (want.Detach(), None),
        (want.BreakAlone(BASE), None), (want.SelectVcpu(0), None), (want.Turn(), None),
    ],
)  # fmt: skip
def test_each_want_reaches_the_guest(wanted: want.Want[Any], answer: Any) -> None:
    async def work() -> Any:
        return await wanted

    found = asyncio.run(driver().drive(work()))
    assert answer is None or found == answer


def test_an_error_is_raised_where_the_engine_waits() -> None:
    guest = Guest()

    async def refuse(physical: int, width: int) -> int:
        raise InterceptError("refused")

    guest.read_physical = refuse  # type: ignore[method-assign]

    async def work() -> str:
        try:
            await want.ReadPhysical(0, 4)
        except InterceptError as error:
            return str(error)
        return ""

    assert asyncio.run(driver(guest).drive(work())) == "refused"


def test_a_cancellation_runs_what_the_engine_does_at_the_end() -> None:
    guest = Guest()
    done: list[str] = []

    async def hang() -> int:
        await asyncio.sleep(3600)
        return 0

    guest.step_alone = hang  # type: ignore[method-assign]

    async def work() -> None:
        try:
            await want.StepAlone()
        finally:
            done.append("healed")
            await want.FlushTlb(0x10_0000)
            done.append("flushed")

    async def body() -> None:
        task = asyncio.create_task(driver(guest).drive(work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
    assert done == ["healed", "flushed"]


class Slow:
    """A target that runs until the machine is paused."""

    def __init__(self) -> None:
        self.vcpu = 0
        self.dialogue = self
        self.went: list[Any] = []
        self._paused = asyncio.Event()

    async def go(self, changes: Any) -> None:
        self.went.append(changes)

    async def stopped(self) -> Stopped:
        await self._paused.wait()
        self._paused.clear()
        return Stopped(signal="SIGINT", thread=1)

    async def pause(self) -> None:
        self._paused.set()


def test_a_running_guest_is_paused_and_its_time_is_measured() -> None:
    async def body() -> None:
        slow = Slow()
        one = driver(slow, slow)

        async def work() -> Any:
            return await want.Resume([SetRegister("rax", 1)])

        task = asyncio.create_task(one.drive(work()))
        await asyncio.sleep(0.01)
        assert not task.done()
        await one.interrupt()
        ran = await asyncio.wait_for(task, patience(60))
        assert ran.stop.interrupted and ran.seconds > 0 and one.interrupting
        assert slow.went == [[SetRegister("rax", 1)]]

    asyncio.run(body())


def test_a_guest_that_is_asked_to_stop_while_it_stands_does_so_once_it_runs() -> None:
    async def body() -> None:
        slow = Slow()
        one = driver(slow, slow)
        await one.interrupt()

        async def work() -> Any:
            return await want.Resume()

        assert (await asyncio.wait_for(one.drive(work()), patience(60))).stop.interrupted

    asyncio.run(body())


def test_a_guest_that_runs_is_looked_at_again_and_again_until_it_stops() -> None:
    async def body() -> None:
        slow = Slow()
        one = driver(slow, slow)

        async def work() -> tuple[int, Any]:
            await want.Start([SetRegister("rax", 1)])
            looks = 0
            while True:
                ran = await want.Await(0.001)
                if ran is not None:
                    return looks, ran
                looks += 1
                if looks == 3:
                    await one.interrupt()

        looks, ran = await asyncio.wait_for(one.drive(work()), patience(60))
        assert looks >= 3 and ran.stop.interrupted and ran.seconds > 0
        assert len(slow.went) == 1
        # It stands: whoever asks it to stop waits for the next time that it goes.
        assert not one._running

    asyncio.run(body())


def test_a_guest_that_runs_stops_when_the_engine_asks_it_to() -> None:
    async def body() -> None:
        slow = Slow()

        async def work() -> Any:
            await want.Start()
            assert await want.Await(0.001) is None
            await want.Pause()
            while (ran := await want.Await(0.001)) is None:
                pass
            await want.Pause()  # one that stands is not asked
            return ran

        one = driver(slow, slow)
        ran = await asyncio.wait_for(one.drive(work()), patience(60))
        assert ran.stop.interrupted and one._pausing is None

    asyncio.run(body())


def test_a_guest_that_is_lost_while_it_is_waited_for_says_so() -> None:
    async def body() -> None:
        slow = Slow()
        one = driver(slow, slow)

        async def gone() -> Stopped:
            raise TargetGone

        slow.stopped = gone  # type: ignore[method-assign]

        async def work() -> None:
            await want.Start()
            await want.Await(60)

        with pytest.raises(TargetGone):
            await asyncio.wait_for(one.drive(work()), patience(60))
        assert not one._running

    asyncio.run(body())


def test_who_holds_the_guest_is_asked_and_an_interruption_is_over_then() -> None:
    held: list[Any] = []

    async def hold(*words: Any) -> None:
        held.append(words)

    async def go(pending: Any) -> Go:
        return Go()

    async def on(cpu: CpuState) -> CpuState:
        return CpuState(rip=1)

    async def work() -> Any:
        await want.Hold("interrupt", 1, CpuState(), None)  # type: ignore[arg-type]
        return (
            await want.AskBefore(None), await want.AskAnswered(None),  # type: ignore[arg-type]
            await want.AskCompleted(CpuState()), await want.AskHold(),
            await want.AskWhere(None),  # type: ignore[arg-type]
        )  # fmt: skip

    one = driver()
    one.interrupting = True
    one.overseer = SimpleNamespace(  # type: ignore[assignment]
        wants_halt=True, before=go, answered=go, completed=on, halted=hold,
        where=lambda regions: (regions,),
    )  # fmt: skip
    before, answered, cpu, wants, where = asyncio.run(one.drive(work()))
    assert held[0][:2] == ("interrupt", 1) and not one.interrupting
    assert (before, answered, cpu.rip, wants, where) == (Go(), Go(), 1, True, (None,))


def test_nobody_holds_a_guest_that_nobody_oversees() -> None:
    async def work() -> None:
        await want.Hold("fault", 0, CpuState(), None)  # type: ignore[arg-type]

    asyncio.run(driver().drive(work()))


# ---- a session around it


def test_a_session_without_a_person_runs_to_the_end() -> None:
    async def body() -> None:
        guest = Guest(accesses())
        session = guest.session()
        await session.trap()
        records: list[Any] = []
        session.subscribers.append(records.append)
        ending = await session.run()
        session.mark_log("the end")
        session.end("poweroff")
        assert ending.status == 0 and session.counts["accesses"] == 6
        assert records[-1].outcome == "poweroff" and session.traced.gate.stub.base

    asyncio.run(body())


def test_a_session_whose_qemu_goes_away_is_judged_by_how_it_went() -> None:
    async def body() -> None:
        guest = Guest(accesses())
        session = guest.session()
        await session.trap()

        async def gone() -> Stopped:
            raise TargetGone

        guest.stopped = gone  # type: ignore[method-assign]
        assert (await session.run()).cause == "guest-shutdown"

    asyncio.run(body())


def test_a_guest_runs_untraced() -> None:
    async def body() -> None:
        guest = Guest()
        session = guest.session()
        await session.refresh_regions()
        assert (await session.run_untraced()).status == 0
        assert session.counts["stops"] == 0

    asyncio.run(body())


# ---- a run that takes too long


def test_a_running_guest_is_paused_for_good_when_its_time_is_over() -> None:
    async def body() -> None:
        slow = Slow()
        one = driver(slow, slow)

        async def work() -> list[bool]:
            return [(await want.Resume()).stop.expired for _ in range(2)]

        task = asyncio.create_task(one.drive(work()))
        await asyncio.sleep(0.01)
        one.expire("2 s")
        assert await asyncio.wait_for(task, patience(60)) == [True, True]

    asyncio.run(body())


def hung(*, held: bool = False, traced: bool = True) -> tuple[list[str], list[Any]]:
    """Let a guest's time be over; return what is told of it, and what became of its accesses."""
    told: list[str] = []
    made = Made()

    async def body() -> None:
        guest = Guest(accesses())
        guest.last_line = "the last words"
        session = guest.session()
        session.journal.progress = told.append
        session.subscribers.append(made)
        control = Control(session) if held else None
        if traced:
            await session.trap()
        if control is not None:
            await control.start()
            control.step()
            await control.wait()
            control.step()
            await control.wait()
            ended = asyncio.Event()
            control.on_end.append(ended.set)
            session.expire("2 s")
            await ended.wait()
            assert isinstance(control.error, GuestHung)
            assert control.error.reason == "the guest had not ended after 2 s"
        else:
            session.expire("2 s")
            with pytest.raises(GuestHung, match="had not ended after 2 s: what it did last"):
                await (session.run() if traced else session.run_untraced())
        assert session.given_up() is session.given_up()

    asyncio.run(asyncio.wait_for(body(), patience(60)))
    return told, made.made


def test_a_guest_whose_time_is_over_is_told_of_once() -> None:
    told, made = hung()
    assert told[:2] == ["no access was traced", "last console line: the last words"]
    assert len(told) == 3 and told[2].startswith("vcpu0 is in ") and made == []


def test_a_guest_whose_time_is_over_before_it_is_traced() -> None:
    told, _ = hung(traced=False)
    assert len(told) == 3 and told[2].startswith("vcpu0 is in _text+0x0")


def test_a_person_holds_a_guest_no_longer_than_its_time() -> None:
    told, made = hung(held=True)
    assert told[0].startswith("last access: ") and "nvme+0x1c" in told[0]
    assert told[2].startswith("vcpu0 is in nvme_reset_work+0x1c")
    assert made == [("read", 1)]  # the one that it stood before is not made


def test_a_guest_that_does_not_even_stop_is_given_up() -> None:
    guest, told = Guest(), list[str]()
    session = guest.session()
    session.journal.progress = told.append
    session.expire("2 s")
    assert isinstance(session.given_up(), GuestHung)
    assert told[1:] == [
        "nothing on the console", "where it stands is not known: it does not stop",
    ]  # fmt: skip


def test_a_guest_is_not_even_held_once_its_time_is_over() -> None:
    async def body() -> None:
        session = Guest(accesses()).session()
        control = Control(session)
        await session.trap()
        session.expire("2 s")
        with pytest.raises(GuestHung):
            await control.start()

    asyncio.run(asyncio.wait_for(body(), patience(60)))


def test_the_write_that_ended_qemu_well_is_the_last_record() -> None:
    made = Made()

    async def body() -> None:
        guest = Guest(accesses())
        session = guest.session()
        session.subscribers.append(made)

        async def gone(*_: int) -> None:
            raise TargetGone

        guest.write_physical = gone  # type: ignore[method-assign]
        await session.trap()
        assert (await session.run()).cause == "guest-shutdown"

    asyncio.run(body())
    assert made.made == [("read", 1), ("write", 0)]


def test_work_that_gives_others_their_turn_ends_when_the_run_has_taken_too_long() -> None:
    one = driver()

    async def work() -> None:
        await want.Turn()
        one.expire("1 s (--timeout)")
        await want.Turn()

    with pytest.raises(GuestHung):
        asyncio.run(one.drive(work()))


# ---- a session


class Standing(Guest):
    """A guest that tells how it is made to stand."""

    def __init__(self) -> None:
        super().__init__(accesses(), idles=True)
        self.stood = False

    async def stand(self) -> None:
        self.stood = True


def test_a_guest_is_left_wherever_it_is_and_once() -> None:
    async def body() -> None:
        guest = Standing()
        session = guest.session()
        await session.trap()
        session.driver.interrupting, session.driver.expired = True, "2 s"
        await session.leave()
        assert guest.stood and guest.detached and session.loop.released
        assert not session.driver.interrupting and not session.driver.expired
        leaf = guest.space.leaf(LINEAR)
        assert leaf is not None and not leaf.poisoned
        guest.stood = guest.detached = False
        await session.leave()
        assert not guest.stood and not guest.detached

    asyncio.run(body())


def test_a_guest_that_is_not_traced_yet_is_left_as_it_is() -> None:
    async def body() -> None:
        guest = Standing()
        before = bytes(guest.memory.data)
        session = guest.session()
        await session.leave()
        assert guest.detached and guest.memory.data == before

    asyncio.run(body())


def test_a_guest_that_runs_is_let_go_and_that_is_recorded() -> None:
    records: list[Any] = []

    async def body() -> None:
        guest = Guest(accesses(), idles=True)
        session = guest.session()
        session.subscribers.append(records.append)
        await session.trap()
        run = asyncio.create_task(session.run())
        while sum(isinstance(record, Intercept) for record in records) < 6:
            await asyncio.sleep(0)
        await session.detach()
        await asyncio.wait_for(run, patience(60))
        assert guest.detached and session.loop.released

    asyncio.run(body())
    assert [record.text for record in records if isinstance(record, UserRecord)] == [RELEASED]


def test_code_is_rewritten_at_its_physical_addresses() -> None:
    written: list[tuple[int, int, int]] = []

    async def body() -> None:
        guest = Guest()

        async def write(physical: int, width: int, value: int) -> None:
            written.append((physical, width, value))

        guest.write_physical = write  # type: ignore[method-assign]
        session = guest.session()
        await session.rewrite(BASE + 0xFFE, b"\x90\x91\x92", guest.space)

    asyncio.run(body())
    assert written == [(0x20_0FFE, 2, 0x9190), (0x20_1000, 1, 0x92)]


def test_a_guest_that_ends_before_its_kernel_is_told_of() -> None:
    async def body() -> None:
        session = Guest(error=QemuError("QEMU died")).session()

        async def gone() -> None:
            raise TargetGone

        session.loop.reach_entry = gone  # type: ignore[method-assign]
        with pytest.raises(QemuError, match="QEMU died"):
            await session.reach_entry()
        assert not session.entered

    asyncio.run(body())


def test_what_a_guest_reads_again_and_again_is_what_it_waits_for() -> None:
    async def body() -> None:
        loop = READ + "a80174fa"  # test al, 1; jz to the read
        steps = [Step(loop, 0x1C, 1_000_000_000 + n * 50_000_000) for n in range(100)]
        guest = Guest(steps, idles=True)
        guest.device[0x1C] = 0
        session = guest.session()
        assert session.waits.line(80) == "" and session.waits.objects() == []
        session.naming = Naming(MAPS)
        made = Made()
        session.subscribers.append(made)
        await session.trap()
        run = asyncio.create_task(session.run())
        while len(made.made) < len(steps):
            await asyncio.sleep(0)
        line = session.waits.line(78)
        assert (
            line.startswith("waiting for nvme CSTS until RDY=1: 100 times in 4.950 s")
            and len(line) <= 78
        )
        (told,) = session.waits.objects()
        assert (told["region"], told["register"], told["turns"]) == ("nvme", "CSTS", 100)
        await session.detach()
        await asyncio.wait_for(run, patience(60))

    asyncio.run(body())
