"""Preparation of a guest for nested traps: physical addresses fault, whatever leads to them.

The guest runs inside a monitor from here on, and nothing of the guest's own is changed.
"""

from __future__ import annotations

from tracer.access.vcpu import RegisterFile
from tracer.access.want import HasNoExecute, HasSvm, Registers
from tracer.compiled import monitor
from tracer.compiled.common import common_code
from tracer.compiled.layout import SLOTS, block_size
from tracer.compiled.monitor import WINDOW_BASE, MonitorCode, monitor_size
from tracer.errors import GuestError
from tracer.intercept.entry.nested import MonitorPost
from tracer.intercept.fault import NestedFaults
from tracer.intercept.ring.entrance import OWN_SELECTOR
from tracer.intercept.ring.monitor import Monitor
from tracer.intercept.ring.secondary import Secondary
from tracer.intercept.ring.sites import CompiledSites
from tracer.intercept.ring.window import REACH, NoWindow, far_devices, open_at
from tracer.intercept.system import Learnt
from tracer.intercept.trap import Breakpoint, Trap
from tracer.session.interception import (
    OwnTables,
    callers_in,
    input_bell_in,
    interceptor_in,
    told_in,
)
from tracer.session.manner import Manner, Traced
from tracer.session.room import Setting, slots_of
from tracer.session.traps import Bell, Interruption, Moves, Stray
from tracer.x86.nested import NestedTables
from tracer.x86.paging import TABLE_ENTRIES
from tracer.x86.state import PAGE_SIZE

_CR4_LA57 = 1 << 12
_CR0_PG = 1 << 31


async def prepare_nested(setting: Setting, how: Manner) -> tuple[Traced, RegisterFile]:
    """Put every trap in place; the guest stands where tracing can begin.

    Return the registers that it stands there with, too. Nothing faults yet. Raises GuestError
    where there is no room, or no SVM.
    """
    system, view, journal = setting.system, setting.view, setting.journal
    coverage = setting.coverage
    coverage.record(how.inputs)
    await coverage.refresh()
    coverage.tell_left_out()
    registers = await Registers()
    space = view.space_of(registers)
    slots = slots_of(SLOTS if how.ring is None else how.ring, stacks=how.stacks)
    size = block_size(slots, stacks=how.stacks)
    try:
        if not await HasSvm() or not await HasNoExecute():
            raise NoWindow("its CPU has no SVM, which QEMU emulates, or no pages that are not code")
        taken = system.take(setting.memory, space, size + monitor_size(view.vcpus, nested=True))
    except NoWindow as why:
        raise GuestError(f"the guest cannot run in a monitor: {why}") from None
    code = MonitorCode(
        taken.physical, taken.physical + size, view.vcpus, range(0), range(0), how.stacks, True
    )
    far = far_devices(view.regions.regions, REACH)
    window = open_at(view.memory, WINDOW_BASE, code.window, TABLE_ENTRIES, taken.physical, far)
    # Call chains tell phases themselves, and so do stops.
    teller = 0 if how.stacks or how.ring is None else await system.tell_errands(space)
    current = system.current if teller else None
    callers = callers_in(setting, how, space)
    interceptor = interceptor_in(setting, how, callers)
    interceptor.faults = NestedFaults(view)
    cr4 = registers["cr4"]
    # Without paging nobody knows yet how many levels there will be.
    la57 = bool(cr4 & _CR4_LA57) or not registers["cr0"] & _CR0_PG
    common = common_code(smp=view.vcpus > 1, la57=la57, nested=True)
    post = MonitorPost(setting.memory, window, code, common)
    tables = OwnTables(taken.root, cr4)
    told = told_in(setting, how, interceptor, callers, tables, current, nested=True)
    sites = CompiledSites(window, common, slots, view, journal, told)
    sites.begin(post.stub.spill, done=code.done, nested=code.tables)
    inside = Monitor(
        window, slots, view, journal, how.inputs, range(0), current,
        stacks=how.stacks, nested=True,
    )  # fmt: skip
    inside.begin(registers["cs"] if registers["cr0"] & _CR0_PG else OWN_SELECTOR)
    await post.settle()
    fast = post.stub.spill
    if how.ring is not None:
        interceptor.sites = sites
        fast = window.code + common.fast
    sites.block.write(monitor.word("FAST"), fast.to_bytes(8, "little"))
    _tell(sites, teller)
    room = range(code.tables, code.tables + monitor.NESTED_PAGES * PAGE_SIZE)
    view.nested = NestedTables(setting.memory, room)
    secondary = Secondary(journal)
    if system.secondary is not None:
        await secondary.install(system.secondary)
    elif view.vcpus > 1:
        journal.remark("accesses of the first vCPU only: nobody knows where others begin")
    await secondary.begin(inside)
    breakpoints: list[Breakpoint] = [secondary]
    input_bell = input_bell_in(setting, how, interceptor, callers)
    if input_bell is not None:
        await input_bell.begin(inside, sites)

    def learn(known: Learnt) -> None:
        tables.root, tables.cr4 = known.tables
        _tell(sites, known.teller)
        sites.know_callers(known.current)
        if known.current is not None:
            inside.follow_threads(known.current)

    tells = how.ring is not None and not how.stacks
    breakpoints += await system.expect(view, journal, learn, tells=tells)
    bell = Bell(interceptor, post, journal, asks=how.asks)
    interruption = Interruption(post, journal, bell, breakpoints)
    moves = Moves(inside, journal)
    await moves.install()
    asked = () if input_bell is None else (input_bell,)
    traps: list[Trap] = [
        interruption, bell, *asked, *breakpoints, secondary.full, moves, Stray(view, journal),
    ]  # fmt: skip
    traced = Traced(
        post, callers, None, bell, interceptor, tuple(traps),
        secondary=secondary, input_bell=input_bell,
    )  # fmt: skip
    return traced, registers


def _tell(sites: CompiledSites, teller: int) -> None:
    # Threads leave for the monitor there to tell it of their errands.
    sites.block.write(monitor.word("TELLER"), teller.to_bytes(8, "little"))
