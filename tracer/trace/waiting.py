"""Records of what code waits for: the loop around a read that is made again and again."""

from __future__ import annotations

import msgspec

from tracer.trace.member import Count, Vcpu, Width
from tracer.trace.wire import Hex


class WayOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tell where code leaves a loop: at the jump at linear address ``rip``, and when.

    That is when the bits of ``mask`` read as those of ``value``, None for 0; with ``other`` when
    they read as anything else. A ``mask`` of 0 stands for a condition on what was read that is not
    followed, and without one something else decides. ``said`` says what it is, as far as that is
    known: fields of the register, or what is compared.
    """

    rip: Hex
    symbol: str | None = None
    mask: Hex | None = None
    value: Hex | None = None
    other: bool = False
    said: str | None = None

    @property
    def site(self) -> str:
        """Return where it is: its symbol and offset, else its linear address."""
        return self.symbol or hex(self.rip)

    def takes(self, value: int) -> bool:
        """Tell whether a read of this value leads out, as far as that is known."""
        return bool(self.mask) and (value & (self.mask or 0) == (self.value or 0)) != self.other


class WaitRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="wait", tag_field="type", omit_defaults=True
):
    """Tell what the loop around a read waits for, worked out from its instructions.

    ``rip`` and ``symbol`` are those of the read, ``head`` and ``loop`` of where the loop begins, in
    a caller where the read is in a function of its own. Without ``awaited`` no loop was found that
    what was read has a part in. ``register`` is the name that was known of what is read.
    """

    time_ns: Count
    seq: Count
    vcpu: Vcpu
    rip: Hex
    symbol: str | None = None
    region: str
    offset: Hex
    width: Width
    register: str | None = None
    head: Hex | None = None
    loop: str | None = None
    awaited: list[WayOut] = []
    gives_up: list[WayOut] = []

    @property
    def place(self) -> tuple[str, int, int]:
        """Return what is read where: region, offset, and the linear address of the read."""
        return self.region, self.offset, self.rip

    def spans(self, rip: int) -> bool:
        """Tell whether an instruction is surely in the loop: between its beginning and its ends.

        Ends in other functions, such as what the compiler has put elsewhere, say nothing of that.
        """
        own = _function(self.loop)
        known = [] if self.head is None else [self.head]
        known += [
            way.rip
            for way in (*self.awaited, *self.gives_up)
            if own is None or way.symbol is None or _function(way.symbol) == own
        ]
        return bool(known) and min(known) <= rip <= max(known)

    def ends(self, value: int | None) -> bool:
        """Tell whether a read of this value ends the loop, as far as that is known."""
        return value is not None and any(way.takes(value) for way in self.awaited)


def _function(symbol: str | None) -> str | None:
    return None if symbol is None else symbol.partition("+")[0]
