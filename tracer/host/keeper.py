"""A process that outlives vetrace, and saves a piece of a guest's memory where vetrace is killed.

Memory that QEMU and vetrace share is gone with both. The keeper holds it open as well, waits on a
pipe for word that all is well, and where the pipe ends without it, writes the piece to a file once
QEMU is gone. It runs this file by itself, with the standard library alone, and in a session of its
own, so that what a terminal sends to vetrace does not reach it.

Ref: pidfd_open(2).
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DONE = b"done"
_PATIENCE = 60.0
"""Seconds that QEMU, which is told to end with vetrace, is given for it."""


@contextmanager
def kept(memory: int, offset: int, size: int, writer: int, path: Path) -> Iterator[None]:
    """Have ``size`` bytes at ``offset`` of a file written to ``path`` if the block never ends.

    ``memory`` is the file's descriptor, ``writer`` the process that changes it.
    """
    arguments = [str(number) for number in (memory, offset, size, writer)]
    program = [sys.executable, "-I", "-S", __file__, *arguments, str(path.absolute())]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, pass_fds=[memory], start_new_session=True, bufsize=0
    ) as keeper:
        try:
            yield
        finally:
            keeper.communicate(_DONE)


def _main(memory: int, offset: int, size: int, writer: int, path: str) -> None:
    try:
        process = os.pidfd_open(writer)
    except ProcessLookupError:
        process = -1
    word = b""
    while part := os.read(0, len(_DONE)):
        word += part
    if word == _DONE:
        return
    if process >= 0:
        select.select([process], [], [], _PATIENCE)
    # The name is there once the whole file is.
    part_path = f"{path}.part"
    with open(part_path, "wb") as file:  # noqa: PTH123  # the module is loaded for this alone
        file.write(os.pread(memory, size, offset))
    os.replace(part_path, path)  # noqa: PTH105  # likewise


if __name__ == "__main__":
    _memory, _offset, _size, _writer = map(int, sys.argv[1:5])
    _main(_memory, _offset, _size, _writer, sys.argv[5])
