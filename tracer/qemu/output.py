"""QEMU's output: the lines that the guest printed, and QEMU's own complaints."""

from __future__ import annotations

import logging
import re
from collections import deque

log = logging.getLogger(__name__)

CONSOLE, ERRORS = 1, 2
"""The file descriptors that QEMU writes to: the guest's serial port, and its own complaints."""

_KEPT = 200  # lines
_LINE_END = 400  # characters
_LONGEST = 1 << 16  # bytes
_PREFIX = re.compile(r"^\S*qemu-system-\S+: ")


class Output:
    """Keep the last lines of each kind; they come cut anywhere, and maybe without an end."""

    def __init__(self) -> None:
        self.console: deque[str] = deque(maxlen=_KEPT)
        self.errors: deque[str] = deque(maxlen=_KEPT)
        self._partial: dict[int, bytes] = {}

    def take(self, descriptor: int, data: bytes) -> None:
        """Take what came from :data:`CONSOLE` or :data:`ERRORS`."""
        *lines, rest = (self._partial.get(descriptor, b"") + data).split(b"\n")
        self._partial[descriptor] = rest[-_LONGEST:]
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            if descriptor == CONSOLE:
                self.console.append(text)
            elif "warning:" in text:
                log.debug("qemu: %s", text)
            elif text:
                self.errors.append(_PREFIX.sub("", text))

    @property
    def last_line(self) -> str | None:
        """Return the end of the last line that the guest printed, None when it has printed none."""
        rest = self._partial.get(CONSOLE, b"").decode(errors="replace").strip()
        lines = (line for line in (rest, *reversed(self.console)) if line.strip())
        return next((line[-_LINE_END:] for line in lines), None)
