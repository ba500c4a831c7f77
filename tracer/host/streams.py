"""Standard input, output and error, whatever state they are handed over in."""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO

from tracer.text.printable import cut, printable

_UNWRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.ENXIO}
)

_LONGEST = 2000
"""Characters of a message that are shown."""

_ERASE = "\x1b[K"
"""Erases to the end of a line. Ref: ECMA-48, 8.3.41 (EL)."""

_forced: bool | None = None
_status: TextIO | None = None

STATUS_MARGIN = 3
"""Columns that a status leaves: a terminal shows ``^C`` behind it, which is to be erased too."""


def occupy() -> None:
    """Open the null device in place of each standard stream that is closed.

    The next file to be opened would get its number, and an error line or what a child prints would
    then go into a trace. Raises OSError (EBADF) where standard output is one of them: what would
    be printed there is what the reader asked for.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    for number in closed:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def choose_colour(when: str) -> None:
    """Let output be coloured ``always``, ``never``, or as the terminal takes it (``auto``)."""
    global _forced
    _forced = {"always": True, "never": False}.get(when)


def forced_colour() -> bool | None:
    """Return what the reader said of colour, or None where the terminal decides."""
    return _forced


def shows_colour(stream: TextIO) -> bool:
    """Tell whether a stream is to be written on in colour.

    Ref: https://no-color.org (any non-empty NO_COLOR turns colours off).
    """
    if _forced is not None:
        return _forced
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def warn(message: str, *below: str) -> None:
    """Tell the reader something on standard error, in one line that holds no control character.

    What a guest or a file says may be in it, and must not reach the terminal as it is, nor bury
    the rest: of a message of thousands of characters the middle is left out. Lines ``below`` show
    what the message is about.
    """
    erase_status()
    told = printable(f"vetrace: {message}")
    if len(told) > _LONGEST:
        told = f"{told[: _LONGEST // 2]}…{told[-_LONGEST // 2 :]}"
    for line in (told, *map(printable, below)):
        print(line, file=sys.stderr)


def show_status(stream: TextIO, text: str, columns: int) -> None:
    """Write a line that is there until :func:`erase_status`, where a terminal can erase it.

    It is cut to the terminal's width. Whoever prints a line erases it first.
    """
    global _status
    if not stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return
    stream.write(f"\r{_ERASE}{cut(printable(text), columns - STATUS_MARGIN)}")
    stream.flush()
    _status = stream


def erase_status() -> None:
    """Erase what :func:`show_status` has written."""
    global _status
    if _status is not None:
        _status.write(f"\r{_ERASE}")
        _status.flush()
        _status = None


def is_output_error(error: OSError) -> bool:
    """Tell whether an error is one of writing to standard output: full, too large, or closed."""
    return error.filename is None and error.errno in _UNWRITABLE


def abandon_output() -> None:
    """Let the interpreter's last flush of standard output succeed, though nobody can have it.

    Ref: Python documentation, "Note on SIGPIPE".
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
