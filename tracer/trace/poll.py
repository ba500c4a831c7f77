"""A poll: reads of one register by one instruction, and whether code waits for what they read."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from tracer.devices.map import Named
from tracer.trace.member import Space
from tracer.trace.waiting import WaitRecord

_NO_WAITS: frozenset[Space] = frozenset(("tsc", "cpuid"))
"""Spaces that nobody waits in: the counter tells the time, and a leaf of CPUID never changes."""

_TURNS = 8
_LASTS_NS = 10_000_000
_LEAST_PAUSE_NS = 50_000_000

Place = tuple[str, int, int]
"""A place that is read: region, offset, and the linear address of the instruction that reads."""


# A struct and no dataclass: one is made for each read, in a fraction of the time.
class Poll(msgspec.Struct, frozen=True):
    """Hold reads of one register by one instruction, ``turns`` times from ``since_ns`` on.

    ``physical`` is where the register is in its ``space``, ``value`` what it read last, ``before``
    what it read before that was another; ``told`` what was found out about the loop. ``first`` is
    the number of the first read, ``seq`` that of the last.
    """

    region: str
    offset: int
    width: int
    rip: int
    site: str
    vcpu: int
    physical: int
    turns: int
    since_ns: int
    until_ns: int
    value: int | None = None
    before: int | None = None
    seq: int = 0
    told: WaitRecord | None = None
    space: Space = "memory"
    first: int = 0

    @property
    def place(self) -> Place:
        """Return what is read where."""
        return self.region, self.offset, self.rip

    @property
    def duration_ns(self) -> int:
        """Return the guest time from the first read to the last, in nanoseconds."""
        return self.until_ns - self.since_ns

    @property
    def lasts(self) -> bool:
        """Tell whether it goes on for so long that it is worth a look."""
        return self.turns >= _TURNS and self.duration_ns >= _LASTS_NS

    @property
    def is_wait(self) -> bool:
        """Tell whether it was looked at, and its loop waits for what is read."""
        return self.told is not None and bool(self.told.awaited)

    def may_wait(self, named: Named | None) -> bool:
        """Tell whether code may wait for what is read, by its name: not for a clock."""
        if self.space in _NO_WAITS or (self.told is not None and not self.told.awaited):
            return False
        return named is None or not named.is_clock

    def goes_on(self, now_ns: int) -> bool:
        """Tell whether it may still go on: the next turn is not overdue by much."""
        pause = self.duration_ns // max(self.turns - 1, 1)
        return now_ns - self.until_ns <= max(8 * pause, _LEAST_PAUSE_NS)


def joined(first: Poll, last: Poll) -> Poll:
    """Return two polls of one place as one, the second behind the first."""
    return replace(last, turns=first.turns + last.turns, since_ns=first.since_ns, first=first.first)
