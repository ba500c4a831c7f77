"""From a plan to a session: open the kernel, start GDB and QEMU, join them, end them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from tracer import __version__
from tracer.access.region import Choice, parse_range
from tracer.errors import GuestError, KernelImageError, UsageError
from tracer.gdb.client import GdbClient
from tracer.guest import recipe
from tracer.guest.initramfs import build_initramfs
from tracer.linux.kernel import Kernel, default_kernel, open_kernel
from tracer.qemu.machine import Machine, MachineConfig
from tracer.session.loop import Session
from tracer.session.watchdog import Limits
from tracer.text.number import byte_size, is_whole, whole
from tracer.trace.record import FORMAT_VERSION, Header

QEMU = "qemu-system-x86_64"
GDB = "gdb"
DEFAULT_MEMORY = 512 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """Say what guest to run and what to trace of it.

    Without ``kernel`` the one that ``vetrace setup`` fetched is taken, without ``initrd`` one is
    built from ``qemu/init``, with ``modules`` beside the default guest's. ``append`` follows the
    default command line, ``extra`` the default QEMU arguments. ``memory`` is in bytes.
    """

    kernel: Path | None = None
    symbols: Path | None = None
    initrd: Path | None = None
    modules: tuple[str, ...] = ()
    append: str | None = None
    kaslr: bool = False
    memory: int = DEFAULT_MEMORY
    choice: Choice = field(default_factory=Choice)
    realtime: bool = False
    qemu_log: Path | None = None
    extra: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    qemu: str = QEMU
    gdb: str = GDB


def check_plan(plan: Plan) -> None:
    """Raise UsageError for what cannot be booted or traced, whatever the kernel."""
    for spec in (*plan.choice.wanted, *plan.choice.bypassed):
        parse_range(spec)
    if not plan.realtime and _several_vcpus(plan.extra):
        raise UsageError(
            "several vCPUs need --realtime: QEMU's icount runs them too unevenly to boot"
        )
    if plan.modules and plan.initrd is not None:
        raise UsageError("--module is for the initramfs that vetrace builds: drop --initrd")


def _several_vcpus(arguments: Sequence[str]) -> bool:
    for option, value in pairwise(arguments):
        if option in ("-smp", "--smp"):
            count = value.partition(",")[0].removeprefix("cpus=")
            return is_whole(count) and whole(count) > 1
    return False


@contextlib.asynccontextmanager
async def launch(
    plan: Plan,
    on_console: Callable[[bytes], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Session]:
    """Start a guest, stopped before its first instruction, and end it with the block.

    ``on_console`` gets the bytes of the guest's serial port, ``progress`` a line of text about
    what takes long. Raises KernelImageError, GuestError, QemuError or DebuggerError.
    """
    kernel = _open(plan, progress)
    machine = Machine(_configure(plan, kernel, progress), on_console=on_console)
    client = GdbClient()
    try:
        await client.start(plan.gdb)
        await machine.start()
        session = await Session.attach(machine, client, kernel, plan.choice)
        session.progress = progress
        yield session
    finally:
        await client.close()
        await machine.close()


def _open(plan: Plan, progress: Callable[[str], None]) -> Kernel:
    path = plan.kernel or default_kernel()
    if path is None:
        raise GuestError(
            "no guest kernel: run vetrace setup to fetch Debian's, or name one with --kernel"
        )
    kernel = open_kernel(path, plan.symbols, progress)
    if not kernel.startable:
        raise KernelImageError(
            f"{path}: QEMU cannot start a vmlinux without a PVH entry note (CONFIG_PVH); "
            "give the bzImage, with this file as --symbols"
        )
    return kernel


def _configure(plan: Plan, kernel: Kernel, progress: Callable[[str], None]) -> MachineConfig:
    initrd = plan.initrd
    if initrd is None:
        script = recipe.init_script()
        initrd = build_initramfs(script, kernel.modules, plan.modules, progress)
    elif not initrd.is_file():
        raise GuestError(f"the initial ramdisk {initrd} is not there")
    return MachineConfig(
        program=plan.qemu,
        kernel=kernel.path,
        initrd=initrd,
        command_line=recipe.command_line(plan.append, kaslr=plan.kaslr),
        memory=plan.memory,
        devices=recipe.machine_arguments(),
        extra=plan.extra,
        realtime=plan.realtime,
        qemu_log=plan.qemu_log,
        clocked=plan.limits.guest is not None,
    )


def header(session: Session) -> Header:
    """Return the header of a trace of this session."""
    config = session.machine.config
    return Header(
        version=FORMAT_VERSION,
        tool=f"vetrace {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        clock="realtime" if config.realtime else "icount",
        kernel=session.kernel.release,
        kernel_sha256=session.kernel.sha256,
        command_line=config.command_line,
        memory=config.memory,
        vcpus=session.view.vcpus,
        qemu=session.machine.version,
        gdb=session.target.client.version,
        qemu_args=[*config.devices, *config.extra],
    )


def parse_memory(text: str) -> int:
    """Return the bytes in a size such as ``512M``, ``2G`` or ``1024`` (MiB, as QEMU has it).

    Raises UsageError for anything else, and for a size no guest boots with.
    """
    size = byte_size(text, "memory size")
    if size < 64 << 20 or size % (1 << 20):
        raise UsageError(f"{text} of memory: whole mebibytes, 64M or more, are needed")
    return size
