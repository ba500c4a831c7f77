"""The one loop that joins guest, debugger, traps, trace and subscribers.

:meth:`Session.run` is the loop; a stop at the fault stub goes to ``trap.interceptor``, one at a
mapping function to ``trap.hook``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from tracer.access.decision import Overseer
from tracer.access.execution import delivered_alike
from tracer.access.region import (
    Choice,
    RegionMap,
    check_choice,
    left_out,
    region_info,
    traced_ranges,
)
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.devices.map import RegisterMaps
from tracer.errors import (
    DebuggerError,
    GuestError,
    GuestHung,
    InterceptError,
    QemuError,
    TargetGone,
    UsageError,
)
from tracer.gdb import mi
from tracer.gdb.client import GdbClient
from tracer.gdb.target import Change, RegisterFile, Target
from tracer.intercept.blame import whose_doing
from tracer.intercept.carrier import Carrier, Stand, can_enter
from tracer.intercept.clock import IdleClock
from tracer.intercept.gate import PageFaultGate, Written, refuse_fred
from tracer.intercept.hooks import MappingHooks
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.interrupt_stack import InterruptStacks
from tracer.intercept.loads import Loaded, TableLoads
from tracer.intercept.poison import (
    Poisoned,
    heal_everything,
    heal_quiet,
    map_spare,
    poison_everything,
    unmap_spare,
)
from tracer.intercept.readers import hide_poison
from tracer.intercept.recording import RecordedDevice
from tracer.intercept.standin import StandIn
from tracer.intercept.toll import Toll
from tracer.intercept.user import UserMappings
from tracer.intercept.view import GuestView
from tracer.linux import mapping as linux
from tracer.linux.callers import Callers
from tracer.linux.entry import follow_kaslr, reach_entry
from tracer.linux.kernel import Kernel
from tracer.linux.names import Names
from tracer.linux.orc import Stack
from tracer.linux.page_filter import whole_pages
from tracer.qemu.ending import Ending, check, why
from tracer.qemu.machine import Machine
from tracer.qemu.monitor import DescriptorTable, vcpu_states
from tracer.session.whereabouts import Whereabouts
from tracer.trace.lines import access_lines
from tracer.trace.naming import Naming
from tracer.trace.record import End, Intercept, MapRecord, Mark, Record, RegionInfo, RegionRecord
from tracer.x86.paging import Leaf, poison_bit
from tracer.x86.state import CpuState

_EFER_NXE = 1 << 11

Reason = Literal["kernel entry", "interrupt", "fault"]
"""Why a guest stands where no access waits."""


class SessionOverseer(Overseer, Protocol):
    """Decide on each access, and look at the guest where it stands before none."""

    wants_halt: bool
    """Tells the session to halt at the handler of an exception that it delivers."""

    async def halted(
        self, reason: Reason, vcpu: int, registers: RegisterFile, space: AddressSpace
    ) -> None:
        """Take note that the guest stands; it goes on when this returns."""
        ...

    def expire(self) -> None:
        """Hold the guest no longer, if it is held."""
        ...


Subscriber = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Traps:
    """Hold what is in place once a guest is being traced."""

    gate: PageFaultGate
    hooks: MappingHooks
    users: UserMappings
    loads: TableLoads
    interceptor: Interceptor


class Session:
    """Run one guest to its end, intercepting what was chosen. Make one with :meth:`attach`.

    ``counts`` counts stops by what they were for, ``warnings`` tell what could not be traced.
    Every record goes to the ``subscribers`` in order, the first time it is known. ``recorded``, set
    before :meth:`trap`, answers for its regions in place of their devices. ``progress`` is called
    with a line of text when the run takes long, ``expired`` says how long it was given when that
    time has passed. ``naming`` names registers where accesses are told in words.
    """

    def __init__(self, target: Target, view: GuestView, kernel: Kernel, choice: Choice) -> None:
        self.view = view
        self.kernel = kernel
        self.target = target
        self.subscribers: list[Subscriber] = []
        self.counts: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.recorded: RecordedDevice | None = None
        self.overseer: SessionOverseer | None = None
        self.interrupting = False
        self.expired = ""
        self.naming = Naming(RegisterMaps())
        self.progress: Callable[[str], None] = lambda _: None
        self.choice = choice
        self._names = Names(kernel)
        self._carrier = Carrier(target)
        self._clock = IdleClock(view)
        self._traps: Traps | None = None
        self._callers: Callers | None = None
        self._announced: dict[str, RegionInfo] = {}
        self._last: Intercept | None = None
        self._hang: GuestHung | None = None
        self._whereabouts = Whereabouts(target, view, self._names)
        self._toll = Toll()
        self._running = False
        self._pausing: asyncio.Task[None] | None = None
        self._releasing = False

    # ---- lifetime

    @classmethod
    async def attach(
        cls, machine: Machine, client: GdbClient, kernel: Kernel, choice: Choice
    ) -> Session:
        """Connect GDB to a machine that stands before its first instruction."""
        target = Target(client)
        machine.on_exit = lambda: client.fail(TargetGone())
        await target.attach(machine.gdb_socket)
        machine.forget_socket()
        bits = await machine.physical_bits()
        try:
            poison = poison_bit(bits)
        except ValueError as error:
            raise QemuError(
                f"{error}; give the guest a CPU with fewer: -cpu ...,phys-bits=40"
            ) from error
        return cls(target, GuestView(machine, poison, await machine.vcpus()), kernel, choice)

    @property
    def machine(self) -> Machine:
        """Return the machine that the guest runs on."""
        return self.view.machine

    @property
    def traps(self) -> Traps:
        """Return what :meth:`trap` put in place."""
        if self._traps is None:
            raise InterceptError("the guest is not being traced yet")
        return self._traps

    async def reach_entry(self) -> None:
        """Run firmware and boot loader up to the kernel's first own function."""
        try:
            moved = await follow_kaslr(self.target, self.machine, self.kernel, self._resume)
            self._names.move(moved)
            await reach_entry(self.target, self.kernel, moved, self._resume)
            await self.machine.log_accesses()
        except DebuggerError as error:
            await self._ending_behind(error, "before the kernel was entered")
            raise GuestError("the guest ended before its kernel was entered") from error

    async def refresh_regions(self) -> RegionMap:
        """Ask QEMU where its devices are now, and announce what is new or has moved."""
        regions, ram = await self.machine.memory_map()
        self.view.show(RegionMap(regions, traced_ranges(regions, self.choice), ram))
        pieces: Counter[str] = Counter()
        for region in self.view.regions.regions:
            info = region_info(region, self.view.regions.is_traced_region(region))
            # A region that another one covers in part comes in several pieces.
            pieces[region.name] += 1
            key = f"{region.name} {pieces[region.name]}"
            if self._announced.get(key) != info:
                self._announced[key] = info
                self.publish(RegionRecord(time_ns=self.view.time_ns, region=info))
        return self.view.regions

    async def trap(self, *, stacks: bool = False) -> None:
        """Put every trap in place; the guest stands at its kernel's entry.

        With ``stacks`` the kernel's call chain is recorded with each access.
        """
        await self.refresh_regions()
        self._tell_left_out()
        symbols = self._names.kernel
        notes = await self.machine.has_machine_check()
        gate = PageFaultGate(self.target, self.machine.memory, self._idt_of, notes=notes)
        registers = await self.target.registers()
        refuse_fred(registers["cr4"])
        space = self.view.space_of(registers)
        loads = await self._plant(gate, registers, space)
        hooks = MappingHooks(self.target)
        missing = await hooks.install(symbols, space, whole_pages(self.machine.memory.ranges))
        if missing:
            raise GuestError(
                f"{self.kernel.path} has no symbol {', '.join(missing)}: mappings would be missed; "
                "give better symbols with --symbols"
            )
        if self._overlooks_firmware():
            self._remark(
                f"{self.kernel.path} has no symbol {linux.FIRMWARE}: what UEFI firmware writes to "
                "its flash while the kernel runs is not traced"
            )
        hides = hide_poison(space, self._names)
        users = UserMappings(self.target, self._names, hides=hides, scratch=gate.scratch)
        if notes:
            await self._carrier.note(gate.stub, registers)
        else:
            self._remark("the guest's CPU has no machine-check banks: accesses change its CR2")
        callers = self._callers = Callers(self._names, self.publish, stacks=stacks)
        remark = callers.remark(space) if stacks else None
        if remark is not None:
            self._remark(remark)
        interceptor = Interceptor(
            self.target, self.view, self._names, self._carrier, callers, self.counts, self.publish
        )
        if self.recorded is not None:
            interceptor.standin = StandIn(self.recorded, self._names, self.counts)
        interceptor.overseer = self.overseer
        self._traps = Traps(gate, hooks, users, loads, interceptor)
        await self._poison_everything(registers, "present at kernel entry")

    async def _plant(
        self, gate: PageFaultGate, registers: RegisterFile, space: AddressSpace
    ) -> TableLoads:
        # Put the stub in front of the guest's page-fault handler, in every IDT to come.
        symbols = self._names.kernel
        state = (await self.machine.vcpu_states())[self.target.vcpu]
        place = symbols.address_of(linux.STUB_PLACE)
        await gate.place(space, state.tables.idt, place, registers["cs"])
        stacks = None
        if symbols.address_of(linux.ENTRIES[0]) is None:
            stacks = InterruptStacks(self.target, gate.room, self.view.vcpus)
            if not await stacks.begin(state, registers, space):
                stacks = None
                self._remark("no interrupt stack for page faults: RSP must not be in a device")
        gate.stack = stacks.number if stacks is not None else 0
        await gate.follow(space, state.tables.idt)
        loads = TableLoads(self.target, self.view, gate, stacks)
        await loads.install(space, self._names)
        return loads

    async def _idt_of(self, vcpu: int) -> DescriptorTable:
        return (await self.machine.vcpu_states())[vcpu].tables.idt

    async def run(self) -> Ending:
        """Trace from where :meth:`trap` left off to the end of the guest; return how QEMU ended.

        Raises GuestCrashed, QemuError, DebuggerError or InterceptError for any end but the
        guest's own power-off.
        """
        try:
            changes = await self._halt("kernel entry")
            # Without anybody to tell it to, each access tells the time.
            watched = self.overseer is not None
            async with self._clock.followed() if watched else contextlib.nullcontext():
                while not self._releasing:
                    stop = await self._resume(changes)
                    if stop.ended:
                        break
                    self.counts["stops"] += 1
                    changes = await self._handle(stop, self.traps)
            if self._releasing:
                await self._release(changes)
            ending = self._judge(await self.machine.ended())
        except TargetGone:
            ending = self._judge(await self.machine.ended())
        except DebuggerError as error:
            ending = await self._ending_behind(error, "while it was traced")
        self.traps.interceptor.part()
        return ending

    async def run_untraced(self) -> Ending:
        """Let the guest run to its end without any trap."""
        try:
            stop = await self._resume(())
            if not stop.ended:
                raise InterceptError(f"the guest stopped without a trap: {stop.reason}")
        except TargetGone:
            pass
        except DebuggerError as error:
            return await self._ending_behind(error, "while it ran")
        return self._judge(await self.machine.ended())

    # ---- records

    def mark(
        self, text: str, qemu_log_offset: int | None = None, qemu_log_from: int | None = None
    ) -> None:
        """Publish a mark at this moment of the run."""
        now = self.view.time_ns
        self.publish(
            Mark(
                time_ns=now,
                text=text,
                qemu_log_offset=qemu_log_offset,
                qemu_log_from=qemu_log_from,
            )
        )

    def mark_log(self, text: str, begin: int | None = None) -> None:
        """Publish a mark with the size of QEMU's log, if there is one: what was so far is in it.

        What it tells of vCPUs from ``begin`` on is firmware's, which no trap is in.
        """
        size = self.machine.log_size
        self.mark(text, size, None if size is None else begin)

    def end(self, outcome: str) -> None:
        """Publish the closing record."""
        self.publish(End(time_ns=self.view.time_ns, outcome=outcome, counts=dict(self.counts)))

    def publish(self, record: Record) -> None:
        """Hand a record to every subscriber, in order."""
        if isinstance(record, Intercept):
            self._last = record
        for subscriber in self.subscribers:
            subscriber(record)

    # ---- the loop

    async def _resume(self, changes: Sequence[Change]) -> mi.Stopped:
        since = time.monotonic()
        await self.target.go(changes)
        self._running = True
        try:
            if self.interrupting or self.expired:
                self._pause()
            stop = await self.target.stopped()
        finally:
            self._running = False
            self.view.ran += time.monotonic() - since
        if self._pausing is not None:
            # It would stop the guest in the middle of what is done for it next.
            await self._pausing
            self._pausing = None
        if self.expired and self._traps is None and stop.interrupted:
            raise await self._hung_here(stop.vcpu)
        return stop

    def _pause(self) -> None:
        if self._pausing is None:
            self._pausing = asyncio.create_task(self.machine.pause())

    async def _handle(self, stop: mi.Stopped, traps: Traps) -> list[Change]:
        stub = traps.gate.stub
        await self._follow_map()
        if not stop.reason.startswith("watchpoint") and traps.gate.disturbed():
            # By another way than the one that is watched.
            await self._gate_written(traps, behind_store=False)
        if stop.interrupted:
            self.counts["interrupts"] += 1
            if stop.address == stub.stop:
                if not await self._carrier.settle(stub):
                    return []
            elif stub.covers(stop.address or 0):
                return []  # an access is about to tell of itself
            else:
                # GDB will go on from a breakpoint here without another stop for it.
                for hooks in (traps.hooks, traps.users, traps.loads):
                    number = hooks.number_at(stop.address)
                    if number is not None:
                        await self._at_breakpoint(number, traps)
                return await self._halt("interrupt", stop.vcpu)
        if stop.address == stub.stop and self.expired:
            raise await self.hung(stop.vcpu, *await traps.interceptor.look(stop.vcpu))
        if stop.address == stub.stop:
            self.counts["intercepts"] += 1
            changes = await traps.interceptor.intercept(stop.vcpu, traps.gate)
            wanted = self.overseer is not None and self.overseer.wants_halt
            if not wanted or not traps.interceptor.delivered:
                return changes
            await self.target.change(changes)
            return await self._halt("fault")
        if stop.breakpoint is not None and await self._at_breakpoint(stop.breakpoint, traps):
            pass
        elif stop.reason.startswith("watchpoint"):
            self.counts["hooks"] += 1
            await self._gate_written(traps)
        elif stop.stray and (self.view.vcpus > 1 or self.counts["interrupts"]):
            self.counts["strays"] += 1
        else:
            raise InterceptError(f"the guest stopped and nobody knows why: {stop.payload}")
        return []

    async def _at_breakpoint(self, number: int, traps: Traps) -> bool:
        # Tells whether a stop with this number is at one of the guest's functions.
        if not any(hooks.owns(number) for hooks in (traps.hooks, traps.users, traps.loads)):
            return False
        self.counts["hooks"] += 1
        if traps.hooks.owns(number):
            await self._hooked(number, traps)
            return True
        registers = await self.target.registers()
        space = self.view.space_of(registers)
        if traps.users.owns(number):
            await traps.users.stopped(number, registers, space)
        else:
            await self._loaded(registers, space, traps)
        return True

    async def _loaded(self, registers: RegisterFile, space: AddressSpace, traps: Traps) -> None:
        # Behind a load of the IDT, or of the task register.
        where = self._names.lookup(registers["rip"], space) or hex(registers["rip"])
        match await traps.loads.stopped(self.target.vcpu, registers, space):
            case Loaded.NEW:
                await self.refresh_regions()
                await self._poison_everything(registers, "another IDT")
            case Loaded.NOTHING:
                kexec = any(where.startswith(f"{name}+") for name in linux.SWITCHES_KERNELS)
                self._remark(
                    "not traced: the kernel that this one starts (kexec), from here on"
                    if kexec
                    else f"not traced: what the guest does from {where} on, where it loads an IDT "
                    "without room for page faults"
                )
                self.release()
            case Loaded.NO_STACK:
                self._remark(
                    f"no interrupt stack for page faults in the TSS loaded at {where}: RSP must "
                    "not be in a device"
                )
            case Loaded.KNOWN:
                pass

    async def _hooked(self, number: int, traps: Traps) -> None:
        registers = await self.target.registers()
        refuse_fred(registers["cr4"])
        entered = traps.hooks.entered(number, registers)
        if entered is not None:
            name, mapping = entered
            ram = self.machine.memory.holds(mapping.physical, mapping.size)
            self.counts["ram_hooks"] += ram
            remark = self._toll.add(name, ram=ram)
            if remark is not None:
                self.progress(remark)
            if ram:
                return
            if await traps.loads.look():
                await self._poison_everything(registers, "another IDT")
        space = self.view.space_of(registers)
        mapped = await traps.hooks.stopped(number, registers, space)
        if mapped:
            await self._tell_time(registers, traps.gate)
        for item in mapped:
            if item.mapping.tables is None:
                await traps.users.note(item.mapping, space)
            self._note_poisoned(item.poisoned, item.name)

    async def _gate_written(self, traps: Traps, *, behind_store: bool = True) -> None:
        registers = await self.target.registers()
        space = self.view.space_of(registers)
        written = await traps.gate.written(registers if behind_store else None, space)
        if written is Written.HANDLER:
            # The kernel changes its handler when its own page tables have been made.
            await self._poison_everything(registers, "page tables made by the kernel")

    async def _follow_map(self) -> None:
        if not self.view.stale:
            return
        self.counts["maps"] += 1
        old = self.view.regions
        new = await self.refresh_regions()
        reset = self.machine.woken()
        if reset is not None:
            self.mark_log("the machine woke up", reset)
        if new.outdates(old):
            self.counts["outdated"] += 1
            space = self.view.space_of(await self.target.registers())
            await self._repoison(space, "the memory map changed")

    async def _repoison(self, space: AddressSpace, by: str) -> None:
        others = list(self._other_leaves(space))
        await heal_quiet(space, others)
        poisoned = await poison_everything(space, others)
        self._note_poisoned(poisoned, by)
        if any(leaf.user for leaf in poisoned.leaves):
            await self.traps.users.watch(space)
        await self.target.flush_all_tlbs()

    def _other_leaves(self, space: AddressSpace) -> Iterator[Leaf]:
        # Those of programs and of firmware.
        yield from self.traps.users.leaves(space)
        yield from self.traps.hooks.leaves(space)

    async def _poison_everything(self, registers: RegisterFile, by: str) -> None:
        space = self.view.space_of(registers)
        map_spare(space, bool(registers["efer"] & _EFER_NXE))
        self._note_poisoned(await poison_everything(space), by)
        await self._carrier.flush(space)

    async def _tell_time(self, registers: RegisterFile, gate: PageFaultGate) -> None:
        # The guest's time at a stop that is not at the stub.
        counter = 0
        if not self.machine.config.realtime:
            space = self.view.space_of(registers)
            counter = await self._carrier.read_clock(gate.stub, space, registers)
        self.view.tell_time(counter)

    def _note_poisoned(self, poisoned: Poisoned, by: str) -> None:
        regions = self.view.regions
        for leaf in poisoned.leaves:
            names = regions.traced_names(leaf.physical, leaf.physical + leaf.size - 1)
            if not names:
                continue  # nothing is there yet
            self.publish(
                MapRecord(
                    time_ns=self.view.time_ns,
                    linear=hex(leaf.linear),
                    physical=hex(leaf.physical),
                    size=leaf.size,
                    regions=names,
                    by=by,
                )
            )
        for leaf in poisoned.refused:
            self.counts["refused"] += 1
            text = (
                f"not traced: linear {leaf.linear:#x}, a page of {leaf.size} bytes "
                f"over a traced device and RAM at physical {leaf.physical:#x}"
            )
            self._remark(text)

    def _overlooks_firmware(self) -> bool:
        symbols = self._names.kernel
        flash = any(
            region.shows_memory and self.view.regions.is_traced_region(region)
            for region in self.view.regions.regions
        )
        is_linux = symbols.address_of(linux.ENTRIES[0]) is not None
        return flash and is_linux and symbols.address_of(linux.FIRMWARE) is None

    def _tell_left_out(self) -> None:
        for line in left_out(self.view.regions.regions, self.choice):
            self._remark(line)

    def _remark(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
        self.mark(text)

    # ---- what a person at a prompt does

    async def interrupt(self) -> None:
        """Ask the running guest to stop: the overseer is told once it has.

        Through QEMU's monitor, which a guest that has just stopped by itself does not mind; GDB's
        own interrupt would break off the command it comes upon.
        """
        self.interrupting = True
        if self._running:
            self._pause()

    def release(self) -> None:
        """Let the guest go on without any trap, once it goes on."""
        self._releasing = True

    async def choose(self, choice: Choice, space: AddressSpace) -> None:
        """Trace what ``choice`` says from here on; the guest is stopped.

        Raises UsageError, with nothing changed, when it names a region that is not there.
        """
        regions, _ = await self.machine.memory_map()
        check_choice(regions, choice)
        self.choice = choice
        await self.refresh_regions()
        self._tell_left_out()
        space = replace(space, regions=self.view.regions)
        await self._repoison(space, "chosen at the prompt")

    def unwind(self, cpu: CpuState, space: AddressSpace) -> Stack:
        """Return the functions under way where a vCPU stopped."""
        if self._callers is None:
            raise InterceptError("the guest is not being traced yet")
        return self._callers.unwind(cpu, space)

    @property
    def names(self) -> Names:
        """Return the names of the guest's code addresses."""
        return self._names

    async def reach(self, transfer: Transfer, space: AddressSpace, *, waits: bool) -> int | None:
        """Make one access to a device for the person at the prompt; return what was read.

        ``waits`` tells that the vCPU stands before an access. Raises UsageError when it stands
        where it cannot be sent to make this one.
        """
        traps = self.traps
        stand = Stand(traps.gate.stub, space, traps.interceptor.stack)
        registers = None
        if not waits and not delivered_alike([transfer], space.regions):
            registers = await self.target.registers()
            if not can_enter(registers, space) or await self.machine.halted(self.target.vcpu):
                raise UsageError(
                    f"only a vCPU reaches physical {transfer.physical:#x} with {transfer.width} "
                    "bytes, and this one sleeps or runs a user's program: `step` to an access first"
                )
        answer = await self._carrier.reach(transfer, stand, registers)
        await self._follow_map()
        return answer

    async def _halt(self, reason: Reason, vcpu: int = 0) -> list[Change]:
        # The guest stands where no access waits.
        self.interrupting = False
        if self.expired:
            raise await self._hung_here(vcpu)
        if self.overseer is not None:
            await self._clock.look()
            registers = await self.target.registers()
            await self.overseer.halted(reason, vcpu, registers, self.view.space_of(registers))
        return []

    async def _release(self, changes: Sequence[Change]) -> None:
        await self.target.change(changes)
        space = self.view.space_of(await self.target.registers())
        self.traps.users.settle(space)
        await heal_everything(space, self._other_leaves(space))
        unmap_spare(space)
        self.traps.gate.remove()
        await self.traps.hooks.remove()
        await self.target.flush_all_tlbs()
        await self.target.detach()

    # ---- how it ended

    def expire(self, limit: str) -> None:
        """End the run where the guest stands next: it has taken longer than ``limit``."""
        self.expired = limit
        if self.overseer is not None:
            self.overseer.expire()
        if self._running:
            self._pause()

    async def _hung_here(self, vcpu: int) -> GuestHung:
        # The guest stands where no access waits.
        return await self.hung(vcpu, *await self._whereabouts.here())

    async def hung(self, vcpu: int, cpu: CpuState, space: AddressSpace) -> GuestHung:
        """Return the error of a guest whose time is over, having told what it did last.

        ``vcpu`` stands in this state; the others stand as well.
        """
        return self.given_up(await self._whereabouts.all(vcpu, cpu, space))

    def given_up(self, places: Sequence[str] = ()) -> GuestHung:
        """Return the same; without the ``places`` of its vCPUs it could not be stopped any more.

        It is told once.
        """
        if self._hang is not None:
            return self._hang
        made = access_lines(self._last, naming=self.naming) if self._last is not None else []
        words = self.machine.last_line
        for line in (
            f"last access: {' '.join(made[-1].split())}" if made else "no access was traced",
            "nothing on the console" if words is None else f"last console line: {words}",
            *(places or ("where it stands is not known: it does not stop",)),
        ):
            self.progress(line)
        why = f"the guest had not ended after {self.expired}: what it did last is above"
        self._hang = GuestHung(why)
        return self._hang

    async def _ending_behind(self, error: DebuggerError, when: str) -> Ending:
        # GDB fails when QEMU goes: what ended QEMU is told, be it the guest's own power-off by an
        # access that was just carried out. QEMU that still runs leaves the error as it is.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 if self.target.client.alive else 0.2):
                ending = await self.machine.ended()
            if ending.status == 0 and ending.cause:
                return self._judge(ending)
            raise QemuError(f"QEMU died {when}: {why(ending)}") from error
        raise error

    def _judge(self, ending: Ending) -> Ending:
        # Raises what the guest deserves, with whose doing it was.
        whose = ""
        if ending.triple_fault and ending.registers and self._traps is not None:
            with contextlib.suppress(QemuError):
                whose = whose_doing(
                    vcpu_states(ending.registers),
                    lambda state: self.view.space(state.cr3, state.cr4),
                    self._traps.gate,
                    lambda linear, space: self._names.lookup(linear, space) or hex(linear),
                )
        return check(ending, whose)
