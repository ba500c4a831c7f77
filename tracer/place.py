"""Places that a person names: a region, bytes or a register of it, a physical address."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache

from tracer.condition.vocabulary import Facts
from tracer.errors import UsageError, suggestion
from tracer.selection import Span, names_owner, names_region


@dataclass(frozen=True, slots=True)
class Known:
    """Hold what names can be checked against, as far as the caller has it.

    ``regions`` are the names of regions and devices, ``devices`` those that are a device's alone;
    without any, every name is taken for a region's. ``owners`` has all names of the devices that a
    region belongs to. ``span`` returns the offsets of a region's
    register in bytes, None for an unknown one; ``registers`` returns the names it knows in a
    region, for advice.
    """

    regions: Collection[str] = ()
    span: Callable[[str, str], Span | None] | None = None
    registers: Callable[[str], Collection[str]] | None = None
    devices: Collection[str] = ()
    owners: Mapping[str, Collection[str]] = field(default_factory=dict)

    def is_region(self, name: str) -> bool:
        """Tell whether a name is known to be one region's."""
        return name in self.regions and name not in self.devices

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

    def holds(self, facts: Facts) -> bool:
        """Tell whether an access touches any of the bytes."""
        if self.region is None:
            return _meets(self.span, facts["address"], facts["width"])
        if self.exact and self.region != facts["region"]:
            return False
        if not _names(self.region, str(facts["region"]), str(facts["device"])):
            return False
        if self.register is not None and not _fits(self.register, str(facts["register"])):
            return False
        return _meets(self.span, facts["offset"], facts["width"])


@dataclass(frozen=True, slots=True)
class Place:
    """Hold the spots that one name stands for: a register may be in several regions."""

    text: str
    spots: tuple[Spot, ...]

    def holds(self, facts: Facts) -> bool:
        """Tell whether an access touches any of the spots."""
        return any(spot.holds(facts) for spot in self.spots)


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
        return Place(text, (Spot(None, _span(word, "physical address")),))
    region, plus, offsets = word.partition("+")
    if plus:
        if register:
            raise UsageError(f"{word} says which bytes, so no register follows: {register}")
        _check_region(region, known, others)
        span = _span(offsets, "offset")
        if known.is_region(region):
            return Place(text, (Spot(region, span, exact=True),))
        return Place(text, _whole(region, span, known))
    if not register and not _known_region(word, known):
        region, register = _split(word, known)
    _check_region(region, known, others)
    if not register:
        return Place(text, _whole(region, None, known))
    return Place(text, _spots(region, register.strip(), known))


def _whole(region: str, span: Span | None, known: Known) -> tuple[Spot, ...]:
    parts = (Spot(part, span, exact=True) for part in known.parts(region))
    return (Spot(region, span), *parts)


def _span(text: str, what: str) -> Span:
    first, dash, last = text.replace("..", "-").partition("-")
    low = _number(first, what, text)
    high = _number(last, what, text) if dash else low
    if high < low:
        raise UsageError(f"{text} ends before it begins")
    return Span(low, high)


def _number(text: str, what: str, whole: str) -> int:
    match = re.fullmatch(r"0[xX][0-9a-fA-F_]{1,24}|[0-9]{1,20}", text)
    if match is None:
        raise UsageError(f"{whole or 'nothing'} is no {what}: 0x1000 is, and 0x1000-0x1fff are")
    try:
        return int(text, 16 if text[:2] in ("0x", "0X") else 10)
    except ValueError:  # 0x_, 0x1__0
        raise UsageError(f"{text} is no {what}: 0x1000 is") from None


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
    # A pattern may wait for what is not there yet.
    if not _known_region(region, known) and not _is_pattern(region):
        names = sorted({*known.regions, *others} - {region})
        hint = suggestion(region, names) or f"; there are: {', '.join(sorted(known.regions))}"
        raise UsageError(f"no region is called {region}{hint}")


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


def _spots(region: str, register: str, known: Known) -> tuple[Spot, ...]:
    if known.span is None:
        raise UsageError(f"no registers are known by name here: give the offset of {register}")
    if _is_pattern(register):
        return (Spot(region, None, register),)
    named = (name for name in known.regions if names_region(region, name))
    names = dict.fromkeys((*named, *known.parts(region)))
    spans = [(name, known.span(name, register)) for name in names]
    found = tuple(
        Spot(name, span, exact=known.is_region(name)) for name, span in spans if span is not None
    )
    if not found:
        registers = known.registers
        there = {each for name in names for each in registers(name)} if registers else ()
        few = f"; it has: {', '.join(sorted(there))}" if 0 < len(there) <= 12 else ""
        hint = suggestion(register, there) or few
        raise UsageError(f"{region} has no register {register}{hint}")
    return found


@lru_cache(1024)
def _names(pattern: str, region: str, device: str) -> bool:
    return names_region(pattern, region) or pattern == device


@lru_cache(1024)
def _fits(pattern: str, register: str) -> bool:
    # Brackets are of the name: TIMER[2].CONFIG. An access to a part is named CC+2.
    literal = pattern.casefold().replace("[", "[[]")
    whole = register.casefold()
    return any(fnmatchcase(name, literal) for name in (whole, whole.partition("+")[0]))


def _meets(span: Span | None, start: object, width: object) -> bool:
    if span is None:
        return True
    # The width of what a vCPU does itself may be unknown, which is 0.
    return isinstance(start, int) and isinstance(width, int) and span.meets(start, max(width, 1))
