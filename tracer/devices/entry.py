"""Registers by their names: each with its place, as a person looks it up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as count_from

from tracer.devices.tree import PLACEHOLDER, Field, Group, Register, Selector, expand, plain

_FEW = 8  # of an array, when names are listed


@dataclass(frozen=True, slots=True)
class Entry:
    """Hold a register with its name in full and its place in a region.

    A ``*`` in ``name`` stands for every index of an array; ``offset`` is that of the first, and
    ``repeats`` has stride in bytes and count of each such array, the outermost first; a count of
    None is an array without an end. What a window shows is at the window's offset, and
    ``selector`` names the register, or the field of it, that must have the value ``bank``.
    """

    name: str
    offset: int
    register: Register
    repeats: tuple[tuple[int, int | None], ...] = ()
    selector: str | None = None
    bank: int | None = None


def entries(root: Group) -> Iterator[Entry]:
    """Yield all registers in the order of the file, those of an array as one."""
    for _, path in _paths(root):
        entry = _entry(root, path, ["*"] * sum(len(_shown(item)) for item in path))
        if entry is not None:
            yield entry


def find(root: Group, name: str) -> list[Entry]:
    """Return the registers of a name, whatever its case; a point and a space are alike.

    ``*`` as an index means all of an array.
    """
    wanted = plain(name.strip())
    matches = ((path, pattern.fullmatch(wanted)) for pattern, path in _paths(root))
    found = (_entry(root, path, match.groups()) for path, match in matches if match)
    return [entry for entry in found if entry is not None]


def search(root: Group, fits: Callable[[str], bool]) -> list[Entry]:
    """Return the registers whose names fit, an array as one where all of it does.

    Of an array that does not fit as a whole, the first few are tried.
    """
    found = [entry for entry in entries(root) if fits(entry.name)]
    whole = {id(entry.register) for entry in found}
    some = (entry for name in names(root) if fits(name) for entry in find(root, name))
    return [*found, *(entry for entry in some if id(entry.register) not in whole)]


def names(root: Group) -> Iterator[str]:
    """Yield the names of a region's registers, of arrays the first few; each once."""
    yield from dict.fromkeys(_names(root, ""))


Path = tuple[Register | Group, ...]


# Finds where a path leads with these indices, which are in the order of its placeholders.
def _entry(root: Group, path: Path, said: Sequence[str]) -> Entry | None:
    rest, name, start, parent = list(said), "", 0, root
    repeats: list[tuple[int, int | None]] = []
    window: tuple[Group, int, str] | None = None
    for item in path:
        shown = len(_shown(item))
        texts, rest = rest[:shown], rest[shown:]
        index = _index(item, texts)
        if index is None:
            return None
        name += _told(item, texts, index)
        start += item.offset + index * (item.stride or 0)
        if item.stride is not None and set(texts) == {"*"}:
            repeats.append((item.stride, item.count))
        if isinstance(item, Group):
            if item.selector is not None:
                window, start = (item, start, _selector(parent, item.selector)), 0
            parent = item
    register = path[-1]
    assert isinstance(register, Register)
    if window is None:
        return Entry(name, start, register, tuple(repeats))
    group, at, selector = window
    bank, inside = divmod(start, group.size)
    return Entry(name, at + inside, register, tuple(repeats), selector, bank)


def _template(item: Register | Group) -> str:
    return item.name if isinstance(item, Register) else item.prefix


def _shown(item: Register | Group) -> list[re.Match[str]]:
    return [] if item.stride is None else list(PLACEHOLDER.finditer(_template(item)))


# The first index that is said, None where the array has not that many.
def _index(item: Register | Group, said: Sequence[str]) -> int | None:
    index = 0
    for found, text in zip(_shown(item), said, strict=True):
        number = 0 if text == "*" else int(text, 16 if found["form"] else 10)
        high, low = int(found["high"] or 63), int(found["low"] or 0)
        if number >> high - low + 1:
            return None
        index |= number << low
    return None if item.count is not None and index >= item.count else index


def _told(item: Register | Group, said: Sequence[str], index: int) -> str:
    template = _template(item)
    if item.stride is None:
        return template
    if "*" not in said:
        return expand(template, index)
    texts = iter(said)
    return PLACEHOLDER.sub(lambda _: next(texts), template)


def _selector(parent: Group, selector: Selector) -> str:
    place = selector.offset, selector.width
    register = next(r for r in parent.registers if (r.offset, r.width) == place)
    whole = Field(register.name, 8 * register.width - 1, 0)
    field = selector.field
    return register.name if field == whole else f"{register.name}.{field.name}"


# A pattern for each register's name in full, and the way to it.
def _paths(
    group: Group, before: Path = (), text: str = ""
) -> Iterator[tuple[re.Pattern[str], Path]]:
    for register in group.registers:
        yield re.compile(text + _pattern(register.name, register)), (*before, register)
    for child in group.groups:
        yield from _paths(child, (*before, child), text + _pattern(child.prefix, child))


def _pattern(template: str, item: Register | Group) -> str:
    if item.stride is None:
        return re.escape(plain(template))
    pieces, at = [], 0
    for found in PLACEHOLDER.finditer(template):
        pieces.append(re.escape(plain(template[at : found.start()])))
        pieces.append(r"([0-9a-f]{1,16}|\*)" if found["form"] else r"([0-9]{1,20}|\*)")
        at = found.end()
    return "".join((*pieces, re.escape(plain(template[at:]))))


def _names(group: Group, prefix: str) -> Iterator[str]:
    for register in group.registers:
        yield from (prefix + name for name in _few(register.name, register))
    for child in group.groups:
        for head in _few(child.prefix, child):
            yield from _names(child, prefix + head)


def _few(template: str, item: Register | Group) -> Iterator[str]:
    if item.stride is None:
        yield template
        return
    indices = count_from() if item.count is None else range(item.count)
    yield from (expand(template, index) for _, index in zip(range(_FEW), indices, strict=False))
