"""The QEMU process: its monitor, its memory map and its end.

Ref: QEMU docs/interop/qmp-spec; qapi/run-state.json (SHUTDOWN, ShutdownCause).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qemu.qmp import Message

from tracer.errors import QemuError, TracerError
from tracer.host.process import Process, exit_words, start, words_of
from tracer.host.scratch import scratch_folder
from tracer.qemu import alarm
from tracer.qemu.access_log import doorbell_arguments, log_accesses, log_arguments
from tracer.qemu.clock import GuestClock
from tracer.qemu.command_line import (
    RAM,
    SECOND_RAM,
    MachineConfig,
    features_off,
    machine_arguments,
)
from tracer.qemu.console import Console
from tracer.qemu.dialogue import GONE, Dialogue
from tracer.qemu.disk_fault import EVENTS, DiskFaults
from tracer.qemu.ending import Ending
from tracer.qemu.flat_view import FlatRange
from tracer.qemu.guest import Kept
from tracer.qemu.log import QemuLog
from tracer.qemu.output import CONSOLE, Output
from tracer.qemu.ram import GuestMemory, Span
from tracer.qemu.refusal import remedy
from tracer.qemu.vcpu_threads import in_sound_threads

log = logging.getLogger(__name__)

_TURNS = 20
"""Turns of QEMU's main loop in which it takes a packet that is there."""

_START_TIMEOUT = 60.0
_HELP_TIMEOUT = 20.0
_TAKEN_AT_ONCE, _TAKEN_EVERY = 16 << 20, 0.05
"""Bytes of a log that is sifted, and seconds after which that goes on."""


