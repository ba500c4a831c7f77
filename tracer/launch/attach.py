"""From a QEMU that runs to a session: join its guest, and let it go on as it was."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from tracer.access.region import Choice, RegionMap, parse_range
from tracer.access.space import AddressSpace
from tracer.access.vcpu import VcpuState
from tracer.errors import GuestError, KernelImageError, TracerError, UsageError
from tracer.gdb.client import GdbClient
from tracer.gdb.target import Target
from tracer.host.guardian import Guardian
from tracer.host.streams import warn
from tracer.host.undo_log import UndoLog
from tracer.launch.plan import GDB
from tracer.linux.installed import kernel_of
from tracer.linux.kaslr import ALIGNMENT, Moved
from tracer.linux.kernel import Kernel, open_kernel
from tracer.linux.origin import HANDLERS, Joined
from tracer.linux.resident import find_kernel
from tracer.linux.system import Linux
from tracer.qemu.foreign import ForeignMachine
from tracer.session.driver import Driver
from tracer.session.loop import Loop
from tracer.session.session import Session
from tracer.session.watchdog import Limits
from tracer.x86.idt import GATE_SIZE, unpack_gate
from tracer.x86.paging import PhysicalMemory, paging_of
from tracer.x86.state import PAGE_FAULT_VECTOR

_USER_HALF = 1 << 12
_IN_RAM = Path("the guest's kernel")
_BANNER = "linux_banner"
_RAM, _CODE = range(2)
"""Kinds of changes: of RAM, by physical address, and of code, by linear address."""
_LOOKS = 4
"""How often a guest that runs is looked at before it counts as one that cannot be joined."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Attachment:
    """Say what guest to join, and what to trace of it.

    ``monitor`` is the socket of its QEMU's monitor. Without ``kernel``, the image that it runs,
    all is read out of its RAM.
    """

    monitor: Path
    kernel: Path | None = None
    symbols: Path | None = None
    choice: Choice = field(default_factory=Choice)
    qemu_log: Path | None = None
    limits: Limits = field(default_factory=Limits)
    gdb: str = GDB


def check_attachment(plan: Attachment) -> None:
    """Raise UsageError for what cannot be joined or traced, whatever the guest."""
    for spec in (*plan.choice.wanted, *plan.choice.bypassed):
        parse_range(spec)
    if plan.symbols is not None and plan.kernel is None:
        raise UsageError("--symbols are those of a --kernel: give that too, or neither")


