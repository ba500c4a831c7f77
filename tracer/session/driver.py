"""The one driver of the engine: what its coroutines want is done through GDB and QEMU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from tracer.access import want
from tracer.access.decision import Called, Decision, Go, Leeway, Pending, Retry, Ruling
from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Ran, Reason
from tracer.access.vcpu import Change
from tracer.errors import GuestHung
from tracer.gdb.target import Target
from tracer.qemu.cpu import has_features
from tracer.qemu.guest import GuestMachine
from tracer.x86.state import CpuState

Result = TypeVar("Result")


class Overseer(Protocol):
    """Decide what becomes of each access, and look at the guest where it stands before none."""

    @property
    def wants_halt(self) -> bool:
        """Tell whether to hold the guest at the handler of an exception that is delivered."""
        ...

    @property
    def wants_clock(self) -> bool:
        """Tell whether somebody looks at the guest's clock while it idles."""
        ...

    def is_due(self, time_ns: int) -> bool:
        """Tell whether to stop the guest wherever it is, at this time of its own in ns."""
        ...

    async def before(self, pending: Pending) -> Decision:
        """Decide before the access is made."""
        ...

    def where(self, regions: RegionMap) -> Leeway:
        """Return which accesses it need not be asked about, until the guest stops again."""
        ...

    async def answered(self, pending: Pending) -> Go | Ruling:
        """Decide once a device has answered a read."""
        ...

    async def called(self, called: Called) -> Go | Ruling | Retry:
        """Decide what is said to a call of a confidential guest."""
        ...

    async def completed(self, cpu: CpuState) -> CpuState:
        """Look at the state behind an instruction; return the one to go on from."""
        ...

    async def halted(self, reason: Reason, vcpu: int, cpu: CpuState, space: AddressSpace) -> None:
        """Take note that the guest stands; it goes on when this returns."""
        ...

    def expire(self) -> None:
        """Hold the guest no longer, if it is held: raise GuestHung where it is."""
        ...


