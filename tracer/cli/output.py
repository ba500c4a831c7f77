"""Where the output of a command goes: the file that a user names, or standard output."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tracer.errors import TraceError
from tracer.host.textfile import STANDARD
from tracer.host.whole_file import new_file
from tracer.text.file_error import unwritten


@contextmanager
def sink(name: str) -> Iterator[IO[bytes]]:
    """Yield what writes to a file of this name, as :func:`replacing` does, or standard output."""
    if name.endswith("/"):  # which a Path forgets
        raise TraceError(unwritten(name, _error(errno.EISDIR)))
    if name != STANDARD:
        with replacing(Path(name)) as file:
            yield file
        return
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield what takes a file's place when it is whole, so that no error leaves half a file.

    A pipe or a device is written as it is. Raises TracerError.
    """
    if _names_file(path):
        with new_file(path, None) as draft, draft.open("wb") as file:
            yield file
        return
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise TraceError(unwritten(str(path), error)) from error


def check_output(path: Path) -> None:
    """Look whether a file, a pipe or a device can be written, before hours of work. Make nothing.

    Raises TracerError.
    """
    if not _names_file(path):
        return
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise TraceError(unwritten(str(path), error)) from error


# Tells whether a name is of a file, there or not, rather than of a pipe or a device.
def _names_file(path: Path) -> bool:
    try:
        if not stat.S_ISDIR(path.parent.stat().st_mode):  # it is the user's, and is not made
            raise _error(errno.ENOTDIR)
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise _error(errno.EISDIR)
        return stat.S_ISREG(mode)
    except OSError as error:
        raise TraceError(unwritten(str(path), error)) from error


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG
