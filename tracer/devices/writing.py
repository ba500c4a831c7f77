"""Write a register map as the text of a file, which :mod:`tracer.devices.file` reads.

Ref: docs/registers.md, which is the contract; TOML 1.0.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from tracer.devices.tree import Field, Group, Register, expand

_ESCAPED = {"\\": "\\\\", '"': '\\"'}
_SENTENCE = re.compile(r".*?\w{2}[.](?= [A-Z])")
_LONGEST = 72  # characters of a title
_PLACED = 256  # instances of an array that the search for overlaps places, as the parser does


@dataclass(frozen=True, slots=True)
class Described:
    """Hold what a file says of one device's registers; ``name`` is what it calls the device.

    ``left_out`` tells, in words, what of it a register map cannot say.
    """

    name: str
    title: str
    root: Group
    specification: str = ""
    left_out: tuple[str, ...] = ()


def map_text(described: Described, region: str) -> str:
    """Return the text of a file for a region, which may be a glob.

    The members must not overlap: see :func:`settled`.
    """
    lines = [f"title = {quoted(headline(described.title) or described.name)}"]
    if described.specification:
        lines.append(f"specification = {quoted(described.specification)}")
    lines.append(f"applies = [{{ region = {quoted(region)} }}]")
    lines += _members(described.root, "")
    return "".join(f"{line}\n" for line in lines)


def settled(described: Described) -> Described:
    """Return a description in which nothing is where something else is already.

    What comes later is left out, and told in ``left_out``; so is a second of the same name.
    """
    left: list[str] = []
    root = _settled_group(described.root, "", left)
    return replace(described, root=root, left_out=(*described.left_out, *left))


def cleaned(text: str | None) -> str:
    """Return a text on one line, without what cannot be shown."""
    return "".join(char for char in " ".join((text or "").split()) if char.isprintable())


def headline(text: str) -> str:
    """Return the first sentence of a text on one line, cut between words where it is long."""
    first = _SENTENCE.match(text)
    told = first[0] if first is not None else text
    if len(told) <= _LONGEST:
        return told.removesuffix(".")
    cut = told[: _LONGEST - 2]
    return (cut.rpartition(" ")[0] or cut).rstrip(" ,;:") + " …"


def members(group: Group) -> int:
    """Return how many registers are written out for a group, an array being one."""
    return len(group.registers) + sum(map(members, group.groups))


def quoted(text: str) -> str:
    """Return a text as a basic string of TOML; what cannot be shown is left out."""
    return '"' + "".join(_ESCAPED.get(char, char) for char in text if char.isprintable()) + '"'


def settled_fields(
    fields: Sequence[Field], bits: int, where: str
) -> tuple[tuple[Field, ...], list[str]]:
    """Return those fields that lie within ``bits`` and beside each other, and what is left out."""
    kept: list[Field] = []
    left = []
    for field in fields:
        if field.high >= bits:
            left.append(f"{where}.{field.name} lies outside its register")
        elif any(field.low <= other.high and other.low <= field.high for other in kept):
            left.append(f"{where}.{field.name} is where another field is")
        elif any(field.name == other.name for other in kept):
            left.append(f"{where}.{field.name} is there twice")
        else:
            kept.append(field)
    return tuple(kept), left


def _settled_group(group: Group, prefix: str, left: list[str]) -> Group:
    taken: list[tuple[int, int]] = []
    names: set[str] = set()
    registers: list[Register] = []
    groups: list[Group] = []
    for item in sorted(_items(group), key=lambda each: each.offset):
        where = prefix + item.name
        if isinstance(item, Group):
            item = _settled_group(item, f"{where}.", left)
            item = replace(item, size=item.size or _extent(item))
            if not item.registers and not item.groups:
                continue
        spans = list(_spans(item))
        if item.name in names:
            left.append(f"{where} is there twice")
        elif item.stride is not None and item.stride < _size(item):
            left.append(f"{where} is nearer to its next than it is wide")
        elif any(_overlaps(taken, span) for span in spans):
            left.append(f"{where} is where another register is")
        else:
            names.add(item.name)
            for span in spans:
                insort(taken, span)
            if isinstance(item, Group):
                groups.append(item)
            else:
                fields, lost = settled_fields(item.fields, 8 * item.width, where)
                left += lost
                registers.append(replace(item, fields=fields))
    return replace(group, registers=tuple(registers), groups=tuple(groups))


def _items(group: Group) -> list[Register | Group]:
    return [*group.registers, *group.groups]


def _size(item: Register | Group) -> int:
    return item.width if isinstance(item, Register) else item.size


def _extent(group: Group) -> int:
    ends = [0]
    for item in _items(group):
        ends.append(item.offset + ((item.count or 1) - 1) * (item.stride or 0) + _size(item))
    return max(ends)


def _spans(item: Register | Group) -> Iterator[tuple[int, int]]:
    for index in islice(range(item.count or _PLACED), _PLACED):
        start = item.offset + index * (item.stride or 0)
        yield start, start + _size(item)


def _overlaps(taken: list[tuple[int, int]], span: tuple[int, int]) -> bool:
    # They do not overlap each other, so the neighbours tell.
    at = bisect_left(taken, span)
    before = at > 0 and taken[at - 1][1] > span[0]
    return before or (at < len(taken) and taken[at][0] < span[1])


def _members(group: Group, path: str) -> Iterator[str]:
    for register in group.registers:
        yield from _register(register, f"{path}register.{_key(_bare(register.name))}")
    for child in group.groups:
        yield from _group(child, f"{path}group.{_key(child.name)}")


def _group(group: Group, path: str) -> Iterator[str]:
    yield ""
    yield f"[{path}]"
    yield f"offset = {group.offset:#x}"
    usual = f"{group.name}[{{}}]." if group.stride is not None else f"{group.name}."
    if group.prefix != usual:
        yield f"prefix = {quoted(group.prefix)}"
    yield from _repeats(group)
    yield from _members(group, f"{path}.")


def _register(register: Register, path: str) -> Iterator[str]:
    yield ""
    yield f"[{path}]"
    yield f"offset = {register.offset:#x}"
    if register.width != 4:
        yield f"width = {register.width}"
    if register.access != "rw":
        yield f"access = {quoted(register.access)}"
    if register.description:
        yield f"description = {quoted(register.description)}"
    yield from _repeats(register)
    if register.fields:
        yield f"[{path}.fields]"
        for field in sorted(register.fields, key=lambda each: each.low):
            yield f"{_key(field.name)} = {_field(field)}"


def _repeats(item: Register | Group) -> Iterator[str]:
    if item.stride is not None:
        yield f"stride = {item.stride:#x}"
        if item.count is not None:
            yield f"count = {item.count}"


def _field(field: Field) -> str:
    bits = str(field.low) if field.low == field.high else quoted(field.bits)
    if not field.description and not field.values:
        return bits
    members = [f"bits = {bits}"]
    if field.description:
        members.append(f"description = {quoted(field.description)}")
    if field.values:
        told = ", ".join(
            f"{number} = {quoted(meaning)}" for number, meaning in sorted(field.values.items())
        )
        members.append(f"values = {{ {told} }}")
    return f"{{ {', '.join(members)} }}"


# The name that a file gives an array, whose index goes to its end unless it says otherwise.
def _bare(name: str) -> str:
    return name.removesuffix("[{}]")


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else quoted(name)


def expanded(root: Group) -> Iterator[tuple[str, int, Register]]:
    """Yield each register of a tree without windows, with its name in full and its offset."""
    yield from _expanded(root, "", 0)


def _expanded(group: Group, prefix: str, start: int) -> Iterator[tuple[str, int, Register]]:
    for register in group.registers:
        for index in range(register.count or 1):
            name = register.name if register.stride is None else expand(register.name, index)
            yield prefix + name, start + register.offset + index * (register.stride or 0), register
    for child in group.groups:
        for index in range(child.count or 1):
            head = child.prefix if child.stride is None else expand(child.prefix, index)
            at = start + child.offset + index * (child.stride or 0)
            yield from _expanded(child, prefix + head, at)
