"""The stops that every guest makes, whatever its software: each a trap.

Breakpoints in the guest's code are traps of their own: see :mod:`tracer.intercept.entry.loads` and
the guest's :class:`tracer.intercept.system.System`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.want import (
    AskHold,
    DeleteBreakpoint,
    MakeChanges,
    Registers,
    StepAlone,
    WatchReads,
)
from tracer.intercept.coverage import Coverage
from tracer.intercept.entry import visit
from tracer.intercept.entry.gate import PageFaultGate, Written
from tracer.intercept.entry.post import Post
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.journal import Journal
from tracer.intercept.ring.monitor import Monitor
from tracer.intercept.trap import Breakpoint, GoOn, Handled, OnePlace, StandStill
from tracer.intercept.view import GuestView
from tracer.x86.state import CpuState


class Interruption:
    """Take the stop that a person asked for, wherever it caught the guest."""

    def __init__(
        self, gate: Post, journal: Journal, bell: Bell, breakpoints: Sequence[Breakpoint]
    ) -> None:
        self._gate = gate
        self._ringers = gate.ringers
        self._journal = journal
        self._bell = bell
        self._breakpoints = breakpoints

    def claims(self, stop: Stopped) -> bool:
        """Tell whether QEMU's monitor stopped the guest."""
        return stop.interrupted

    async def handle(self, stop: Stopped) -> Handled:
        """Hold the guest, once what it was about to tell by itself has been seen to."""
        self._journal.counts["interrupts"] += 1
        stub = self._gate.stub
        if stop.address == stub.stop:
            return await self._bell.handle(stop) if await visit.settle(stub) else GoOn()
        if stub.covers(stop.address or 0):
            return GoOn()  # an access is about to tell of itself
        if stop.address in self._ringers:
            await StepAlone()  # it takes the bell's stop away, as in `settle`; the bell rings again
            return GoOn()
        if any((stop.address or 0) in span for span in self._ringers.values()):
            return GoOn()
        # GDB will go on from a breakpoint here without another stop for it.
        for trap in self._breakpoints:
            number = trap.number_at(stop.address)
            if number is not None:
                handled = await trap.handle(replace(stop, breakpoint=number))
                if not isinstance(handled, GoOn):
                    return handled
        return StandStill("interrupt", stop.vcpu)


class Bell:
    """Take the stop at the stub: a vCPU came upon poison. With ``asks`` a person is asked."""

    def __init__(
        self, interceptor: Interceptor, gate: Post, journal: Journal, *, asks: bool
    ) -> None:
        self.interceptor = interceptor
        self._gate = gate
        self._journal = journal
        self._asks = asks

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a vCPU stands where the stub has rung."""
        return stop.address == self._gate.stub.stop

    async def look(self, vcpu: int, rip: int) -> tuple[CpuState, AddressSpace] | None:
        """Return the state of the code that a vCPU at ``rip`` has interrupted for the stub.

        None when it does not stand where the stub has rung.
        """
        return await self.interceptor.look(vcpu) if rip == self._gate.stub.stop else None

    async def handle(self, stop: Stopped) -> Handled:
        """Complete the access, unless the run's time is over."""
        if stop.expired:
            return StandStill("interrupt", stop.vcpu)
        self._journal.counts["intercepts"] += 1
        done = await self.interceptor.intercept(stop.vcpu, self._gate)
        if not done.delivered or not self._asks or not await AskHold():
            return GoOn(done.changes)
        await MakeChanges(done.changes)
        return StandStill("fault")


class Readiness(OnePlace):
    """Take the one stop at which the guest's software leaves room for guest code: it ``begins``."""

    def __init__(self, begins: Callable[[], Awaitable[None]], journal: Journal) -> None:
        super().__init__()
        self._begins = begins
        self._journal = journal

    async def handle(self, stop: Stopped) -> Handled:
        """Begin, and let the guest go on."""
        assert self._number is not None
        self._journal.counts["hooks"] += 1
        await DeleteBreakpoint(self._number)
        self._linear = self._number = None
        await self._begins()
        return GoOn()


class GateWatch:
    """Take the stop behind a store to a gate of vector 14."""

    def __init__(
        self, gate: PageFaultGate, view: GuestView, journal: Journal, coverage: Coverage
    ) -> None:
        self._gate = gate
        self._view = view
        self._journal = journal
        self._coverage = coverage

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a write watch stopped the guest."""
        return stop.reason.startswith("watchpoint")

    async def handle(self, stop: Stopped) -> Handled:
        """Put the stub in front again."""
        self._journal.counts["hooks"] += 1
        await self._written(behind_store=True)
        return GoOn()

    async def look(self, stop: Stopped) -> None:
        """Put the stub in front again where a gate was changed in a way that is not watched."""
        if not self.claims(stop) and self._gate.disturbed():
            await self._written(behind_store=False)

    async def _written(self, *, behind_store: bool) -> None:
        registers = await Registers()
        space = self._view.space_of(registers)
        written = await self._gate.written(registers if behind_store else None, space)
        if written is Written.HANDLER:
            # The kernel changes its handler when its own page tables have been made.
            await self._coverage.poison(registers, "page tables made by the kernel")


class Moves:
    """Take the stop of a vCPU in its monitor that may have moved a device, with nested traps.

    Where devices are now is looked at, at every stop, before the guest goes on.
    """

    def __init__(self, inside: Monitor, journal: Journal) -> None:
        self._inside = inside
        self._journal = journal

    async def install(self) -> None:
        """Have the monitor ring; no vCPU is in it yet."""
        await WatchReads(self._inside.look())

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a vCPU stands where the monitor has rung."""
        return stop.address == self._inside.label("looked")

    async def handle(self, stop: Stopped) -> Handled:
        """Count it."""
        self._journal.counts["looks"] += 1
        return GoOn()


class Stray:
    """Take a late stop, of a moment that has passed: it needs no work."""

    def __init__(self, view: GuestView, journal: Journal) -> None:
        self._view = view
        self._journal = journal

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a stop may be late: two vCPUs, or the monitor, stopped at one moment."""
        return stop.stray and (self._view.vcpus > 1 or bool(self._journal.counts["interrupts"]))

    async def handle(self, stop: Stopped) -> Handled:
        """Count it."""
        self._journal.counts["strays"] += 1
        return GoOn()
