"""A person's own Python: a file that is run, and errors told with the line that they came from."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, ModuleType

from tracer.errors import UsageError
from tracer.text.encoding import decoded
from tracer.text.file_error import unread

_BIGGEST = 1 << 24


def read_text(path: Path) -> str:
    """Return the text of a person's file, without a byte-order mark. Raises UsageError."""
    return decoded(_read(path), str(path))


# A device may have no end, so no more is read than a person writes.
def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_BIGGEST + 1)
    except (OSError, ValueError) as error:  # a name with a NUL is the latter
        raise UsageError(unread(str(path), error)) from None
    if len(data) > _BIGGEST:
        raise UsageError(f"{path} is above {_BIGGEST >> 20} MiB: give a file that somebody wrote")
    return data


def run_file(path: Path) -> dict[str, object]:
    """Run a person's Python file; return its names. Raises UsageError naming file and line."""
    source = _read(path)
    module = ModuleType(f"own:{path}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except SyntaxError as error:
        raise UsageError(f"{error.filename}:{error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise UsageError(blamed(error, str(path))) from None
    return vars(module)


def made_of(kind: type, name: str) -> object:
    """Return an object of a class of a person's file. Raises UsageError, as :func:`run_file`."""
    try:
        return kind()
    except (Exception, SystemExit) as error:
        raise UsageError(blamed(error, name)) from None


class BrokenOff(KeyboardInterrupt):
    """A signal has come while a person's code was called."""


@contextlib.contextmanager
def breakable() -> Iterator[None]:
    """Raise BrokenOff at a signal in what the event loop calls of a person's code.

    The loop itself learns of the signal once that has ended, and does what it does at one.

    Ref: Python signal.set_wakeup_fd: whatever handler there is, the loop is told.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, _break)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _break(number: int, frame: FrameType | None) -> None:
    raise BrokenOff


def blamed(error: BaseException, name: str) -> str:
    """Return an error of a person's Python in one line, with the line of the file it came from.

    ``name`` is the file's. An error of a file that it calls is told with the line of the call.
    """
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == name]
    where = f"{name}:{lines[-1]}" if lines else name
    words = " ".join(str(error).split())
    return f"{where}: {type(error).__name__}{f': {words}' if words else ''}"
