"""The guest's serial output: into a file, on standard error, or nowhere."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator

from tracer.errors import TracerError
from tracer.guest.report import GuestReport
from tracer.host.streams import erase_status
from tracer.text.file_error import unwritten

_LONGEST_LINE = 1 << 14
"""Bytes of the guest's console that are held for a line to end."""


class GuestConsole:
    """Show whole lines only: one of the trace may come in the middle of one of the guest's.

    One that does not end is shown in pieces, by ``show``.
    """

    def __init__(self) -> None:
        self.show: Callable[[str], None] = _show
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        """Take what the guest has written."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            text = line.decode(errors="replace")
            shown = "".join(char for char in text if char == "\t" or char.isprintable())
            self.show(shown)

    def end(self) -> None:
        """Show the rest, which is no whole line."""
        if self._rest:
            self(b"\n")


class Printed:
    """Take what a guest prints: for its ``report``, and for the ``console``.

    ``fail`` is called once that cannot be written any more, and ``error`` says why.
    """

    def __init__(self, console: Callable[[bytes], object], fail: Callable[[], object]) -> None:
        self.report = GuestReport()
        self.error: OSError | None = None
        self._console = console
        self._fail = fail

    def take(self, data: bytes) -> None:
        """Take bytes, cut anywhere; raise nothing, as the event loop would only log it."""
        self.report.take(data)
        if self.error is not None:
            return
        try:
            self._console(data)
        except OSError as error:
            self.error = error
            self._fail()


def _show(text: str) -> None:
    erase_status()
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def guest_console(args: argparse.Namespace) -> Iterator[Callable[[bytes], object]]:
    """Yield where the guest's serial output goes, as the arguments of ``vetrace boot`` say.

    Raises TracerError where the file for it cannot be written.
    """
    if args.serial is not None:
        try:
            file = args.serial.open("wb", buffering=0)
        except OSError as error:
            raise TracerError(unwritten(str(args.serial), error)) from error
        with file:
            yield file.write
    elif args.quiet or args.json:
        yield lambda _: None
    else:
        console = GuestConsole()
        yield console
        console.end()
