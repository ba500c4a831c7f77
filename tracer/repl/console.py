"""`py`: Python on the live guest, a line of it or a console."""

from __future__ import annotations

import code
import contextlib
import io
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

import tracer
from tracer.errors import TracerError
from tracer.repl.guest import Guest
from tracer.repl.thread import Stopped

_OWN = str(Path(tracer.__file__).parent)
_NAME = "<py>"


class PythonFailed(TracerError):
    """Carry the traceback of a person's own code."""


def namespace(guest: Guest) -> dict[str, object]:
    """Return the names that `py` has."""
    return {
        "__name__": "__console__",
        "guest": guest,
        "registers": guest.registers,
        "regions": guest.regions,
        "breaks": guest.breaks,
    }


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold what a line came to: its value ready for JSON, as a reader is shown it, what it printed.

    A statement has no value, and shows none.
    """

    value: object = None
    shown: str = ""
    printed: str = ""


def run_line(source: str, space: dict[str, object], capture: bool) -> Outcome:
    """Carry out one line; only with ``capture`` is what it prints held back. Raises PythonFailed.

    Its value is made text of here as well: that may take long, and ask the guest.
    """
    printed = io.StringIO()
    held = contextlib.redirect_stdout(printed) if capture else contextlib.nullcontext()
    try:
        with held:
            try:
                compiled = compile(source, _NAME, "eval")
            except SyntaxError:
                exec(compile(source, _NAME, "exec"), space)
                return Outcome(printed=printed.getvalue())
            value = eval(compiled, space)
            shown = "" if value is None else repr(value)
        return Outcome(_plain(value, shown), shown, printed.getvalue())
    except Exception as error:
        raise PythonFailed(own_traceback(error)) from None


# JSON has no other values, and its numbers are those of 64 bits here.
def _plain(value: object, shown: str) -> object:
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int and -(1 << 63) <= value < 1 << 64:
        return value
    if type(value) is str:
        with contextlib.suppress(UnicodeEncodeError):
            value.encode()
            return value
    return shown


def own_traceback(error: BaseException) -> str:
    """Return the traceback of the person's own code: what vetrace did in between is left out."""
    told = traceback.TracebackException.from_exception(error)
    # Frames that lead to the person's code are not theirs, nor are vetrace's at their calls.
    theirs = dropwhile(lambda frame: frame.filename != _NAME, told.stack)
    frames = [
        frame
        for frame in theirs
        if not frame.filename.startswith(_OWN) and "concurrent/futures" not in frame.filename
    ]
    told.stack = traceback.StackSummary.from_list(frames)
    told.__cause__ = told.__context__ = None
    if isinstance(error, TracerError):
        return f"{''.join(told.stack.format())}{error}".strip()
    return "".join(told.format()).strip()


class Console(code.InteractiveConsole):
    """A Python console whose lines come from the prompt: ``read`` raises Stopped at Ctrl-C."""

    def __init__(self, space: dict[str, object], read: Callable[[str], str]) -> None:
        super().__init__(space, _NAME)
        self._read = read

    def raw_input(self, prompt: str = "") -> str:
        """Return the next line; raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
        try:
            return self._read(prompt)
        except Stopped:
            raise KeyboardInterrupt from None

    def showtraceback(self) -> None:
        """Show the traceback of what was typed."""
        error = sys.exc_info()[1]
        if error is not None:
            self.write(f"{own_traceback(error)}\n")


def converse(space: dict[str, object], read: Callable[[str], str]) -> None:
    """Read and carry out Python until Ctrl-D or ``exit()``."""
    console = Console(space, read)
    with contextlib.suppress(SystemExit, Stopped):
        console.interact(
            banner="Python: guest, registers, regions, breaks; Ctrl-D goes back", exitmsg=""
        )
