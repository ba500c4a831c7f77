"""Allow-lists as TOML, for people and their filters, and as an object for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tracer.devices.writing import quoted
from tracer.trace.allowed import Allowed, Seen, Use

_LARGEST = (1 << 63) - 1  # whole number that every reader of TOML takes


def allow_object(allowed: Allowed, traces: Sequence[str]) -> dict[str, Any]:
    """Return an allow-list ready for JSON; numbers that may exceed 2^53 are hex strings."""
    return {
        "traces": list(traces),
        "accesses": allowed.accesses,
        "allow": [_object(use, seen) for use, seen in allowed.uses()],
    }


def allow_text(allowed: Allowed, traces: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a TOML document; a number that its readers may lack is a hex string."""
    yield f"traces = [{', '.join(map(quoted, traces))}]"
    yield f"accesses = {allowed.accesses}"
    for use, seen in allowed.uses():
        yield ""
        yield "[[allow]]"
        for name, value in _members(use, seen):
            yield f"{name} = {_toml(name, value)}"


# The members of an entry, those left out that say nothing.
def _members(use: Use, seen: Seen) -> Iterator[tuple[str, Any]]:
    yield "region", use.region
    if use.space != "memory":
        yield "space", use.space
    if use.space in ("port", "msr"):
        yield use.space, use.number
    elif use.space == "cpuid":
        yield "leaf", use.number & 0xFFFF_FFFF
        yield "subleaf", use.number >> 32
    if use.offset >= 0:
        yield "offset", use.offset
    if use.register:
        yield "register", use.register
    yield "direction", use.direction
    if use.width:
        yield "width", use.width
    yield "accesses", seen.accesses
    if seen.hidden:
        yield "hidden", seen.hidden
    if seen.values is not None:
        yield "values", sorted(seen.values)
    else:
        yield "first", seen.first
        yield "last", seen.last
        yield "bits", seen.ones
    yield "sites", sorted(seen.sites)


_PLAIN = ("accesses", "hidden", "width", "subleaf")


def _toml(name: str, value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int):
        return str(value) if name in _PLAIN else _hex(value)
    return f"[{', '.join(_toml(name, each) for each in _each(value))}]"


def _hex(number: int) -> str:
    return hex(number) if number <= _LARGEST else f'"{number:#x}"'


def _object(use: Use, seen: Seen) -> dict[str, Any]:
    return {
        name: value
        if isinstance(value, str) or name in _PLAIN
        else hex(value)
        if isinstance(value, int)
        else [each if isinstance(each, str) else hex(each) for each in _each(value)]
        for name, value in _members(use, seen)
    }


def _each(value: Iterable[int | str]) -> Iterable[int | str]:
    return value
