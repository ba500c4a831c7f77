"""Where the output of a command goes: the file that a user names, or standard output."""

from __future__ import annotations

import errno
import os
import stat
import sys
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
    try:
        if not stat.S_ISDIR(path.parent.stat().st_mode):  # it is the user's, and is not made
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
    except OSError as error:
        raise TraceError(unwritten(str(path), error)) from error
    with new_file(path, None) as draft, draft.open("wb") as file:
        yield file
