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
from tracer.devices.tree import Field, Group, Register, Selector, expand, placeholders
from tracer.errors import UsageError, advice
from tracer.text.number import whole

ACCESSES = ("ro", "rw", "wo", "rw1c", "rw1s", "rc")
"""Read only, read and write, write only; a 1 clears, a 1 sets, reading clears."""

_WIDEST = 4096
_DEEPEST = 8  # groups in groups
_PLACED = 256  # instances of an array that the search for overlaps places

_MAP_KEYS = (
    "title", "specification", "applies", "values", "fields", "register", "group",
)  # fmt: skip
_GROUP_KEYS = (
    "offset", "prefix", "stride", "count", "size", "select", "bank", "register", "group",
)  # fmt: skip
_REGISTER_KEYS = (
    "offset", "width", "access", "description", "section", "fields", "stride", "count",
)  # fmt: skip
_FIELD_KEYS = ("bits", "description", "values")
_APPLIES_KEYS = ("region", "qemu", "device")


class _Bad(Exception):
    # Tells what is wrong, and at which key: "register CC, field EN".

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}" if where else what)


def parse(text: str, source: str, name: str) -> RegisterMap:
    """Return the map that a file's text holds; ``source`` is its path, ``name`` what to call it.

    Raise :exc:`UsageError`, naming the file, the key and what is wrong.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is no TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{source} is no TOML: it nests too deep") from None
    try:
        return _map(document, source, name)
    except _Bad as error:
        raise UsageError(f"{source}: {error}") from None


@dataclass(frozen=True, slots=True)
class _Shared:
    # Lists of values that registers may refer to by name.

    values: Mapping[str, Mapping[int, str]]
    fields: Mapping[str, tuple[Field, ...]]


def _map(document: Mapping[str, Any], source: str, name: str) -> RegisterMap:
    table = _Table(document, "", _MAP_KEYS)
    title, specification = table.text("title", name), table.text("specification")
    values = {key: _values(item, f"values {key}") for key, item in table.tables("values").items()}
    shared = _Shared(values, {})
    fields = {
        key: _fields(item, f"fields {key}", shared) for key, item in table.tables("fields").items()
    }
    shared = replace(shared, fields=fields)
    registers, groups = _members(table, shared, _Place())
    if not registers and not groups:
        raise _Bad("", "it has no register: [register.NAME] opens one")
    root = Group("", registers=registers, groups=groups)
    _check_overlaps(root, "")
    return RegisterMap(name, title, specification, _applies(table), root, source)


def _applies(table: _Table) -> tuple[Applies, ...]:
    items = table.get("applies", list)
    if not items:
        raise _Bad("applies", 'it names no region: applies = [{ region = "nvme" }] does')
    found = []
    for item in items:
        if not isinstance(item, dict) or not item:
            raise _Bad("applies", f'{_toml(item)} is none of {{ region = "nvme" }} and the like')
        globs = _Table(item, "applies", _APPLIES_KEYS)
        found.append(Applies(*(globs.text(key) or None for key in _APPLIES_KEYS)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Place:
    # Tells in how many other groups a group is, and whether one of them is a window.

    depth: int = 0
    window: bool = False


def _members(
    table: _Table, shared: _Shared, place: _Place
) -> tuple[tuple[Register, ...], tuple[Group, ...]]:
    head = f"{table.where}, " if table.where else ""
    registers = tuple(
        _register(key, _Table(item, f"{head}register {key}", _REGISTER_KEYS), shared)
        for key, item in table.tables("register").items()
    )
    groups = tuple(
        _group(key, _Table(item, f"{head}group {key}", _GROUP_KEYS), registers, shared, place)
        for key, item in table.tables("group").items()
    )
    return registers, groups


def _group(
    key: str, table: _Table, siblings: Sequence[Register], shared: _Shared, place: _Place
) -> Group:
    if place.depth == _DEEPEST:
        raise _Bad(table.where, f"it is in {_DEEPEST} groups already: no device needs more")
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
        raise _Bad(table.where, "it has no register")
    found = Group(key, prefix, table.number("offset"), registers, groups, stride, count)
    found = replace(found, size=_group_size(table, found, window=bool(select)))
    _check_overlaps(found, table.where)
    if not select:
        return found
    bank = table.number("bank") if "bank" in table else None
    return replace(found, selector=_selector(select, siblings, bank, table.where))


def _check_window(table: _Table, window: bool, place: _Place) -> None:
    if window and place.window:
        raise _Bad(table.where, "a window cannot be inside a window")
    if window and "size" not in table:
        raise _Bad(table.where, "a window wants size: its bytes")
    if not window and "bank" in table:
        raise _Bad(table.where, "bank says something only with select")


# Bytes of a group, which are its stride or what its members take where they are not given. The
# members of a window need not fit: they are what it shows, one part after another.
def _group_size(table: _Table, group: Group, *, window: bool) -> int:
    extent, stride = _extent(group), group.stride
    if extent is None and stride is None and "size" not in table:
        raise _Bad(table.where, "it holds an array without an end: give its size")
    size = table.number("size", stride or extent or 1)
    if extent is not None and extent > size and not window:
        raise _Bad(table.where, f"its registers take {extent:#x} bytes, and it has {size:#x}")
    if size < 1 or (stride is not None and size > stride):
        raise _Bad(table.where, f"size = {size:#x} does not fit in its stride")
    return size


def _selector(text: str, siblings: Sequence[Register], bank: int | None, where: str) -> Selector:
    name, _, part = text.partition(".")
    register = next((r for r in siblings if r.name == name and r.stride is None), None)
    if register is None:
        known = [r.name for r in siblings if r.stride is None]
        raise _Bad(where, f"select = {_toml(text)}: no register beside it has this name"
                   + advice(name, known))  # fmt: skip
    field: Field | None = Field(name, 8 * register.width - 1, 0)
    if part:
        field = next((f for f in register.fields if f.name == part), None)
    if field is None:
        known = [f.name for f in register.fields]
        raise _Bad(where, f"select = {_toml(text)}: {name} has no such field{advice(part, known)}")
    return Selector(register.offset, register.width, field, bank)


def _register(key: str, table: _Table, shared: _Shared) -> Register:
    width = table.number("width", 4)
    if not 1 <= width <= _WIDEST:
        raise _Bad(table.where, f"width = {width}: give bytes from 1 to {_WIDEST}")
    access = table.text("access", "rw")
    if access not in ACCESSES:
        raise _Bad(table.where, f"access = {_toml(access)} is none of {', '.join(ACCESSES)}")
    stride, count = _repeats(table)
    if "offset" not in table:
        raise _Bad(table.where, "it has no offset")
    if stride is not None and stride < width:
        raise _Bad(table.where, f"stride = {stride:#x} is below its width of {width} bytes")
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
    )


def _register_fields(table: _Table, width: int, shared: _Shared) -> tuple[Field, ...]:
    given = table.get("fields", (str, dict), {})
    if isinstance(given, str):
        if given not in shared.fields:
            near = advice(given, shared.fields)
            raise _Bad(table.where, f"fields = {_toml(given)}: there is no [fields.{given}]{near}")
        fields = shared.fields[given]
    else:
        fields = _fields(given, table.where, shared)
    for field in fields:
        if field.high >= 8 * width:
            raise _Bad(
                f"{table.where}, field {field.name}",
                f"bits {field.bits} lie outside its {width} bytes",
            )
    return fields


def _fields(given: Any, where: str, shared: _Shared) -> tuple[Field, ...]:
    if not isinstance(given, dict):
        raise _Bad(where, f"{_toml(given)} is no table of fields")
    found = [_field(name, item, f"{where}, field {name}", shared) for name, item in given.items()]
    found.sort(key=lambda field: field.low)
    for below, above in pairwise(found):
        if above.low <= below.high:
            raise _Bad(
                where,
                f"fields {below.name} [{below.bits}] and {above.name} [{above.bits}] overlap",
            )
    return tuple(found)


def _field(name: str, given: Any, where: str, shared: _Shared) -> Field:
    if not isinstance(given, dict):
        given = {"bits": given}
    table = _Table(given, where, _FIELD_KEYS)
    if "bits" not in table:
        raise _Bad(where, "it has no bits")
    high, low = _bits(table.get("bits", (int, str)), where)
    values = table.get("values", (str, dict), {})
    if isinstance(values, str):
        if values not in shared.values:
            near = advice(values, shared.values)
            raise _Bad(where, f"values = {_toml(values)}: there is no [values.{values}]{near}")
        numbers = shared.values[values]
    else:
        numbers = _values(values, where)
    for number, meaning in numbers.items():
        if number >> high - low + 1:
            bits = high - low + 1
            raise _Bad(where, f"value {number} ({meaning}) is wider than its {bits} bits")
    return Field(name, high, low, table.text("description"), numbers)


def _bits(given: Any, where: str) -> tuple[int, int]:
    high, _, low = str(given).partition(":")
    try:
        last = whole(high, "bit", bits=16)
        first = whole(low, "bit", bits=16) if ":" in str(given) else last
    except UsageError:
        raise _Bad(where, f'bits = {_toml(given)} are none: 3 and "6:4" are') from None
    if last < first:
        raise _Bad(where, f'bits = {_toml(given)} end before they begin: write "{first}:{last}"')
    return last, first


def _values(given: Any, where: str) -> dict[int, str]:
    if not isinstance(given, dict):
        raise _Bad(where, f"{_toml(given)} is no table of values")
    found = {}
    for key, meaning in given.items():
        try:
            number = whole(key)
        except UsageError as error:
            raise _Bad(where, f"value {error}") from None
        if not isinstance(meaning, str) or not meaning:
            raise _Bad(where, f"value {key} = {_toml(meaning)} is no name")
        if number in found:
            raise _Bad(where, f"value {key} is there twice")
        found[number] = meaning
    return found


def _repeats(table: _Table) -> tuple[int | None, int | None]:
    if "stride" not in table:
        if "count" in table:
            raise _Bad(table.where, "count says something only with stride")
        return None, 1
    stride = table.number("stride")
    count = table.number("count") if "count" in table else None
    if stride == 0 or count == 0:
        raise _Bad(table.where, f"{'stride' if stride == 0 else 'count'} = 0 repeats nothing")
    return stride, count


def _check_template(template: str, what: str, stride: int | None, where: str) -> None:
    try:
        shown = placeholders(template)
    except ValueError as error:
        raise _Bad(where, f"{what} {error}") from None
    if stride is None and shown:
        raise _Bad(where, f"{what} {template} has an index, and nothing repeats: give stride")
    if stride is not None and not shown:
        raise _Bad(
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
            raise _Bad(where, f"{below} and {above} overlap at offset {start:#x}")


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


class _Table:
    # A table of the document, which may have these keys and no others.

    def __init__(self, items: Mapping[str, Any], where: str, keys: Sequence[str]) -> None:
        self.where = where
        self._items = items
        for key in items:
            if key not in keys:
                raise _Bad(where, f"unknown key {key}{advice(key, keys)}")

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def get(self, key: str, kind: type | tuple[type, ...], otherwise: Any = None) -> Any:
        if key not in self._items:
            return otherwise
        value = self._items[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _Bad(self.where, f"{key} = {_toml(value)} is no {_KINDS[kind]}")
        return value

    def text(self, key: str, otherwise: str = "") -> str:
        value: str = self.get(key, str, otherwise)
        if not value.isprintable():
            raise _Bad(self.where, f"{key} = {_toml(value)} has characters that cannot be shown")
        return value

    def number(self, key: str, otherwise: int = 0) -> int:
        value: int = self.get(key, int, otherwise)
        if not 0 <= value < 1 << 64:
            raise _Bad(self.where, f"{key} = {value} is below 0 or above 64 bits")
        return value

    def tables(self, key: str) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Any] = self.get(key, dict, {})
        for name, item in found.items():
            if not isinstance(item, dict):
                raise _Bad(self.where, f"{key}.{name} = {_toml(item)} is no table")
            if not name.isprintable() or not name.strip():
                raise _Bad(self.where, f"{key} {name!r} is no name that can be shown")
        return found


_KINDS: dict[Any, str] = {
    str: "text", int: "whole number", list: "array", dict: "table",
    (str, dict): "name or table", (int, str): 'number or text like "6:4"',
}  # fmt: skip


# A value as the reader may have written it, on one line and not too long.
def _toml(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 60 else f"{text[:59]}…"
