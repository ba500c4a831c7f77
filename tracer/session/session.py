"""One guest and its loop: joined with GDB and QEMU, driven, and judged by how it ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from tracer.access.decision import Pending
from tracer.access.region import Choice, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.access.vcpu import Change, RegisterFile
from tracer.compiled.inputs import Input
from tracer.confidential.handler import profile_of
from tracer.devices.map import RegisterMaps
from tracer.errors import DebuggerError, GuestError, GuestHung, QemuError, TargetGone
from tracer.gdb.client import GdbClient
from tracer.gdb.target import Target
from tracer.intercept.clock import look_at_clock
from tracer.intercept.recording import RecordedDevice
from tracer.intercept.system import System
from tracer.intercept.view import GuestView
from tracer.qemu.cpu import physical_bits, vcpus
from tracer.qemu.ending import Ending, check, why
from tracer.qemu.guest import GuestMachine
from tracer.qemu.monitor import vcpu_states
from tracer.query.pending import event_of
from tracer.session.driver import Driver, Overseer
from tracer.session.loop import Loop
from tracer.session.manner import Traced
from tracer.session.waits import Waits
from tracer.trace.lines import access_lines
from tracer.trace.naming import Naming
from tracer.trace.queue import QueueRecord
from tracer.trace.record import RELEASED, UserRecord
from tracer.x86.paging import poison_bit
from tracer.x86.vmcb import SVME

_EVERY = 0.1
"""Seconds of the host's time between two looks at an idle guest's clock, for who watches it go."""

Result = TypeVar("Result")

_PARTED = "Target disconnected"
"""GDB's words where QEMU has closed its stub (gdb/remote.c, unpush_and_perror)."""
_PARTING = 30.0
"""Seconds from there in which QEMU ends."""


