"""The inputs that a pattern may want, so that the guest leaves its fast way for these alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from tracer.access.region import Region
from tracer.compiled.flagging import (
    ALL_IRQS,
    ALL_LEAVES,
    ALL_MSRS,
    ALL_PORTS,
    LEAF_RANGES,
    MSR_RANGES,
    NO_INPUTS,
    PORTS,
    flag_of_irq,
    flag_of_leaf,
    flag_of_msr,
    flagged,
)
from tracer.query.condition import Condition
from tracer.query.condition.vocabulary import OWNERS, Fact
from tracer.query.facts import Partial
from tracer.text.span import Span
from tracer.trace.member import Space
from tracer.x86.bus import Direction

_ADDRESSES = frozenset(
    ("port", "msr", "leaf", "subleaf", "address", "offset", "region", "device", "register", OWNERS)
)
"""Facts that tell one input from another of its kind."""

_NONE: dict[str, Fact] = {
    "port": -1, "msr": -1, "leaf": -1, "subleaf": -1, "data": -1, "cause": (), "source": (),
    "via": "monitor",
}  # fmt: skip
_ELSEWHERE = 0xDEAD_BEEF
"""An MSR and a leaf that stand for all that have no bit of their own: where they lie is unknown."""

Conditions = tuple[tuple[Condition, ...], ...]
"""What has to hold: of each, any."""


@lru_cache(64)
def flags_of(
    direction: Direction | None,
    conditions: Conditions,
    spaces: tuple[Space, ...],
    ports: tuple[Region, ...] = (),
    near: Span | None = None,
) -> int:
    """Return the set of inputs in some spaces of which each of the ``conditions`` can hold.

    ``ports`` are the regions of ports that have names. With ``near`` they are in that span: MSRs,
    leaves, and ports, which may begin up to three bytes before it.
    """
    asked = {name for some in conditions for each in some for name in each.names}
    found = NO_INPUTS
    for kind in _KINDS:
        if kind.facts["space"] not in spaces:
            continue
        known = Partial({**_NONE, **kind.facts})
        if not (_goes(direction, kind.directions) and _possible(conditions, known)):
            continue
        if asked.isdisjoint(_ADDRESSES):
            found |= kind.all
            continue
        found |= flagged(
            bit
            for bit, facts in kind.each(_Search(conditions, known, ports, near))
            if any(_possible(conditions, one) for one in _sized(conditions, {**known, **facts}))
        )
    return found


def _goes(wanted: Direction | None, directions: Sequence[Direction]) -> bool:
    return wanted is None or wanted in directions


def _possible(conditions: Conditions, facts: Partial) -> bool:
    return all(any(each.can_hold(facts) for each in some) for some in conditions)


# A port is accessed with one of three widths; what reaches another one tells by them.
def _sized(conditions: Conditions, facts: dict[str, Fact]) -> Iterator[Partial]:
    whole = Partial(facts)
    if facts["space"] != "port":
        yield whole
    elif _possible(conditions, whole):
        for width in (1, 2, 4):
            yield Partial({**facts, "width": width, "extent": width})


@dataclass(frozen=True, slots=True)
class _Search:
    # Has what narrows a search down.
    conditions: Conditions
    known: Partial
    ports: tuple[Region, ...]
    near: Span | None


_Each = Callable[[_Search], Iterable[tuple[int, dict[str, Fact]]]]


class _Kind:
    # Inputs of a kind: what is known of all of them, and of each by the number of its bit.

    def __init__(
        self,
        facts: dict[str, Fact],
        whole: int,
        each: _Each,
        directions: Sequence[Direction] = ("read",),
    ) -> None:
        self.facts = facts
        self.all = whole
        self.each = each
        self.directions = directions


def _ports(search: _Search) -> Iterator[tuple[int, dict[str, Fact]]]:
    near, span = search.near, PORTS
    if near is not None and near.first is not None and near.last is not None:
        span = range(max(near.first - 3, 0), min(near.last, PORTS.stop - 1) + 1)
    nameless = Region("port", PORTS.start, PORTS.stop - 1, 0, "port", "")
    start = PORTS.start
    pieces: list[tuple[Region, range]] = []
    for region in search.ports:
        pieces.append((nameless, range(start, region.start)))
        start = region.end + 1
        pieces.append((region, range(region.start, start)))
    pieces.append((nameless, range(start, PORTS.stop)))
    for region, piece in pieces:
        told: dict[str, Fact] = {
            "region": region.name, OWNERS: region.owners, "device": region.owners[0],
        }  # fmt: skip
        inside = range(max(piece.start, span.start), min(piece.stop, span.stop))
        if inside and _possible(search.conditions, Partial({**search.known, **told})):
            for port in inside:
                yield port, {"port": port, "address": port, "offset": port - region.base, **told}


def _msrs(search: _Search) -> Iterator[tuple[int, dict[str, Fact]]]:
    near = search.near
    first, last = (0, 1 << 32) if near is None else (near.first or 0, near.last or 1 << 32)
    for index in chain(*MSR_RANGES):
        if not first <= index <= last:
            continue
        yield flag_of_msr(index), {"msr": index, "address": index, "offset": 8 * index}
    if not _lies_in(near, MSR_RANGES):
        yield flag_of_msr(_ELSEWHERE), {"msr": None}


def _leaves(search: _Search) -> Iterator[tuple[int, dict[str, Fact]]]:
    for leaf in chain(*LEAF_RANGES):
        yield flag_of_leaf(leaf), {"leaf": leaf, "subleaf": None}
    if not _lies_in(search.near, LEAF_RANGES):
        yield flag_of_leaf(_ELSEWHERE), {"leaf": None, "subleaf": None}


# Each number of what is near has a bit of its own then.
def _lies_in(near: Span | None, ranges: Iterable[range]) -> bool:
    if near is None or near.first is None or near.last is None:
        return False
    return any(near.first in span and near.last in span for span in ranges)


def _irqs(_: _Search) -> Iterator[tuple[int, dict[str, Fact]]]:
    for vector in range(256):
        yield flag_of_irq(vector), {"address": vector, "offset": vector, "value": vector}


# Any vector may be a message's.
def _messages(_: _Search) -> Iterator[tuple[int, dict[str, Fact]]]:
    for vector in range(256):
        yield flag_of_irq(vector), {}


def _of(space: str, address: str = "") -> dict[str, Fact]:
    facts: dict[str, Fact] = {"space": space, "region": space, OWNERS: (space,), "device": space}
    if address:
        facts[address] = None
    return facts


_KINDS = (
    _Kind({"space": "port", "port": None}, ALL_PORTS, _ports, ("read", "write")),
    _Kind(_of("msr", "msr"), ALL_MSRS, _msrs, ("read", "write")),
    _Kind({**_of("cpuid", "leaf"), "subleaf": None}, ALL_LEAVES, _leaves),
    _Kind({**_of("irq"), "cause": None}, ALL_IRQS, _irqs),
    _Kind({**_of("msi", "data"), "source": None}, ALL_IRQS, _messages),
)
