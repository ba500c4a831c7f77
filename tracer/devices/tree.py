"""The places of registers in a region, and how one is found there.

The registers of a region are a tree. A :class:`Group` holds registers and further groups; it may
repeat by offset (the timers of an HPET, the functions behind ECAM), or be a window whose contents
another register selects (the I/O APIC, a virtio queue). A window of ``size`` bytes is read as a
space of its own in which each selected bank follows the one before: offset
``bank * size + offset in the window``. So one lookup serves both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as default

State = Callable[[int], int | None]
"""Return the last known byte at an offset of the region, or None where it is not known."""

RIGHTS = {
    "rw": "read and written",
    "ro": "read-only",
    "wo": "write-only",
    "rw1c": "read and written; a 1 clears its bit",
    "rw1s": "read and written; a 1 sets its bit",
    "rc": "read, which clears it",
}
"""How a register can be accessed, in words."""

PLACEHOLDER = re.compile(r"\{(?:(?P<high>\d+):(?P<low>\d+))?(?:,(?P<form>0?\d*x))?\}")


_MOST_PARTS = 64  # of one access; XSAVE makes the widest


@dataclass(frozen=True, slots=True)
class Field:
    """Name the bits of a register from ``high`` to ``low``, and what their values mean."""

    name: str
    high: int
    low: int
    description: str = ""
    values: Mapping[int, str] = default(default_factory=dict)

    @property
    def bits(self) -> str:
        """Return the bits as specifications write them: ``6:4``, or ``0`` for one alone."""
        return f"{self.high}:{self.low}" if self.high > self.low else str(self.low)

    def of(self, value: int) -> int:
        """Return the field's value in a register's."""
        return value >> self.low & (1 << self.high - self.low + 1) - 1


@dataclass(frozen=True, slots=True)
class Register:
    """Name ``width`` bytes at ``offset`` of a group; they repeat every ``stride`` bytes.

    ``name`` is a template when there is a ``stride``: see :func:`expand`. A ``count`` of None is an
    array without an end. A ``clock`` tells the time or counts it: whoever reads it again and again
    waits for no device. ``interrupts`` is where drivers read, not 0, that the device has
    interrupted.
    """

    name: str
    offset: int
    width: int
    access: str = "rw"
    description: str = ""
    section: str = ""
    fields: tuple[Field, ...] = ()
    stride: int | None = None
    count: int | None = 1
    clock: bool = False
    interrupts: bool = False


@dataclass(frozen=True, slots=True)
class Selector:
    """Say which bits of which register of the same group select a window's bank.

    ``bank`` is the one to assume until the register has been seen.
    """

    offset: int
    width: int
    field: Field
    bank: int | None = None

    def read(self, start: int, state: State) -> int | None:
        """Return the bank selected in the group that starts at an offset of the region."""
        value = 0
        # Every byte is asked for: who keeps the state learns on which the answer depends.
        known = [state(start + self.offset + byte) for byte in range(self.width)]
        for byte, seen in enumerate(known):
            low, high = 8 * byte, 8 * byte + 7
            if high < self.field.low or self.field.high < low:
                continue
            if seen is None:
                return self.bank
            value |= seen << low
        return self.field.of(value)


@dataclass(frozen=True, slots=True)
class Group:
    """Hold registers and groups at offsets from its own start.

    ``prefix`` stands before their names, and is a template when there is a ``stride``. With a
    ``selector`` the group is a window of ``size`` bytes.
    """

    name: str
    prefix: str = ""
    offset: int = 0
    registers: tuple[Register, ...] = ()
    groups: tuple[Group, ...] = ()
    stride: int | None = None
    count: int | None = 1
    selector: Selector | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Hold what an access covers of one register: ``bits`` from bit ``first`` of it on.

    ``at`` is the bit of the access's value where they stand.
    """

    name: str
    register: Register
    first: int
    bits: int
    at: int

    @property
    def short(self) -> str:
        """Return the register's name without those of the groups it is in."""
        return self.name[max(self.name.rfind("."), self.name.rfind(" ")) + 1 :]

    def value(self, value: int) -> int:
        """Return the covered bits out of the access's value."""
        return value >> self.at & (1 << self.bits) - 1


def expand(template: str, index: int) -> str:
    """Return a name with its index: ``{}`` is all of it, ``{7:3}`` those bits, ``{,02x}`` in hex.

    ``{15:8,02x}:{7:3,02x}.{2:0}`` makes the bus, device and function of an ECAM index.
    """

    def part(found: re.Match[str]) -> str:
        high, low, form = found["high"], found["low"], found["form"] or "d"
        return format(index if high is None else Field("", int(high), int(low)).of(index), form)

    return PLACEHOLDER.sub(part, template)


