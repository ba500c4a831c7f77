"""A QEMU that somebody else has started: vetrace joins it, and leaves it as it was.

Its GDB stub is opened late, on a socket that vetrace hands over, and closed behind it. So is its
log, where one is asked for: QEMU tells through no command where it logs to, so that what its
command line says is put back.

Ref: QEMU gdbstub.c (gdbserver_start), hmp-commands.hx (gdbserver, logfile, log), qapi/misc.json
(getfd, add-fd), qapi/char.json (chardev-add); unix(7), SO_PEERCRED.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tracer.errors import GuestError, QemuError, UsageError
from tracer.host.scratch import scratch_folder
from tracer.qemu.access_log import log_accesses
from tracer.qemu.cpu import lacks_long_mode, virtualised
from tracer.qemu.dialogue import GONE, Dialogue
from tracer.qemu.ending import Ending
from tracer.qemu.flat_view import FlatRange, parse_flat_view
from tracer.qemu.foreign_ram import ForeignMemory, open_ram
from tracer.qemu.log import MAP_EVENT, QemuLog
from tracer.qemu.monitor_door import socket_address
from tracer.qemu.packet_ram import Exchange, PacketMemory
from tracer.qemu.process_arguments import counts_instructions, log_of, read_arguments
from tracer.text.file_error import unwritten

_PATIENCE = 5.0
"""Seconds that a monitor is given to greet. It serves one client, and others wait in line."""
_STUB = "vetrace-gdb"
_ALONE = "disconnected:"
"""How QEMU tells of a socket that nobody is connected to (chardev/char-socket.c)."""
_QUIT = "quit"
_CREDENTIALS = struct.Struct("3i")
_EVENTS = "memory_region_ops_*"


class ForeignMachine:
    """Join one QEMU that runs, through the socket of its monitor; a :class:`GuestMachine`.

    ``on_exit`` is called once the guest is gone: QEMU has ended, or the machine was reset or
    powered off. ``qemu_log`` is where QEMU's log is wanted while the guest is traced.
    """

    def __init__(self, monitor: Path, qemu_log: Path | None = None) -> None:
        self._monitor = monitor
        self._log_path = qemu_log
        self.dialogue = Dialogue(self._lay_out)
        self._events = self.dialogue.listen("RESET", "SHUTDOWN")
        self._memory: ForeignMemory | PacketMemory | None = None
        self._log: QemuLog | None = None
        self._logs = False  # it is somewhere else than its owner has it
        self._scratch = contextlib.ExitStack()
        self._folder: Path | None = None
        self._words: list[str] = []
        self._stub = False
        self._gone = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._pidfd = -1
        self.cause = ""
        self.pid: int | None = None
        self.on_exit: Callable[[], None] = lambda: None

    # ---- joining

    async def join(self) -> None:
        """Talk to QEMU, and learn what guest it has and where its RAM is; nothing is changed.

        Raises UsageError, GuestError or QemuError, of one line each, where it cannot be traced.
        """
        channel = await self._connected()
        (pid, _, _) = _CREDENTIALS.unpack(
            channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        try:
            await self.dialogue.connect(channel, _PATIENCE)
        except TimeoutError:
            raise QemuError(
                f"{self._monitor} does not greet within {_PATIENCE:g} s: another client holds that "
                "monitor, or no QEMU is behind it; give QEMU one more -qmp"
            ) from None
        except GONE as error:
            said = str(error).partition("\n")[0]  # behind it are the bytes, over several lines
            raise QemuError(
                f"there is no QEMU's monitor for programs (QMP) behind {self._monitor}: {said}"
            ) from error
        await self._check()
        self.pid = pid or None
        if self.pid is not None:
            with contextlib.suppress(UsageError):
                self._words = read_arguments(self.pid)
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(self.pid)
                asyncio.get_running_loop().add_reader(self._pidfd, self._quit)
        ranges = parse_flat_view(await self.dialogue.monitor("info mtree -f -o"))
        self._memory = await open_ram(self.dialogue, ranges, self.pid)
        if isinstance(self._memory, PacketMemory):
            await self._memory.copy(self.dialogue)
        self._watch = asyncio.create_task(self._await_end())

    @property
    def by_packets(self) -> bool:
        """Tell whether the guest's RAM is reached by packets alone."""
        return isinstance(self._memory, PacketMemory)

    def reach_ram(self, exchange: Exchange, moment: Callable[[], int]) -> None:
        """Reach the RAM of a guest that stands by packets, where it can be reached no other way."""
        if isinstance(self._memory, PacketMemory):
            self._memory.connect(exchange, moment)

    async def _connected(self) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX)
        channel.setblocking(False)
        try:
            async with asyncio.timeout(_PATIENCE):
                with socket_address(self._monitor) as address:
                    await asyncio.get_running_loop().sock_connect(channel, address)
        except (OSError, TimeoutError, ValueError) as error:
            channel.close()
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            if isinstance(error, ConnectionRefusedError):
                # The kernel says the same of a file that is none.
                left = "its QEMU has ended" if self._monitor.is_socket() else "it is no socket"
                why += f": {left}"
            what = "does not answer" if isinstance(error, TimeoutError | BlockingIOError) else why
            raise UsageError(f"cannot connect to {self._monitor}: {what}") from error
        return channel

    async def _check(self) -> None:
        told = await self.dialogue.execute("query-target")
        arch = told.get("arch") if isinstance(told, Mapping) else None
        if arch != "x86_64":
            raise GuestError(f"the guest behind {self._monitor} is for {arch}, not for x86-64")
        if await virtualised(self.dialogue):
            raise GuestError(
                "KVM runs the guest: vetrace traces under TCG alone, where QEMU carries out each "
                "instruction (-accel tcg)"
            )
        if await lacks_long_mode(self.dialogue):
            raise GuestError("the guest's CPU has no 64-bit mode")
        status = await self.dialogue.execute("query-status")
        state = status.get("status") if isinstance(status, Mapping) else None
        if state != "running":
            raise GuestError(f"the guest does not run ({state}): let it go on first (cont)")
        if await self._has_stub():
            raise GuestError(
                "another debugger has QEMU's GDB stub (-s, -gdb): close it first, with `gdbserver "
                "none` at QEMU's monitor"
            )

    async def _has_stub(self) -> bool:
        told = await self.dialogue.execute("query-chardev")
        items = told if isinstance(told, list) else []
        found = {item.get("label"): str(item.get("filename")) for item in items}
        if _STUB in found:
            if not found[_STUB].startswith(_ALONE):
                raise GuestError(
                    "another vetrace traces the guest, or leaves it at this moment: attach once "
                    "that has ended"
                )
            # One that was killed has left it.
            await self._close_stub()
        return "gdb" in found

    async def open_stub(self) -> None:
        """Open QEMU's GDB stub, on a socket that nobody else can reach; the guest goes on."""
        self._folder = self._scratch.enter_context(scratch_folder())
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.gdb_socket))
            listener.listen(1)
            self.dialogue.send(listener.fileno())
            await self.dialogue.execute("getfd", {"fdname": _STUB})
        where = {"type": "fd", "data": {"str": _STUB}}
        backend = {"type": "socket", "data": {"addr": where, "server": True, "wait": False}}
        await self.dialogue.execute("chardev-add", {"id": _STUB, "backend": backend})
        self._stub = True
        told = await self.dialogue.monitor(f"gdbserver chardev:{_STUB}")
        if not told.startswith("Waiting for gdb"):
            raise QemuError(f"QEMU opens no GDB stub: {told.strip()}")

    async def rejoin(self) -> None:
        """Talk to QEMU anew, for a process that was killed; its stub and its log are as it left.

        Where a log is wanted, that may have begun since. Raises QemuError where that cannot be.
        """
        self.dialogue = Dialogue(self._lay_out)
        self._gone, self._watch, self._pidfd = asyncio.Event(), None, -1
        self._scratch, self._folder = contextlib.ExitStack(), None
        self._logs = self._log_path is not None
        try:
            await self.dialogue.connect(await self._connected(), _PATIENCE)
        except (*GONE, TimeoutError, UsageError) as error:
            raise QemuError(f"QEMU's monitor cannot be had any more: {error}") from error

    @property
    def descriptors(self) -> Sequence[int]:
        """Return the files that its RAM is reached by, and its log."""
        log = () if self._log is None else self._log.descriptors
        return *self.memory.descriptors, *log

    async def reopen_stub(self) -> None:
        """Open the stub anew, for another debugger."""
        await self._close_stub()
        self._scratch.close()
        await self.open_stub()

    async def _close_stub(self) -> None:
        with contextlib.suppress(QemuError):
            await self.dialogue.monitor("gdbserver none")
            await self.dialogue.execute("chardev-remove", {"id": _STUB})
        self._stub = False

    # ---- what it is

    @property
    def memory(self) -> ForeignMemory | PacketMemory:
        """Return the guest's RAM."""
        if self._memory is None:
            raise QemuError("QEMU has not been joined")
        return self._memory

    @property
    def version(self) -> str:
        """Return QEMU's version, in numbers."""
        return self.dialogue.version

    @property
    def outcome(self) -> str:
        """Return how the run has ended: what ended the guest, or that it goes on."""
        return self.cause or "detached"

    @property
    def command_line(self) -> str:
        """Return nothing: its owner knows it."""
        return ""

    @property
    def size(self) -> int:
        """Return how many bytes of RAM the guest has."""
        return sum(last + 1 - first for first, last in self.memory.ranges)

    def kept(self, physical: int, size: int) -> None:
        """Return None: QEMU goes on without vetrace."""

    def let_go(self) -> None:
        """Take note that the guest goes on without any trap."""
        self._gone.set()

    @property
    def arguments(self) -> Sequence[str]:
        """Return the words of QEMU's command line, none where they are not told."""
        return self._words[1:]

    @property
    def realtime(self) -> bool:
        """Tell whether the guest's clock is the host's, as far as is known."""
        return not counts_instructions(self._words)

    @property
    def gdb_socket(self) -> Path:
        """Return the path of the socket where QEMU's GDB stub listens."""
        if self._folder is None:
            raise QemuError("QEMU's GDB stub has not been opened")
        return self._folder / "gdb"

    def forget_socket(self) -> None:
        """Remove the GDB socket from disk."""
        self._scratch.close()

    # ---- its log

    async def log_accesses(self) -> None:
        """Have accesses to devices logged from here on, if that is asked for; the guest stands."""
        if self._log_path is None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            descriptor = os.open(self._log_path, flags, 0o666)
        except OSError as error:
            raise GuestError(unwritten(str(self._log_path), error)) from error
        try:
            self.dialogue.send(descriptor)
        finally:
            os.close(descriptor)
        added = await self.dialogue.execute("add-fd")
        number = added.get("fd") if isinstance(added, Mapping) else None
        told = await self.dialogue.monitor(f"logfile /proc/self/fd/{number}")
        if told.strip():
            raise GuestError(f"QEMU cannot log to {self._log_path}: {told.strip()}")
        self._logs = True
        self._log = QemuLog(self._log_path)
        await self.dialogue.execute("trace-event-set-state", {"name": MAP_EVENT, "enable": True})
        await log_accesses(self.dialogue, self._words)
        self._log.map_changed()

    @property
    def log_size(self) -> int | None:
        """Return how many bytes of QEMU's log there are, None where nobody asked for one."""
        return None if self._log is None else self._log.size

    @property
    def map_changed(self) -> bool:
        """Return whether the memory map may have changed: without a log nobody knows."""
        return self._log is None or self._log.map_changed()

    def woken(self) -> int | None:
        """Return None: a machine that was reset is not traced any more."""
        return None

    async def _restore_log(self) -> None:
        if not self._logs:
            return
        self._logs = False
        if self._log is not None:
            self._log.close()
            self._log = None
        file, items = log_of(self._words)
        with contextlib.suppress(QemuError):
            for name in (_EVENTS, MAP_EVENT):
                state = {"name": name, "enable": False}
                await self.dialogue.execute("trace-event-set-state", state)
            await self.dialogue.monitor(f"log {items}")
            await self.dialogue.monitor(f"logfile {file or '/dev/stderr'}")

    # ---- time, which its QEMU tells nobody

    def tick(self) -> float:
        """Return 0: a guest of somebody else has no clock that could be asked."""
        return 0.0

    async def time_ns(self) -> int | None:
        """Return None likewise."""
        return None

    @property
    def console(self) -> None:
        """Return None: its console is its owner's."""
        return None

    @property
    def last_line(self) -> str | None:
        """Return None likewise."""
        return None

    # ---- the end

    @property
    def quit(self) -> bool:
        """Tell whether QEMU itself has ended."""
        return self.cause == _QUIT

    @property
    def alive(self) -> bool:
        """Tell whether the guest that was joined is there."""
        return not self._gone.is_set()

    def _lay_out(self, ranges: Sequence[FlatRange]) -> None:
        if self._memory is not None:
            self._memory.lay_out(ranges)

    async def _await_end(self) -> None:
        event = await self._events.get()
        data = event.get("data")
        reason = data.get("reason", "") if isinstance(data, Mapping) else ""
        self._end(str(reason) or str(event.get("event", "")).lower())

    def _quit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._end(_QUIT)

    def _end(self, cause: str) -> None:
        if not self._gone.is_set():
            self.cause = cause
            self._gone.set()
            self.on_exit()

    async def ended(self) -> Ending:
        """Wait until the guest is gone, or has been left; tell how it ended."""
        await self._gone.wait()
        # Neither is a failure of the run: the guest is its owner's.
        return Ending(0, "guest-shutdown", (), "", triple_fault=False)

    async def close(self) -> None:
        """Leave QEMU as it was; safe at any moment and more than once."""
        self._gone.set()
        if self._watch is not None:
            self._watch.cancel()
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        await self._restore_log()
        if self._stub:
            await self._close_stub()
        await self.dialogue.close()
        self._scratch.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None
