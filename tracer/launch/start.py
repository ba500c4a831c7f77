"""From a plan to a session: open the image, choose its system, start GDB and QEMU, end them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tracer import __version__
from tracer.bare.open import file_for_qemu, open_bare
from tracer.bare.reset import FromReset
from tracer.compiled.inputs import Input
from tracer.confidential.announcement import Announcement
from tracer.confidential.kind import C_BIT, Kind, unfit
from tracer.confidential.support import setup_command, why_not
from tracer.errors import GuestError, KernelImageError, UsageError
from tracer.gdb.client import GdbClient
from tracer.guest import recipe
from tracer.guest.equipment import check_bootable, has_pci, memory_size, takes_modules
from tracer.guest.initramfs import MODULES, MODULES_WITHOUT_PCI, build_initramfs
from tracer.guest.software import entries
from tracer.host.scratch import scratch_folder
from tracer.intercept.system import System
from tracer.launch.patrol import patrol
from tracer.launch.plan import Plan, check_bare, check_memory, parse_memory
from tracer.linux.arrival import ComingLinux
from tracer.linux.installed import InstalledLinux
from tracer.linux.kernel import Kernel, default_kernel, open_kernel
from tracer.linux.origin import Booted
from tracer.linux.ramdisk import HEAD, is_ramdisk
from tracer.linux.system import Linux
from tracer.qemu.command_line import MachineConfig, hidden_ram
from tracer.qemu.console_door import console_door
from tracer.qemu.cpu import lacks_long_mode, vcpus, virtualised
from tracer.qemu.firmware import firmware_arguments
from tracer.qemu.hardware import hardware
from tracer.qemu.machine import Machine
from tracer.qemu.oops import at_rest
from tracer.qemu.standstill import standstill, system_waits
from tracer.session.session import Session
from tracer.text.file_error import unread
from tracer.trace.record import FORMAT_VERSION, Header

_USUAL_MEMORY = "512M"
"""The RAM of a machine whose definition says nothing of it."""


@contextlib.asynccontextmanager
async def launch(
    plan: Plan,
    on_console: Callable[[bytes], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Session]:
    """Start a guest, stopped before its first instruction, and end it with the block.

    ``on_console`` gets the bytes of the guest's serial port, ``progress`` a line of text about
    what takes long, and one about where somebody may type at its console. A guest that turns out to
    be of another kind than the plan's ends the block with GuestError. Raises UsageError,
    KernelImageError, GuestError, QemuError or DebuggerError.
    """
    with contextlib.ExitStack() as files:
        system, config = _prepared(plan, progress, files)
        announcement = Announcement(plan.guest)
        block = asyncio.current_task()
        assert block is not None
        session: Session | None = None
        fault = ""

        def give_up(why: str) -> None:
            nonlocal fault
            fault = why
            if session is not None:
                session.fault = why
            block.cancel()

        def listen(data: bytes) -> None:
            on_console(data)
            known = announcement.fault
            for told in announcement.take(data):
                progress(told)
            if announcement.fault and not known:
                give_up(announcement.fault)

        machine = Machine(config, on_console=listen)
        client = GdbClient()
        try:
            async with contextlib.AsyncExitStack() as stack:
                if plan.console is not None:
                    door = console_door(machine.console, plan.console)
                    progress(await stack.enter_async_context(door))
                await client.start(plan.gdb)
                await machine.start()
                stack.callback(_tell_faults, machine, progress)
                await _check_machine(plan, machine)
                session = await Session.attach(machine, client, system, plan.choice)
                session.journal.progress = progress
                session.software = plan.software.words
                if plan.console is None:
                    stack.callback(asyncio.create_task(_end_at_rest(machine, session)).cancel)
                    if plan.installed is not None:
                        watched = _patrol(plan.installed, machine, session, give_up)
                        stack.callback(asyncio.create_task(watched).cancel)
                yield session
        except asyncio.CancelledError:
            if not fault:
                raise
            block.uncancel()
            raise GuestError(fault) from None
        finally:
            await client.close()
            await machine.close()


def _tell_faults(machine: Machine, progress: Callable[[str], None]) -> None:
    for line in machine.disk_faults.lines():
        progress(line)


async def _patrol(
    disk: Path, machine: Machine, session: Session, give_up: Callable[[str], None]
) -> None:
    # A person at a prompt can type at the console, and looks at it.
    def over() -> bool:
        entered = session.entered and not machine.config.from_reset
        return entered or session.driver.overseer is not None

    found = await patrol(machine, over, standstill)
    if found is not None:
        give_up(f"{disk}: {found}")


async def _end_at_rest(machine: Machine, session: Session) -> None:
    # Words of what is wrong with it; none of a kernel's, as its own are on the console.
    def look(recent: bytes) -> str | None:
        if at_rest(recent.decode(errors="replace").splitlines()):
            return ""
        waits = system_waits(recent)
        return None if waits is None else str(waits)

    # A person may want to look at what has panicked.
    fault = await patrol(machine, lambda: session.attended, look)
    if fault is not None:
        session.journal.progress("the guest goes no further, and is ended by a reset")
        await machine.end_at_rest(fault)


async def _check_machine(plan: Plan, machine: Machine) -> None:
    # The arguments of the user come last, and may have made another machine of it.
    if await virtualised(machine.dialogue):
        raise UsageError("vetrace traces under TCG alone: leave KVM out of the QEMU arguments")
    if await lacks_long_mode(machine.dialogue):
        raise UsageError("the guest's CPU has no 64-bit mode: give -cpu one that has, such as max")
    if plan.from_reset and await vcpus(machine.dialogue) > 1:
        raise UsageError("--from-reset follows one vCPU: leave -smp out, or drop --from-reset")
    if not plan.realtime and await vcpus(machine.dialogue) > 1:
        raise UsageError(
            "several vCPUs need --realtime: QEMU's icount runs them too unevenly to boot"
        )
    if plan.guest is Kind.PLAIN:
        return
    reasons = list(unfit(plan.guest, await hardware(machine.dialogue), inside=bool(plan.inputs)))
    if reasons:
        raise GuestError(f"no {plan.guest.label} guest can be run: {'; '.join(reasons)}")


def _prepared(
    plan: Plan, progress: Callable[[str], None], files: contextlib.ExitStack
) -> tuple[System, MachineConfig]:
    # The guest's software, by its image, and the machine for it; ``files`` keeps those made for it.
    if plan.from_reset:
        return _from_reset(plan, progress, files)
    if plan.installed is not None:
        check_bootable(plan.installed)
        machine = recipe.machine_arguments(plan.guest, plan.equipment)
        file = None
        if plan.kernel_file is not None:
            file = open_kernel(plan.kernel_file, plan.symbols, progress)
        return InstalledLinux(plan.installed, progress, file), _configure(plan, machine, None, None)
    path = plan.kernel or default_kernel(plan.guest)
    if path is None:
        command = setup_command(plan.guest)
        raise GuestError(
            f"no guest kernel: run {command} to fetch Debian's, or name one with --kernel"
        )
    _check_initrd(plan.initrd)
    machine = recipe.machine_arguments(plan.guest, plan.equipment)
    bare = open_bare(path, plan.symbols, plan.guidance)
    if bare is not None:
        if plan.guest is not Kind.PLAIN:
            raise GuestError(f"{path} is no Linux kernel: --guest {plan.guest} is for those")
        check_bare(plan, path)
        config = _configure(plan, machine, _for_qemu(path, files), plan.initrd)
        bare.faults = not plan.nested
        if plan.nested and takes_modules((*machine, *plan.extra)):
            # Its monitor lies where the guest does not look: nothing tells what RAM it leaves.
            bare.hidden = hidden_ram(config.memory)
            config = replace(config, hidden=bare.hidden)
        return bare, config
    kernel = open_kernel(path, plan.symbols, progress)
    if plan.guidance.given:
        raise UsageError(
            f"{plan.guidance.given[0]} is for a guest that is not Linux, and {path} is: where "
            "tracing of it begins, and what maps its devices, is known"
        )
    if not kernel.startable:
        raise KernelImageError(
            f"{path}: QEMU cannot start a vmlinux without a PVH entry note (CONFIG_PVH); "
            "give the bzImage, with this file as --symbols"
        )
    if plan.guest not in kernel.kinds:
        raise KernelImageError(f"{path}: {why_not(plan.guest, kernel.release)}")
    initrd = _ramdisk(plan, machine, kernel, progress)
    config = _configure(plan, machine, path, initrd)
    return Linux(kernel, Booted(config.command_line, plan.guest), plan.guest), config


def _check_initrd(path: Path | None) -> None:
    if path is None:
        return
    try:
        if not path.is_file():
            what = "it is not a file" if path.exists() else "no such file"
            raise UsageError(f"cannot read the initial ramdisk {path}: {what}")
        with path.open("rb") as file:
            if not file.read(1):
                raise UsageError(f"the initial ramdisk {path} is empty")
    except OSError as error:
        raise UsageError(unread(f"the initial ramdisk {path}", error)) from error


def _check_ramdisk(path: Path) -> None:
    # It is there, and read.
    with path.open("rb") as file:
        head = file.read(HEAD)
        while head and not head.strip(b"\0"):
            head = file.read(HEAD)
    if not is_ramdisk(head):
        raise UsageError(
            f"the initial ramdisk {path} is none that Linux knows: neither a cpio archive, packed"
            " or not, as mkinitramfs, dracut or `cpio -o -H newc` make it, nor a file system"
        )


def _from_reset(
    plan: Plan, progress: Callable[[str], None], files: contextlib.ExitStack
) -> tuple[System, MachineConfig]:
    machine = recipe.machine_arguments(plan.guest, plan.equipment)
    if not takes_modules((*machine, *plan.extra)):
        raise UsageError("--from-reset needs a machine with PCI, which its RAM comes by: pc or q35")
    if plan.installed is not None:
        check_bootable(plan.installed)
        config = _configure(plan, machine, None, None)
        file = None
        if plan.kernel_file is not None:
            file = open_kernel(plan.kernel_file, plan.symbols, progress)
        coming = ComingLinux(file, plan.installed)
        return FromReset(config.hidden, plan.installed.name, "", coming), config
    _check_initrd(plan.initrd)
    path = plan.kernel or default_kernel(plan.guest)
    if path is None:
        raise GuestError(f"no guest kernel: run {setup_command(plan.guest)}, or name one")
    if not path.is_file():
        raise KernelImageError(f"{path} is not there")
    try:
        kernel = open_kernel(path, plan.symbols, progress)
    except KernelImageError as error:
        check_bare(plan, path)
        progress(f"its code has names only where they are in the guest's RAM: {error}")
        config = _configure(plan, machine, _for_qemu(path, files), plan.initrd)
        return FromReset(config.hidden, path.name, "", ComingLinux(None, path)), config
    initrd = _ramdisk(plan, machine, kernel, progress)
    config = _configure(plan, machine, path, initrd)
    coming = ComingLinux(kernel, path)
    return FromReset(config.hidden, kernel.release, kernel.sha256, coming), config


def _for_qemu(path: Path, files: contextlib.ExitStack) -> Path:
    return file_for_qemu(path, lambda: files.enter_context(scratch_folder()))


def _ramdisk(
    plan: Plan, machine: Sequence[str], kernel: Kernel, progress: Callable[[str], None]
) -> Path:
    # Returns the reader's own, which is one, or else the default guest's.
    if plan.initrd is not None:
        _check_ramdisk(plan.initrd)
        return plan.initrd
    script = recipe.init_script()
    drivers = MODULES if has_pci((*machine, *plan.extra)) else MODULES_WITHOUT_PCI
    software = plan.software
    return build_initramfs(
        script, kernel.modules, software.modules, progress, drivers, entries(software)
    )


def _check_board(plan: Plan, machine: Sequence[str]) -> None:
    if takes_modules((*machine, *plan.extra)):
        return
    if plan.guest is Kind.SEV_ES:
        raise UsageError(
            f"an {plan.guest.label} guest has its RAM a second time, which takes a machine that RAM"
            " can be added to: pc or q35"
        )
    if plan.guest is Kind.TDX and plan.realtime and Input.PORT in plan.inputs:
        # By ports it takes too long, and how fast the host's counter goes nobody tells it.
        raise UsageError(
            f"a {plan.guest.label} guest whose ports raise #VE measures its clock by an HPET or a"
            " PM timer in real time: take pc or q35, or leave --realtime out"
        )


def _configure(
    plan: Plan, machine: tuple[str, ...], image: Path | None, initrd: Path | None
) -> MachineConfig:
    _check_board(plan, machine)
    memory, words = plan.memory, ""
    if image is not None:
        words = recipe.command_line(plan.append, kaslr=plan.kaslr, kind=plan.guest)
    if memory is None:
        memory = parse_memory(memory_size(machine) or _USUAL_MEMORY)
        check_memory(plan.guest, memory)
    return MachineConfig(
        program=plan.qemu,
        kernel=image,
        initrd=initrd,
        guest=plan.guest,
        command_line=words,
        memory=memory,
        devices=(*machine, *firmware_arguments(plan.firmware)),
        second_ram=1 << C_BIT if plan.guest is Kind.SEV_ES else None,
        hidden=hidden_ram(memory) if plan.from_reset else range(0),
        from_reset=plan.from_reset,
        extra=plan.extra,
        exit_ok=plan.exit_ok,
        svm=bool(plan.inputs) or plan.nested,
        realtime=plan.realtime,
        qemu_log=plan.qemu_log,
        log_configuration=Input.PORT in plan.inputs,
        log_interrupts=Input.IRQ in plan.inputs,
        log_sifted=plan.log_sifted,
    )


def header(session: Session) -> Header:
    """Return the header of a trace of this session."""
    machine = session.machine
    return Header(
        version=FORMAT_VERSION,
        tool=f"vetrace {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        clock="realtime" if machine.realtime else "icount",
        kernel=session.system.release,
        kernel_sha256=session.system.sha256,
        command_line=machine.command_line or session.system.command_line,
        memory=machine.size,
        vcpus=session.view.vcpus,
        qemu=machine.version,
        gdb=session.target.client.version,
        qemu_args=list(machine.arguments),
        software=list(session.software),
    )
