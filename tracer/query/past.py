"""The facts of an access of the past, and of all accesses of a kind, for breaks on a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tracer.confidential.handler import PROFILES, judge
from tracer.errors import EmulationError
from tracer.query.breakpoint import Break
from tracer.query.condition.vocabulary import OWNERS, SITE, Facts
from tracer.query.facts import (
    Partial,
    Recorded,
    function,
    high,
    low,
    module,
    site,
    with_functions,
)
from tracer.trace.member import Space
from tracer.trace.name import device_of
from tracer.trace.summary import mnemonic
from tracer.trace.tape import Kind

_OF_OTHERS = frozenset(("count", "changes"))


class PastFacts(Recorded):
    """Know a recorded access as breaks ask for it.

    Where no call chain was recorded, the function under way is that of the access alone.
    """

    __slots__ = ()

    @property
    def callers(self) -> tuple[str, ...]:
        """Return the functions under way, the innermost first, as far as they are known."""
        return super().callers or with_functions((self.record.symbol or "",))

    @property
    def continues(self) -> bool:
        """Tell whether it is of a CPUID of which another register came before."""
        return self.access.space == "cpuid" and self.access is not self.record.accesses[0]

    def oops(self, profile: str) -> bool:
        """Tell whether the handler of a profile, by its name, would not survive it."""
        from tracer.x86.decode import decode  # capstone, for those who ask for a verdict
        from tracer.x86.state import Mode

        record = self.record
        try:
            insn = decode(record.code, record.rip, Mode(record.mode))
        except EmulationError:
            return True
        # The operand may begin in RAM, a page before.
        linear = next(
            each.linear for each in record.accesses if each.direction == self.access.direction
        )
        return judge(PROFILES[profile], insn, cpl=record.cpl, linear=linear).outcome == "oops"


def facts_of_kind(kind: Kind, owners: tuple[str, ...]) -> Partial:
    """Return what is known of every access of a kind; ``owners`` are the names of its devices."""

    def of(space: Space) -> int | None:
        return kind.physical if kind.space == space else None

    region, symbol = kind.region or "", kind.symbol
    known = Partial({
        "region": region, OWNERS: owners, "device": device_of(region, owners),
        "offset": kind.offset, "width": kind.width, "extent": kind.width or kind.extent or 1,
        "address": kind.physical, "space": kind.space, "direction": kind.direction,
        "$rip": kind.rip, SITE: symbol or "", "symbol": site(symbol),
        "function": function(symbol), "module": module(symbol), "cpl": kind.cpl,
        "mnemonic": mnemonic(kind.text), "via": kind.via,
    })  # fmt: skip
    for name, number in (
        ("port", of("port")), ("msr", of("msr")), ("leaf", low(of("cpuid"))),
        ("subleaf", high(of("cpuid"))),
    ):  # fmt: skip
        # A number that a space has not is unknown, and so is no ground to pass an access over.
        if number is not None:
            known[name] = number
    return known


def may_stop(item: Break, facts: Facts) -> bool:
    """Tell whether a break can stop at an access of which these facts are known."""
    pattern = item.pattern
    if pattern.direction is not None and facts["direction"] != pattern.direction:
        return False
    if pattern.place is not None and not any(
        spot.condition.can_hold(facts) for spot in pattern.place.spots
    ):
        return False
    if item.kind == "unhandled":
        return facts["via"] == "stepped"
    return pattern.condition is None or pattern.condition.can_hold(facts)


def looks_back(items: Iterable[Break]) -> bool:
    """Tell whether what a break says of an access depends on other accesses before it."""
    conditions = (item.pattern.condition for item in items)
    return any(
        condition is not None and not condition.names.isdisjoint(_OF_OTHERS)
        for condition in conditions
    )


Possible = Callable[[Facts], bool]
"""Tells of the facts that all accesses of a kind have whether one of these can be wanted."""