class Driver:
    """Drive coroutines of the engine on one guest.

    The ``overseer``, where there is one, answers what a person is asked. ``interrupting`` is set
    from :meth:`interrupt` until the guest is held. ``expired`` says how long the run was given when
    that time has passed. ``before_code`` is told what code is at a linear address before other code
    is written there.
    """

    def __init__(self, target: Target, machine: GuestMachine) -> None:
        self.target = target
        self.machine = machine
        self.overseer: Overseer | None = None
        self.interrupting = False
        self.expired = ""
        self.before_code: Callable[[int, bytes], None] | None = None
        self._running = False
        self._pausing: asyncio.Task[None] | None = None
        self._since = 0.0
        self._ways: dict[type[want.Want[Any]], Callable[[Any], Awaitable[Any]]] = {
            want.Vcpu: lambda _: _at_once(target.vcpu),
            want.Registers: lambda _: target.registers(),
            want.SelectVcpu: lambda it: target.select(it.vcpu),
            want.Register: lambda it: target.register(it.name),
            want.StackAndTables: lambda _: target.stack_and_tables(),
            want.MakeChanges: lambda it: target.change(it.changes),
            want.FlushTlb: lambda it: target.flush_tlb(it.cr3),
            want.FlushAllTlbs: lambda _: target.flush_all_tlbs(),
            want.Resume: lambda it: self._resume(it.changes),
            want.Start: lambda it: self._start(it.changes),
            want.Await: lambda it: self._await(it.seconds),
            want.Pause: lambda _: self._ask_to_stop(),
            want.RunAlone: lambda it: target.run_alone(it.linear, it.changes),
            want.BreakAlone: lambda it: target.break_alone(it.linear, it.changes, it.rip),
            want.StepAlone: lambda _: target.step_alone(),
            want.Detach: lambda _: target.detach(),
            want.ReadPhysical: lambda it: target.read_physical(it.physical, it.width),
            want.WritePhysical: lambda it: target.write_physical(it.physical, it.width, it.value),
            want.WriteCode: lambda it: self._write_code(it.linear, it.code),
            want.SetBreakpoint: lambda it: target.set_breakpoint(it.linear),
            want.WatchStores: lambda it: target.watch_stores(it.linear, it.size),
            want.WatchReads: lambda it: target.set_read_watch(it.linear),
            want.WatchAccesses: lambda it: target.watch_accesses(it.linear, it.size),
            want.DeleteBreakpoint: lambda it: target.delete_breakpoint(it.number),
            want.Turn: lambda _: self._turn(),
            want.VcpuStates: lambda _: machine.dialogue.vcpu_states(),
            want.Tables: lambda _: machine.dialogue.descriptor_tables(),
            want.Sleeps: lambda it: machine.dialogue.halted(it.vcpu),
            want.HasMachineCheck: lambda _: machine.dialogue.has_machine_check(),
            want.HasNoExecute: lambda _: machine.dialogue.has_no_execute(),
            want.HasSvm: lambda _: has_features(machine.dialogue, "svm"),
            want.PortMap: lambda _: machine.dialogue.port_map(),
            want.MemoryMap: lambda _: machine.dialogue.memory_map(),
            want.Virtqueues: lambda _: machine.dialogue.virtqueues(),
            want.MapChanged: lambda _: _at_once(machine.map_changed),
            want.Woken: lambda _: _at_once(machine.woken()),
            want.LogSize: lambda _: _at_once(machine.log_size),
            want.GuestTime: lambda _: machine.time_ns(),
            want.LogAccesses: lambda _: machine.log_accesses(),
            want.AskBefore: lambda it: self._asked.before(it.pending),
            want.AskWhere: lambda it: _at_once(self._asked.where(it.regions)),
            want.AskAnswered: lambda it: self._asked.answered(it.pending),
            want.AskCalled: lambda it: self._asked.called(it.called),
            want.AskCompleted: lambda it: self._asked.completed(it.cpu),
            want.AskHold: lambda _: _at_once(self._asked.wants_halt),
            want.Hold: lambda it: self._hold(it),
        }

    async def drive(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine of the engine to its end; return what it returns.

        What goes wrong in serving it is raised within it, a cancellation too: it leaves the guest
        as that has to be left.
        """
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                wanted = work.send(answer) if error is None else work.throw(error)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            answer = error = None
            try:
                answer = await self._ways[type(wanted)](wanted)
            except BaseException as caught:
                error = caught

    async def interrupt(self) -> None:
        """Ask the running guest to stop.

        Through QEMU's monitor, which a guest that has just stopped by itself does not mind; GDB's
        own interrupt would break off the command it comes upon.
        """
        self.interrupting = True
        if self._running:
            self._pause()

    @property
    def elapsed(self) -> float:
        """Return for how many seconds the guest has been running; 0 while it stands."""
        return time.monotonic() - self._since if self._running else 0.0

    async def stand(self) -> None:
        """Have the guest stand, wherever whoever drove it has left it."""
        self.interrupting, self.expired = False, ""
        if self._pausing is not None:
            await self._pausing
            self._pausing = None
        await self.machine.dialogue.pause()
        await self.target.stand()

    def expire(self, limit: str) -> None:
        """Stop the guest for good: it has taken longer than ``limit``, in words."""
        self.expired = limit
        if self.overseer is not None:
            self.overseer.expire()
        if self._running:
            self._pause()

    async def _ask_to_stop(self) -> None:
        if self._running:
            self._pause()

    def _pause(self) -> None:
        if self._pausing is None:
            self._pausing = asyncio.create_task(self.machine.dialogue.pause())

    async def _resume(self, changes: Sequence[Change]) -> Ran:
        await self._start(changes)
        ran = await self._await(None)
        assert ran is not None  # it was waited for without end
        return ran

    async def _start(self, changes: Sequence[Change]) -> None:
        await self.target.go(changes)
        self._note_start()

    def _note_start(self) -> None:
        self._since = time.monotonic()
        self._running = True
        if self.interrupting or self.expired:
            self._pause()

    async def _await(self, seconds: float | None) -> Ran | None:
        patience = asyncio.timeout(seconds)
        try:
            async with patience:
                stop = await self.target.stopped()
        except TimeoutError:
            return None
        finally:
            self._running = patience.expired()
        if self._pausing is not None:
            # It would stop the guest in the middle of what is done for it next.
            await self._pausing
            self._pausing = None
        ran = time.monotonic() - self._since
        return Ran(replace(stop, expired=bool(self.expired)), ran)

    async def _write_code(self, linear: int, code: bytes) -> None:
        if self.before_code is not None:
            self.before_code(linear, await self.target.read_code(linear, len(code)))
        await self.target.write_code(linear, code)

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        if self.expired:
            raise GuestHung

    async def _hold(self, it: want.Hold) -> None:
        self.interrupting = False
        if self.overseer is not None:
            await self.overseer.halted(it.reason, it.vcpu, it.cpu, it.space)

    @property
    def _asked(self) -> Overseer:
        assert self.overseer is not None  # or the engine would not ask
        return self.overseer


async def _at_once(value: Result) -> Result:
    return value
