"""Tell of a register, a device's or the CPU's: its place, access right, bits and source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tracer.devices.directory import Listed
from tracer.devices.entry import Entry
from tracer.devices.map import Named, RegisterMap
from tracer.devices.tree import RIGHTS, Field, Part, Register
from tracer.look.cpu_register import SPECIFICATION
from tracer.look.sheet import Cell, folded


def sheet_object(listed: Listed) -> dict[str, Any]:
    """Return a device's register as a JSON-ready object; offsets and strides are hex strings."""
    entry = listed.entry
    return {
        "region": listed.region,
        "register": entry.name,
        "offset": hex(entry.offset),
        "repeats": [{"stride": hex(stride), "count": count} for stride, count in entry.repeats],
        "selector": entry.selector,
        "bank": entry.bank,
        **meaning_object(entry.register, listed.map.specification),
        "device": listed.map.title,
        "source": listed.map.source,
    }


def meaning_object(register: Register, specification: str) -> dict[str, Any]:
    """Return what is known of a register wherever it is, as a JSON-ready object."""
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
            }
            for field in register.fields
        ],
    }


def sheet_lines(listed: Listed, columns: int = 80, colour: bool = False) -> list[str]:
    """Return a device's register in full: place, access right, source, bits."""
    entry, register = listed.entry, listed.entry.register
    place = f"{listed.region}+{entry.offset:#x}, {_bytes(register.width)}"
    head = [("register", f"{listed.region}.{entry.name}"), ("place", place), *_further(entry)]
    return meaning_lines(head, register, listed.map.specification, columns, colour)


def meaning_lines(
    head: Sequence[tuple[str, str]],
    register: Register,
    specification: str,
    columns: int = 80,
    colour: bool = False,
) -> list[str]:
    """Return what is known of a register wherever it is, below rows of a label and a text."""
    source = ", ".join(filter(None, (specification, register.section)))
    rows = [
        *head,
        ("is", register.description),
        ("access", RIGHTS[register.access]),
        ("specified", source),
    ]
    told = [[Cell(label, "time"), Cell(text)] for label, text in rows if text]
    bits = [
        [Cell(field.bits, "value"), Cell(field.name, "register"), Cell(_meaning(field))]
        for field in reversed(register.fields)
    ]
    return [*folded(told, columns, colour), *folded(bits, columns, colour)]


def list_lines(found: Sequence[Listed], columns: int = 80, colour: bool = False) -> list[str]:
    """Return a row a register: place, width, access right, name, what it is."""
    heads = ("place", "bytes", "access", "register", "what it is")
    rows = [[Cell(text, "time") for text in heads]]
    for listed in found:
        register = listed.entry.register
        rows.append([
            Cell(f"{listed.region}+{listed.entry.offset:#x}", "place"),
            Cell(f"{register.width:>5}"),
            Cell(register.access),
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


def _meaning(field: Field) -> str:
    values = ", ".join(
        f"{number if number < 10 else hex(number)} {told}" for number, told in field.values.items()
    )
    return ": ".join(filter(None, (field.description, values)))


def _bytes(width: int) -> str:
    return f"{width} byte{'' if width == 1 else 's'}"
