"""The polls of registers by which a running guest waits, told in words and for JSON."""

from __future__ import annotations

from typing import Any

from tracer.intercept.ring.lookout import Lookout
from tracer.trace.poll import Poll
from tracer.trace.waiting_words import fitted_poll_line, poll_line, poll_object

_MOST = 3


class Waits:
    """Tell what ``lookout`` sees the guest poll."""

    def __init__(self, lookout: Lookout) -> None:
        self._lookout = lookout

    @property
    def polls(self) -> list[Poll]:
        """Return what the guest polls now, the longest first; clocks are left out."""
        return self._lookout.waiting()

    def line(self, columns: int) -> str:
        """Return in so many columns what the guest polls for the longest; empty for nothing."""
        for poll in self.polls:
            return fitted_poll_line(poll, self._lookout.named(poll), columns)
        return ""

    def lines(self) -> list[str]:
        """Return in a line each what the guest polls, the longest first, a few at most."""
        return [poll_line(poll, self._lookout.named(poll)) for poll in self.polls[:_MOST]]

    def objects(self) -> list[dict[str, Any]]:
        """Return all of it ready for JSON."""
        return [poll_object(poll, self._lookout.named(poll)) for poll in self.polls]
