"""A terminal that a program runs in, and what a person would see on it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from types import TracebackType

import pexpect
import pyte

from scripts.patience import patience

_POLL = 0.05
_ENDING = 20  # seconds
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])|\r")
"""Control sequences (ECMA-48, 5.4), titles, character sets, and the carriage."""


class Terminal:
    """Run one program in a terminal of ``columns`` by ``rows`` characters; end it with the block.

    ``environment`` adds variables to this process's own.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 100,
        rows: int = 30,
        environment: dict[str, str] | None = None,
        folder: str | None = None,
    ) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = bytearray()
        variables = {**os.environ, "TERM": "xterm-256color", **(environment or {})}
        # Programs believe these rather than the terminal.
        for size in ("COLUMNS", "LINES"):
            variables.pop(size, None)
        self._child = pexpect.spawn(
            command[0],
            list(command[1:]),
            dimensions=(rows, columns),
            env=variables,
            cwd=folder,
            timeout=None,
        )
        self._child.delaybeforesend = None
        # Programs ask a terminal where its cursor is.
        self._screen.write_process_input = self._child.send

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # As a terminal that goes away: what runs in it ends in order, if it does so soon.
        self._child.kill(signal.SIGHUP)
        deadline = time.monotonic() + patience(_ENDING)
        while self._read(_POLL) and time.monotonic() < deadline:
            pass
        self._child.close(force=True)

    @property
    def pid(self) -> int:
        """Return the program's process identifier."""
        return int(self._child.pid)

    @property
    def screen(self) -> pyte.Screen:
        """Return the terminal's screen as it is now, with its colours."""
        self._read(0)
        return self._screen

    @property
    def text(self) -> str:
        """Return what the screen shows, a line a line."""
        self._read(0)
        return "\n".join(line.rstrip() for line in self._screen.display)

    @property
    def mark(self) -> int:
        """Return where what the program writes next will begin, for :meth:`wait_for`."""
        self._read(0)
        return len(self.raw)

    def type(self, keys: str) -> None:
        """Type keys as they are."""
        self._child.send(keys)

    def line(self, text: str) -> None:
        """Type a line and Enter."""
        self.type(f"{text}\r")

    def control(self, letter: str) -> None:
        """Press Ctrl and a letter."""
        self._child.sendcontrol(letter)

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size; the program gets SIGWINCH."""
        self._screen.resize(rows, columns)
        self._child.setwinsize(rows, columns)

    def wait_for(self, pattern: str, seconds: float = 90, after: int = 0) -> int:
        """Wait until the program writes something from a mark on; return the mark behind.

        The pattern is looked for in the text without escape sequences, ``^`` and ``$`` fit lines.
        Raises TimeoutError with the screen when it does not come, or the program ends before.
        """
        seconds = patience(seconds)
        deadline = time.monotonic() + seconds
        wanted = re.compile(pattern, re.MULTILINE)
        while True:
            alive = self._read(_POLL)
            if wanted.search(_ESCAPES.sub("", self.raw[after:].decode(errors="replace"))):
                return len(self.raw)
            if not alive or time.monotonic() > deadline:
                why = "before the program ended" if not alive else f"in {seconds:g} s"
                raise TimeoutError(f"{pattern!r} was not written {why}:\n{self.text}")

    def wait(self, seconds: float = 120) -> int:
        """Wait for the end of the program; return its exit status, negative for a signal."""
        seconds = patience(seconds)
        deadline = time.monotonic() + seconds
        while self._read(_POLL):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the program has not ended in {seconds:g} s:\n{self.text}")
        self._child.wait()
        status = self._child.exitstatus
        return int(status) if status is not None else -int(self._child.signalstatus)

    def _read(self, seconds: float) -> bool:
        # Take what the program writes; tell whether there may be more.
        try:
            while True:
                data = self._child.read_nonblocking(65536, timeout=seconds)
                self.raw += data
                self._stream.feed(data)
                seconds = 0
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
