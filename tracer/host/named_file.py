"""Files that a person names: where the home folder is, what is written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tracer.errors import TracerError, UsageError
from tracer.host.whole_file import new_file
from tracer.text.file_error import unwritten


def file_named(name: Path | str) -> Path:
    """Return the path of a file to write. Raises UsageError for a name that no file has."""
    text = str(name)
    if not text:
        raise UsageError("name the file to write: the empty name is none")
    if text.endswith("/"):  # which a Path forgets
        raise UsageError(unwritten(text, _error(errno.EISDIR)))
    return Path(name)


def at_home(path: Path) -> Path:
    """Return a path with the home folder that its ~ or ~NAME stands for.

    Raises UsageError where nobody knows that.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: there is no home folder {path.parts[0]}") from None


@contextmanager
def replacing(path: Path, *, over: bool = True) -> Iterator[IO[bytes]]:
    """Yield what takes a file's place when it is whole, so that no error leaves half a file.

    A pipe or a device is written as it is. What is there stays without ``over``, and is refused.
    Raises TracerError.
    """
    if not over and os.path.lexists(path):
        raise TracerError(unwritten(str(path), _error(errno.EEXIST)))
    if _names_file(path):
        with new_file(path, None) as draft, draft.open("wb") as file:
            yield file
        return
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise TracerError(unwritten(str(path), error)) from error


def check_output(path: Path, *, kind: str = "", in_place: bool = False) -> None:
    """Look whether a file, a pipe or a device can be written, before hours of work. Make nothing.

    With ``in_place`` a file that is there will be written over, rather than replaced. ``kind`` goes
    before the name in what is raised: TracerError.
    """
    what = f"{kind} {path}".lstrip()
    if not _names_file(path, what):
        return
    try:
        if in_place and path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
            return
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise TracerError(unwritten(what, error)) from error


# Tells whether a name is of a file, there or not, rather than of a pipe or a device.
def _names_file(path: Path, what: str = "") -> bool:
    try:
        if not stat.S_ISDIR(path.parent.stat().st_mode):  # it is the user's, and is not made
            raise _error(errno.ENOTDIR)
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise _error(errno.EISDIR)
        return stat.S_ISREG(mode)
    except (OSError, ValueError) as error:  # a name with a NUL is the latter
        raise TracerError(unwritten(what or str(path), error)) from error


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG
