"""Tell of a register, a device's or the CPU's: its place, access right, bits and source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tracer.devices.directory import Listed
from tracer.devices.entry import Entry
from tracer.devices.map import Named, RegisterMap
from tracer.devices.tree import RIGHTS, Field, Part, Register
from tracer.look.cpu_register import SPECIFICATION
from tracer.look.sheet import Cell, folded
from tracer.text.printable import printable
from tracer.trace.event import Event
from tracer.trace.uses import Use, Uses

_MOST_CALLERS = 2


@dataclass(frozen=True, slots=True)
class Used:
    """Tell what a register was used for in a run, which may have ``ended``.

    With ``before`` the last uses are those before where a recording stands, and more may come.
    ``callers`` returns the functions that were under way at an access, as far as they are known.
    """

    uses: Uses
    ended: bool
    callers: Callable[[Event], Sequence[str]]
    before: bool = False

    def further(self, event: Event) -> Sequence[str]:
        """Return who called the function that made an access, the innermost first."""
        known = self.callers(event)
        # A chain that was recorded begins with the call site itself.
        return known[1:] if known and known[0] == event.record.site else known

    @property
    def last(self) -> Use | None:
        """Return the last use that told a value."""
        return self.uses.last


def sheet_object(listed: Listed, used: Used | None = None) -> dict[str, Any]:
    """Return a device's register as a JSON-ready object; offsets and strides are hex strings.

    What it was ``used`` for in a run comes with it.
    """
    entry = listed.entry
    value = None if used is None else used.last
    fields = meaning_object(entry.register, listed.map.specification, value)
    return {
        "region": listed.region,
        "register": entry.name,
        "offset": hex(entry.offset),
        "repeats": [{"stride": hex(stride), "count": count} for stride, count in entry.repeats],
        "selector": entry.selector,
        "bank": entry.bank,
        **fields,
        "device": listed.map.title,
        "source": listed.map.source,
        **({} if used is None else used_object(used)),
    }


def used_object(used: Used) -> dict[str, Any]:
    """Return what a register was used for, as a JSON-ready object."""
    last = used.last
    return {
        "value": None if last is None else hex(last.value or 0),
        "reads": used.uses.reads,
        "writes": used.uses.writes,
        "last_read": _use_object(used, used.uses.read),
        "last_written": _use_object(used, used.uses.written),
    }


def _use_object(used: Used, use: Use | None) -> dict[str, Any] | None:
    if use is None:
        return None
    event, value = use.event, use.value
    return {
        "seq": event.seq,
        "time_ns": event.record.time_ns,
        "vcpu": event.record.vcpu,
        "rip": hex(event.record.rip),
        "site": event.record.site,
        "callers": list(used.further(event)),
        "bits": _span(use.part),
        "value": None if value is None else hex(value),
    }


def meaning_object(
    register: Register, specification: str, value: Use | None = None
) -> dict[str, Any]:
    """Return what is known of a register wherever it is, as a JSON-ready object.

    With a ``value`` each field that the use covers has its part of it.
    """
    return {
        "width": register.width,
        "access": register.access,
        "description": register.description,
        "specification": specification,
        "section": register.section,
        "fields": [
            {
                "name": field.name,
                "bits": field.bits,
                "description": field.description,
                "values": {str(number): told for number, told in field.values.items()},
                **({} if value is None else {"value": _field_object(field, value)}),
            }
            for field in register.fields
        ],
    }


def sheet_lines(
    listed: Listed, columns: int = 80, colour: bool = False, used: Used | None = None
) -> list[str]:
    """Return a device's register in full: place, access right, source, what it was, bits."""
    entry, register = listed.entry, listed.entry.register
    place = f"{listed.region}+{entry.offset:#x}, {_bytes(register.width)}"
    head = [("register", f"{listed.region}.{entry.name}"), ("place", place), *_further(entry)]
    source = listed.map.specification
    return meaning_lines(head, register, source, columns, colour, used)


def meaning_lines(
    head: Sequence[tuple[str, str]],
    register: Register,
    specification: str,
    columns: int = 80,
    colour: bool = False,
    used: Used | None = None,
) -> list[str]:
    """Return what is known of a register wherever it is, below rows of a label and a text."""
    source = ", ".join(filter(None, (specification, register.section)))
    rows = [
        *head,
        ("is", register.description),
        ("access", RIGHTS[register.access]),
        ("specified", source),
        *([] if used is None else _used_rows(used, register.access)),
    ]
    value = None if used is None else used.last
    told = [[Cell(label, "time"), Cell(text)] for label, text in rows if text]
    bits = [
        [
            Cell(field.bits, "value"),
            Cell(field.name, "register"),
            *([] if value is None else [Cell(_field_text(field, value), "value")]),
            Cell(_meaning(field)),
        ]
        for field in reversed(register.fields)
    ]
    return [*folded(told, columns, colour), *folded(bits, columns, colour)]


# Rights that leave no room for a use.
_NEVER = {"written": "ro", "read": "wo"}


