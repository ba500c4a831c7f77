"""Read a register map out of the text of a file, and refuse what it cannot mean.

Ref: docs/registers.md, which is the contract; TOML 1.0.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

from tracer.devices.map import Applies, RegisterMap
from tracer.devices.queue_file import parse_queues
from tracer.devices.table import Bad, Table, quoted
from tracer.devices.tree import RIGHTS, Field, Group, Register, Selector, expand, placeholders
from tracer.errors import UsageError, advice
from tracer.text.number import whole

_WIDEST = 4096
_DEEPEST = 8  # groups in groups
_PLACED = 256  # instances of an array that the search for overlaps places

_MAP_KEYS = (
    "title", "specification", "applies", "values", "fields", "register", "group", "entry", "queue",
)  # fmt: skip
_GROUP_KEYS = (
    "offset", "prefix", "stride", "count", "size", "select", "bank", "register", "group",
)  # fmt: skip
_REGISTER_KEYS = (
    "offset", "width", "access", "description", "section", "fields", "stride", "count", "clock",
    "interrupts",
)  # fmt: skip
_FIELD_KEYS = ("bits", "description", "values")
_APPLIES_KEYS = ("region", "qemu", "device")


def parse(text: str, source: str, name: str) -> RegisterMap:
    """Return the map that a file's text holds; ``source`` is its path, ``name`` what to call it.

    Raise :exc:`UsageError`, naming the file, the key and what is wrong.
    """
    document = _document(text, source)
    try:
        return _map(document, source, name)
    except Bad as error:
        raise UsageError(f"{source}: {error}") from None


def parse_applies(text: str, source: str) -> tuple[Applies, ...]:
    """Return which regions a file is for, from the lines before its first table alone.

    That is all of it where ``applies`` is written there, as in the files of vetrace. Raise
    :exc:`UsageError` as :func:`parse` does.
    """
    head = text.split("\n[", 1)[0]
    try:
        return _applies(Table(_document(head, source), "", _MAP_KEYS))
    except Bad as error:
        raise UsageError(f"{source}: {error}") from None


def _document(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is no TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{source} is no TOML: it nests too deep") from None


@dataclass(frozen=True, slots=True)
class _Shared:
    # Lists of values that registers may refer to by name.

    values: Mapping[str, Mapping[int, str]]
    fields: Mapping[str, tuple[Field, ...]]


def _map(document: Mapping[str, Any], source: str, name: str) -> RegisterMap:
    table = Table(document, "", _MAP_KEYS)
    title, specification = table.text("title", name), table.text("specification")
    values = {key: _values(item, f"values {key}") for key, item in table.tables("values").items()}
    shared = _Shared(values, {})
    fields = {
        key: _fields(item, f"fields {key}", shared) for key, item in table.tables("fields").items()
    }
    shared = replace(shared, fields=fields)
    registers, groups = _members(table, shared, _Place())
    if not registers and not groups:
        raise Bad("", "it has no register: [register.NAME] opens one")
    root = Group("", registers=registers, groups=groups)
    _check_overlaps(root, "")
    queues = parse_queues(
        table.tables("entry"), table.tables("queue"),
        lambda given, where: _fields(given, where, shared),
    )  # fmt: skip
    return RegisterMap(name, title, specification, _applies(table), root, source, queues)


def _applies(table: Table) -> tuple[Applies, ...]:
    items = table.get("applies", list)
    if not items:
        raise Bad("applies", 'it names no region: applies = [{ region = "nvme" }] does')
    found = []
    for item in items:
        if not isinstance(item, dict) or not item:
            raise Bad("applies", f'{quoted(item)} is none of {{ region = "nvme" }} and the like')
        globs = Table(item, "applies", _APPLIES_KEYS)
        found.append(Applies(*(globs.text(key) or None for key in _APPLIES_KEYS)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Place:
    # Tells in how many other groups a group is, and whether one of them is a window.

    depth: int = 0
    window: bool = False


def _members(
    table: Table, shared: _Shared, place: _Place
) -> tuple[tuple[Register, ...], tuple[Group, ...]]:
    head = f"{table.where}, " if table.where else ""
    registers = tuple(
        _register(key, Table(item, f"{head}register {key}", _REGISTER_KEYS), shared)
        for key, item in table.tables("register").items()
    )
    groups = tuple(
        _group(key, Table(item, f"{head}group {key}", _GROUP_KEYS), registers, shared, place)
        for key, item in table.tables("group").items()
    )
    return registers, groups


def _group(
    key: str, table: Table, siblings: Sequence[Register], shared: _Shared, place: _Place
) -> Group:
    if place.depth == _DEEPEST:
        raise Bad(table.where, f"it is in {_DEEPEST} groups already: no device needs more")
    stride, count = _repeats(table)
    select = table.text("select")
    _check_window(table, bool(select), place)
    default = f"{key}[{{}}]." if stride is not None else "" if select else f"{key}."
    prefix = table.text("prefix", default)
    _check_template(prefix, "prefix", stride, table.where)
    registers, groups = _members(
        table, shared, _Place(place.depth + 1, place.window or bool(select))
    )
    if not registers and not groups:
        raise Bad(table.where, "it has no register")
    found = Group(key, prefix, table.number("offset"), registers, groups, stride, count)
    found = replace(found, size=_group_size(table, found, window=bool(select)))
    _check_overlaps(found, table.where)
    if not select:
        return found
    bank = table.number("bank") if "bank" in table else None
    return replace(found, selector=_selector(select, siblings, bank, table.where))


def _check_window(table: Table, window: bool, place: _Place) -> None:
    if window and place.window:
        raise Bad(table.where, "a window cannot be inside a window")
    if window and "size" not in table:
        raise Bad(table.where, "a window wants size: its bytes")
    if not window and "bank" in table:
        raise Bad(table.where, "bank says something only with select")


# Bytes of a group, which are its stride or what its members take where they are not given. The
# members of a window need not fit: they are what it shows, one part after another.
def _group_size(table: Table, group: Group, *, window: bool) -> int:
    extent, stride = _extent(group), group.stride
    if extent is None and stride is None and "size" not in table:
        raise Bad(table.where, "it holds an array without an end: give its size")
    size = table.number("size", stride or extent or 1)
    if extent is not None and extent > size and not window:
        raise Bad(table.where, f"its registers take {extent:#x} bytes, and it has {size:#x}")
    if size < 1 or (stride is not None and size > stride):
        raise Bad(table.where, f"size = {size:#x} does not fit in its stride")
    return size


def _selector(text: str, siblings: Sequence[Register], bank: int | None, where: str) -> Selector:
    name, _, part = text.partition(".")
    register = next((r for r in siblings if r.name == name and r.stride is None), None)
    if register is None:
        known = [r.name for r in siblings if r.stride is None]
        raise Bad(where, f"select = {quoted(text)}: no register beside it has this name"
                  + advice(name, known))  # fmt: skip
    field: Field | None = Field(name, 8 * register.width - 1, 0)
    if part:
        field = next((f for f in register.fields if f.name == part), None)
    if field is None:
        known = [f.name for f in register.fields]
        raise Bad(where, f"select = {quoted(text)}: {name} has no such field{advice(part, known)}")
    return Selector(register.offset, register.width, field, bank)


def _register(key: str, table: Table, shared: _Shared) -> Register:
    width = table.number("width", 4)
    if not 1 <= width <= _WIDEST:
        raise Bad(table.where, f"width = {width}: give bytes from 1 to {_WIDEST}")
    access = table.text("access", "rw")
    if access not in RIGHTS:
        raise Bad(table.where, f"access = {quoted(access)} is none of {', '.join(RIGHTS)}")
    stride, count = _repeats(table)
    if "offset" not in table:
        raise Bad(table.where, "it has no offset")
    if stride is not None and stride < width:
        raise Bad(table.where, f"stride = {stride:#x} is below its width of {width} bytes")
    name = key if stride is None or "{" in key else f"{key}[{{}}]"
    _check_template(name, "the name", stride, table.where)
    return Register(
        name=name,
        offset=table.number("offset"),
        width=width,
        access=access,
        description=table.text("description"),
        section=table.text("section"),
        fields=_register_fields(table, width, shared),
        stride=stride,
        count=count,
        clock=table.flag("clock"),
        interrupts=table.flag("interrupts"),
    )


def _register_fields(table: Table, width: int, shared: _Shared) -> tuple[Field, ...]:
    given = table.get("fields", (str, dict), {})
    if isinstance(given, str):
        if given not in shared.fields:
            near = advice(given, shared.fields)
            raise Bad(table.where, f"fields = {quoted(given)}: there is no [fields.{given}]{near}")
        fields = shared.fields[given]
    else:
        fields = _fields(given, table.where, shared)
    for field in fields:
        if field.high >= 8 * width:
            raise Bad(
                f"{table.where}, field {field.name}",
                f"bits {field.bits} lie outside its {width} bytes",
            )
    return fields


def _fields(given: Any, where: str, shared: _Shared) -> tuple[Field, ...]:
    if not isinstance(given, dict):
        raise Bad(where, f"{quoted(given)} is no table of fields")
    found = [_field(name, item, f"{where}, field {name}", shared) for name, item in given.items()]
    found.sort(key=lambda field: field.low)
    for below, above in pairwise(found):
        if above.low <= below.high:
            raise Bad(
                where,
                f"fields {below.name} [{below.bits}] and {above.name} [{above.bits}] overlap",
            )
    return tuple(found)


def _field(name: str, given: Any, where: str, shared: _Shared) -> Field:
    if not isinstance(given, dict):
        given = {"bits": given}
    table = Table(given, where, _FIELD_KEYS)
    if "bits" not in table:
        raise Bad(where, "it has no bits")
    high, low = _bits(table.get("bits", (int, str)), where)
    values = table.get("values", (str, dict), {})
    if isinstance(values, str):
        if values not in shared.values:
            near = advice(values, shared.values)
            raise Bad(where, f"values = {quoted(values)}: there is no [values.{values}]{near}")
        numbers = shared.values[values]
    else:
        numbers = _values(values, where)
    for number, meaning in numbers.items():
        if number >> high - low + 1:
            bits = high - low + 1
            raise Bad(where, f"value {number} ({meaning}) is wider than its {bits} bits")
    return Field(name, high, low, table.text("description"), numbers)


def _bits(given: Any, where: str) -> tuple[int, int]:
    high, _, low = str(given).partition(":")
    try:
        last = whole(high, "bit", bits=16)
        first = whole(low, "bit", bits=16) if ":" in str(given) else last
    except UsageError:
        raise Bad(where, f'bits = {quoted(given)} are none: 3 and "6:4" are') from None
    if last < first:
        raise Bad(where, f'bits = {quoted(given)} end before they begin: write "{first}:{last}"')
    return last, first


def _values(given: Any, where: str) -> dict[int, str]:
    if not isinstance(given, dict):
        raise Bad(where, f"{quoted(given)} is no table of values")
    found = {}
    for key, meaning in given.items():
        try:
            number = whole(key)
        except UsageError as error:
            raise Bad(where, f"value {error}") from None
        if not isinstance(meaning, str) or not meaning:
            raise Bad(where, f"value {key} = {quoted(meaning)} is no name")
        if number in found:
            raise Bad(where, f"value {key} is there twice")
        found[number] = meaning
    return found


def _repeats(table: Table) -> tuple[int | None, int | None]:
    if "stride" not in table:
        if "count" in table:
            raise Bad(table.where, "count says something only with stride")
        return None, 1
    stride = table.number("stride")
    count = table.number("count") if "count" in table else None
    if stride == 0 or count == 0:
        raise Bad(table.where, f"{'stride' if stride == 0 else 'count'} = 0 repeats nothing")
    return stride, count


def _check_template(template: str, what: str, stride: int | None, where: str) -> None:
    try:
        shown = placeholders(template)
    except ValueError as error:
        raise Bad(where, f"{what} {error}") from None
    if stride is None and shown:
        raise Bad(where, f"{what} {template} has an index, and nothing repeats: give stride")
    if stride is not None and not shown:
        raise Bad(
            where, f"{what} {template} has no index, and it repeats: write {{}} where it goes"
        )


# How many bytes a group's members take, or None for an array without an end.
def _extent(group: Group) -> int | None:
    ends = [0]
    for item in _items(group):
        if item.count is None:
            return None
        size = item.width if isinstance(item, Register) else item.size
        ends.append(item.offset + (item.count - 1) * (item.stride or 0) + size)
    return max(ends)


def _check_overlaps(group: Group, where: str) -> None:
    spans = sorted(span for item in _items(group) for span in _spans(item))
    for (_, end, below), (start, _, above) in pairwise(spans):
        if start < end:
            raise Bad(where, f"{below} and {above} overlap at offset {start:#x}")


def _items(group: Group) -> list[Register | Group]:
    return [*group.registers, *group.groups]


def _spans(item: Register | Group) -> Iterable[tuple[int, int, str]]:
    is_register = isinstance(item, Register)
    size = item.width if isinstance(item, Register) else item.size
    template = item.name if is_register else item.name + ("[{}]" if item.stride else "")
    most = _PLACED if item.count is None else item.count
    for index in islice(range(most), _PLACED):
        start = item.offset + index * (item.stride or 0)
        yield start, start + size, expand(template, index)