@contextlib.asynccontextmanager
async def attach(
    plan: Attachment,
    on_console: Callable[[bytes], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Session]:
    """Join a guest that runs, and stop it; behind the block it goes on as it was.

    Its console is its owner's: ``on_console`` gets nothing. Raises UsageError, KernelImageError,
    GuestError, QemuError or DebuggerError.
    """
    machine = ForeignMachine(plan.monitor, plan.qemu_log)
    client = GdbClient()
    session: Session | None = None
    early, guardian, undo = Guardian(), Guardian(), UndoLog()
    opened = False
    try:
        await machine.join()
        if machine.by_packets:
            progress(
                "the guest's RAM cannot be opened, neither as a file nor in QEMU's process: it is "
                "reached by packets, which is slow; run vetrace as QEMU's user or as root, or "
                "start QEMU with memory-backend-file,share=on"
            )
        system = await _software(plan, machine, progress)
        await client.start(plan.gdb)
        machine.reach_ram(client.exchange, lambda: client.moment)
        early.begin(partial(_undo, plan, machine, undo), machine.descriptors)
        await machine.open_stub()
        opened = True
        machine.memory.before = partial(undo.note, _RAM)
        session = await Session.attach(machine, client, system, plan.choice)
        session.journal.progress = progress
        session.driver.before_code = partial(undo.note, _CODE)
        heal = partial(_heal, plan, machine, session.loop, undo)

        def prepared() -> None:
            # From here on all that was done can be found where it was done.
            guardian.begin(heal, machine.descriptors)
            undo.close()
            early.end()
            machine.memory.before = session.driver.before_code = None

        session.on_prepared = prepared
        yield session
    finally:
        if opened:
            await _leave(plan, machine, client, session, undo, progress)
        await client.close()
        await machine.close()
        early.end()
        guardian.end()


def _undo(plan: Attachment, machine: ForeignMachine, undo: UndoLog) -> None:
    # Leaves the guest in order where vetrace was killed before all was prepared: it has not run
    # since the first change.
    async def leave() -> None:
        try:
            await machine.rejoin()
            async with _debugger(plan, machine) as target:
                client = target.client
                machine.reach_ram(client.exchange, lambda: client.moment)
                await _put_back(machine, target, undo)
                await target.detach()
        finally:
            await machine.close()

    if not undo.closed:
        asyncio.run(leave())
        warn("it was killed, and the guest goes on without it, as it was")


async def _put_back(machine: ForeignMachine, target: Target, undo: UndoLog) -> None:
    machine.memory.before = None
    for change in undo.changes():
        if change.kind == _CODE:
            await target.write_code(change.address, change.before)
        else:
            machine.memory.write(change.address, change.before)
    await target.flush_all_tlbs()


def _heal(plan: Attachment, machine: ForeignMachine, loop: Loop, undo: UndoLog) -> None:
    # Leaves the guest in order where vetrace was killed, from what was known when it was trapped.
    async def leave() -> None:
        machine.memory.before = None
        try:
            await machine.rejoin()
            await _leave_anew(plan, machine, loop)
        finally:
            await machine.close()

    if undo.closed:  # else it is undone by the one before
        asyncio.run(leave())
        warn("it was killed, and the guest goes on without it, as it was")


async def _leave(
    plan: Attachment,
    machine: ForeignMachine,
    client: GdbClient,
    session: Session | None,
    undo: UndoLog,
    progress: Callable[[str], None],
) -> None:
    # Nothing that goes wrong here may keep the rest from being done.
    if session is not None and session.loop.released:
        return
    why: TracerError | None = None
    if session is not None and machine.alive:
        try:
            if not undo.closed:
                await session.driver.stand()
                session.driver.before_code = None
                await _put_back(machine, session.target, undo)
                undo.close()
            await session.leave()
            return
        except TracerError as error:
            why = error
    await client.close()
    if session is not None and not machine.alive and machine.cause.endswith("reset"):
        progress("the machine was reset, and goes on without vetrace")
    if not machine.quit:
        with contextlib.suppress(TracerError):
            # A machine that was reset has another guest by now.
            if session is not None and undo.closed and machine.alive:
                await _leave_anew(plan, machine, session.loop)
                return
            await _sweep(plan, machine)
    if why is not None:
        progress(f"the guest could not be left in order: {why}")


async def _leave_anew(plan: Attachment, machine: ForeignMachine, loop: Loop) -> None:
    # Leaves a guest whose GDB is gone, or has lost it.
    await _sweep(plan, machine)  # a vCPU at its bell reads it again and again from here on
    async with _debugger(plan, machine) as target:
        client = target.client
        machine.reach_ram(client.exchange, lambda: client.moment)
        await Driver(target, machine).drive(loop.leave())


async def _sweep(plan: Attachment, machine: ForeignMachine) -> None:
    # Takes every breakpoint out of a QEMU whose guest is another one by now, and lets that go on.
    async with _debugger(plan, machine) as target:
        await target.detach()


@contextlib.asynccontextmanager
async def _debugger(plan: Attachment, machine: ForeignMachine) -> AsyncIterator[Target]:
    # A GDB of its own at a stub that is opened anew.
    await machine.reopen_stub()
    client = GdbClient()
    try:
        await client.start(plan.gdb)
        target = Target(client)
        await target.attach(machine.gdb_socket)
        yield target
    finally:
        await client.close()


async def _software(
    plan: Attachment, machine: ForeignMachine, progress: Callable[[str], None]
) -> Linux:
    if plan.kernel is None:
        progress("reading the kernel out of the guest's RAM")
        kernel, moved = await _look(machine, _resident), 0
    else:
        kernel = open_kernel(plan.kernel, plan.symbols, progress)
        moved = await _look(machine, partial(_displacement, kernel))
    names = kernel.symbols.moved(moved)
    await _look(machine, partial(_check_handlers, {names.address_of(name) for name in HANDLERS}))
    system = Linux(kernel, Joined(Moved(moved)))
    system.lends = not machine.by_packets
    return system


async def _look(
    machine: ForeignMachine, look: Callable[[PhysicalMemory, list[VcpuState]], _T]
) -> _T:
    # The guest runs: the program whose page tables a vCPU told may be gone once they are read, and
    # other things in their place.
    async def once() -> _T:
        states = await machine.dialogue.vcpu_states()
        paging = [state for state in states if state.paging]
        if not paging:
            raise GuestError(
                "no vCPU of the guest is in 64-bit mode: attach once its kernel runs, which its "
                "firmware or boot loader has not started yet"
            )
        return look(machine.memory, paging)

    for _ in range(_LOOKS - 1):
        with contextlib.suppress(GuestError):
            return await once()
    return await once()


def _check_handlers(
    handlers: set[int | None], memory: PhysicalMemory, states: list[VcpuState]
) -> None:
    if not handlers & set(_handlers(memory, states)):
        raise GuestError(
            "the guest's page faults do not go to its kernel's own handler: another tracer has "
            "it, one that was killed has left it so, or the kernel is still being started: attach "
            "once it runs"
        )


def _resident(memory: PhysicalMemory, states: list[VcpuState]) -> Kernel:
    # The kernel that any of the vCPUs has, which needs no file then.
    why: list[KernelImageError] = []
    for space in _spaces(memory, states):
        try:
            return kernel_of(_IN_RAM, find_kernel(memory, space.paging))
        except KernelImageError as error:
            why.append(error)
    raise GuestError(
        f"the guest's kernel cannot be read out of its RAM: {why[-1]}; attach once it runs, if it "
        "is still being started, or name its image with --kernel"
    )


def _displacement(kernel: Kernel, memory: PhysicalMemory, states: list[VcpuState]) -> int:
    # The handler tells how far the kernel has moved, and its banner whether it is that kernel.
    banner = kernel.symbols.address_of(_BANNER)
    links = [kernel.symbols.address_of(name) for name in HANDLERS]
    for handler in _handlers(memory, states):
        for link in links:
            moved = handler - (link or 0)
            if link is None or banner is None or not 0 <= moved < 1 << 30 or moved % ALIGNMENT:
                continue
            text = kernel.facts.banner.encode("latin-1")
            for space in _spaces(memory, states):
                if space.read(banner + moved, len(text)) == text:
                    return moved
    raise GuestError(
        f"the guest does not run {kernel.path} ({kernel.release}): leave --kernel out, and its "
        "kernel is read out of its RAM"
    )


def _handlers(memory: PhysicalMemory, states: list[VcpuState]) -> Iterator[int]:
    for state in states:
        space = _space(memory, state.cr3, state)
        gate = space.read(state.tables.idt.base + GATE_SIZE * PAGE_FAULT_VECTOR, GATE_SIZE)
        if len(gate) == GATE_SIZE:
            yield unpack_gate(gate).handler


def _spaces(memory: PhysicalMemory, states: list[VcpuState]) -> Iterator[AddressSpace]:
    # The page tables of each vCPU, and the kernel's beside those of a program under PTI.
    seen: set[int] = set()
    for state in states:
        for root in (state.cr3, state.cr3 & ~_USER_HALF):
            space = _space(memory, root, state)
            if space.paging.root not in seen:
                seen.add(space.paging.root)
                yield space


def _space(memory: PhysicalMemory, root: int, state: VcpuState) -> AddressSpace:
    return AddressSpace(memory, paging_of(root, state.cr4, 0), RegionMap((), (), ()))