def _used_rows(used: Used, right: str) -> Iterator[tuple[str, str]]:
    uses, last = used.uses, used.last
    if last is not None:
        whole = "" if last.is_whole else f" (bits {_span(last.part)})"
        told = Named(last.part.name, (replace(last.part, at=0),)).describe(last.value or 0)
        digits = 2 + max(last.part.bits // 4, 1)
        yield "value", f"{last.value or 0:#0{digits}x}{whole} {told}".rstrip()
    for label, count, use in (
        ("written", uses.writes, uses.written),
        ("read", uses.reads, uses.read),
    ):
        if not count and _NEVER[label] == right:
            continue
        if not count:
            yield label, "never" if used.ended else "not yet"
            continue
        times = "once" if count == 1 else f"{count:,} times"
        where = ", none before here" if use is None else _who(used, use, alone=count == 1)
        yield label, f"{times}{where}"


def _who(used: Used, use: Use, *, alone: bool) -> str:
    event, value = use.event, use.value
    digits = 2 + max(use.part.bits // 4, 1)
    what = "" if value is None else f" {value:#0{digits}x}"
    record = event.record
    chain = "".join(f" from {printable(caller)}" for caller in used.further(event)[:_MOST_CALLERS])
    where = f"at {record.time_ns / 1e9:.6f} s by {printable(record.site)}{chain}"
    last = "" if alone else " last before here" if used.before else " last"
    return f",{last}{what} {where} on vcpu{record.vcpu}, #{event.seq:,}"


def list_lines(
    found: Sequence[Listed], columns: int = 80, colour: bool = False, used: Sequence[Uses] = ()
) -> list[str]:
    """Return a row a register: place, width, access right, name, what it is.

    Where ``used`` tells of each what it was used for, how often it was read and written as well.
    """
    counts = (f"{'read':>7}", "written") if used else ()
    heads = ("place", "bytes", "access", *counts, "register", "what it is")
    rows = [[Cell(text, "time") for text in heads]]
    for number, listed in enumerate(found):
        register = listed.entry.register
        rows.append([
            Cell(f"{listed.region}+{listed.entry.offset:#x}", "place"),
            Cell(f"{register.width:>5}"),
            Cell(register.access),
            *(Cell(f"{each:>7,}") for each in _counted(used, number)),
            Cell(listed.entry.name, "register"),
            Cell(register.description),
        ])  # fmt: skip
    return folded(rows, columns, colour)


def cpu_object(register: Register, value: int | None) -> dict[str, Any]:
    """Return a register of a vCPU as a JSON-ready object; ``value`` is None where not known."""
    return {
        "register": register.name,
        "value": None if value is None else hex(value),
        **meaning_object(register, SPECIFICATION),
    }


def cpu_lines(
    register: Register, value: int | None, columns: int = 80, colour: bool = False
) -> list[str]:
    """Return a register of a vCPU in full: value, access right, source, bits."""
    head = [("register", f"{register.name}, {_bytes(register.width)}")]
    if value is not None:
        part = Part(register.name, register, 0, 8 * register.width, 0)
        told = Named(register.name, (part,)).describe(value)
        head.append(("value", f"{value:#x} {told}".rstrip()))
    return meaning_lines(head, register, SPECIFICATION, columns, colour)


def map_object(known: RegisterMap) -> dict[str, Any]:
    """Return what a register map is for, as a JSON-ready object."""
    return {
        "map": known.name,
        "device": known.title,
        "specification": known.specification,
        "registers": sum(1 for _ in known.entries()),
        "applies": [
            {"region": item.region, "qemu_name": item.qemu, "device": item.device}
            for item in known.applies
        ],
        "source": known.source,
    }


def map_lines(maps: Sequence[RegisterMap], columns: int = 80, colour: bool = False) -> list[str]:
    """Return a row a register map: its name, how many registers, of what, by which document."""
    rows = [[Cell(text, "time") for text in ("map", "registers", "of", "specified")]]
    for known in maps:
        rows.append([
            Cell(known.name, "place"),
            Cell(f"{sum(1 for _ in known.entries()):>9}"),
            Cell(known.title),
            Cell(known.specification),
        ])  # fmt: skip
    return folded(rows, columns, colour)


def _further(entry: Entry) -> Iterator[tuple[str, str]]:
    for stride, count in entry.repeats:
        times = "to the end of the region" if count is None else f"{count:,} times"
        within = "" if entry.selector is None else " of what the window shows"
        yield "repeats", f"every {stride:#x} bytes{within}, {times}"
    if entry.selector is not None:
        first = " for the first" if entry.repeats else ""
        yield "shown", f"while {entry.selector} is {entry.bank:#x}{first}"


def _counted(used: Sequence[Uses], number: int) -> tuple[int, ...]:
    return (used[number].reads, used[number].writes) if used else ()


def _span(part: Part) -> str:
    last = part.first + part.bits - 1
    return str(last) if part.bits == 1 else f"{last}:{part.first}"


# The number of a field in a use's value, None where the use does not cover it.
def _field_value(field: Field, use: Use) -> int | None:
    part = use.part
    if use.value is None or field.low < part.first or field.high >= part.first + part.bits:
        return None
    return field.of(use.value << part.first)


def _field_object(field: Field, use: Use) -> str | None:
    number = _field_value(field, use)
    return None if number is None else hex(number)


def _field_text(field: Field, use: Use) -> str:
    number = _field_value(field, use)
    if number is None:
        return "?"
    name = field.values.get(number)
    shown = str(number) if number < 10 else hex(number)
    return shown if name is None else f"{shown} {name}"


def _meaning(field: Field) -> str:
    values = ", ".join(
        f"{number if number < 10 else hex(number)} {told}" for number, told in field.values.items()
    )
    return ": ".join(filter(None, (field.description, values)))


def _bytes(width: int) -> str:
    return f"{width} byte{'' if width == 1 else 's'}"
