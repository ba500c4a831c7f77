"""Read the queues of a device out of a register map's file, and refuse what they cannot mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tracer.devices.queue import Form, Layout, Made, Queue
from tracer.devices.table import Bad, Table, quoted
from tracer.devices.tree import Field
from tracer.errors import advice

LARGEST_ENTRY = 4096
_ENTRY_KEYS = ("size", "fields", "forms")
_FORM_KEYS = ("when", "fields")
_QUEUE_KEYS = (
    "doorbell", "kind", "entry", "base", "count", "less_one", "made", "registers", "descriptors",
    "available", "used", "reset", "packed", "pages", "page",
    "align", "phase",
)  # fmt: skip
_MADE_KEYS = ("queue", "when", "number", "base", "count")
_AREAS = "descriptors", "available", "used"

Fields = Callable[[Any, str], tuple[Field, ...]]
"""Reads a table of fields, with the words for where it is."""


def parse_queues(
    entries: Mapping[str, Mapping[str, Any]],
    queues: Mapping[str, Mapping[str, Any]],
    fields: Fields,
) -> tuple[Queue, ...]:
    """Return the queues of a file from its tables ``entry`` and ``queue``. Raises Bad."""
    layouts = {name: _layout(name, item, fields) for name, item in entries.items()}
    found = {name: _queue(name, item, layouts) for name, item in queues.items()}
    for queue in found.values():
        if queue.made is not None:
            _check_made(queue, queue.made, found)
    return tuple(found.values())


def _layout(name: str, given: Mapping[str, Any], fields: Fields) -> Layout:
    table = Table(given, f"entry {name}", _ENTRY_KEYS)
    size = table.number("size")
    if not 1 <= size <= LARGEST_ENTRY:
        raise Bad(table.where, f"size = {size}: give bytes from 1 to {LARGEST_ENTRY}")
    always = table.get("fields", dict, {})
    told = fields(always, table.where)
    forms = [
        _form(item, f"{table.where}, form {number}", always, told, fields)
        for number, item in enumerate(table.get("forms", list, []), 1)
    ]
    layout = Layout(name, size, told, tuple(forms))
    names = set[str]()
    for field in layout.all_fields:
        where = f"{table.where}, field {field.name}"
        if field.high >= 8 * size:
            raise Bad(where, f"bits {field.bits} lie outside its {size} bytes")
        if field.name in names:
            raise Bad(where, "it is in two forms: give each a name of its own")
        names.add(field.name)
    return layout


def _form(
    given: Any, where: str, always: Mapping[str, Any], told: Sequence[Field], fields: Fields
) -> Form:
    if not isinstance(given, dict):
        raise Bad(where, f"{quoted(given)} is no table")
    table = Table(given, where, _FORM_KEYS)
    names = {field.name for field in told}
    when = {name: _numbers(name, item, where) for name, item in table.get("when", dict, {}).items()}
    if not when:
        raise Bad(where, "it has no when: the fields that say which form an entry has")
    for name in when:
        if name not in names:
            raise Bad(where, f"{quoted(name)} is no field that every form has{advice(name, names)}")
    own = table.get("fields", dict, {})
    for name in own:
        if name in always:
            raise Bad(where, f"every form has a field {name}: give this one another name")
    # Both are read together, as none may overlap.
    both = fields({**always, **own}, where)
    return Form(when, tuple(field for field in both if field.name in own))


def _numbers(name: str, given: Any, where: str) -> tuple[int, ...]:
    several = tuple(given) if isinstance(given, list) else (given,)
    for number in several:
        if not isinstance(number, int) or isinstance(number, bool):
            raise Bad(where, f"when.{name} = {quoted(given)} is no number, nor an array of such")
    return several


def _queue(name: str, given: Mapping[str, Any], layouts: Mapping[str, Layout]) -> Queue:
    table = Table(given, f"queue {name}", _QUEUE_KEYS)
    kind, doorbell = table.text("kind", "ring"), table.text("doorbell")
    if kind not in ("ring", "virtqueue"):
        raise Bad(table.where, f"kind = {quoted(kind)} is none of ring, virtqueue")
    if not doorbell:
        raise Bad(table.where, "it has no doorbell: the register that tells of its entries")
    registers, reset = table.text("registers"), table.text("reset")
    if kind == "virtqueue":
        pages, count = table.text("pages"), _must(table, "count")
        areas = {} if pages and not any(a in table for a in _AREAS) else _areas(table)
        return Queue(
            name, doorbell, "virtqueue", count=count, registers=registers,
            areas=areas, reset=reset, packed=table.text("packed"), pages=pages,
            page=table.text("page"), align=table.text("align"),
        )  # fmt: skip
    entry = _must(table, "entry")
    if entry not in layouts:
        near = advice(entry, layouts)
        raise Bad(table.where, f"entry = {quoted(entry)}: there is no [entry.{entry}]{near}")
    made = None
    if "made" in table:
        made = _made(Table(table.get("made", dict), f"{table.where}, made", _MADE_KEYS))
    elif not (table.text("base") and table.text("count")):
        raise Bad(table.where, "it wants base and count, the registers that say where it is, or "
                  "made, the entries that do")  # fmt: skip
    phase = table.text("phase")
    names = {field.name for field in layouts[entry].fields}
    if phase and phase not in names:
        near = advice(phase, names)
        raise Bad(table.where, f"phase = {quoted(phase)} is no field of entry {entry}{near}")
    return Queue(
        name, doorbell, "ring", layouts[entry], table.text("base"), table.text("count"),
        table.flag("less_one"), made, phase, registers, reset=reset,
    )  # fmt: skip


def _areas(table: Table) -> dict[str, str]:
    return {area: _must(table, area) for area in _AREAS}


def _must(table: Table, key: str) -> str:
    text = table.text(key)
    if not text:
        raise Bad(table.where, f"it has no {key}")
    return text


def _made(table: Table) -> Made:
    when = table.get("when", dict, {})
    for name, number in when.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise Bad(table.where, f"when.{name} = {quoted(number)} is no number")
    return Made(
        _must(table, "queue"), when, _must(table, "number"), _must(table, "base"),
        _must(table, "count"),
    )  # fmt: skip


def _check_made(queue: Queue, made: Made, found: Mapping[str, Queue]) -> None:
    where = f"queue {queue.name}, made"
    maker = found.get(made.queue)
    if maker is None or maker.entry is None:
        near = advice(made.queue, found)
        raise Bad(where, f"queue = {quoted(made.queue)} is no queue with entries{near}")
    names = {field.name for field in maker.entry.all_fields}
    for name in (*made.when, made.number, made.base, made.count):
        if name not in names:
            near = advice(name, names)
            raise Bad(where, f"{quoted(name)} is no field of entry {maker.entry.name}{near}")
