"""Letting a traced guest go on without any trap: all that was put in place is taken away again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from tracer.access.stop import Stopped
from tracer.access.vcpu import Change, RegisterFile, SetRegister
from tracer.access.want import (
    DeleteBreakpoint,
    Detach,
    FlushAllTlbs,
    MakeChanges,
    Registers,
    Resume,
    SetBreakpoint,
)
from tracer.intercept.ring.sites import CompiledSites
from tracer.session.manner import Traced
from tracer.session.room import Setting

Handle = Callable[[Stopped], Awaitable[Sequence[Change]]]
"""Handles a stop, and returns the changes to make before the guest goes on."""


async def release(
    setting: Setting, traced: Traced, changes: Sequence[Change], handle: Handle
) -> bool:
    """Heal a guest that stands, take away what was planted in it, and let it go on.

    ``changes`` are made first; stops on the way there are left to ``handle``. Return False where
    the guest has ended on the way.
    """
    view, system = setting.view, setting.system
    await MakeChanges(changes)
    if view.nested is None and not await _departed(setting, traced, changes, handle):
        return False
    sites, inside = traced.interceptor.sites, traced.monitor
    if sites is not None:
        sites.shut()
    registers = await Registers()
    if inside is not None and inside.is_inside(registers["cr3"]):
        await inside.go_back()  # it waited for a person before an input
        registers = await Registers()
    if system.homes and inside is None:
        there = await _come_home(setting, traced, registers, handle)
        if there is None:
            return False
        registers = there
    space = view.space_of(registers)
    await system.remove(space)
    await setting.coverage.heal(space)
    traced.gate.remove()
    # The guest stays in a monitor, and what that runs by does.
    stays = view.nested is not None
    free = not stays and (sites is None or await _close(setting, traced, sites))
    if inside is not None:
        inside.leave()
    await FlushAllTlbs()
    if free:
        await system.give_back()
    await Detach()
    return True


# Each vCPU that is to store a value by the spare mapping does so, as long as that is there: False
# when the guest has ended on the way.
async def _departed(
    setting: Setting, traced: Traced, changes: Sequence[Change], handle: Handle
) -> bool:
    view, stub = setting.view, traced.gate.stub
    due = any(isinstance(change, SetRegister) and stub.departs(change.value) for change in changes)
    if not due and view.vcpus == 1:
        return True
    behind: int | None = None
    while any(stub.departs(state.rip) for state in await view.states()):
        if behind is None:
            behind = await SetBreakpoint(stub.leave)
        stop = (await Resume(())).stop
        if stop.ended:
            return False
        # Who has come upon poison starts the instruction over.
        if not stop.interrupted and stop.address != stub.stop and stop.breakpoint != behind:
            await MakeChanges(await handle(stop))
    if behind is not None:
        await DeleteBreakpoint(behind)
    return True


# A vCPU comes where the software's own page tables are, so that its code can be written, and for
# a guest that was joined, where its functions can be called: None when the guest has ended on the
# way. Nothing is to be seen any more by then.
async def _come_home(
    setting: Setting, traced: Traced, registers: RegisterFile, handle: Handle
) -> RegisterFile | None:
    system, gate = setting.system, traced.gate
    space = setting.view.space_of(registers)
    if not system.begun and space.leaf(system.homes[0]) is not None:
        return registers
    await setting.coverage.heal(system.own_tables(space))
    gate.remove()
    await FlushAllTlbs()
    numbers = [await SetBreakpoint(home) for home in system.homes]
    changes: Sequence[Change] = ()
    while True:
        stop = (await Resume(changes)).stop
        if stop.ended:
            return None
        changes = ()
        if stop.breakpoint in numbers:
            break
        # Who has come upon poison starts the instruction over; who maps a device is let go on.
        if stop.address != gate.stub.stop:
            changes = await handle(stop)
    for number in numbers:
        await DeleteBreakpoint(number)
    return await Registers()


# The leaves of compiled sites are taken away, and the block, unless a vCPU is still on its way by
# them.
async def _close(setting: Setting, traced: Traced, sites: CompiledSites) -> bool:
    stub, telling = traced.gate.stub, setting.system.telling
    if sites.block.idle and not any(
        stub.leads_to_sites(state.rip) or any(state.rip in span for span in telling)
        for state in await setting.view.states()
    ):
        sites.close()
        return True
    setting.journal.remark("the page-table entries for compiled sites stay: one is under way")
    return False