class Machine(asyncio.SubprocessProtocol):
    """Own one QEMU process, stopped before its first instruction.

    ``on_console`` is called with each chunk of bytes the guest writes to its serial port;
    ``on_exit`` once QEMU is gone, however it went. ``disk_faults`` has what went wrong with disks.
    """

    def __init__(
        self,
        config: MachineConfig,
        on_console: Callable[[bytes], None] = lambda _: None,
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self.memory = GuestMemory(config.file_size)
        self.console: Console = Console(on_console)
        self.on_exit = on_exit
        self._output = Output()
        sifts = config.qemu_log is not None and config.log_sifted
        self._log = QemuLog(None, kept=config.qemu_log) if sifts else QemuLog(config.qemu_log)
        self._in_memory: set[str] = set()
        self._clock: GuestClock | None = None
        self._process: Process | None = None
        self.dialogue = Dialogue(self._lay_out)
        self._events = self.dialogue.ends
        self.disk_faults = DiskFaults()
        self.dialogue.watch(self.disk_faults.take, *EVENTS)
        self._wakeups = self.dialogue.listen("WAKEUP")
        self._sleeps = self.dialogue.listen("SUSPEND")
        self._cause = ""
        self._last_words = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._asked = asyncio.Event()
        self._at_rest: str | None = None
        self._folder: Path | None = None
        self._scratch = contextlib.ExitStack()
        self._features: list[str] = []

    @property
    def pid(self) -> int | None:
        """Return QEMU's process identifier once it has been started."""
        return None if self._process is None else self._process.pid

    @property
    def version(self) -> str:
        """Return QEMU's version, in numbers."""
        return self.dialogue.version

    @property
    def realtime(self) -> bool:
        """Tell whether the guest's clock is the host's."""
        return self.config.realtime

    @property
    def outcome(self) -> str:
        """Return that the guest has powered itself off: all else is an error."""
        return "poweroff"

    @property
    def command_line(self) -> str:
        """Return the kernel's command line."""
        return self.config.command_line

    @property
    def size(self) -> int:
        """Return how many bytes of RAM the guest has."""
        return self.config.memory

    @property
    def arguments(self) -> Sequence[str]:
        """Return the QEMU arguments that describe the machine, the user's last."""
        return *self.config.devices, *self.config.extra

    def kept(self, physical: int, size: int) -> Kept | None:
        """Return where a piece of RAM can be found once vetrace is gone."""
        if self.pid is None:
            return None
        return Kept(self.memory.descriptor, self.memory.offset(physical, size), self.pid)

    def let_go(self) -> None:
        """Do nothing: QEMU ends with its guest."""

    @property
    def gdb_socket(self) -> Path:
        """Return the path of the socket where QEMU's GDB stub listens."""
        if self._folder is None:
            raise QemuError("QEMU has not been started")
        return self._folder / "gdb"

    @property
    def running(self) -> bool:
        """Tell whether QEMU is there."""
        return self._process is not None and self._process.status is None

    async def start(self) -> None:
        """Start QEMU and talk to it; raises QemuError with QEMU's own words when it refuses."""
        program = shutil.which(self.config.program)
        if program is None:
            raise QemuError(
                f"{self.config.program} not found; install qemu-system-x86 "
                "or name one with --qemu (see `vetrace doctor`)"
            )
        self._folder = self._scratch.enter_context(scratch_folder())
        clock = self._clock = GuestClock()
        ours, theirs = socket.socketpair()
        try:
            descriptors = [theirs.fileno(), self.memory.descriptor, *self._log.descriptors]
            descriptors += clock.descriptors
            try:
                known = await words_of([program, "-cpu", "help"], _HELP_TIMEOUT)
                about = await words_of([program, "-version"], _HELP_TIMEOUT)
                devices = *self.config.devices, *self.config.extra
                # The guest finds the same, whether the log is kept or not.
                doorbells = await doorbell_arguments(program, devices)
                self._features = [*features_off(known, about), *doorbells]
                words = self._arguments(theirs.fileno(), clock)
                arguments = [program, *in_sound_threads(words, about)]
                log.debug("starting %s", " ".join(arguments))
                # QEMU's own temporary files go where they are removed even if it is killed.
                scratch = {"TMPDIR": str(self._folder)}
                self._process = await start(arguments, self, descriptors, scratch)
                self.console.send = self._type
            except TracerError as error:
                raise QemuError(str(error)) from error
            theirs.close()
            await self._connect(ours)
            clock.ask()
        finally:
            theirs.close()

    async def _connect(self, channel: socket.socket) -> None:
        try:
            await self.dialogue.connect(channel, _START_TIMEOUT)
        except (*GONE, TimeoutError) as error:
            raise await self._refusal(error) from error
        except QemuError as error:
            raise QemuError(f"{self.config.program}: {error}") from error
        self._tasks.append(asyncio.create_task(self._look_back()))
        if not self.realtime:
            self._tasks.append(asyncio.create_task(self._wake()))

    async def _refusal(self, error: BaseException) -> QemuError:
        # QEMU's first complaint is the cause; give it the time to arrive.
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), 5)
        status = None if self._process is None else self._process.status
        how = exit_words(status) if status is not None else str(error) or "no answer on its monitor"
        complaint = next(iter(self._output.errors), how)
        return QemuError(f"QEMU did not start: {complaint}{remedy(complaint, self.config.program)}")

    def _arguments(self, monitor: int, clock: GuestClock) -> list[str]:
        config, ram = self.config, self.memory.descriptor
        return [
            *machine_arguments(config, ram=ram, monitor=monitor, gdb=self.gdb_socket),
            *clock.arguments,
            *log_arguments(self._log.path),
            *self._features,
            *config.extra,
        ]

    async def log_accesses(self) -> None:
        """Have accesses to devices logged from here on, if that is asked for; the guest stands."""
        config = self.config
        if config.qemu_log is None:
            return
        if config.log_sifted:
            await self.dialogue.memory_map()
            self._tasks.append(asyncio.create_task(self._sift()))
        await log_accesses(
            self.dialogue, config.extra, configuration=config.log_configuration,
            interrupts=config.log_interrupts,
        )  # fmt: skip

    @property
    def log_size(self) -> int | None:
        """Return how many bytes of QEMU's log there are, None where nobody asked for one."""
        return self._log.size if self.config.qemu_log is not None else None

    def woken(self) -> int | None:
        """Return where in QEMU's log the machine was reset to wake up, if it was since last asked.

        That is told once QEMU has answered anything.
        """
        return self._log.reset if self._wakeups.clear() else None

    @property
    def map_changed(self) -> bool:
        """Tell whether :meth:`memory_map` may answer otherwise than before this was asked last."""
        return self._log.map_changed()

    def tick(self) -> float:
        """Return the guest's time in seconds, as of the last call, without waiting for QEMU."""
        if self._clock is None:
            return 0.0
        self._clock.ask()
        return (self._clock.time_ns or 0) / 1e9

    async def time_ns(self) -> int | None:
        """Return the guest's time in nanoseconds, None when QEMU has never told it.

        Raises QemuError when QEMU has ended.
        """
        clock = self._clock
        if clock is None:
            return None
        before = clock.answers
        clock.ask()
        for _ in range(_TURNS):
            # A turn of QEMU's main loop, which takes the packet in one of the next. Where none is
            # taken the guest has not run since it was asked last.
            await self.dialogue.execute("query-status")
            if clock.answers != before:
                break
        return clock.time_ns

    @property
    def last_line(self) -> str | None:
        """Return the end of the last line that the guest printed, None when it has printed none."""
        return self._output.last_line

    def _type(self, data: bytes) -> None:
        # Keys for a machine that has ended go nowhere.
        if self.running and self._process is not None:
            self._process.write(data)

    async def end_at_rest(self, fault: str) -> None:
        """Have a guest that goes no further end as by a reset of its own.

        ``fault`` says why that is none of its own ends, or is empty.
        """
        self._at_rest = fault
        with contextlib.suppress(QemuError):  # it is gone
            await self.dialogue.execute("system_reset")

    def forget_socket(self) -> None:
        """Remove the GDB socket from disk once GDB is connected: nothing to leave behind."""
        self._scratch.close()

    async def ended(self) -> Ending:
        """Wait until QEMU is gone and tell how it went."""
        self._asked.set()
        status = -1 if self._process is None else await self._process.wait()
        for task in self._tasks:
            task.cancel()
        for event in self._events.clear():
            self._note_event(event)
        output = self._output
        return Ending(
            status=status,
            cause=self._cause,
            console=tuple(output.console),
            errors="\n".join(output.errors),
            triple_fault=self._triple_fault(),
            registers=self._last_words,
            accepted=self.config.exit_ok,
            at_rest=self._at_rest,
        )

    async def close(self) -> None:
        """End QEMU and free everything; safe at any moment and more than once."""
        if self._process is not None and self._process.status is None:
            await self._process.end()
        await self.dialogue.close()
        self._scratch.close()
        self._folder = None
        self.memory.close()
        self._log.close()
        if self._clock is not None:
            self._clock.close()
            self._clock = None

    def _lay_out(self, ranges: Sequence[FlatRange]) -> None:
        if self.config.log_sifted:
            found = {item.name for item in ranges if not item.is_memory}
            if not found <= self._in_memory:
                self._in_memory |= found
                self._log.leave_out_ports(self._in_memory)
        self.memory.lay_out(
            [
                Span(item.start, item.end, item.offset)
                for item in ranges
                if item.name in (RAM, SECOND_RAM)
            ]
        )

    def _note_event(self, event: Message) -> None:
        # The first one says why; that QEMU was told to quit comes after it.
        data = event.get("data")
        if not self._cause and isinstance(data, Mapping):
            self._cause = str(data.get("reason", ""))

    async def _look_back(self) -> None:
        # Learns why the machine is to end, and what its vCPUs were about, and lets it end.
        with contextlib.suppress(*GONE, QemuError):
            self._note_event(await self._events.get())
            self._last_words = await self.dialogue.monitor("info registers -a")
            status = await self.dialogue.execute("query-status")
            if isinstance(status, dict) and status.get("status") == "shutdown":
                # The guest ran, so GDB is told that it has stopped: let it take that in first.
                await self._asked.wait()
            await self.dialogue.execute("quit")

    async def _sift(self) -> None:
        # Takes the log before it has grown by much.
        while self.running:
            self._log.take(_TAKEN_AT_ONCE)
            await asyncio.sleep(_TAKEN_EVERY)

    async def _wake(self) -> None:
        # Wakes the machine each time that it sleeps until its alarm.
        with contextlib.suppress(*GONE, QemuError):
            while True:
                await self._sleeps.get()
                if await alarm.is_set(self.dialogue.monitor):
                    await self.dialogue.execute("system_wakeup")

    def _triple_fault(self) -> bool:
        return b"Triple fault" in self._log.tail(65536)

    # asyncio.SubprocessProtocol

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take what the guest (1) or QEMU itself (2) writes."""
        if fd == CONSOLE:
            self.console.take(data)
        self._output.take(fd, data)

    def process_exited(self) -> None:
        """Tell the owner that QEMU is gone."""
        self.on_exit()
