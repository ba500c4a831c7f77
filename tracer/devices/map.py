"""What accesses to a region are called, and what their values mean.

docs/registers.md has the files that the maps come from, and :mod:`tracer.devices.file` their
parser. :class:`tracer.trace.naming.Naming` follows a run, since what a window shows depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from tracer.devices.entry import Entry, entries, find, names, search
from tracer.devices.queue import Queue
from tracer.devices.tree import (
    Field,
    Group,
    Part,
    Register,
    State,
    covered,
    plain,
    selects,
)

FieldValue = tuple[str, int, int, str | None]
"""A field's name, how many bits it has, its value, and the name of that value if it has one."""

Breach = Literal["read-only", "write-only"]
"""The right of a register that was accessed in the other direction, in the words of RIGHTS."""

_BREACHES: dict[tuple[str, str], Breach] = {
    ("ro", "write"): "read-only",
    ("wo", "read"): "write-only",
}

_NUMBERED = re.compile(r"#\d+")


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """Hold the name of what an access covers, and tell what its value means.

    ``text`` is the register's name, with a byte offset where the access begins inside of it
    (``CAP+4``); of two registers both names, of more the first and the last.
    """

    text: str
    parts: tuple[Part, ...]
    right: str = ""
    """How all that is covered can be accessed: ``ro``, ``rw1c``; empty where registers differ."""

    @property
    def register(self) -> Register:
        """Return the register covered, the first one if there are more."""
        return self.parts[0].register

    def breach(self, direction: str) -> Breach | None:
        """Return what all that is covered is, where an access in this direction is against it.

        A device need not heed such a write, and what such a read gives need not mean anything.
        """
        return _BREACHES.get((self.right, direction))

    def fields(self, value: int) -> list[FieldValue]:
        """Return the fields that the access covers whole, the lowest first.

        Of several registers they carry their register's name, and a register without fields is
        its own.
        """
        return [
            (name, field.high - field.low + 1, number, field.values.get(number))
            for name, field, number in self._fields(value)
        ]

    def describe(self, value: int) -> str:
        """Return the fields that are not 0 in one line: ``EN IOSQES=6 SHN=normal``.

        A field of one bit without names for its values is told by its name alone.
        """
        return " ".join(
            _told(name, field, number) for name, field, number in self._fields(value) if number
        )

    @property
    def is_clock(self) -> bool:
        """Tell whether all that is covered tells the time or counts it."""
        return all(part.register.clock for part in self.parts)

    @property
    def tells_interrupts(self) -> bool:
        """Tell whether a driver reads here that its device has interrupted."""
        return any(part.register.interrupts for part in self.parts)

    def bits(self, mask: int, value: int) -> str:
        """Return in words that the bits of a mask have those of a value: ``RDY=1``.

        Bits that no field has whole are told by their number, or by a mask.
        """
        told, left = [], mask
        for part in self.parts:
            for field in part.register.fields:
                if field.low < part.first or field.high >= part.first + part.bits:
                    continue
                low = field.low - part.first + part.at
                whole = (1 << field.high - field.low + 1) - 1 << low
                if left & whole == whole:
                    left &= ~whole
                    told.append(f"{field.name}={_shown(field, (value & whole) >> low)}")
        if left:
            told.append(bare_bits(left, value))
        return " ".join(told)

    def changes(self, old: int, new: int) -> str:
        """Return the fields that differ between two values: ``EN 0→1, SHN none→normal``."""
        pairs = zip(self._fields(old), self._fields(new), strict=True)
        return ", ".join(
            f"{name} {_shown(field, before)}→{_shown(field, after)}"
            for (name, field, before), (_, _, after) in pairs
            if before != after
        )

    def explain(self, value: int) -> str:
        """Return what is covered and its fields that are not 0, with what the map says of them.

        ``Controller Configuration: EN (Enable), SHN=normal (Shutdown Notification)``. Of several
        registers each has its name in front, and its value where it has no fields. It is empty
        where the map says nothing.
        """
        alone = len(self.parts) == 1
        return "; ".join(filter(None, (_explained(part, value, alone) for part in self.parts)))

    def places(self) -> Iterator[tuple[str, Field, int]]:
        """Yield the fields that :meth:`fields` tells of, each with the bit of a value it is at."""
        alone = len(self.parts) == 1
        for part in self.parts:
            head = "" if alone else f"{part.short}."
            for field, at in _covered_fields(part):
                yield head + field.name, field, at
            if not alone and not part.register.fields:
                yield part.short, Field(part.short, part.bits - 1, 0), part.at

    def _fields(self, value: int) -> Iterator[tuple[str, Field, int]]:
        for name, field, at in self.places():
            yield name, field, _taken(field, at, value)


def _explained(part: Part, value: int, alone: bool) -> str:
    register, number = part.register, part.value(value)
    bits = ", ".join(
        _told(field.name, field, set_) + (f" ({field.description})" if field.description else "")
        for field, at in _covered_fields(part)
        if (set_ := _taken(field, at, value))
    )
    name = "" if alone else part.short
    if name and number and not register.fields:
        name = _told(name, Field(name, part.bits - 1, 0), number)
    elif not (register.description or bits):
        return ""
    return ": ".join(filter(None, (", ".join(filter(None, (name, register.description))), bits)))


# The fields of a register that an access covers whole, and the bits of its value they begin at.
def _covered_fields(part: Part) -> Iterator[tuple[Field, int]]:
    for field in part.register.fields:
        if part.first <= field.low and field.high < part.first + part.bits:
            yield field, part.at + field.low - part.first


