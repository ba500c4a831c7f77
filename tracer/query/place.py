"""Places that a person names: a region, bytes or a register of it, a physical address."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tracer.access.region import UNASSIGNED, Region, RegionMap
from tracer.confidential.handler import CURRENT
from tracer.confidential.kind import Kind
from tracer.devices.map import fits_register
from tracer.errors import UnknownName, UsageError, advice, suggestion
from tracer.query.condition import Condition, parse
from tracer.query.condition.lexeme import quoted
from tracer.query.condition.lexicon import Lexicon
from tracer.query.condition.vocabulary import Facts
from tracer.text.number import ends, whole
from tracer.text.span import Span
from tracer.trace.member import Space
from tracer.trace.name import names_owner, names_region

_HIGHEST = (1 << 52) - 1


@dataclass(frozen=True, slots=True)
class Known:
    """Hold what names can be checked against, as far as the caller has it.

    ``regions`` are the names of regions and devices, ``devices`` those that are a device's alone;
    without any, every name is taken for a region's. ``owners`` has all names of the devices that a
    region belongs to. ``span`` returns the offsets of a region's
    register in bytes, None for an unknown one; ``registers`` returns the names it knows in a
    region, for advice. ``size`` returns that of a region in bytes, ``answers`` tells whether a
    device answers at any of the physical addresses from the first to the last. ``shown`` tells
    whether a region's register is where others are too, one of which is shown. ``words`` are what
    facts that are text can equal. ``kind`` is the guest's, ``profile`` the name of its own
    handler's. ``ports`` are the regions of I/O ports that have names, ``inputs`` what is recorded
    beside memory, None where nobody knows. What is ``pending`` may name what none of these knows.
    """

    regions: Collection[str] = ()
    span: Callable[[str, str], Span | None] | None = None
    registers: Callable[[str], Collection[str]] | None = None
    devices: Collection[str] = ()
    owners: Mapping[str, Collection[str]] = field(default_factory=dict)
    size: Callable[[str], int] | None = None
    answers: Callable[[int, int], bool] | None = None
    shown: Callable[[str, str], bool] = lambda region, register: False
    words: Mapping[str, Lexicon] = field(default_factory=dict)
    kind: Kind | None = None
    profile: str = CURRENT
    ports: Sequence[Region] = ()
    inputs: Collection[Space] | None = None
    pending: bool = False

    def is_region(self, name: str) -> bool:
        """Tell whether a name is known to be one region's."""
        return name in self.regions and name not in self.devices

    def named(self, pattern: str) -> list[str]:
        """Return the regions that a name or a pattern stands for."""
        own = [name for name in self.regions if names_region(pattern, name)]
        return list(dict.fromkeys((*own, *self.parts(pattern))))

    def registers_of(self, region: str) -> Collection[str]:
        """Return the names of a region's registers, as far as they are known."""
        return self.registers(region) if self.registers is not None else ()

    def vocabulary(self) -> Mapping[str, Lexicon]:
        """Return what the words of a condition are checked against."""
        return {} if self.pending else self.words

    def parts(self, device: str) -> list[str]:
        """Return the regions of a device that are called by another one, which is a part of it."""
        return [
            region
            for region, owners in self.owners.items()
            if names_owner(device, owners) and not names_region(device, region)
        ]


@dataclass(frozen=True, slots=True)
class Spot:
    """Name bytes: of the regions that a pattern names, or of physical memory without one.

    ``span`` holds offsets in bytes or physical addresses, None is all of a region. ``register``
    is a pattern that the register's name has to fit, in either case. ``exact`` leaves out the
    regions of a device that has the region's name: an offset is in one region.
    """

    region: str | None
    span: Span | None = None
    register: str | None = None
    exact: bool = False
    condition: Condition = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile what it is short for."""
        object.__setattr__(self, "condition", parse(" and ".join(self._parts())))

    def _parts(self) -> Iterator[str]:
        touched = "address"
        if self.region is None:
            yield "space == memory"
        else:
            touched = "offset"
            yield f"region {'==' if self.exact else 'is'} {quoted(self.region)}"
        if self.register is not None:
            yield f"register is {quoted(self.register)}"
        if self.span is not None:
            first, last = ("" if end is None else f"{end:#x}" for end in _ends(self.span))
            yield f"{touched} touches {first}..{last}"

    def holds(self, facts: Facts) -> bool:
        """Tell whether an access touches any of the bytes."""
        return self.condition.holds(facts)

    def ranges(self, regions: RegionMap) -> Iterator[range]:
        """Yield the physical addresses of the bytes, all of a region for a register's pattern."""
        first, last = (None, None) if self.span is None else _ends(self.span)
        if self.region is None:
            yield range(first or 0, (_HIGHEST if last is None else last) + 1)
            return
        if names_region(self.region, UNASSIGNED):
            yield from regions.unassigned
        for region in regions.named(self.region):
            if self.exact and region.name != self.region:
                continue
            start = region.start if first is None else max(region.base + first, region.start)
            end = region.end if last is None else min(region.base + last, region.end)
            if start <= end:
                yield range(start, end + 1)


