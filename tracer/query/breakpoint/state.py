"""A break: where a person wants the guest to stop, as a value.

What is watched is told in the words of the prompt:
``write nvme+0x1000 if value & 0xff == 3 once``.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol

from tracer.access.decision import MOST_ACCESSES, NO_LEEWAY, Called, Leeway
from tracer.access.region import RegionMap
from tracer.errors import ConditionError
from tracer.query.breakpoint.pattern import Pattern, Refused
from tracer.query.condition import Condition, parse
from tracer.query.condition.lexeme import quoted
from tracer.query.condition.vocabulary import Fact, Facts
from tracer.query.facts import Partial
from tracer.x86.bus import Direction

Kind = Literal["access", "symbol", "unhandled", "verdict", "tdcall", "hypercall"]

CALLS: frozenset[Kind] = frozenset({"tdcall", "hypercall"})
"""The kinds that are about calls of a confidential guest, and no accesses."""


class Judged(Facts, Protocol):
    """Tell what breaks ask of an access, one that waits or one that was made."""

    @property
    def continues(self) -> bool:
        """Tell whether it is of a CPUID of which another register came before."""
        ...

    def oops(self, profile: str) -> bool:
        """Tell whether the handler of a profile, by its name, would not survive it."""
        ...


@dataclass(frozen=True, slots=True)
class Break:
    """Hold one break; ``head`` is as typed, up to the condition and the counts.

    ``number`` is 0 until it is in a :mod:`tracer.query.breakpoint.table`. ``target`` is the
    symbol's name or pattern, or the name of the profile, ``call`` the number of a leaf or
    sub-function, None for any. ``fitted`` counts the accesses that fitted but for the condition,
    ``hits`` those that met it too; the next ``ignore`` hits do not stop the guest. ``remaining`` is
    how many stops are left, None for any number. One that is ``pending`` names what nothing had
    when it was made.
    """

    head: str
    kind: Kind
    pattern: Pattern
    target: str = ""
    call: int | None = None
    number: int = 0
    enabled: bool = True
    hits: int = 0
    fitted: int = 0
    ignore: int = 0
    remaining: int | None = None
    pending: bool = False

    @property
    def text(self) -> str:
        """Return what it watches, with the condition it has now."""
        condition = self.pattern.condition
        tail = f"if {condition.text}" if condition else ""
        return f"{self.head} {tail}".strip() or "access"

    @property
    def needs_stack(self) -> bool:
        """Tell whether the functions under way decide."""
        return self.kind == "symbol"

    @property
    def needs_value(self) -> bool:
        """Tell whether a read can be judged only once the device has answered."""
        return self.pattern.needs_value

    @property
    def note(self) -> str:
        """Return in words what the counts let happen next."""
        notes = ["pending"] if self.pending and not self.hits else []
        if self.ignore:
            notes.append(f"ignores the next {self.ignore:,}")
        if self.remaining is not None:
            notes.append("once" if self.remaining == 1 else f"{self.remaining:,} times")
        return ", ".join(notes)

    def fits(self, facts: Judged) -> bool:
        """Tell whether an access fits, whatever the condition."""
        if not self.pattern.fits(facts):
            return False
        # Who holds no access but its facts does not tell.
        if getattr(facts, "continues", False) and not self.pattern.of_registers:
            return False  # a CPUID is one
        match self.kind:
            case "access":
                return True
            case "symbol":
                return calls(self.target)(facts)
            case "unhandled":
                return facts["via"] == "stepped"
            case "verdict":
                return facts.oops(self.target)
            case "tdcall" | "hypercall":
                return False

    def takes(self, called: Called) -> bool:
        """Tell whether a call of a confidential guest fits, whatever the condition."""
        if self.kind == "tdcall":
            return self.call in (None, called.leaf)
        asks = self.kind == "hypercall" and called.request is not None
        return asks and self.call in (None, called.hypercall)

    @property
    def counts(self) -> bool:
        """Tell whether it has to know of accesses that nobody was asked about, to count them.

        Of those at its place all are asked about.
        """
        condition, place = self.pattern.condition, self.pattern.place
        counting = condition is not None and "count" in condition.names
        return self.enabled and counting and self.kind == "access" and place is None

    def passed(self, direction: Direction | None) -> Break:
        """Return it with an access counted, if it fits, that nobody was asked about."""
        wanted = self.pattern.direction
        fits = self.counts and wanted in (None, direction)
        return replace(self, fitted=self.fitted + 1) if fits else self

    def leeway(self, regions: RegionMap, now_ns: int) -> Leeway:
        """Return which accesses it stops the guest at in no case, as :meth:`Pattern.leeway`."""
        if not self.enabled or self.kind == "unhandled":
            return Leeway()  # what the vCPU has to carry out has no compiled site
        if self.kind in CALLS:
            return NO_LEEWAY  # an access is asked for by a call, which then has to take a stop
        condition = self.pattern.condition
        if self.counts and condition is not None:
            free = _next_count(condition, self.fitted) - self.fitted - 1
            if free >= MOST_ACCESSES:
                return Leeway(records=free // MOST_ACCESSES, inputs=regions.every_input)
        found = self.pattern.leeway(regions, now_ns)
        if self.kind != "verdict" or (found.places is not None and not found.interests):
            return found
        return Leeway(interests=(Refused(self.target, self.pattern),), inputs=found.inputs)


_AHEAD = 4096


@lru_cache(64)
def _possible(condition: Condition, chunk: int) -> list[int]:
    # Returns at which of so many counts it may hold.
    counts = range(chunk * _AHEAD, (chunk + 1) * _AHEAD)
    return [count for count in counts if condition.can_hold(Partial(count=count))]


def _next_count(condition: Condition, after: int) -> int:
    # Returns a later count below which it holds at none.
    for chunk in range((after + 1) // _AHEAD, (after + 1) // _AHEAD + 2):
        possible = _possible(condition, chunk)
        at = bisect(possible, after)
        if at < len(possible):
            return possible[at]
    return (chunk + 1) * _AHEAD


@lru_cache(1024)
def calls(target: str) -> Callable[[Facts], bool]:
    """Return what tells whether a function, by its name or a pattern, is under way."""
    return parse(f"callers is {quoted(target)}").holds


def matches(item: Break, facts: Judged) -> bool:
    """Tell whether an access is a hit of a break, enabled or not.

    Raises ConditionError, naming the break, where its condition has no answer.
    """
    try:
        return item.fits(facts) and _agrees(item, facts, item.fitted + 1)
    except ConditionError as error:
        raise error.of(f"break {item.number}") from None


def counted(item: Break, facts: Facts) -> tuple[Break, bool]:
    """Return a break with one more access that fits, and whether it acts on that.

    That is a hit which its counts do not pass over. Raises ConditionError where its condition has
    no answer.
    """
    item = replace(item, fitted=item.fitted + 1)
    return _hit(item) if _agrees(item, facts, item.fitted) else (item, False)


@dataclass(frozen=True, slots=True)
class _Counted:
    facts: Facts
    count: int

    def __getitem__(self, name: str) -> Fact:
        return self.count if name == "count" else self.facts[name]


def _agrees(item: Break, facts: Facts, count: int) -> bool:
    condition = item.pattern.condition
    if condition is None:
        return True
    return condition.holds(_Counted(facts, count) if "count" in condition.names else facts)


def _hit(item: Break) -> tuple[Break, bool]:
    item = replace(item, hits=item.hits + 1)
    if item.ignore:
        return replace(item, ignore=item.ignore - 1), False
    if item.remaining is not None:
        item = replace(item, remaining=item.remaining - 1)
    return item, True


@dataclass(frozen=True, slots=True)
class Until:
    """Say how long the guest may run: until a guest time in nanoseconds, or until a function.

    ``symbol`` is a name or a pattern; one of the two is None.
    """

    time_ns: int | None = None
    symbol: str | None = None

    def reached(self, facts: Facts) -> bool:
        """Tell whether an access is at or after the time, or made by the function."""
        if self.symbol is not None:
            return calls(self.symbol)(facts)
        now = facts["time"]
        return isinstance(now, int) and self.time_ns is not None and now >= self.time_ns
