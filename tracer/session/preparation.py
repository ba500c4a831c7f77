"""Preparation of a guest for being traced: gate, traps, interceptor, compiled sites."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.access.space import AddressSpace
from tracer.access.vcpu import RegisterFile
from tracer.access.want import HasMachineCheck, HasSvm, Registers, Vcpu, VcpuStates
from tracer.confidential.ghcb import GHCB_STAND_IN, VMGEXIT
from tracer.confidential.handler import PROFILES, own_profile
from tracer.confidential.kind import SHARED_BIT, Kind
from tracer.errors import GuestError
from tracer.intercept.below.bench import Bench
from tracer.intercept.below.encrypted_guest import EncryptedGuest
from tracer.intercept.below.guest_module import GuestModule
from tracer.intercept.below.protocol_bell import ProtocolBell
from tracer.intercept.below.trust_domain import CALL, TrustDomain
from tracer.intercept.below.vc_trial import VcTrials
from tracer.intercept.below.ve_trial import VeTrials
from tracer.intercept.entry import visit
from tracer.intercept.entry.gate import PageFaultGate, refuse_fred
from tracer.intercept.entry.interrupt_stack import InterruptStacks
from tracer.intercept.entry.loads import TableLoads
from tracer.intercept.entry.stub import Fast, Stub
from tracer.intercept.ground import Ground
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.ring.input_bell import InputBell
from tracer.intercept.ring.monitor import Monitor
from tracer.intercept.ring.rows import Domain
from tracer.intercept.ring.secondary import Secondary
from tracer.intercept.ring.sites import CompiledSites
from tracer.intercept.ring.window import NoWindow
from tracer.intercept.system import Callers
from tracer.intercept.trap import Breakpoint, Trap
from tracer.session.interception import (
    OwnTables,
    callers_in,
    input_bell_in,
    interceptor_in,
    told_in,
)
from tracer.session.manner import Manner, Traced
from tracer.session.room import Room, Setting, room_for, room_if_any
from tracer.session.traps import Bell, GateWatch, Interruption, Readiness, Stray

_CALLS: dict[Kind, tuple[bytes, int | None]] = {
    Kind.PLAIN: (b"", None),
    Kind.TDX: (CALL, None),
    Kind.SEV_ES: (VMGEXIT, GHCB_STAND_IN),
}
"""The instruction by which a guest calls what is below it, and the MSR that tells what for."""


async def prepare(setting: Setting, how: Manner) -> tuple[Traced, RegisterFile]:
    """Put every trap in place; the guest stands where tracing can begin.

    Return the registers that it stands there with, too. Nothing is poisoned yet.
    """
    system, view, journal = setting.system, setting.view, setting.journal
    coverage, stacks = setting.coverage, how.stacks
    ring, later = _rings(setting, how)
    coverage.record(how.inputs)
    regions = await coverage.refresh()
    coverage.tell_left_out()
    notes = await HasMachineCheck()
    registers = await Registers()
    refuse_fred(registers["cr4"])
    space = view.space_of(registers)
    room = None
    if ring is not None:
        room = await _room(setting, ring, registers, space, how)
    if room is not None:
        coverage.own.append(room.window.span)
    hastens = room is not None and system.kind is Kind.PLAIN
    gate = _gate(setting, room.fast if room is not None and hastens else None, notes=notes)
    # A fault in an NMI's handler would begin an interrupt stack that the fast way is on anew.
    own_stack = system.stack_in_device and not hastens
    loads = await _plant(setting, gate, registers, space, own_stack=own_stack)
    ground = Ground(setting.memory, view, journal, coverage, gate, loads)
    late_stacks = stacks and (room is not None or later is not None)
    watched = await system.watch(ground, space, late=late_stacks)
    breakpoints: list[Breakpoint] = [*watched, loads]
    if later is None:
        await _follow(setting, room, stacks=stacks)
    for line in system.unseen(regions):
        journal.remark(line)
    if notes:
        await visit.note(gate.stub, registers)
    else:
        journal.remark("the guest's CPU has no machine-check banks: accesses change its CR2")
    callers = callers_in(setting, how, space)
    interceptor = interceptor_in(setting, how, callers)
    below = interceptor.firmware = _below(setting, interceptor)
    bench = None
    if below is not None and how.wanted is not None:
        kind = VeTrials(below) if isinstance(below, TrustDomain) else VcTrials(below)
        bench = interceptor.firmware = Bench(below, kind, journal, how.wanted)
        breakpoints.append(bench)
    if room is not None:
        tables = OwnTables(room.window.root, registers["cr4"])
        told = told_in(setting, how, interceptor, callers, tables, system.current)
        interceptor.sites = CompiledSites(room.window, room.common, room.slots, view, journal, told)
        interceptor.sites.begin(gate.stub.spill)
    secondary = await _secondary(setting, how)
    if secondary is not None:
        breakpoints.append(secondary)
        if room is not None:
            monitor = _monitor(setting, room, gate.stub, registers, how)
            await secondary.begin(monitor)
            if isinstance(below, EncryptedGuest):
                below.monitor = monitor
                requests = ProtocolBell(below, monitor, view, journal, system.names)
                await requests.begin()
                breakpoints.append(requests)
    input_bell = input_bell_in(setting, how, interceptor, callers)
    if input_bell is not None and secondary is not None and secondary.inside is not None:
        await input_bell.begin(secondary.inside, interceptor.sites)
    readiness = None
    if later is not None and isinstance(below, TrustDomain):
        hastening = _Hastening(
            setting, how, later, below, interceptor, gate, callers, secondary, input_bell
        )
        readiness = await hastening.expect()
        breakpoints += [] if readiness is None else [readiness]
    bell = Bell(interceptor, gate, journal, asks=how.asks)
    watch = GateWatch(gate, view, journal, coverage)
    interruption = Interruption(gate, journal, bell, breakpoints)
    full = () if secondary is None else (secondary.full,)
    asked = () if input_bell is None else (input_bell,)
    traps: list[Trap] = [
        interruption, bell, *asked, *breakpoints, *full, watch, Stray(view, journal),
    ]  # fmt: skip
    late = readiness is not None
    traced = Traced(
        gate, callers, watch, bell, interceptor, tuple(traps), below, bench, late, secondary,
        input_bell,
    )  # fmt: skip
    return traced, registers


def _rings(setting: Setting, how: Manner) -> tuple[int | None, int | None]:
    # Returns the records of a ring that there is room for at once, and of one that comes later.
    kind, stacks, ring = setting.system.kind, how.stacks, how.ring
    if kind is Kind.PLAIN:
        return ring, None
    if kind is Kind.SEV_ES:
        # Each access takes its stops: the ring is for what the monitor records.
        return (ring if how.inputs else None), None
    setting.view.shared = 1 << SHARED_BIT
    if stacks and ring is not None:
        setting.journal.remark("each access takes a stop: there the stack of a TDX guest is read")
    # Its kernel knows nothing of memory yet. Call chains of devices are those of stops.
    return None, None if stacks and not how.inputs else ring


async def _room(
    setting: Setting, slots: int, registers: RegisterFile, space: AddressSpace, how: Manner
) -> Room | None:
    # Inputs have no other way: without room for them the run does not go on.
    if not how.inputs:
        return await room_if_any(setting, slots, registers, space, stacks=how.stacks)
    try:
        if not await HasSvm():
            raise NoWindow("the guest's CPU has no SVM, which QEMU emulates")
        return await room_for(setting, slots, registers, space, stacks=how.stacks, monitor=True)
    except NoWindow as why:
        raise GuestError(f"inputs cannot be recorded: {why}") from None


def _monitor(
    setting: Setting, room: Room, stub: Stub, registers: RegisterFile, how: Manner
) -> Monitor:
    # Put the monitor in place, behind the compiled sites: no vCPU has entered it yet.
    own = range(stub.base, stub.base + len(stub.code))
    current = None if how.stacks else setting.system.current
    monitor = Monitor(
        room.window, room.slots, setting.view, setting.journal, how.inputs, own, current,
        stacks=how.stacks, kind=setting.system.kind,
    )  # fmt: skip
    monitor.begin(registers["cs"])
    return monitor


async def _secondary(setting: Setting, how: Manner) -> Secondary | None:
    # Have further vCPUs enter the monitor; what they do before is not recorded.
    if not how.inputs:
        return None
    secondary, place = Secondary(setting.journal), setting.system.secondary
    if place is not None:
        await secondary.install(place)
    elif setting.view.vcpus > 1:
        setting.journal.remark("inputs of the first vCPU only: nobody knows where others begin")
    return secondary


def _gate(setting: Setting, fast: Fast | None, *, notes: bool) -> PageFaultGate:
    system = setting.system
    call, msr = _CALLS[system.kind]
    if msr is not None and not notes:
        raise GuestError(
            f"the guest's CPU has no machine-check banks, which an {system.kind.label} guest's "
            "MSR of the GHCB is kept in: leave -mce and -mca out of your -cpu"
        )
    return PageFaultGate(
        setting.memory, spare=system.spare, notes=notes, fast=fast, call=call, msr=msr
    )


def _below(setting: Setting, interceptor: Interceptor) -> TrustDomain | EncryptedGuest | None:
    # Returns what a confidential guest has below it.
    system, view, journal = setting.system, setting.view, setting.journal
    match system.kind:
        case Kind.TDX:
            profile = PROFILES[own_profile(system.release)]
            return TrustDomain(interceptor, view, system.names, journal, profile)
        case Kind.SEV_ES:
            profile = PROFILES[own_profile(system.release, sev=True)]
            return EncryptedGuest(interceptor, view, system.names, journal, profile)
        case Kind.PLAIN:
            return None


async def _plant(
    setting: Setting,
    gate: PageFaultGate,
    registers: RegisterFile,
    space: AddressSpace,
    *,
    own_stack: bool,
) -> TableLoads:
    # Put the stub in front of the guest's page-fault handler, in every IDT to come.
    system, view, journal = setting.system, setting.view, setting.journal
    state = (await VcpuStates())[await Vcpu()]
    place, free = system.stub_place(), system.free
    await gate.place(space, state.tables.idt, place, registers["cs"], free)
    stacks = None
    if own_stack:
        stacks = InterruptStacks(gate.room, view.vcpus)
        if not await stacks.begin(state, registers, space):
            stacks = None
            journal.remark("no interrupt stack for page faults: RSP must not be in a device")
    gate.stack = stacks.number if stacks is not None else 0
    await gate.follow(space, state.tables.idt)
    loads = TableLoads(
        view, gate, stacks, setting.coverage, journal, system.names, system.without_idt
    )
    await loads.install(space)
    return loads


async def _follow(setting: Setting, room: Room | None, *, stacks: bool = False) -> None:
    # Have the guest tell on what errands its threads are, unless call chains do, and where it may
    # have moved devices.
    block = None if room is None else room.window.block
    smp = setting.view.vcpus > 1
    await setting.system.follow_errands(None if stacks else block, smp=smp)
    if block is not None:
        await setting.system.follow_moves(block)


@dataclass(frozen=True, slots=True)
class _Hastening:
    # The TDX module, and compiled sites with a ring of so many slots, become code in the guest
    # once there is room.
    setting: Setting
    how: Manner
    slots: int
    domain: TrustDomain
    interceptor: Interceptor
    gate: PageFaultGate
    callers: Callers
    secondary: Secondary | None
    input_bell: InputBell | None

    async def expect(self) -> Readiness | None:
        system, journal = self.setting.system, self.setting.journal
        place = system.ready()
        if place is None:
            journal.remark("each access takes a stop: nobody knows where the guest has room")
            await _follow(self.setting, None)
            return None
        readiness = Readiness(self._begin, journal)
        await readiness.install(place)
        return readiness

    async def _begin(self) -> None:
        system, view, domain = self.setting.system, self.setting.view, self.domain
        registers = await Registers()
        space = view.space_of(registers)
        room = await _room(self.setting, self.slots, registers, space, self.how)
        await _follow(self.setting, room, stacks=self.how.stacks)
        if room is None:
            return
        stub = self.gate.stub
        window = room.window
        self.setting.coverage.own.append(window.span)
        tables = OwnTables(window.root, registers["cr4"])
        module = GuestModule(window, view)
        told = told_in(
            self.setting, self.how, self.interceptor, self.callers, tables, system.current,
            Domain(domain.told, domain.count),
        )  # fmt: skip
        journal = self.setting.journal
        sites = CompiledSites(window, room.common, room.slots, view, journal, told)
        sites.begin(stub.spill)
        module.begin(stub, room.common, space.paging, view.regions.ram, system.current)
        await self.gate.hasten(Fast(module.fault, window.span), module.tdcall)
        domain.module = module
        self.interceptor.sites = sites
        if self.secondary is not None:
            inside = _monitor(self.setting, room, stub, registers, self.how)
            await self.secondary.begin(inside)
            if self.input_bell is not None:
                await self.input_bell.begin(inside, sites)
            await inside.enter()
