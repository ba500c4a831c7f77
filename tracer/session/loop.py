"""The one loop that joins guest, traps, trace and subscribers.

:meth:`Loop.run` is the loop: each stop goes to the first trap that claims it. Nothing here does
I/O: see :mod:`tracer.access.want`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tracer.access.decision import Leeway
from tracer.access.region import Choice, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stack import Stack
from tracer.access.state import stopped
from tracer.access.stop import Ran, Stopped
from tracer.access.transfer import Transfer
from tracer.access.vcpu import Change, VcpuState
from tracer.access.want import (
    AskWhere,
    Await,
    Detach,
    Hold,
    LogAccesses,
    MemoryMap,
    Registers,
    Resume,
    Start,
)
from tracer.compiled.inputs import Input
from tracer.errors import GuestError, GuestHung, InterceptError, UsageError
from tracer.intercept.below.bench import Bench, Wanted
from tracer.intercept.below.firmware import Underneath
from tracer.intercept.blame import whose_doing
from tracer.intercept.clock import look_at_clock
from tracer.intercept.coverage import Coverage
from tracer.intercept.entry import visit
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.fault import Fault
from tracer.intercept.ground import Memory
from tracer.intercept.journal import Journal
from tracer.intercept.recording import RecordedDevice
from tracer.intercept.ring.lookout import Lookout
from tracer.intercept.ring.sites import CompiledSites
from tracer.intercept.system import System
from tracer.intercept.trap import GoOn, LetGo, StandStill
from tracer.intercept.view import GuestView
from tracer.session.leash import Leash
from tracer.session.looks import Looks
from tracer.session.manner import Manner, Traced
from tracer.session.nested import prepare_nested
from tracer.session.preparation import prepare
from tracer.session.queues import take_over
from tracer.session.reach import reach
from tracer.session.release import release
from tracer.session.room import Setting
from tracer.session.whereabouts import whereabouts
from tracer.x86.state import CpuState

_EVERY = 0.005
"""Seconds of the host's time between two looks at what a guest that runs has told by itself."""


