"""Records of compiled sites: what a site is, where regions are, and blocks of rows.

Records of accesses are made of them by :mod:`tracer.trace.block`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tracer.trace.member import LAST, Count, Space
from tracer.trace.wire import Code, Hex, Packed


class SiteRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="site", tag_field="type", omit_defaults=True
):
    """Tell what all records of a compiled site have in common: its instruction, 64-bit code.

    ``number`` is what the rows of a :class:`BlockRecord` call it. Where a confidential guest's
    kernel decodes the instruction, ``asked`` and ``width`` tell the access that it asks for. An
    instruction that left the guest for its monitor is to another ``space`` than memory, in code of
    ``mode``; these tell its access then.
    """

    time_ns: Count
    number: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    rip: Hex
    symbol: str | None = None
    code: Code
    text: str
    asked: Literal["read", "write"] | None = None
    width: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None
    space: Space = "memory"
    mode: Literal[16, 32, 64] = 64


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Say that accesses at physical ``start`` to ``end`` (inclusive) are to a traced ``region``.

    ``base`` is the physical address of the region's offset 0. Where ``reads`` is false only writes
    reach the device. ``space`` is where the addresses lie.
    """

    region: str
    start: Hex
    end: Hex
    base: Hex
    reads: bool = True
    space: Space = "memory"


class PlacesRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="places", tag_field="type", omit_defaults=True
):
    """Tell where traced regions are, sorted and disjoint, for the blocks that follow."""

    time_ns: Count
    places: list[Place]


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Map a time-stamp counter to the guest's time: it advances ``span_ns`` in ``ticks``.

    At ``counter`` the time is ``time_ns``.
    """

    counter: Hex
    time_ns: Count
    ticks: Annotated[int, msgspec.Meta(ge=1, le=LAST)]
    span_ns: Count

    def at(self, counter: int) -> int:
        """Return the guest's time in nanoseconds at a value of the counter."""
        time_ns = self.time_ns + (counter - self.counter) * self.span_ns // self.ticks
        return time_ns if time_ns < LAST else LAST  # a guest may set its counter

    def counter_at(self, time_ns: int) -> int:
        """Return the first value of the counter, from 1 on, at which it is that time or later."""
        if not self.span_ns:
            return 1
        ahead = -((self.time_ns - time_ns) * self.ticks // self.span_ns)
        return min(max(self.counter + ahead, 1), LAST)


VIRTUAL = Rate(counter=0, time_ns=0, ticks=1, span_ns=1)
"""The counter under icount: it is virtual time in ns (QEMU, target/i386, cpu_get_tsc)."""


class BlockRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="block", tag_field="type", omit_defaults=True
):
    """Hold what compiled sites have left behind: ``rows`` as the guest wrote them.

    ``seq`` numbers the first device access, of which there are ``accesses``. ``window`` is the
    linear address that the guest's window has physical address 0 at. No record is before
    ``time_ns``; without a ``rate`` that is the time of all. ``stacks`` has, where it is not empty,
    the call chain of each row, or None.

    Ref: :mod:`tracer.compiled.layout` (a row), :mod:`tracer.trace.block` (what is made of it).
    """

    seq: Count
    time_ns: Count
    accesses: Count
    window: Hex
    rows: Packed
    rate: Rate | None = None
    stacks: list[Count | None] = []