def placeholders(template: str) -> list[Field]:
    """Return the bits of the index that a template shows. Raise ValueError at any other brace."""
    rest = PLACEHOLDER.sub("", template)
    if "{" in rest or "}" in rest:
        raise ValueError(f"{template} has a brace that is no index: {{}}, {{7:3}} and {{,02x}} are")
    found = [match.groupdict() for match in PLACEHOLDER.finditer(template)]
    return [
        Field("", int(item["high"] or 63), int(item["low"] or 0)) for item in found
    ]  # all of an index: 64 bits are enough


def plain(name: str) -> str:
    """Return a name as names are compared: in lower case, with points for spaces."""
    return name.lower().replace(" ", ".")


def covered(root: Group, offset: int, width: int, state: State) -> list[Part]:
    """Return what ``width`` bytes at an offset cover of a region's registers, in order."""
    return _within(root, 0, "", offset, offset + max(width, 1), offset, state)


def selects(root: Group, offset: int, width: int) -> bool:
    """Tell whether ``width`` bytes at an offset select what a window of the region shows."""
    return _selects(root, 0, offset, offset + max(width, 1))


# Yields what lies from `low` to `high` of a group, which starts at `start` of the space it is in.
# `origin` is where the access itself begins in that space.
def _within(
    group: Group, start: int, prefix: str, low: int, high: int, origin: int, state: State
) -> list[Part]:
    parts: list[Part] = []
    for register in group.registers:
        for index, at in _instances(register, start, register.width, low, high):
            name = register.name if register.stride is None else expand(register.name, index)
            first, last = max(at, low), min(at + register.width, high)
            covered = 8 * (first - at), 8 * (last - first), 8 * (first - origin)
            parts.append(Part(prefix + name, register, *covered))
    for child in group.groups:
        for index, at in _instances(child, start, child.size, low, high):
            head = prefix + (child.prefix if child.stride is None else expand(child.prefix, index))
            first, last = max(at, low), min(at + child.size, high)
            if child.selector is None:
                found = _within(child, at, head, first, last, origin, state)
                if not found and child.stride is not None:
                    found = [_unnamed(head, at, first, last, origin)]
            else:
                found = _behind(child, at, head, first, last, origin, start, state)
            parts += found
    return sorted(parts, key=lambda part: part.at)[:_MOST_PARTS]


# Yields what a window shows: its bank is a place in a space of its own.
def _behind(
    window: Group, at: int, head: str, low: int, high: int, origin: int, start: int, state: State
) -> list[Part]:
    assert window.selector is not None
    bank = window.selector.read(start, state)
    if bank is None:
        return [_whole(head + window.name, window, at, low, high, origin)]
    move = bank * window.size - at
    found = _within(window, 0, head, low + move, high + move, origin + move, state)
    name = f"{head}{window.name}[{bank:#x}]"
    return found or [_whole(name, window, at, low, high, origin)]


def _whole(name: str, window: Group, at: int, low: int, high: int, origin: int) -> Part:
    register = Register(name, window.offset, window.size)
    return Part(name, register, 8 * (low - at), 8 * (high - low), 8 * (low - origin))


# A place in one of many like groups that has no name of its own still tells which group it is.
def _unnamed(head: str, at: int, low: int, high: int, origin: int) -> Part:
    name = f"{head.rstrip('. ')}+{low - at:#x}"
    register = Register(name, low - at, high - low)
    return Part(name, register, 0, 8 * (high - low), 8 * (low - origin))


# Yields the instances of a register or a group that touch `low` to `high`: indices and starts.
def _instances(
    item: Register | Group, start: int, size: int, low: int, high: int
) -> Iterator[tuple[int, int]]:
    first = start + item.offset
    if item.stride is None:
        if first < high and low < first + size:
            yield 0, first
        return
    index = max((low - size - first) // item.stride + 1, 0)
    while item.count is None or index < item.count:
        at = first + index * item.stride
        if at >= high:
            return
        yield index, at
        index += 1


def _selects(group: Group, start: int, low: int, high: int) -> bool:
    for child in group.groups:
        selector = child.selector
        if selector is not None:
            at = start + selector.offset
            if at < high and low < at + selector.width:
                return True
            continue  # what a window shows selects nothing: the parser sees to that
        if any(
            _selects(child, at, low, high)
            for _, at in _instances(child, start, child.size, low, high)
        ):
            return True
    return False