@dataclass(frozen=True, slots=True)
class Place:
    """Hold the spots that one name stands for: a register may be in several regions."""

    text: str
    spots: tuple[Spot, ...]

    def holds(self, facts: Facts) -> bool:
        """Tell whether an access touches any of the spots."""
        return any(spot.holds(facts) for spot in self.spots)

    def ranges(self, regions: RegionMap) -> Iterator[range]:
        """Yield the physical addresses of all spots."""
        for spot in self.spots:
            yield from spot.ranges(regions)


def parse_place(text: str, known: Known, others: Collection[str] = ()) -> Place:
    """Return the place that a text names.

    That is ``nvme`` (the region, or the device's regions, or a pattern), ``nvme+0x1000``,
    ``nvme+0x1000-0x1fff``, ``nvme.CC`` or ``nvme CC``, ``0xfee000b0``, ``0xfee00000-0xfee00fff``;
    ends are included. ``others`` are words that could have been meant. Raises UsageError.
    """
    word, _, register = text.partition(" ")
    if word[:1].isdigit():
        if register:
            raise UsageError(f"nothing follows a physical address: {register}")
        return Place(text, (Spot(None, _physical(word, known)),))
    region, plus, offsets = word.partition("+")
    if plus:
        if register:
            raise UsageError(f"{word} says which bytes, so no register follows: {register}")
        _check_region(region, known, others)
        found = Span(*ends(offsets, partial(whole, what="offset", bits=64, like=_LIKE)))
        _check_size(region, found, known)
        if known.is_region(region):
            return Place(text, (Spot(region, found, exact=True),))
        return Place(text, (Spot(region, found),))
    if not register and not _known_region(word, known):
        region, register = _split(word, known)
    _check_region(region, known, others)
    if register:
        return Place(text, _spots(region, register.strip(), known))
    spots: tuple[Spot, ...] = (Spot(region),)
    device, dot, register = region.rpartition(".")
    if dot and not _known_region(region, known):
        spots += (Spot(device, None, register),)  # one of the two comes
    return Place(text, spots)


def _physical(text: str, known: Known) -> Span:
    first, last = ends(text, partial(whole, what="physical address", bits=64, like=_LIKE))
    if not (known.pending or known.answers is None or known.answers(first, last)):
        raise UnknownName(f"no device answers at physical {text}: `info devices` lists them")
    return Span(first, last)


# A region that is not there yet has any size.
def _check_size(region: str, span: Span, known: Known) -> None:
    if known.size is None or known.pending:
        return
    names = [region] if known.is_region(region) else known.named(region)
    sizes = {name: known.size(name) for name in names if known.is_region(name)}
    if sizes and span.first is not None and all(span.first >= size for size in sizes.values()):
        name = max(sizes, key=lambda name: sizes[name])
        raise UnknownName(f"{name} ends at offset {sizes[name] - 1:#x}")


_LIKE = "0x1000 is, and 0x1000-0x1fff are"


def _known_region(pattern: str, known: Known) -> bool:
    return not known.regions or any(names_region(pattern, name) for name in known.regions)


# `nvme.CC` is a register where the longest part before a dot that can be a region is `nvme`.
def _split(word: str, known: Known) -> tuple[str, str]:
    end = len(word)
    while (end := word.rfind(".", 0, end)) > 0:
        if not _is_pattern(word[:end]) and _known_region(word[:end], known):
            return word[:end], word[end + 1 :]
    return word, ""


def _check_region(region: str, known: Known, others: Collection[str]) -> None:
    if not region:
        raise UsageError("the name of a region is missing: nvme+0x1000 has one")
    if _known_region(region, known) or known.pending:
        return
    if _is_pattern(region):
        raise UnknownName(f"no region is called anything like {region}")
    hint = suggestion(region, sorted({*known.regions, *others})) or advice(region, known.regions)
    raise UnknownName(f"no region is called {region}{hint}")


def _is_pattern(text: str) -> bool:
    # Brackets are of the name: TIMER[2].CONFIG.
    return "*" in text or "?" in text


def _spots(region: str, register: str, known: Known) -> tuple[Spot, ...]:
    if known.span is None:
        raise UsageError(f"no registers are known by name here: give the offset of {register}")
    names = known.named(region)
    if _is_pattern(register):
        _check_pattern(region, register, names, known)
        return (Spot(region, None, register),)
    spans = [(name, known.span(name, register)) for name in names]
    found = tuple(
        Spot(name, span, register if known.shown(name, register) else None,
             exact=known.is_region(name))
        for name, span in spans if span is not None
    )  # fmt: skip
    if not found and known.pending:
        return (Spot(region, None, register),)
    if not found:
        there = {each for name in names for each in known.registers_of(name)}
        hint = advice(register, there) if there else ""
        raise UnknownName(f"{region} has no register {register}{hint}")
    return found


def _check_pattern(region: str, register: str, names: Sequence[str], known: Known) -> None:
    if known.registers is None or known.pending:
        return
    # The first few of an array stand for all of it.
    wide = re.sub(r"\d+", "*", register)
    if not any(
        fits_register(wide, name, each) for name in names for each in known.registers_of(name)
    ):
        raise UnknownName(f"{region} has no register like {register}")


def _ends(span: Span) -> tuple[int | None, int | None]:
    return span.first, span.last