def _taken(field: Field, at: int, value: int) -> int:
    return value >> at & (1 << field.high - field.low + 1) - 1


# A field of one bit without names for its values is told by its name alone.
def _told(name: str, field: Field, value: int) -> str:
    if field.high == field.low and value not in field.values:
        return name
    return f"{name}={_shown(field, value)}"


def _shown(field: Field, value: int) -> str:
    return field.values.get(value) or (str(value) if value < 10 else hex(value))


def bare_bits(mask: int, value: int) -> str:
    """Return in words that the bits of a mask have those of a value, without their names."""
    if mask & mask - 1 == 0:
        return f"bit {mask.bit_length() - 1}={int(bool(value & mask))}"
    return f"bits {mask:#x}={value & mask:#x}"


@dataclass(frozen=True, slots=True)
class Applies:
    """Say which regions a map is for: all globs given must fit.

    ``region`` is tried with and without the number of a further device (``nvme#2``); so is
    ``device``.
    """

    region: str | None = None
    qemu: str | None = None
    device: str | None = None

    def fits(self, region: str, qemu_name: str, device: str) -> bool:
        """Tell whether a region is meant, by its name, QEMU's name for it, and its device's."""
        return all(
            glob is None or fnmatchcase(name, glob) or fnmatchcase(_NUMBERED.sub("", name), glob)
            for glob, name in (
                (self.region, region), (self.qemu, qemu_name), (self.device, device),
            )
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class RegisterMap:
    """Describe the registers of a region; ``source`` is the file that says so.

    ``queues`` are those in RAM that its doorbells are about.
    """

    name: str
    title: str
    specification: str
    applies: tuple[Applies, ...]
    root: Group
    source: str = ""
    queues: tuple[Queue, ...] = ()

    def lookup(self, offset: int, width: int, state: State = lambda _: None) -> Named | None:
        """Return what ``width`` bytes at an offset of the region are called, or None."""
        parts = covered(self.root, offset, width, state)
        return _named(parts) if parts else None

    def watches(self, offset: int, width: int) -> bool:
        """Tell whether ``width`` bytes at an offset select what a window shows."""
        return selects(self.root, offset, width)

    def find(self, name: str) -> list[Entry]:
        """Return the registers of a name: see :func:`tracer.devices.entry.find`."""
        return find(self.root, name)

    def entries(self) -> Iterator[Entry]:
        """Yield all registers in the order of the file, those of an array as one."""
        return entries(self.root)

    def search(self, pattern: str, region: str) -> list[Entry]:
        """Return the registers that a glob fits in a region of this map."""
        return search(self.root, lambda name: fits_register(pattern, region, name))

    def names(self) -> Iterator[str]:
        """Yield the names of the registers in the order of the file, of arrays the first few."""
        return names(self.root)


@dataclass(frozen=True, slots=True)
class Unread:
    """Stand for a map that is read when a region comes that it is for; ``read`` returns it."""

    applies: tuple[Applies, ...]
    read: Callable[[], RegisterMap]


class RegisterMaps:
    """Choose the map of a region: the first that applies. Others are never read."""

    def __init__(self, maps: Iterable[RegisterMap | Unread] = ()) -> None:
        self._maps = tuple(maps)

    def __iter__(self) -> Iterator[RegisterMap]:
        """Yield all maps, in the order in which they are tried; all of them are read."""
        return map(_read, self._maps)

    def of_region(self, region: str, qemu_name: str = "", device: str = "") -> RegisterMap | None:
        """Return the map of a region, by its name, QEMU's name for it, and its device's."""
        for found in self._maps:
            if any(item.fits(region, qemu_name, device) for item in found.applies):
                return _read(found)
        return None


def _read(found: RegisterMap | Unread) -> RegisterMap:
    return found.read() if isinstance(found, Unread) else found


def names_register(pattern: str, region: str, named: Named | None) -> bool:
    """Tell whether ``pattern`` is the name of what an access covers, or a glob that fits it.

    ``*`` and ``?`` are wild; brackets are themselves, since arrays have them. The region's name
    and a point may stand before it; upper and lower case are alike.
    """
    if named is None:
        return False
    told = (named.text, *(part.name for part in named.parts))
    return any(fits_register(pattern, region, name) for name in told)


def fits_register(pattern: str, region: str, name: str) -> bool:
    """Tell whether ``pattern`` fits a register's name: see :func:`names_register`."""
    glob, bare = plain(pattern.strip()).replace("[", "[[]"), plain(name)
    return fnmatchcase(bare, glob) or fnmatchcase(f"{region.lower()}.{bare}", glob)


def _named(parts: Sequence[Part]) -> Named:
    first, last = parts[0], parts[-1]
    rights = {part.register.access for part in parts}
    right = rights.pop() if len(rights) == 1 else ""
    if len(parts) == 1:
        byte = first.first // 8
        inside = f"+{byte if byte < 10 else hex(byte)}" if byte else ""
        return Named(first.name + inside, tuple(parts), right)
    # Neighbours in one group are told without repeating its prefix.
    common = _common(first.name, last.name)
    head = max(common.rfind("."), common.rfind(" ")) + 1
    joint = "," if len(parts) == 2 else ".."
    return Named(f"{first.name}{joint}{last.name[head:]}", tuple(parts), right)


def _common(first: str, second: str) -> str:
    same = 0
    for here, there in zip(first, second, strict=False):
        if here != there:
            break
        same += 1
    return first[:same]
