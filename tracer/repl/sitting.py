"""A person's terminal at the guest's console: keys go to the guest, its bytes to the screen.

Ref: termios(3), tty(4): in raw mode no key means anything to the terminal itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Awaitable, Iterator

from tracer.qemu.console import Console

KEY = "Ctrl-]"
"""The key that brings back to the prompt, as in telnet."""
_KEY = b"\x1d"


async def sit(console: Console, stop: Awaitable[object]) -> bool:
    """Join standard input and output with a console, until :data:`KEY` or ``stop``.

    Tell whether it was the key. Raises UsageError where another has the console.
    """
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    keys, screen = sys.stdin.fileno(), (sys.__stdout__ or sys.stdout).fileno()

    def show(data: bytes) -> None:
        with contextlib.suppress(OSError):  # a terminal that has gone away ends the session
            while data:
                data = data[os.write(screen, data) :]

    def take() -> None:
        # One at a time: those behind the key are the prompt's.
        try:
            key = os.read(keys, 1)
        except OSError:
            key = b""
        if key in (_KEY, b""):
            loop.remove_reader(keys)
            over.set()
        else:
            console.send(key)

    with console.joined("`console` at the prompt", show), _raw(keys):
        show(f"At the guest's console; {KEY} comes back.\r\n".encode() + console.line)
        loop.add_reader(keys, take)
        waiting = [asyncio.ensure_future(stop), asyncio.create_task(over.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(keys)
            for task in waiting:
                task.cancel()
            show(b"\r\n")
    return over.is_set()


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
