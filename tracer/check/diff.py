"""Align the accesses of two traces, region by region.

What is compared is direction, offset, width or extent, and value: no address, no time, no call
site, so links, KASLR and scheduling leave no trace in it. Reads of the same value from the same
register in a row count as one, since how often a loop polls is a matter of time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal, TypeVar

from tracer.devices.map import Named
from tracer.trace.event import Event
from tracer.trace.mask import Mask, kept_bits
from tracer.trace.member import Space
from tracer.trace.varying import PASSING, VARYING
from tracer.x86.bus import Direction

Kind = Literal["same", "changed", "first", "second"]
"""How a line of a diff stands: alike; another value in the same place; in one trace only."""

T = TypeVar("T")

# Tells the alignment to try first whether the sequences are this near, which makes it linear.
_NEAR = 64


@dataclass(frozen=True, slots=True)
class Step:
    """Hold one access as it is compared, ``turns`` times in a row.

    ``seq`` is the number of the first one, ``site`` where it came from, ``named`` the register;
    ``value`` is whole, the masked bytes included. ``device`` and ``skipped`` tell how a person
    stepped in, as in :class:`tracer.trace.record.MemoryAccess`. ``mark`` is the marker before it,
    ``space`` that of all accesses to the region.
    """

    direction: Direction
    offset: int
    width: int
    extent: int | None
    value: int | None
    seq: int
    site: str
    turns: int = 1
    named: Named | None = None
    device: int | None = None
    skipped: bool = False
    mark: str | None = None
    space: Space = "memory"

    def same_register(self, other: Step) -> bool:
        """Tell whether both access the same place in the same way."""
        return (self.direction, self.offset, self.width, self.extent) == (
            other.direction, other.offset, other.width, other.extent,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """Hold one line of an alignment; a side that has nothing there is None."""

    kind: Kind
    first: Step | None
    second: Step | None


@dataclass(slots=True)
class RegionDiff:
    """Hold how the accesses of a region stand in two traces; ``hunks`` are lines in their context.

    ``first`` and ``second`` count the steps that only one of them has, ``touched`` those of both
    at which a person stepped in; what the instruction got is compared all the same. ``unknown``
    are those of ``same`` whose value neither trace knows.
    """

    region: str
    same: int = 0
    changed: int = 0
    first: int = 0
    second: int = 0
    touched: int = 0
    unknown: int = 0
    hunks: list[list[Line]] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Tell whether nothing differs."""
        return not (self.changed or self.first or self.second)


@dataclass(frozen=True, slots=True)
class Rules:
    """Hold what is known to vary: see :mod:`tracer.trace.varying`."""

    varying: tuple[Mask, ...] = VARYING
    passing: tuple[Mask, ...] = PASSING


Key = tuple[Direction, int, int, int | None, int | None]
"""What is compared of an access: direction, offset, width, extent, and the value that the masks
leave."""

Origin = tuple[str, Named | None, str | None]


class Names:
    """Number keys and origins from 0 on, so that a sequence is an array of small numbers.

    An origin is a call site, the register that it accessed, and the marker before it.
    """

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.origins: list[Origin] = []
        self._key_of: dict[Key, int] = {}
        self._origin_of: dict[Origin, int] = {}

    def key(self, key: Key) -> int:
        """Return the number of a key."""
        return _number(key, self._key_of, self.keys)

    def origin(self, origin: Origin) -> int:
        """Return the number of an origin."""
        return _number(origin, self._origin_of, self.origins)


def _number(item: T, numbers: dict[T, int], items: list[T]) -> int:
    number = numbers.get(item)
    if number is None:
        number = numbers[item] = len(items)
        items.append(item)
    return number


class Side:
    """Hold the accesses of one trace to one region, sixteen bytes each.

    Equal ``keys`` are accesses that are alike.
    """

    def __init__(self, names: Names | None = None, space: Space = "memory") -> None:
        self.keys = array("I")
        self._space: Space = space
        self._names = names or Names()
        self._origins = array("I")
        self._seqs = array("Q")
        self._unknown = array("I")  # positions of what has no value
        self._turns: dict[int, int] = {}  # by position, where there is more than one
        self._values: dict[int, int] = {}  # by position, where the key has not all of it
        self._touches: dict[
            int, tuple[int | None, bool]
        ] = {}  # by position, where a person stepped in

    @property
    def touched(self) -> int:
        """Return at how many steps a person stepped in."""
        return len(self._touches)

    def unknown(self, positions: range) -> int:
        """Return how many of these steps are of unknown value."""
        first = bisect_left(self._unknown, positions.start)
        return bisect_left(self._unknown, positions.stop) - first

    def append(self, event: Event, key: Key, value: int | None) -> None:
        """Add an access with its key and its whole value; a read that is there already counts."""
        number, last = self._names.key(key), len(self.keys) - 1
        again = key[0] == "read" and last >= 0 and self.keys[last] == number
        access = event.access
        if access.skipped or access.device is not None:
            self._touches[last if again else last + 1] = access.device, access.skipped
        if again:
            self._turns[last] = self._turns.get(last, 1) + 1
            return
        self.keys.append(number)
        if value is None:
            self._unknown.append(last + 1)
        origin = event.record.site, event.named, event.mark
        self._origins.append(self._names.origin(origin))
        self._seqs.append(event.seq)
        if value is not None and value != key[4]:
            self._values[last + 1] = value

    def step(self, position: int) -> Step:
        """Return the access at a position of the sequence."""
        direction, offset, width, extent, value = self._names.keys[self.keys[position]]
        site, named, mark = self._names.origins[self._origins[position]]
        device, skipped = self._touches.get(position, (None, False))
        return Step(
            direction=direction,
            offset=offset,
            width=width,
            extent=extent,
            value=self._values.get(position, value),
            seq=self._seqs[position],
            site=site,
            turns=self._turns.get(position, 1),
            named=named,
            device=device,
            skipped=skipped,
            mark=mark,
            space=self._space,
        )