class Loop:
    """Run one guest to its end, intercepting what was chosen.

    ``recorded``, set before :meth:`trap`, answers for its regions in place of their devices. With
    ``asks`` a person is asked what becomes of each access. What is ``wanted``, set likewise, is
    tried on the handler of a confidential guest: ``bench`` tells what came of it.
    """

    def __init__(self, view: GuestView, memory: Memory, system: System, choice: Choice) -> None:
        self.view = view
        self.system = system
        self.journal = Journal(view)
        self.coverage = Coverage(
            view, self.journal, choice, system.spare, system.leaves, system.mapped_by_programs
        )
        self.lookout = Lookout(view, system.names, self.journal)
        self.journal.scribes.append(self.lookout.take)
        self.recorded: RecordedDevice | None = None
        self.asks = False
        self.wanted: Wanted | None = None
        self._memory = memory
        self._traced: Traced | None = None
        self._releasing = self._released = False
        every = system.look_every
        self._looks = None if every is None else Looks(every, system.look)

    # ---- beginning

    @property
    def _setting(self) -> Setting:
        return Setting(self.view, self._memory, self.system, self.journal, self.coverage)

    @property
    def every_stop(self) -> bool:
        """Tell whether each access takes a stop, now and later."""
        return self.sites is None and not (self._traced is not None and self._traced.late)

    @property
    def sites(self) -> CompiledSites | None:
        """Return the compiled sites, once there are some."""
        return None if self._traced is None else self._traced.interceptor.sites

    @property
    def bench(self) -> Bench | None:
        """Return what tries instructions on the guest's handler, if that is wanted."""
        return None if self._traced is None else self._traced.bench

    @property
    def _underneath(self) -> Underneath | None:
        return None if self._traced is None else self._traced.underneath

    @property
    def traced(self) -> Traced:
        """Return what :meth:`trap` put in place."""
        if self._traced is None:
            raise InterceptError("the guest is not being traced yet")
        return self._traced

    async def reach_entry(self) -> None:
        """Run firmware and boot loader up to where tracing can begin."""
        await self.system.reach_entry(self._memory)
        await LogAccesses()

    async def trap(
        self,
        *,
        stacks: bool = False,
        ring: int | None = None,
        inputs: frozenset[Input] = frozenset(),
        nested: bool = False,
        whole: bool = False,
        prepared: Callable[[], None] = lambda: None,
    ) -> None:
        """Put every trap in place; the guest stands where tracing can begin.

        With ``stacks`` the call chain is recorded with each access. With a ``ring`` of so many
        records instructions are compiled, where that can be, and ``inputs`` of these kinds are
        recorded. Traps are poisoned entries, or ``nested``. Raises GuestError where that cannot be;
        with ``whole`` NoEntries, too, where an entry that the guest has cannot be poisoned.
        Once :meth:`leave` can undo all that was done and is to be done, ``prepared`` is called.
        """
        self.coverage.whole = whole
        queues = self.lookout.tells_queues
        how = Manner(self.recorded, self.asks, self.wanted, stacks, ring, inputs, nested)
        into = prepare_nested if nested else prepare
        self._traced, registers = await into(self._setting, how)
        prepared()
        self._traced.interceptor.answering.before = self.lookout.before
        self._traced.interceptor.answering.through = self._through
        self._traced.interceptor.ledger.behind = self.lookout.behind
        if self._traced.input_bell is not None:
            self._traced.input_bell.before = self.lookout.before
        if self.lookout.doorbells is not None and (queues or self.system.begun):
            await take_over(self.lookout.doorbells, self.view.regions, begun=self.system.begun)
        if self.system.begun:
            await self.coverage.poison_all(registers, "present when it was joined")
        else:
            await self.coverage.poison(registers, "present at kernel entry")
        self.coverage.whole = False
        if self._traced.monitor is not None:
            even_ns = visit.EVEN_NS if nested and not self.view.realtime else 0
            await self._traced.monitor.enter(even_ns)

    def _through(self, transfer: Transfer, fault: Fault) -> int | None:
        # The vCPU rings a doorbell itself, which spares an exchange with GDB: no other vCPU's
        # access comes in between, and no device moves.
        if self.sites is None or self.view.vcpus > 1 or self.view.nested is not None:
            return None
        if fault.cpu.cpl or not self.lookout.rings(transfer):
            return None
        return self.sites.window.linear(transfer.physical, fault.space)

    async def even_time(self) -> None:
        """Let time pass until two runs have the same, whatever their firmware waited for."""
        if self.view.nested is not None:
            return  # it has, on the way into the monitor
        registers = await Registers()
        await visit.wait(self.traced.gate.stub, self.view.space_of(registers), registers)

    # ---- the loop

    async def run(self) -> None:
        """Trace from where :meth:`trap` left off to the end of the guest, or its release."""
        changes = await self._hold(StandStill("joined" if self.system.begun else "kernel entry"))
        while not self._releasing:
            stop = (await self._resume(changes)).stop
            if stop.ended:
                return
            self.journal.counts["stops"] += 1
            changes = await self._handle(stop)
        self._released = await release(self._setting, self.traced, changes, self._handle)

    async def run_untraced(self) -> None:
        """Let the guest run to its end without any trap."""
        stop = (await self._resume(())).in_time()
        if not stop.ended:
            raise InterceptError(f"the guest stopped without a trap: {stop.reason}")

    async def _resume(self, changes: Sequence[Change]) -> Ran:
        if self.sites is not None:
            ran = await self._drained(self.sites, changes)
        else:
            ran = await (Resume(changes) if self._looks is None else self._looks.resume(changes))
        self.view.ran += ran.seconds
        return ran

    async def _drained(self, sites: CompiledSites, changes: Sequence[Change]) -> Ran:
        # Lets the guest go on, and publishes what it tells by itself meanwhile.
        if self.view.regions.configuration:
            await self.coverage.follow_map()  # this stop's own access may have moved devices
        sites.tell_places()
        leeway = await AskWhere(self.view.regions) if self.asks else Leeway()
        kernel_asks = self._underneath is not None
        leash = Leash(self.view, self.lookout, sites, self.recorded, asks_itself=kernel_asks)
        if not leash.let(leeway):
            sites.shut()
        inside = self.traced.monitor
        if inside is not None and self.traced.input_bell is not None:
            inside.ask(*leash.inputs(leeway))
        try:
            await Start(changes)
            while True:
                ran = await Await(_EVERY)
                if ran is not None:
                    return ran
                sites.drain()
                self.lookout.settle()
                leash.also()
                if inside is not None and self.traced.input_bell is not None:
                    inside.also(self.lookout.due_inputs())
                if self._looks is not None:
                    await self._looks.passed(_EVERY)
        finally:
            sites.drain()
            self.lookout.settle()

    async def _handle(self, stop: Stopped) -> Sequence[Change]:
        # Returns the changes to make before the guest goes on.
        traced = self.traced
        inside = traced.monitor
        if inside is not None:
            inside.check()
            if inside.covers(stop.address) and stop.address not in inside.stands:
                out = await inside.step_out(stop)
                if out is None:
                    return ()  # the others have to go on first; who interrupts does so again
                stop = out
        await self.coverage.follow_map()
        if traced.watch is not None:
            await traced.watch.look(stop)
        why = self.system.taken_back()
        if why is not None:
            raise GuestError(why)
        trap = next((trap for trap in traced.traps if trap.claims(stop)), None)
        if trap is None:
            raise InterceptError(f"the guest stopped and nobody knows why: {stop.payload}")
        looked = self._looks is not None and await self._looks.stopped(stop)
        handled = await trap.handle(stop)
        match handled:
            case GoOn(changes):
                return changes
            case StandStill("interrupt") if looked:
                return ()  # whoever interrupts meanwhile does so again
            case StandStill():
                if stop.expired:
                    raise GuestHung
                return await self._hold(handled)
            case LetGo() if self._underneath is not None:
                raise GuestError(
                    "the guest has loaded an IDT without room for page faults: without its "
                    f"{self.system.kind.below}, which vetrace is, it cannot go on (see above)"
                )
            case LetGo():
                self._releasing = True
        return ()

    async def _hold(self, still: StandStill) -> Sequence[Change]:
        # The guest stands where no access waits.
        if self.asks:
            await look_at_clock(self.view)
            registers = await Registers()
            space = self.view.space_of(registers)
            cpu = stopped(registers.values, await self.view.mode(registers["cs"], space))
            await Hold(still.reason, still.vcpu, cpu, space)
        return ()

    async def leave(self) -> None:
        """Let the guest, which stands, go on without any trap, whatever it was about to do."""
        self._releasing = True
        self.asks = False
        if self._traced is None:
            await Detach()
        else:
            self._traced.interceptor.asks = False
            self._released = await release(self._setting, self._traced, (), self._handle)

    @property
    def released(self) -> bool:
        """Tell whether the guest goes on without any trap."""
        return self._released

    # ---- what a person at a prompt does

    def release(self) -> None:
        """Let the guest go on without any trap, once it goes on.

        Raises UsageError for one that cannot.
        """
        if self._underneath is not None:
            kind = self.system.kind
            raise UsageError(
                f"a guest of {kind.label} cannot go on alone: vetrace is its {kind.below}; `quit` "
                "ends it"
            )
        self._releasing = True

    async def refresh_regions(self, inputs: frozenset[Input] = frozenset()) -> RegionMap:
        """Ask where devices are now, and announce what is new or has moved.

        ``inputs`` of these kinds are going to be recorded.
        """
        if inputs:
            self.coverage.record(inputs)
        return await self.coverage.refresh()

    async def choose(self, choice: Choice, space: AddressSpace) -> None:
        """Trace what ``choice`` says from here on; the guest is stopped.

        Raises UsageError, with nothing changed, when it names a region that is not there.
        """
        await self.coverage.choose(choice, space)

    def unwind(self, cpu: CpuState, space: AddressSpace) -> Stack:
        """Return the functions under way where a vCPU stopped."""
        return self.traced.callers.unwind(cpu, space)

    async def reach(self, transfer: Transfer, space: AddressSpace, *, waits: bool) -> int | None:
        """Make one access to a device for the person at the prompt; return what was read.

        ``waits`` tells that the vCPU stands before an access. Raises UsageError when it stands
        where it cannot be sent to make this one.
        """
        answer = await reach(transfer, self.traced.gate, space, waits=waits)
        await self.coverage.follow_map()
        return answer

    def outside(self, vcpu: int) -> Mapping[str, int]:
        """Return the guest's own registers of a vCPU that waits in the monitor, by GDB's names."""
        inside = self.traced.monitor
        return {} if inside is None else inside.of_guest(vcpu)

    # ---- how it ended

    def conclude(self) -> None:
        """Tell what was left open. Raises GuestError for a guest that was not what it was to be."""
        if self._underneath is not None:
            self._underneath.conclude()

    def settle(self) -> None:
        """Tell what the guest has left open, as it goes no further."""
        if self._underneath is not None:
            self._underneath.settle()

    def part(self) -> None:
        """Record what was under way when the guest ended, and may be how it did."""
        if self._traced is not None:
            self._traced.interceptor.ledger.part()
        if self._traced is not None and self._traced.input_bell is not None:
            self._traced.input_bell.part()
        if self.sites is not None:
            self.sites.part()
            self.journal.counts.update(self.sites.account())
        if self._traced is not None and self._traced.monitor is not None:
            self._traced.monitor.account()

    async def whereabouts(self) -> list[str]:
        """Return in words where each vCPU of the guest is, which stands."""
        if self._traced is None:
            await MemoryMap()  # tells where RAM is
            callers = self.system.callers(self.journal.publish, stacks=False)
            return await whereabouts(self.view, self.system.names, callers)
        traced = self._traced
        return await whereabouts(self.view, self.system.names, traced.callers, traced.bell)

    def blame(self, states: Sequence[VcpuState]) -> str:
        """Return in words whose doing a triple fault was, from the vCPUs as they were then."""
        if self._traced is None:
            return ""
        monitor, gate = self._traced.monitor, self._traced.gate
        return whose_doing(
            states if monitor is None else monitor.outside(states),
            lambda state: self.view.space(state.cr3, state.cr4),
            gate if isinstance(gate, PageFaultGate) else None,
            lambda linear, space: self.system.names.lookup(linear, space) or hex(linear),
        )
