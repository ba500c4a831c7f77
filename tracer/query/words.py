"""The flags that choose accesses, as short forms of conditions.

They are those of the command line, and of Python. Each function takes what a person wrote and
returns the condition that it is short for; :exc:`UsageError` is for what cannot be meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict, Unpack

from tracer.errors import ConditionError, UsageError, advice
from tracer.query.condition import Condition, Expression, joined, parse
from tracer.query.condition.lexeme import quoted
from tracer.query.tally import Tally
from tracer.text.number import ends, nanoseconds, open_ends, whole


class Words(TypedDict, total=False):
    """Name the filters of `vetrace show`, written as there; a number may be an int.

    Of several in a sequence each will do.
    """

    region: str | Sequence[str]
    offset: int | str | Sequence[int | str]
    register: str | Sequence[str]
    read: bool
    write: bool
    value: int | str | Sequence[int | str]
    changes: bool
    symbol: str | Sequence[str]
    vcpu: int | Sequence[int]
    time: str | Sequence[str]
    phase: str | Sequence[str]
    from_mark: str
    to_mark: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Say which accesses are wanted: those for which ``condition`` holds, all without one.

    ``flags`` and ``typed`` are its parts: what short forms stand for, and what was written out.
    ``asked`` is what is asked of the accesses that are wanted.
    """

    condition: Condition | None = None
    flags: tuple[Condition, ...] = field(default=(), compare=False)
    typed: tuple[Condition, ...] = field(default=(), compare=False)
    asked: tuple[Expression, ...] = field(default=(), compare=False)

    def tallied(self, tally: Tally) -> Selection:
        """Return those of them that a tally means, with what it asks of them."""
        typed = () if tally.condition is None else (tally.condition,)
        whole = joined([*([] if self.condition is None else [self.condition]), *typed])
        return Selection(whole, self.flags, (*self.typed, *typed), tally.expressions)


def choose(*conditions: str, **words: Unpack[Words]) -> Selection:
    """Return what these conditions and words choose together."""
    return chosen(words, conditions)


def chosen(words: Words, conditions: tuple[str, ...] = ()) -> Selection:
    """Return what conditions and words choose together.

    Raises UsageError, and ConditionError for a condition.
    """
    for name in words:
        if name not in Words.__annotations__:
            raise UsageError(f"there is no filter {name}{advice(name, Words.__annotations__)}")
    if words.get("read") and words.get("write"):
        raise UsageError("no access is a read and a write: choose one")
    flags = [parse(text) for text in _long_forms(words)]
    typed = [_typed(text) for text in conditions]
    # Changes are asked about last, among the accesses that are wanted otherwise.
    changes = [parse("changes")] if words.get("changes") else []
    return Selection(joined([*flags, *typed, *changes]), (*flags, *changes), tuple(typed))


def _typed(text: object) -> Condition:
    if not isinstance(text, str):
        raise UsageError(f"{text!r} is no condition: a text such as 'register == CC' is one")
    condition = parse(text)
    if "count" in condition.names:
        column = text.index("count") + 1
        raise ConditionError("count is of breaks: nothing else counts", text, column)
    return condition


def _long_forms(words: Words) -> list[str]:
    forms = [_any_of(long, words[name]) for name, long in LONG.items() if name in words]  # type: ignore[literal-required]  # its keys are theirs
    for direction in ("read", "write"):
        if words.get(direction):
            forms.append(f"direction == {direction}")
    if "from_mark" in words or "to_mark" in words:
        forms.append(marks(words.get("from_mark"), words.get("to_mark")))
    return forms


def _any_of(long: Callable[[str], str], asked: object) -> str:
    several = asked if isinstance(asked, list | tuple) else (asked,)
    forms = [long(str(each)) for each in several]
    if not forms:
        raise UsageError("a filter that chooses from nothing fits nothing: leave it out")
    return forms[0] if len(forms) == 1 else " or ".join(f"({form})" for form in forms)


def vcpu(text: str) -> str:
    """Return the condition for a vCPU's number, from 0 on."""
    return f"vcpu == {whole(text, 'vCPU')}"


def offset(text: str) -> str:
    """Return the condition for offsets in bytes: ``0x14``, or ``0x14-0x1c``, both included."""
    first, last = ends(text, partial(whole, what="offset", bits=64))
    return f"offset touches {first:#x}..{last:#x}"


def time(text: str) -> str:
    """Return the condition for seconds of guest time: ``0.5-2``, ``0.5-`` or ``-2``."""
    if "-" not in text:
        raise UsageError(f"{text} is no span: 0.5-2, 0.5- and -2 are")
    first, last = open_ends(text, nanoseconds)
    if first is None and last is None:
        return "true"
    return f"time in {_end(first)}..{_end(last)}"


def value(text: str) -> str:
    """Return the condition for values: ``1``, or ``1/0xf`` for 1 in the bits of 0xf."""
    wanted, slash, mask = text.partition("/")
    bits = whole(mask) if slash else (1 << 64) - 1
    if whole(wanted) & ~bits:
        raise UsageError(f"{text} has bits outside its mask: nothing can fit")
    if not slash:
        return f"value == {whole(wanted):#x}"
    return f"value & {bits:#x} == {whole(wanted):#x}"


def marks(first: str | None, last: str | None) -> str:
    """Return the condition for what is behind one mark, and before another after that."""
    from_, to = ("" if text is None else quoted(text) for text in (first, last))
    return f"mark in {from_}..{to}"


def _goes_by(fact: str) -> Callable[[str], str]:
    return lambda text: f"{fact} is {text if _BARE.fullmatch(text) else quoted(text)}"


LONG: Mapping[str, Callable[[str], str]] = {
    "region": _goes_by("region"),
    "offset": offset,
    "symbol": _goes_by("symbol"),
    "phase": _goes_by("phase"),
    "register": _goes_by("register"),
    "value": value,
    "vcpu": vcpu,
    "time": time,
}
"""The condition that a word with a text is short for."""

# Such a name needs no quotes.
_BARE = re.compile(r"(?!not\b)[\w.*?#+\[\]-]+", re.ASCII)


def _end(time_ns: int | None) -> str:
    return "" if time_ns is None else f"{time_ns}ns"
