"""The door to the guest's console for a person elsewhere: a pseudo-terminal, or a socket.

Ref: pty(7), unix(7); poll(2): POLLHUP on the master of a pseudo-terminal that nobody has open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import shlex
import socket
import tty
from collections.abc import AsyncIterator, Iterator, Set
from pathlib import Path

from tracer.errors import UsageError
from tracer.qemu.console import Console

PTY = "pty"
"""The word for a pseudo-terminal; anything else is the path of a socket."""

_LOOK = 0.1
"""Seconds between two looks at whether somebody has opened the pseudo-terminal."""
_HELD = 1 << 20
"""Bytes of the guest's output that are held for who does not read them; older ones are lost."""
_CHUNK = 1 << 12


@contextlib.asynccontextmanager
async def console_door(console: Console, where: str) -> AsyncIterator[str]:
    """Let one at a time come to a console, within the block; yield a line about where.

    ``where`` is ``pty`` or the path of a socket, which is made and removed again. Who comes gets
    what the guest has printed last, then all that follows. Raises UsageError where that cannot be.
    """
    door = _terminal(console) if where == PTY else _socket(console, Path(where))
    async with door as told:
        yield told


class _Visit:
    # One who is at the console, by a file descriptor that is read and written.

    def __init__(self, console: Console, descriptor: int, name: str) -> None:
        self._console = console
        self._descriptor = descriptor
        self._waiting = bytearray(console.recent)
        self._stack = contextlib.ExitStack()
        self._loop = asyncio.get_running_loop()
        self._stack.enter_context(console.joined(name, self._print))
        self.over = asyncio.Event()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)
        self._write()

    def end(self) -> None:
        if not self.over.is_set():
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
            self._stack.close()
            self.over.set()

    def _print(self, data: bytes) -> None:
        self._waiting += data
        del self._waiting[:-_HELD]
        self._write()

    def _write(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: os.write(self._descriptor, self._waiting[:_CHUNK])]
        except BlockingIOError:
            self._loop.add_writer(self._descriptor, self._write)
            return
        except OSError:
            self.end()
            return
        self._loop.remove_writer(self._descriptor)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # of a pseudo-terminal that was closed
        if data:
            self._console.send(data)
        else:
            self.end()


@contextlib.asynccontextmanager
async def _terminal(console: Console) -> AsyncIterator[str]:
    ours, theirs = os.openpty()
    name = os.ttyname(theirs)
    # Keys are the guest's, which echoes them, and its lines end as it ends them.
    tty.setraw(theirs)
    os.close(theirs)
    poll = select.poll()
    poll.register(ours, 0)

    async def serve() -> None:
        while True:
            await asyncio.sleep(_LOOK)
            if not poll.poll(0) and not console.holder:
                await _visited(_Visit(console, ours, name))

    task = asyncio.create_task(serve())
    try:
        yield f"the guest's console is at {name}, for example by `screen {name}`"
    finally:
        await _ended({task})
        os.close(ours)


@contextlib.asynccontextmanager
async def _socket(console: Console, path: Path) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def receive(channel: socket.socket) -> None:
        with channel:
            try:
                visit = _Visit(console, channel.fileno(), f"who is connected to {path}")
            except UsageError as error:
                with contextlib.suppress(OSError):
                    channel.send(f"vetrace: {error}\r\n".encode())
                return
            await _visited(visit)

    def come() -> None:
        with contextlib.suppress(OSError):  # gone again
            task = loop.create_task(receive(listener.accept()[0]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    with _listener(path) as listener:
        loop.add_reader(listener, come)
        try:
            yield (
                f"the guest's console is at {path}, for example by "
                f"`socat -,rawer,escape=0x1d UNIX-CONNECT:{shlex.quote(str(path))}`"
            )
        finally:
            loop.remove_reader(listener)
            await _ended(tasks)


async def _visited(visit: _Visit) -> None:
    try:
        await visit.over.wait()
    finally:
        visit.end()


async def _ended(tasks: Set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _listener(path: Path) -> Iterator[socket.socket]:
    _clear(path)
    with socket.socket(socket.AF_UNIX) as listener:
        mask = os.umask(0o077)  # who types at the console is in the guest
        try:
            listener.bind(str(path))
        except OSError as error:
            why = error.strerror or str(error)
            if path.is_dir():
                why = "it is a folder: give a path in it"
            elif error.errno == errno.EADDRINUSE:
                why += f", by what is no free socket: give another path, or take {path} away"
            raise UsageError(f"--console {path}: no socket can be made there: {why}") from None
        finally:
            os.umask(mask)
        try:
            listener.listen()
            listener.setblocking(False)
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    # A socket that nobody listens at was left by one who was killed.
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                path.unlink()
            return
    raise UsageError(f"--console {path}: another program listens there")