class Session:
    """Run one guest to its end, intercepting what was chosen. Make one with :meth:`attach`.

    What it knows of the guest is the loop's: see :class:`tracer.session.loop.Loop`. ``waits`` tells
    what the guest waits for, ``naming`` names registers where accesses are told in words, ``fault``
    says why whoever launched the guest ends the run, empty where it does not. ``entered`` tells
    that its kernel has been reached, ``attended`` that a person is at a prompt. ``on_prepared`` is
    called where it stands with all traps but the poison in place.
    """

    def __init__(self, loop: Loop, driver: Driver) -> None:
        self.loop = loop
        self.driver = driver
        self.target = driver.target
        self.machine = driver.machine
        self.system = loop.system
        self.view = loop.view
        self.names = loop.system.names
        self.journal = loop.journal
        self.counts = loop.journal.counts
        self.warnings = loop.journal.warnings
        self.scribes = loop.journal.scribes
        self.subscribers = loop.journal.subscribers
        self.publish = loop.journal.publish
        self.waits = Waits(loop.lookout)
        self._naming = Naming(RegisterMaps())
        self.stacks = False
        self.software: tuple[str, ...] = ()
        self.on_prepared: Callable[[], None] = lambda: None
        self._hang: GuestHung | None = None
        self.mark = loop.journal.mark
        self.fault = ""
        self.entered = False
        self.attended = False
        self.release = loop.release
        self.unwind = loop.unwind

    @classmethod
    async def attach(
        cls, machine: GuestMachine, client: GdbClient, system: System, choice: Choice
    ) -> Session:
        """Connect GDB to a machine: it stands from here on."""
        target = Target(client)
        machine.on_exit = lambda: client.fail(TargetGone())
        await target.attach(machine.gdb_socket)
        machine.forget_socket()
        bits = await physical_bits(machine.dialogue)
        try:
            poison = poison_bit(bits)
        except ValueError as error:
            raise QemuError(
                f"{error}; give the guest a CPU with fewer: -cpu ...,phys-bits=40"
            ) from error
        view = GuestView(
            machine.memory, poison, await vcpus(machine.dialogue), realtime=machine.realtime,
            physical_bits=bits,
        )  # fmt: skip
        return cls(Loop(view, machine.memory, system, choice), Driver(target, machine))

    # ---- what may be set before it is traced

    @property
    def choice(self) -> Choice:
        """Return what is traced."""
        return self.loop.coverage.choice

    @property
    def naming(self) -> Naming:
        """Return what names registers."""
        return self._naming

    @naming.setter
    def naming(self, naming: Naming) -> None:
        self._naming = self.loop.lookout.naming = naming

    @property
    def profile(self) -> str:
        """Return the name of the profile that the guest's own handler has, or would have."""
        return profile_of(self.system.kind, self.system.release)

    @property
    def traced(self) -> Traced:
        """Return what :meth:`trap` put in place."""
        return self.loop.traced

    def replay(self, recorded: RecordedDevice | None) -> None:
        """Have a recording answer for its regions in place of their devices."""
        self.loop.recorded = recorded

    def oversee(self, overseer: Overseer) -> None:
        """Have a person or a script decide what becomes of each access."""
        self.driver.overseer = overseer
        self.loop.asks = True

    # ---- the run

    async def reach_entry(self) -> None:
        """Run firmware and boot loader up to the kernel's first own function."""
        try:
            await self._drive(self.loop.reach_entry())
            self.entered = True
        except DebuggerError as error:
            await self._ending_behind(error, "before the kernel was entered")
            raise GuestError("the guest ended before its kernel was entered") from error

    async def refresh_regions(self, inputs: frozenset[Input] = frozenset()) -> RegionMap:
        """Ask QEMU where its devices are now, and announce what is new or has moved.

        ``inputs`` of these kinds are going to be recorded.
        """
        return await self._drive(self.loop.refresh_regions(inputs))

    async def trap(
        self,
        *,
        stacks: bool = False,
        ring: int | None = None,
        inputs: frozenset[Input] = frozenset(),
        nested: bool = False,
        whole: bool = False,
    ) -> None:
        """Put every trap in place; the guest stands at its kernel's entry.

        With ``stacks`` the kernel's call chain is recorded with each access, with a ``ring`` of
        so many records instructions are compiled, and ``inputs`` of these kinds are recorded.
        Traps are poisoned entries, or ``nested``. Raises NoEntries where the first cannot be: with
        ``whole`` also where an entry that the guest has cannot be poisoned.
        """
        self.stacks = stacks
        trapped = self.loop.trap(
            stacks=stacks, ring=ring, inputs=inputs, nested=nested, whole=whole,
            prepared=self.on_prepared,
        )  # fmt: skip
        await self._drive(trapped)
        if not (self.view.realtime or self.system.begun):
            await self._drive(self.loop.even_time())

    async def run(self) -> Ending:
        """Trace from where :meth:`trap` left off to the end of the guest; return how QEMU ended.

        Raises GuestCrashed, QemuError, DebuggerError or InterceptError for any end but the
        guest's own power-off.
        """
        async with self._clock_followed():
            return await self._to_the_end(self.loop.run(), "while it was traced")

    async def detach(self) -> None:
        """Have :meth:`run` let the guest go on without any trap, from where it stops next.

        Raises UsageError for one that cannot.
        """
        self.loop.release()
        self._tell_released()
        await self.driver.interrupt()

    def _tell_released(self) -> None:
        self.publish(UserRecord(time_ns=self.view.time_ns, text=RELEASED))

    async def leave(self) -> None:
        """Let the guest go on without vetrace, wherever it is, if it has not been let go yet.

        Raises QemuError or DebuggerError where that cannot be.
        """
        if self.loop.released:
            return
        self.driver.overseer = None
        await self.driver.stand()
        await self.driver.drive(self.loop.leave())

    async def run_untraced(self) -> Ending:
        """Let the guest run to its end without any trap."""
        return await self._to_the_end(self.loop.run_untraced(), "while it ran")

    async def _to_the_end(self, work: Coroutine[Any, Any, None], when: str) -> Ending:
        try:
            await self._drive(work)
            if self.loop.released:
                self.machine.let_go()
            ending = self._judge(await self.machine.ended())
        except TargetGone:
            ending = self._judge(await self.machine.ended())
        except DebuggerError as error:
            ending = await self._ending_behind(error, when)
        self.loop.part()
        self.loop.conclude()
        return ending

    async def _drive(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            return await self.driver.drive(work)
        except GuestHung:
            pass  # it stands
        raise self.given_up(await self.driver.drive(self.loop.whereabouts()))

    @contextlib.asynccontextmanager
    async def _clock_followed(self) -> AsyncIterator[None]:
        # Looks again and again, for who watches or waits for a time. Without anybody to tell it to,
        # each access tells the time.
        task, overseer = None, self.driver.overseer
        if overseer is not None and overseer.wants_clock:
            task = asyncio.create_task(self._follow_clock(overseer))
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    async def _follow_clock(self, overseer: Overseer) -> None:
        with contextlib.suppress(QemuError):  # it has ended
            while True:
                await asyncio.sleep(_EVERY)
                if self.view.realtime:
                    time_ns = int((self.view.ran + self.driver.elapsed) * 1e9)
                else:
                    await self._drive(look_at_clock(self.view))
                    time_ns = self.view.time_ns
                if overseer.is_due(time_ns):
                    await self.driver.interrupt()

    # ---- what a person does

    @property
    def interrupting(self) -> bool:
        """Tell whether the guest has been asked to stop and is not held yet."""
        return self.driver.interrupting

    @interrupting.setter
    def interrupting(self, wanted: bool) -> None:
        self.driver.interrupting = wanted

    async def interrupt(self) -> None:
        """Ask the running guest to stop: the overseer is told once it has."""
        await self.driver.interrupt()

    async def registers(self) -> RegisterFile:
        """Return all registers of the vCPU that stopped, as its guest has them."""
        registers = await self.target.registers()
        if self.view.monitor is None:
            return registers
        values = self.view.monitor.registers(registers.values)
        return RegisterFile({**values, "efer": values["efer"] & ~SVME})

    def outside(self, vcpu: int) -> Mapping[str, int]:
        """Return those of its guest's registers that a vCPU in the monitor has others in."""
        return self.loop.outside(vcpu)

    async def change(self, changes: Sequence[Change]) -> None:
        """Change the vCPU that stopped."""
        await self.target.change(changes)

    async def rewrite(self, linear: int, code: bytes, space: AddressSpace) -> None:
        """Write guest code at a linear address, whatever the page's rights; it stays so.

        The vCPU may stand in a monitor, whose page tables are others.
        """
        for physical, piece in space.behind(linear, code):
            value = int.from_bytes(piece, "little")
            await self.target.write_physical(physical, len(piece), value)

    async def choose(self, choice: Choice, space: AddressSpace) -> None:
        """Trace what ``choice`` says from here on; the guest is stopped.

        Raises UsageError, with nothing changed, when it names a region that is not there.
        """
        await self._drive(self.loop.choose(choice, space))

    async def reach(self, transfer: Transfer, space: AddressSpace, *, waits: bool) -> int | None:
        """Make one access to a device for the person at the prompt; return what was read.

        ``waits`` tells that the vCPU stands before an access. Raises UsageError when it stands
        where it cannot be sent to make this one.
        """
        return await self._drive(self.loop.reach(transfer, space, waits=waits))

    # ---- records

    def mark_log(self, text: str, begin: int | None = None) -> None:
        """Publish a mark with the size of QEMU's log, if there is one: what was so far is in it.

        What it tells of vCPUs from ``begin`` on is firmware's, which no trap is in.
        """
        size = self.machine.log_size
        self.mark(text, size, None if size is None else begin)

    # ---- how it ended

    def end(self, outcome: str) -> None:
        """Publish how the run ended: for its ``fault``, where the guest turned out to be wrong."""
        hung = self._hang.reason if self._hang is not None else ""
        self.journal.end(self.fault or hung or outcome)

    @property
    def outcome(self) -> str:
        """Return in a word how a run that ended well has ended."""
        return self.machine.outcome

    def queues_at(self, pending: Pending) -> list[QueueRecord]:
        """Return what a doorbell that is about to be rung tells, or a device that interrupts."""
        lookout = self.loop.lookout
        event = event_of(pending, None)
        return lookout.ahead(event.record, event.seq, event.access)

    @property
    def expired(self) -> str:
        """Return how long the run was given, in words, when that time has passed; else nothing."""
        return self.driver.expired

    def expire(self, limit: str) -> None:
        """End the run where the guest stands next: it has taken longer than ``limit``.

        What drives it then raises GuestHung, having told what the guest did last.
        """
        self.driver.expire(limit)

    def given_up(self, places: Sequence[str] = ()) -> GuestHung:
        """Return the error of a guest whose time is over, having told what it did last.

        Without the ``places`` of its vCPUs it could not be stopped any more. It is told once.
        """
        if self._hang is not None:
            return self._hang
        self.loop.settle()
        last, words = self.journal.last, self.machine.last_line
        made = access_lines(last, naming=self.naming) if last is not None else []
        for line in (
            *self.waits.lines(),
            f"last access: {' '.join(made[-1].split())}" if made else "no access was traced",
            "nothing on the console" if words is None else f"last console line: {words}",
            *([] if self.entered or not self.system.awaited else [self.system.awaited]),
            *(places or ("where it stands is not known: it does not stop",)),
        ):
            self.journal.progress(line)
        reason = f"the guest had not ended after {self.expired}"
        self._hang = GuestHung(reason, "what it did last is above")
        return self._hang

    async def _ending_behind(self, error: DebuggerError, when: str) -> Ending:
        # GDB fails when QEMU goes: what ended QEMU is told, be it the guest's own power-off by an
        # access that was just carried out. QEMU that still runs leaves the error as it is.
        patience = 2.0 if self.target.client.alive else 0.2
        if _PARTED in str(error):
            patience = _PARTING  # a busy machine takes some time from there to its end
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                ending = await self.machine.ended()
            if ending.well or (ending.status == 0 and ending.cause):
                return self._judge(ending)
            raise QemuError(f"QEMU died {when}: {why(ending)}") from error
        raise error

    def _judge(self, ending: Ending) -> Ending:
        # Raises what the guest deserves, with whose doing it was.
        whose = ""
        if ending.triple_fault and ending.registers:
            with contextlib.suppress(QemuError):
                whose = self.loop.blame(vcpu_states(ending.registers))
        return check(ending, whose)
