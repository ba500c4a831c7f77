"""The GDB process: commands in, results and stops out, over its MI pipes.

Commands carry a token and are answered by the result with the same token, so several can be
under way at once: a batch costs one round trip. ``pygdbmi.GdbController`` is not used because
its ``write`` waits 200 ms after every answer.

Ref: GDB manual, "GDB/MI"; "Maintenance Commands" (``maint packet``).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
from collections import deque
from collections.abc import Sequence

from tracer.access.stop import Stopped
from tracer.errors import CommandFailed, DebuggerError, TracerError
from tracer.gdb import mi
from tracer.gdb.console import gdb_version, packet_answers
from tracer.host.process import Process, start

log = logging.getLogger(__name__)

MINIMUM_VERSION = (10,)
"""Oldest GDB with everything used here."""

_PARTING = 30.0
"""Seconds in which a QEMU that ends is gone, once it has closed its GDB stub."""

_STARTUP = (
    "set confirm off",
    "set pagination off",
    "set width 0",
    "set height 0",
    "set debuginfod enabled off",
    "set auto-load off",
    "set breakpoint always-inserted on",
    # The unwinder must not wander through guest memory: a device could be there.
    "set backtrace limit 1",
    "set print frame-arguments none",
    # Days: a machine may be frozen for hours, and QEMU's end is told by its exit. After a time-out
    # GDB would send the packet again, and take the late answer for one to the next.
    "set remotetimeout 1000000",
    "set tcp auto-retry off",
)


class GdbClient(asyncio.SubprocessProtocol):
    """Own one GDB process.

    Every method raises :class:`DebuggerError` once GDB is gone.
    """

    def __init__(self) -> None:
        self._tokens = itertools.count(1)
        self._given = 0
        self._pending: dict[int, tuple[str, asyncio.Future[mi.Payload]]] = {}
        self._stops: deque[Stopped] = deque()
        self._stop_waiter: asyncio.Future[Stopped] | None = None
        self._console: list[str] = []
        self._tail = b""
        self._death: DebuggerError | None = None
        self._lost: DebuggerError | None = None
        self._process: Process | None = None
        self._running = False
        self.version = ""
        self.alive = True

    async def start(self, program: str) -> None:
        """Start ``program`` and learn its version.

        Raises DebuggerError when it cannot be started, is no GDB, or is too old.
        """
        if shutil.which(program) is None:
            raise DebuggerError(
                f"{program} not found; install gdb or name one with --gdb (see `vetrace doctor`)"
            )
        try:
            self._process = await start([program, "-nx", "-q", "--interpreter=mi3"], self)
        except TracerError as error:
            raise DebuggerError(str(error)) from error
        self.version = await self._version(program)
        for setting in _STARTUP:
            try:
                await self.command(setting)
            except CommandFailed as error:
                # Settings differ between versions; what is missing is a convenience.
                log.debug("%s", error)

    async def _version(self, program: str) -> str:
        banner = await self.console("show version")
        numbers = gdb_version(banner)
        if numbers is None:
            raise DebuggerError(f"{program} does not answer like GDB: {banner[:80]!r}")
        version = ".".join(map(str, numbers))
        if numbers < MINIMUM_VERSION:
            raise DebuggerError(f"{program} is GDB {version}; {MINIMUM_VERSION[0]} or newer needed")
        return version

    async def command(self, text: str) -> mi.Payload:
        """Carry out one command (MI or CLI) and return the payload of its result."""
        return await self._send([text])[0]

    async def batch(self, texts: Sequence[str]) -> list[mi.Payload]:
        """Carry out several commands in order with one write."""
        if not texts:
            return []
        return list(await asyncio.gather(*self._send(texts)))

    async def console(self, text: str) -> str:
        """Carry out a CLI command and return what it printed."""
        self._console.clear()
        await self.command(text)
        return "".join(self._console)

    async def packets(self, packets: Sequence[str], *commands: str) -> list[str]:
        """Exchange remote-protocol packets with the stub and return the answers.

        ``commands`` are carried out after them, with the same write. Ref: GDB manual, "Packets".
        GDB knows nothing of what a packet does: it caches nothing on the way, and what it has
        cached stays as it is. Raises ProtocolError when an answer cannot belong to its packet.
        """
        self._console.clear()
        await self.batch([*(f"maint packet {packet}" for packet in packets), *commands])
        return packet_answers("".join(self._console), packets)

    @property
    def moment(self) -> int:
        """Return how many commands were given, by which nothing has changed in between."""
        return self._given

    def exchange(self, packets: Sequence[str]) -> list[str]:
        """Exchange packets as :meth:`packets` does, at once: nothing else happens meanwhile.

        For what cannot wait in turn. The target stands.
        """
        self._console.clear()
        answers = self._send([f"maint packet {packet}" for packet in packets])
        assert self._process is not None  # or it could not have been sent
        try:
            self._process.pump(self.pipe_data_received, lambda: all(it.done() for it in answers))
        except TracerError as error:
            raise DebuggerError(str(error)) from error
        for answer in answers:
            answer.result()
        return packet_answers("".join(self._console), packets)

    async def stopped(self) -> Stopped:
        """Wait until the target stops and return why; stops queue up while nobody waits.

        Who breaks the wait off loses no stop.
        """
        if self._stops:
            return self._stops.popleft()
        death = self._death or self._lost
        if death is not None:
            raise death
        if self._stop_waiter is None or self._stop_waiter.done():
            self._stop_waiter = asyncio.get_running_loop().create_future()
        waiter = self._stop_waiter
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._stops.appendleft(waiter.result())  # it came as the wait was broken off
            raise

    async def settle(self) -> None:
        """Wait until the target is known to stand, and forget why it did."""
        if self._running:
            await self.stopped()
        self._stops.clear()

    async def close(self) -> None:
        """End GDB; a target still connected goes on or dies as its owner decides."""
        if self._process is None:
            return
        await self._process.end()
        self._process = None

    def _send(self, texts: Sequence[str]) -> list[asyncio.Future[mi.Payload]]:
        if self._death is not None:
            raise self._death
        if self._process is None:
            raise DebuggerError("gdb has not been started")
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[mi.Payload]] = []
        lines: list[str] = []
        for text in texts:
            token = self._given = next(self._tokens)
            future: asyncio.Future[mi.Payload] = loop.create_future()
            self._pending[token] = (text, future)
            futures.append(future)
            # A CLI command goes through -interpreter-exec so that it can carry a token.
            line = text if text.startswith("-") else f'-interpreter-exec console "{_quote(text)}"'
            lines.append(f"{token}{line}\n")
        self._process.write("".join(lines).encode())
        return futures

    # asyncio.SubprocessProtocol

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take bytes from GDB's standard output, cut anywhere."""
        if fd != 1:
            log.debug("gdb: %s", data.decode(errors="replace").rstrip())
            return
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            message = mi.parse(line.decode(errors="replace"))
            if message is not None:
                self._receive(message)

    def process_exited(self) -> None:
        """Fail everything that waits: GDB is gone."""
        self.alive = False
        self.fail(DebuggerError("gdb died; the guest cannot be traced any further"))

    def _receive(self, message: mi.Message) -> None:
        match message:
            case mi.Result(token, status, payload):
                self._answer(token, status, payload)
            case Stopped():
                self._running = False
                waiter, self._stop_waiter = self._stop_waiter, None
                if waiter is not None and not waiter.done():
                    waiter.set_result(message)
                else:
                    self._stops.append(message)
            case mi.Text("console", text):
                self._console.append(text)
            case mi.Parted():
                asyncio.get_running_loop().call_later(_PARTING, self._lose)
            case mi.Text(stream, text):
                log.debug("gdb %s: %s", stream, text.rstrip())
            case mi.Running():
                self._running = True

    def _answer(self, token: int | None, status: str, payload: mi.Payload) -> None:
        if token is None or token not in self._pending:
            return
        command, future = self._pending.pop(token)
        if future.done():
            return
        if status == "error":
            future.set_exception(CommandFailed(command, str(payload.get("msg", "no reason"))))
        else:
            future.set_result(payload)

    def _lose(self) -> None:
        # The end of QEMU's process has been told by now, if that is why.
        self._lost = DebuggerError(
            "QEMU has closed the GDB stub that vetrace had: somebody has typed `gdbserver` at a "
            "monitor of that QEMU"
        )
        if self._stop_waiter is not None and not self._stop_waiter.done():
            self._stop_waiter.set_exception(self._lost)

    def fail(self, error: DebuggerError) -> None:
        """Make everything that waits, now or later, raise an error: there is no target any more."""
        self._death = self._death or error
        for _, future in self._pending.values():
            if not future.done():
                future.set_exception(error)
        self._pending.clear()
        if self._stop_waiter is not None and not self._stop_waiter.done():
            self._stop_waiter.set_exception(error)
        self._stop_waiter = None


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
