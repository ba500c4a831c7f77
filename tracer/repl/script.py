"""Where a script's lines come from: a file, the command line, standard input."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TextIO

from tracer.errors import UsageError
from tracer.host.own_code import read_text


async def text_lines(texts: Sequence[str]) -> AsyncIterator[str]:
    """Yield lines that are there already."""
    for text in texts:
        yield text


def file_lines(path: Path) -> list[str]:
    """Return the lines of a script, a file or a pipe. Raises UsageError for what is none."""
    return read_text(path).splitlines()


def rc_file() -> Path | None:
    """Return the script that each prompt begins with: ``$XDG_CONFIG_HOME/vetrace/rc``.

    Ref: XDG Base Directory Specification: ``~/.config`` by default, and a path that is not absolute
    is ignored.
    """
    xdg = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        base = Path(xdg) if xdg.startswith("/") else Path.home() / ".config"
    except RuntimeError:  # no home
        return None
    return base / "vetrace" / "rc"


async def stream_lines(stream: TextIO) -> AsyncIterator[str]:
    """Yield the lines of a pipe or a terminal as they come, without holding up the event loop.

    A thread reads, as a regular file or ``/dev/null`` cannot be waited for in any other way. Raises
    UsageError behind the lines that were read where what follows is no text.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | UsageError | None] = asyncio.Queue()

    def read() -> None:
        last: UsageError | None = None
        try:
            for number, line in enumerate(stream):
                told = line if number else line.removeprefix("\ufeff")  # the byte-order mark
                loop.call_soon_threadsafe(queue.put_nowait, told)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            last = UsageError(f"standard input is no text: {byte:#x} is not {error.encoding}")
        except (OSError, ValueError):  # gone
            pass
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended first
                loop.call_soon_threadsafe(queue.put_nowait, last)

    threading.Thread(target=read, name="vetrace-stdin", daemon=True).start()
    while isinstance(line := await queue.get(), str):
        yield line
    if line is not None:
        raise line
