"""The dialogue with a QEMU through its monitor (QMP): commands, and questions about the guest.

Ref: QEMU docs/interop/qmp-spec; qapi/misc.json (human-monitor-command).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping, Sequence

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError

from tracer.access.region import Region
from tracer.access.vcpu import DescriptorTables, VcpuState
from tracer.devices.queue import Virtqueue
from tracer.errors import QemuError
from tracer.qemu.cpu import has_features
from tracer.qemu.flat_view import (
    DeviceNames,
    FlatRange,
    device_paths,
    name_regions,
    parse_flat_view,
)
from tracer.qemu.monitor import descriptor_tables, halted, vcpu_states
from tracer.qemu.virtqueues import virtqueues

MINIMUM_VERSION = (6, 0)
GONE = QMPError, OSError, EOFError
"""What is raised where QEMU ends while it is asked."""


class _Client(QMPClient):
    # A message is a line, for the library. A monitor with pretty=on (-qmp-pretty) sends it over
    # several, of which the last alone begins with the brace that ends it.

    async def _readline(self) -> bytes:
        line = await super()._readline()
        if line.rstrip() != b"{":
            return line
        lines = [line]
        while not line.startswith(b"}"):
            line = await super()._readline()
            lines.append(line)
        return b"".join(lines)

    # Every stop and every resume of the guest is an event; the library would format each of them
    # for a log that is off.

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg


class Dialogue:
    """Own one connection to a QEMU's monitor.

    ``lay_out`` is told where memory lies each time that it was asked for. ``ends`` has the events
    that tell why the guest ends.
    """

    def __init__(self, lay_out: Callable[[Sequence[FlatRange]], None] = lambda _: None) -> None:
        self.version = ""
        self._lay_out = lay_out
        self._qmp = _Client("vetrace")
        self._qmp.logger.setLevel(logging.CRITICAL)
        # The client's own listener, which cannot be removed, would keep every event of the run.
        self.ends = self._qmp.events
        self.ends.names.add("SHUTDOWN")
        self._types: dict[str, str] = {}
        self._names = DeviceNames()

    def listen(self, *names: str) -> EventListener:
        """Return a listener for events of these names, from here on."""
        listener = EventListener(names)
        self._qmp.register_listener(listener)
        return listener

    def watch(self, take: Callable[[Message], bool], *names: str) -> None:
        """Have ``take`` told each event of these names; it returns whether that is to be kept."""
        self._qmp.register_listener(EventListener(names, take))

    async def connect(self, channel: socket.socket, seconds: float) -> None:
        """Begin the dialogue on a connected socket, which is closed where that fails.

        Raises what QMP raises, OSError, EOFError, or TimeoutError after so many seconds.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._qmp.connect(channel)
        except BaseException:
            channel.close()
            raise
        greeting = self._qmp.greeting
        numbers = greeting.QMP.version.get("qemu") if greeting else None
        numbers = numbers if isinstance(numbers, Mapping) else {}
        parts = tuple(int(numbers.get(key, 0)) for key in ("major", "minor", "micro"))
        self.version = ".".join(map(str, parts))
        if parts[:2] < MINIMUM_VERSION:
            wanted = ".".join(map(str, MINIMUM_VERSION))
            raise QemuError(f"this is QEMU {self.version}; {wanted} or newer needed")

    async def close(self) -> None:
        """End the dialogue; safe more than once."""
        with contextlib.suppress(*GONE):
            await self._qmp.disconnect()

    def send(self, descriptor: int) -> None:
        """Send QEMU a file descriptor, which the next command is about.

        Raises QemuError where it cannot be sent.
        """
        try:
            self._qmp.send_fd_scm(descriptor)
        except GONE as error:
            raise QemuError(f"QEMU takes no file descriptor: {error}") from error

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Carry out a QMP command and return its result; QemuError when QEMU refuses or is gone."""
        try:
            return await self._qmp.execute(command, arguments)
        except GONE as error:
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

    async def has_no_execute(self) -> bool:
        """Tell whether an entry of the guest's page tables may say that its page is not code."""
        return await has_features(self, "nx")

    async def memory_map(self) -> tuple[list[Region], list[tuple[int, int]]]:
        """Return the device regions and the RAM ranges as QEMU has them at this moment."""
        text = await self.monitor("info mtree -f -o")
        ranges = parse_flat_view(text)
        self._lay_out(ranges)
        ram = [(item.start, item.end) for item in ranges if item.is_memory]
        return name_regions(ranges, await self._device_types(ranges), self._names), ram

    async def port_map(self) -> list[Region]:
        """Return the regions of I/O ports as QEMU has them at this moment."""
        ranges = parse_flat_view(await self.monitor("info mtree -f -o"), "I/O")
        return name_regions(ranges, await self._device_types(ranges), self._names)

    async def virtqueues(self) -> list[Virtqueue]:
        """Return the virtqueues that drivers have set up, of devices that have a region."""
        return await virtqueues(self, self._names.known)

    async def halted(self, vcpu: int) -> bool:
        """Tell whether a vCPU sleeps in HLT."""
        return halted(await self.monitor("info registers", vcpu))

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
