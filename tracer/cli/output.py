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
        raise TraceError(
            unwritten(name, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
        )
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
    if check_output(path):
        with new_file(path, None) as draft, draft.open("wb") as file:
            yield file
        return
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise TraceError(unwritten(str(path), error)) from error


def check_output(path: Path) -> bool:
    """Tell whether a name is one of a file, there or not, rather than of a pipe or a device.

    Raises TracerError where it can be neither, for who asks before hours of work. Nothing is made.
    """
    try:
        if not stat.S_ISDIR(path.parent.stat().st_mode):  # it is the user's, and is not made
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if stat.S_ISREG(mode):
            with tempfile.TemporaryFile(dir=path.parent):
                return True
        return False
    except OSError as error:
        raise TraceError(unwritten(str(path), error)) from error


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG
