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

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError

from tracer.access.region import Region
from tracer.access.vcpu import DescriptorTables, VcpuState
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
from tracer.qemu.cpu import has_features
from tracer.qemu.ending import Ending
from tracer.qemu.flat_view import (
    DeviceNames,
    FlatRange,
    device_paths,
    name_regions,
    parse_flat_view,
)
from tracer.qemu.log import QemuLog
from tracer.qemu.monitor import descriptor_tables, halted, vcpu_states
from tracer.qemu.output import CONSOLE, Output
from tracer.qemu.ram import GuestMemory, Span
from tracer.qemu.refusal import remedy

log = logging.getLogger(__name__)

MINIMUM_VERSION = (6, 0)
_TURNS = 20
"""Turns of QEMU's main loop in which it takes a packet that is there."""

_START_TIMEOUT = 60.0
_HELP_TIMEOUT = 20.0


class _Monitor(QMPClient):
    # Every stop and every resume of the guest is an event; the library would format each of them
    # for a log that is off.

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg


class Machine(asyncio.SubprocessProtocol):
    """Own one QEMU process, stopped before its first instruction.

    ``on_console`` is called with each chunk of bytes the guest writes to its serial port;
    ``on_exit`` once QEMU is gone, however it went.
    """

    def __init__(
        self,
        config: MachineConfig,
        on_console: Callable[[bytes], None] = lambda _: None,
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self.memory = GuestMemory(config.memory)
        self.version = ""
        self.on_console = on_console
        self.on_exit = on_exit
        self._output = Output()
        self._log = QemuLog(config.qemu_log)
        self._clock: GuestClock | None = None
        self._process: Process | None = None
        self._qmp = _Monitor("vetrace")
        self._qmp.logger.setLevel(logging.CRITICAL)
        # The client's own listener, which cannot be removed, would keep every event of the run.
        self._events = self._qmp.events
        self._events.names.add("SHUTDOWN")
        self._wakeups = EventListener("WAKEUP")
        self._qmp.register_listener(self._wakeups)
        self._sleeps = EventListener("SUSPEND")
        self._qmp.register_listener(self._sleeps)
        self._cause = ""
        self._last_words = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._asked = asyncio.Event()
        self._folder: Path | None = None
        self._scratch = contextlib.ExitStack()
        self._features: list[str] = []
        self._types: dict[str, str] = {}
        self._names = DeviceNames()

    @property
    def pid(self) -> int | None:
        """Return QEMU's process identifier once it has been started."""
        return None if self._process is None else self._process.pid

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
                arguments = [program, *self._arguments(theirs.fileno(), clock)]
                log.debug("starting %s", " ".join(arguments))
                # QEMU's own temporary files go where they are removed even if it is killed.
                scratch = {"TMPDIR": str(self._folder)}
                self._process = await start(arguments, self, descriptors, scratch)
            except TracerError as error:
                raise QemuError(str(error)) from error
            theirs.close()
            await self._connect(ours)
            clock.ask()
        finally:
            theirs.close()

    async def _connect(self, channel: socket.socket) -> None:
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await self._qmp.connect(channel)
        except (QMPError, TimeoutError, OSError, EOFError) as error:
            channel.close()
            raise await self._refusal(error) from error
        self._tasks.append(asyncio.create_task(self._look_back()))
        if not self.config.realtime:
            self._tasks.append(asyncio.create_task(self._wake()))
        greeting = self._qmp.greeting
        numbers = greeting.QMP.version.get("qemu") if greeting else None
        numbers = numbers if isinstance(numbers, Mapping) else {}
        parts = tuple(int(numbers.get(key, 0)) for key in ("major", "minor", "micro"))
        self.version = ".".join(map(str, parts))
        if parts[:2] < MINIMUM_VERSION:
            wanted = ".".join(map(str, MINIMUM_VERSION))
            raise QemuError(
                f"{self.config.program} is QEMU {self.version}; {wanted} or newer needed"
            )

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
        if self.config.qemu_log is not None:
            config = self.config
            await log_accesses(
                self, config.extra, configuration=config.log_configuration,
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

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Carry out a QMP command and return its result; QemuError when QEMU refuses or is gone."""
        try:
            return await self._qmp.execute(command, arguments)
        except (QMPError, OSError, EOFError) as error:
            raise QemuError(f"QEMU did not carry out {command}: {error}") from error

    async def monitor(self, command: str, vcpu: int = 0) -> str:
        """Carry out a human-monitor command, about one vCPU if any, and return its text."""
        arguments = {"command-line": command, "cpu-index": vcpu}
        result = await self.execute("human-monitor-command", arguments)
        return result if isinstance(result, str) else ""

    async def pause(self) -> None:
        """Stop the guest, which GDB then tells; nothing happens where it stands or is gone."""
        with contextlib.suppress(QemuError):
            await self.execute("stop")

    async def has_machine_check(self) -> bool:
        """Tell whether the guest's CPUs have banks of machine-check registers."""
        return await has_features(self, "mce", "mca")

    async def has_giant_pages(self) -> bool:
        """Tell whether the guest's CPUs map 1 GiB by one entry, which may say it is no code."""
        return await has_features(self, "pdpe1gb", "nx")

    async def memory_map(self) -> tuple[list[Region], list[tuple[int, int]]]:
        """Return the device regions and the RAM ranges as QEMU has them at this moment.

        Learns on the way where RAM lies, for :attr:`memory`.
        """
        text = await self.monitor("info mtree -f -o")
        ranges = parse_flat_view(text)
        self.memory.lay_out(
            [
                Span(item.start, item.end, item.offset)
                for item in ranges
                if item.name in (RAM, SECOND_RAM)
            ]
        )
        ram = [(item.start, item.end) for item in ranges if item.is_memory]
        return name_regions(ranges, await self._device_types(ranges), self._names), ram

    async def port_map(self) -> list[Region]:
        """Return the regions of I/O ports as QEMU has them at this moment."""
        ranges = parse_flat_view(await self.monitor("info mtree -f -o"), "I/O")
        return name_regions(ranges, await self._device_types(ranges), self._names)

    @property
    def map_changed(self) -> bool:
        """Tell whether :meth:`memory_map` may answer otherwise than before this was asked last."""
        return self._log.map_changed()

    async def halted(self, vcpu: int) -> bool:
        """Tell whether a vCPU sleeps in HLT."""
        return halted(await self.monitor("info registers", vcpu))

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
            await self.execute("query-status")
            if clock.answers != before:
                break
        return clock.time_ns

    @property
    def last_line(self) -> str | None:
        """Return the end of the last line that the guest printed, None when it has printed none."""
        return self._output.last_line

    async def descriptor_tables(self) -> DescriptorTables:
        """Return where the first vCPU's GDT and IDT are, which QEMU's GDB stub does not show."""
        return descriptor_tables(await self.monitor("info registers"))

    async def vcpu_states(self) -> tuple[VcpuState, ...]:
        """Return what each vCPU is about, in order."""
        return vcpu_states(await self.monitor("info registers -a"))

    async def _device_types(self, ranges: Sequence[FlatRange]) -> dict[str, str]:
        # An id may be another device's once the first one was unplugged.
        paths = device_paths(ranges)
        self._types = {path: name for path, name in self._types.items() if path in paths}
        for path in paths:
            if path in self._types:
                continue
            try:
                name = await self._qmp.execute("qom-get", {"path": path, "property": "type"})
            except ExecuteError:
                # An owner that is no object of its own keeps the last word of its path.
                name = path.rpartition("/")[2]
            self._types[path] = str(name)
        return self._types

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
        )

    async def close(self) -> None:
        """End QEMU and free everything; safe at any moment and more than once."""
        if self._process is not None and self._process.status is None:
            await self._process.end()
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._qmp.disconnect()
        self._scratch.close()
        self._folder = None
        self.memory.close()
        self._log.close()
        if self._clock is not None:
            self._clock.close()
            self._clock = None

    def _note_event(self, event: Message) -> None:
        # The first one says why; that QEMU was told to quit comes after it.
        data = event.get("data")
        if not self._cause and isinstance(data, Mapping):
            self._cause = str(data.get("reason", ""))

    async def _look_back(self) -> None:
        # Learns why the machine is to end, and what its vCPUs were about, and lets it end.
        with contextlib.suppress(QMPError, OSError, EOFError, QemuError):
            self._note_event(await self._events.get())
            self._last_words = await self.monitor("info registers -a")
            status = await self.execute("query-status")
            if isinstance(status, dict) and status.get("status") == "shutdown":
                # The guest ran, so GDB is told that it has stopped: let it take that in first.
                await self._asked.wait()
            await self.execute("quit")

    async def _wake(self) -> None:
        # Wakes the machine each time that it sleeps until its alarm.
        with contextlib.suppress(QMPError, OSError, EOFError, QemuError):
            while True:
                await self._sleeps.get()
                if await alarm.is_set(self.monitor):
                    await self.execute("system_wakeup")

    def _triple_fault(self) -> bool:
        return b"Triple fault" in self._log.tail(65536)

    # asyncio.SubprocessProtocol

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take what the guest (1) or QEMU itself (2) writes."""
        if fd == CONSOLE:
            self.on_console(data)
        self._output.take(fd, data)

    def process_exited(self) -> None:
        """Tell the owner that QEMU is gone."""
        self.on_exit()