class Differ:
    """Read two traces so that they can be compared: all sides of one differ go together.

    ``passed`` counts the accesses left out because they only tell of time. Memory grows with the
    number of accesses, by some sixteen bytes each.
    """

    def __init__(self, rules: Rules | None = None) -> None:
        self.passed = 0
        self._rules = rules or Rules()
        self._names = Names()
        self._kept: dict[tuple[str, int, int], int] = {}

    def read(self, events: Iterable[Event]) -> dict[str, Side]:
        """Return the sequence of each region that was accessed."""
        sides: dict[str, Side] = {}
        for event in events:
            self.add(sides, event)
        return sides

    def add(self, sides: dict[str, Side], event: Event) -> None:
        """Add the next access of a trace to the sequence of its region."""
        access = event.access
        region, offset = access.region or "", access.offset or 0
        kept = self._kept_bits(region, offset, access.span)
        if kept < 0:
            self.passed += 1
            return
        value = access.value
        compared = None if value is None else value & kept
        side = sides.get(region)
        if side is None:
            side = sides[region] = Side(self._names, access.space)
        key = access.direction, offset, access.width, access.extent, compared
        side.append(event, key, value)

    # -1 for an access that is left out.
    def _kept_bits(self, region: str, offset: int, width: int) -> int:
        place = region, offset, width
        if place not in self._kept:
            passing = any(mask.covers(region, offset) for mask in self._rules.passing)
            kept = kept_bits(self._rules.varying, region, offset, width)
            self._kept[place] = -1 if passing else kept
        return self._kept[place]


def compare(region: str, first: Side, second: Side, context: int = 3) -> RegionDiff:
    """Align two sequences; each hunk has up to ``context`` lines that are alike on either side."""
    from rapidfuzz.distance import Levenshtein  # a command that aligns nothing does not wait for it

    result = RegionDiff(region, touched=first.touched + second.touched)
    hunk: list[Line] = []
    codes = list(Levenshtein.opcodes(first.keys, second.keys, score_hint=_NEAR))
    for number, code in enumerate(codes, 1):
        here, there = range(code.src_start, code.src_end), range(code.dest_start, code.dest_end)
        if code.tag != "equal":
            for line in _changes(first, here, second, there):
                result.changed += line.kind == "changed"
                result.first += line.kind == "first"
                result.second += line.kind == "second"
                hunk.append(line)
            continue
        result.same += len(here)
        result.unknown += first.unknown(here)
        head = context if hunk else 0
        tail = context if number < len(codes) else 0
        if len(here) <= head + tail:
            hunk += _alike(first, here, second, there)
            continue
        if hunk:
            result.hunks.append([*hunk, *_alike(first, here[:head], second, there[:head])])
        rest = len(here) - tail
        hunk = _alike(first, here[rest:], second, there[rest:])
    if hunk:
        result.hunks.append(hunk)
    return result


def _alike(first: Side, here: range, second: Side, there: range) -> list[Line]:
    pairs = zip(here, there, strict=True)
    return [Line("same", first.step(i), second.step(j)) for i, j in pairs]


# Two accesses that stand side by side are a change where their register is the same.
def _changes(first: Side, here: range, second: Side, there: range) -> Iterator[Line]:
    lone: list[Line] = []
    for i, j in zip_longest(here, there):
        mine = None if i is None else first.step(i)
        other = None if j is None else second.step(j)
        if mine is not None and other is not None and mine.same_register(other):
            yield from _in_order(lone)
            lone = []
            yield Line("changed", mine, other)
            continue
        lone += [Line("first", mine, None)] if mine is not None else []
        lone += [Line("second", None, other)] if other is not None else []
    yield from _in_order(lone)


def _in_order(lines: list[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: line.kind)
