"""The guest's console, its first serial port: what it prints, and the one who types at it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tracer.errors import UsageError

_KEPT = 1 << 16
"""Bytes of the guest's output that are kept for who comes to its console later."""


class Console:
    """Pass on what a guest prints, to ``listener`` and to whoever has joined; let that one type.

    ``send`` takes the bytes that are typed. ``holder`` says who has joined, in words; nobody has
    where it is empty.
    """

    def __init__(self, listener: Callable[[bytes], None] = lambda _: None) -> None:
        self.holder = ""
        self.send: Callable[[bytes], None] = lambda _: None
        self._listener = listener
        self._reader: Callable[[bytes], object] | None = None
        self._recent = b""

    def take(self, data: bytes) -> None:
        """Take what the guest has printed."""
        self._recent = (self._recent + data)[-_KEPT:]
        self._listener(data)
        if self._reader is not None:
            self._reader(data)

    @property
    def recent(self) -> bytes:
        """Return the last 64 KiB that the guest has printed."""
        return self._recent

    @property
    def line(self) -> bytes:
        """Return what the guest has printed of a line that has not ended, such as a prompt."""
        return self._recent.rpartition(b"\n")[2]

    def check_free(self) -> None:
        """Raise UsageError where somebody has joined."""
        if self.holder:
            raise UsageError(f"{self.holder} has the guest's console: leave it there first")

    @contextlib.contextmanager
    def joined(self, holder: str, reader: Callable[[bytes], object]) -> Iterator[None]:
        """Have the console within the block: ``reader`` gets what the guest prints.

        Raises UsageError where another has it.
        """
        self.check_free()
        self.holder, self._reader = holder, reader
        try:
            yield
        finally:
            self.holder, self._reader = "", None
