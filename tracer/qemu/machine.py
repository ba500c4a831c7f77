"""The QEMU process: its command line, its monitor, its memory map and its end.

Ref: QEMU docs/interop/qmp-spec; qapi/run-state.json (SHUTDOWN, ShutdownCause);
docs/devel/tcg-icount.rst.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError

from tracer.access.region import Region
from tracer.access.vcpu import DescriptorTables, VcpuState
from tracer.confidential.kind import Kind
from tracer.errors import QemuError, TracerError
from tracer.host.process import Process, exit_words, start, words_of
from tracer.host.scratch import scratch_folder
from tracer.qemu import alarm
from tracer.qemu.access_log import doorbell_arguments, log_accesses, log_arguments
from tracer.qemu.clock import GuestClock
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
from tracer.qemu.ram import GuestMemory, Span

log = logging.getLogger(__name__)

MINIMUM_VERSION = (6, 0)
_ICOUNT = "shift=1,sleep=off"
"""Two virtual nanoseconds an instruction; an idle guest's clock is set to its next timer."""
_BEAT = 20
"""Microseconds of virtual time between two beats of the metronome.

QEMU takes a guest for idle between the moment its vCPU stops for GDB and the moment the machine
does (main_loop_wait calls icount_start_warp_timer), and sets its clock to the next timer: 4 to
50 ms a stop in a guest with a 250 Hz tick. A timer that is never far away bounds that, to a time
that two runs have in common. A filter on a network that nobody is on has such a timer
(net/filter-buffer.c)."""
_METRONOME = (
    "-netdev", "hubport,id=metronome,hubid=63",
    "-object", f"filter-buffer,id=metronome-beat,netdev=metronome,interval={_BEAT}",
)  # fmt: skip
_REPEATABLE = ("-rtc", "base=2026-01-01,clock=vm", "-seed", "1")
"""A date, and random numbers of the CPU and for the kernel, that two runs have in common."""
_RAM = "guest-ram"
_SECOND_RAM = "second-ram"
_CONSOLE_TAIL = 200
_TURNS = 20
"""Turns of QEMU's main loop in which it takes a packet that is there."""

_LINE_END = 400  # characters
_PREFIX = re.compile(r"^\S*qemu-system-\S+: ")
_START_TIMEOUT = 60.0
_HELP_TIMEOUT = 20.0
_UNWANTED = ("fred",)
"""CPU features that a traced guest must not find: with FRED exceptions go through no IDT, and
vector 14 has no gate (Linux Documentation/arch/x86/x86_64/fred.rst)."""
_BROKEN = ("cx16",)
_SOUND_VERSION = (10, 0)
"""QEMU 7.2 sets wrong flags in CMPXCHG16B, of which Linux dies, untraced too, where its slab
allocator uses it (6.12 does). 10.0 is right; those in between were not tried."""


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """Say what to run: paths of the files, the command line, memory in bytes.

    ``devices`` are the QEMU arguments of the machine definition; ``extra`` are the user's own and
    come last. ``guest`` is the kind of guest that this is a machine for, and ``second_ram`` the
    physical address at which all RAM is a second time, if anywhere. ``qemu_log`` is where QEMU
    writes its log, see :meth:`Machine.log_accesses`. Without ``realtime`` virtual time counts
    instructions, so that a stop of any length does not exist for the guest.
    """

    program: str
    kernel: Path
    initrd: Path | None
    command_line: str
    memory: int
    guest: Kind = Kind.PLAIN
    second_ram: int | None = None
    devices: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    realtime: bool = False
    qemu_log: Path | None = None


