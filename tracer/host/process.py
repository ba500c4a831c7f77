"""Child processes that cannot outlive vetrace.

Each child is told by the kernel to die with its parent, so that even ``kill -9`` of vetrace
leaves nothing running.

Ref: prctl(2), PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import select
import signal
from collections.abc import Callable, Mapping, Sequence

from tracer.errors import TracerError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def exit_words(status: int) -> str:
    """Return an exit status in words; negative is a signal."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


class Process:
    """Own one child process started by :func:`start`."""

    def __init__(self, transport: asyncio.SubprocessTransport, exited: asyncio.Event) -> None:
        self._transport = transport
        self._exited = exited

    @property
    def pid(self) -> int:
        """Return the process identifier."""
        pid = self._transport.get_pid()
        assert pid is not None  # asyncio sets it before the transport is handed out
        return pid

    @property
    def status(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        return self._transport.get_returncode()

    def write(self, data: bytes) -> None:
        """Write to standard input without waiting."""
        pipe = self._transport.get_pipe_transport(0)
        if isinstance(pipe, asyncio.WriteTransport):
            pipe.write(data)

    def pump(self, take: Callable[[int, bytes], None], done: Callable[[], bool]) -> None:
        """Hand standard output to ``take`` as it comes, until ``done``; the event loop stands.

        Raises TracerError where the program ends before.
        """
        transport = self._transport.get_pipe_transport(1)
        pipe = transport.get_extra_info("pipe") if transport is not None else None
        while not done():
            if pipe is None or pipe.closed:
                raise TracerError("the program has ended")
            select.select([pipe], [], [])
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                raise TracerError("the program has ended")
            take(1, data)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal unless the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._transport.send_signal(number)

    async def wait(self) -> int:
        """Wait for the end and return the exit status."""
        await self._exited.wait()
        status = self.status
        return -1 if status is None else status

    async def end(self) -> None:
        """Kill the process and wait until the operating system has cleaned up after it."""
        self.send_signal(signal.SIGKILL)
        await self._exited.wait()
        self._transport.close()


class _Watch(asyncio.SubprocessProtocol):
    # Forwards to the owner's protocol and notes the exit, which asyncio's transport alone
    # cannot be awaited for.

    def __init__(self, inner: asyncio.SubprocessProtocol) -> None:
        self._inner = inner
        self.exited = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._inner.pipe_data_received(fd, data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._inner.pipe_connection_lost(fd, exc)

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        # Called after the exit and after the last byte of the pipes.
        self._inner.process_exited()


async def start(
    arguments: Sequence[str],
    protocol: asyncio.SubprocessProtocol,
    descriptors: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a program that dies with this process, its pipes read by ``protocol``.

    ``descriptors`` are file descriptors it inherits, ``environment`` has variables to set.
    ``protocol.process_exited`` is called after the last byte of its pipes. Raises TracerError
    when the program cannot be started.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # Ctrl-C in the terminal is for vetrace alone, which ends its children in order.
        os.setpgid(0, 0)
        # A debugger that breaks leaves no core file in the reader's folder.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.getppid() != parent:
            os._exit(1)

    watch = _Watch(protocol)
    loop = asyncio.get_running_loop()
    spawning = asyncio.ensure_future(
        loop.subprocess_exec(
            lambda: watch,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=tuple(descriptors),
            preexec_fn=die_with_parent,
            env={**os.environ, **(environment or {})},
        )
    )
    try:
        transport, _ = await asyncio.shield(spawning)
    except asyncio.CancelledError:
        # Ctrl-C between the fork and here: nobody else knows of the child.
        transport, _ = await spawning
        await Process(transport, watch.exited).end()
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise TracerError(f"cannot start {arguments[0]}: {reason}") from error
    return Process(transport, watch.exited)


class _Listener(asyncio.SubprocessProtocol):
    # Keeps what a program writes to standard output.

    def __init__(self) -> None:
        self.written = bytearray()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self.written += data


async def words_of(arguments: Sequence[str], seconds: float) -> str:
    """Return what a program writes to standard output until it ends.

    Empty when it fails, or takes longer than ``seconds``, which ends it. Raises TracerError when
    it cannot be started.
    """
    listener = _Listener()
    process = await start(arguments, listener)
    try:
        async with asyncio.timeout(seconds):
            status = await process.wait()
    except TimeoutError:
        return ""
    finally:
        await process.end()
    return listener.written.decode(errors="replace") if status == 0 else ""
