"""A line as it is edited on a terminal that is only written to, as for a screen reader."""

from __future__ import annotations

from collections.abc import Callable

from tracer.repl.listing import shared
from tracer.text.printable import printable

_ERASED = "\b \b"
"""These take a character back, as the terminal's own line discipline does (termios, ECHOE)."""


class Echo:
    """Write a line that stands behind ``head`` whenever it is another one.

    ``write`` takes what a terminal of so many ``columns`` gets.
    """

    def __init__(self, head: str, columns: int, write: Callable[[str], None]) -> None:
        self._head = head
        self._columns = columns
        self._write = write
        self._shown = ""
        write(head)

    def follow(self, line: str) -> None:
        """Have the terminal show this line: what differs at the end is written anew.

        Nothing is taken back on an earlier row of the terminal: there the whole line is written
        once more.
        """
        shown, line = self._shown, printable(line)
        same = len(shared(shown, line))
        gone = len(shown) - same
        if gone and (len(self._head) + len(shown)) % self._columns <= gone:
            self._write(f"\n{self._head}{line}")
        else:
            self._write(_ERASED * gone + line[same:])
        self._shown = line

    def drop(self) -> None:
        """Leave the line as it is, and begin another one."""
        self._write(f"^C\n{self._head}")
        self._shown = ""

    def end(self) -> None:
        """End the line."""
        self._write("\n")
