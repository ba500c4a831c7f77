"""Read the words that choose accesses: those of the command line, and of Python.

Each function takes what a person wrote, and raises :exc:`UsageError` for what cannot be meant.
"""

from __future__ import annotations

from functools import partial
from typing import TypedDict

from tracer.errors import UsageError, advice
from tracer.text.number import ends, nanoseconds, open_ends, whole
from tracer.trace.selection import Match, Selection, Span


class Words(TypedDict, total=False):
    """Name the filters of `vetrace show`, written as there; a number may be an int."""

    region: str
    offset: int | str
    register: str
    read: bool
    write: bool
    value: int | str
    changes: bool
    symbol: str
    vcpu: int
    time: str
    phase: str
    from_mark: str
    to_mark: str


def chosen(words: Words) -> Selection:
    """Return what these words choose."""
    for name in words:
        if name not in Words.__annotations__:
            raise UsageError(f"there is no filter {name}{advice(name, Words.__annotations__)}")
    read, write = words.get("read", False), words.get("write", False)
    if read and write:
        raise UsageError("no access is a read and a write: choose one")
    return Selection(
        region=words.get("region"),
        register=words.get("register"),
        symbol=words.get("symbol"),
        direction="read" if read else "write" if write else None,
        offset=offsets(str(words["offset"])) if "offset" in words else None,
        value=match(str(words["value"])) if "value" in words else None,
        vcpu=vcpu(str(words["vcpu"])) if "vcpu" in words else None,
        time=moments(words["time"]) if "time" in words else None,
        phase=words.get("phase"),
        changes=words.get("changes", False),
        from_mark=words.get("from_mark"),
        to_mark=words.get("to_mark"),
    )


def vcpu(text: str) -> int:
    """Return a vCPU's number, from 0 on."""
    return whole(text, "vCPU")


def offsets(text: str) -> Span:
    """Return offsets in bytes: ``0x14``, or ``0x14-0x1c`` with both ends included."""
    return Span(*ends(text, partial(whole, what="offset", bits=64)))


def moments(text: str) -> Span:
    """Return nanoseconds of guest time from seconds: ``0.5-2``, ``0.5-`` or ``-2``."""
    if "-" not in text:
        raise UsageError(f"{text} is no span: 0.5-2, 0.5- and -2 are")
    return Span(*open_ends(text, nanoseconds))


def match(text: str) -> Match:
    """Return which values are meant: ``1``, or ``1/0xf`` for those with 1 in the bits of 0xf."""
    value, slash, mask = text.partition("/")
    wanted = Match(whole(value), whole(mask)) if slash else Match(whole(value))
    if wanted.value & ~wanted.mask:
        raise UsageError(f"{text} has bits outside its mask: nothing can fit")
    return wanted