@dataclass(slots=True)
class _Output:
    # Lines the guest printed, and QEMU's own complaints.
    console: deque[str] = field(default_factory=lambda: deque(maxlen=_CONSOLE_TAIL))
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=_CONSOLE_TAIL))
    partial: dict[int, bytes] = field(default_factory=dict)


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
        self._output = _Output()
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
                arguments = [program, *self.arguments(theirs.fileno())]
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
        return QemuError(f"QEMU did not start: {complaint}")

    def arguments(self, monitor: int) -> list[str]:
        """Return QEMU's arguments; ``monitor`` is the file descriptor of the QMP channel."""
        config = self.config
        # memory-backend on -machine needs the backend's id; the size must agree with -m.
        words = [
            *config.devices,
            "-machine", f"memory-backend={_RAM}",
            "-m", f"{config.memory >> 20}M",
            "-object", self._backend(_RAM),
            *self._second_ram(),
            "-kernel", str(config.kernel),
            "-append", config.command_line,
            "-chardev", "stdio,id=console,signal=off",
            "-serial", "chardev:console",
            "-chardev", f"socket,id=qmp,fd={monitor}",
            "-mon", "chardev=qmp,mode=control",
            "-gdb", f"unix:{self.gdb_socket},server=on,wait=off",
            "-S",
            # It waits where it would end, to be looked at; a reset is an end as well.
            "-action", "reboot=shutdown,shutdown=pause",
        ]  # fmt: skip
        if config.initrd is not None:
            words += ["-initrd", str(config.initrd)]
        if not config.realtime:
            words += ["-icount", _ICOUNT, *_METRONOME, *_REPEATABLE]
        if self._clock is not None:
            words += self._clock.arguments
        words += log_arguments(self._log.path)
        return [*words, *self._features, *config.extra]

    def _backend(self, name: str) -> str:
        return (
            f"memory-backend-file,id={name},size={self.config.memory},share=on,"
            f"mem-path=/proc/self/fd/{self.memory.descriptor}"
        )

    def _second_ram(self) -> list[str]:
        # A memory device at an address of its own, which no firmware table tells the guest of.
        # Room for such devices begins at 4 GiB, behind RAM, and has the size that maxmem leaves.
        at, size = self.config.second_ram, self.config.memory
        if at is None:
            return []
        return [
            "-m", f"{size >> 20}M,slots=1,maxmem={(at + 2 * size) >> 20}M",
            "-object", self._backend(_SECOND_RAM),
            "-device", f"virtio-pmem-pci,id={_SECOND_RAM},memdev={_SECOND_RAM},memaddr={at:#x},"
            "disable-legacy=on,iommu_platform=on",
        ]  # fmt: skip

    async def log_accesses(self) -> None:
        """Have accesses to devices logged from here on, if that is asked for; the guest stands."""
        if self.config.qemu_log is not None:
            await log_accesses(self, self.config.extra)

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

    async def physical_bits(self) -> int:
        """Return MAXPHYADDR of the guest's CPUs (Intel SDM vol. 3A, 4.1.4)."""
        bits = await self._cpu_property("phys-bits")
        return bits if isinstance(bits, int) and bits else 40

    async def has_machine_check(self) -> bool:
        """Tell whether the guest's CPUs have banks of machine-check registers."""
        return await self._has("mce", "mca")

    async def has_giant_pages(self) -> bool:
        """Tell whether the guest's CPUs map 1 GiB by one entry, which may say it is no code."""
        return await self._has("pdpe1gb", "nx")

    async def _has(self, *features: str) -> bool:
        return all([await self._cpu_property(name) is True for name in features])

    async def _cpu_property(self, name: str) -> object:
        cpus = await self.execute("query-cpus-fast")
        path = cpus[0]["qom-path"] if isinstance(cpus, list) and cpus else ""
        return await self.execute("qom-get", {"path": path, "property": name})

    async def vcpus(self) -> int:
        """Return how many vCPUs the guest has."""
        cpus = await self.execute("query-cpus-fast")
        return len(cpus) if isinstance(cpus, list) else 1

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
                if item.name in (_RAM, _SECOND_RAM)
            ]
        )
        ram = [(item.start, item.end) for item in ranges if item.is_memory]
        return name_regions(ranges, await self._device_types(ranges), self._names), ram

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
        rest = self._output.partial.get(1, b"").decode(errors="replace").strip()
        lines = (line for line in (rest, *reversed(self._output.console)) if line.strip())
        return next((line[-_LINE_END:] for line in lines), None)

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
        if fd == 1:
            self.on_console(data)
        *lines, rest = (self._output.partial.get(fd, b"") + data).split(b"\n")
        self._output.partial[fd] = rest[-65536:]
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            if fd == 1:
                self._output.console.append(text)
            elif "warning:" in text:
                log.debug("qemu: %s", text)
            elif text:
                self._output.errors.append(_PREFIX.sub("", text))

    def process_exited(self) -> None:
        """Tell the owner that QEMU is gone."""
        self.on_exit()


def features_off(known: str, about: str) -> tuple[str, ...]:
    """Return the QEMU arguments that take unwanted features off every CPU model.

    ``known`` is what ``-cpu help`` prints: a property that a QEMU does not know stops it. ``about``
    is what ``-version`` prints.
    """
    version = re.search(r"version (\d+)\.(\d+)", about)
    sound = version is None or (int(version[1]), int(version[2])) >= _SOUND_VERSION
    names = set(known.split())
    return tuple(
        word
        for name in (*_UNWANTED, *(() if sound else _BROKEN))
        if name in names
        for word in ("-global", f"x86_64-cpu.{name}=off")
    )
