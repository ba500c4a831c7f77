"""Memory as numbers and text, asked for as GDB's ``x`` command does: ``/8xw``.

Ref: GDB manual, 10.6 "Examining Memory".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tracer.errors import UsageError
from tracer.text.colour import paint
from tracer.text.printable import printable

FORMATS = "xduotacsi"
UNITS = {"b": 1, "h": 2, "w": 4, "g": 8}
MOST = 4096
"""Units, strings or instructions that one command may ask for."""
LONGEST_STRING = 200

_SPEC = re.compile(r"/?(\d*)([a-z]*)")


@dataclass(frozen=True, slots=True)
class Spec:
    """Say what to show: how many, in which of :data:`FORMATS`, and a unit's width in bytes."""

    count: int = 1
    format: str = "x"
    width: int = 4

    @property
    def size(self) -> int:
        """Return how many bytes it takes at most; those of instructions are 15 each."""
        each = {"s": LONGEST_STRING, "i": 15}.get(self.format, self.width)
        return self.count * each


def parse_spec(text: str, last: Spec | None = None) -> Spec:
    """Return what ``/8xw`` asks for; what it leaves out is as in ``last``, but the count is 1.

    Raises UsageError for letters that mean nothing, and for a count of 0 or beyond :data:`MOST`.
    """
    last = last or Spec()
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UsageError(f"{text}: give a count, a format and a unit, such as /8xw")
    count = int(match[1][:9] or 1)
    if not 1 <= count <= MOST:
        raise UsageError(f"{text}: the count is from 1 to {MOST}")
    format_, width = "", 0
    for letter in match[2]:
        if letter in UNITS and not width:
            width = UNITS[letter]
        elif letter in FORMATS and not format_:
            format_ = letter
        else:
            raise UsageError(
                f"{text}: {letter!r} does not fit: one format of {' '.join(FORMATS)} and one unit "
                f"of {' '.join(UNITS)}"
            )
    format_ = format_ or last.format
    default = {"a": 8, "c": 1, "s": 1, "i": 1}.get(format_, last.width)
    return Spec(count, format_, (8 if format_ == "a" else width) or default)


@dataclass(frozen=True, slots=True)
class Part:
    """Hold bytes at a linear address; ``data`` is empty and ``why`` in words where unreadable."""

    linear: int
    data: bytes
    why: str | None = None


Lookup = Callable[[int], str | None]


def dump_lines(
    spec: Spec, parts: Sequence[Part], lookup: Lookup, columns: int = 80, colour: bool = False
) -> list[str]:
    """Return lines of numbers, characters or strings, each headed by its linear address.

    Instructions (``i``) are for :func:`tracer.look.code.code_lines`. An incomplete unit at the
    end of a part is told as such.
    """
    lines: list[str] = []
    left = spec.count
    for part in parts:
        if left <= 0:
            break
        if part.why is not None:
            lines.append(f"{_head(part.linear, colour)} {printable(part.why)}")
            continue
        if spec.format == "s":
            for at, text in _strings(part)[:left]:
                lines.append(f"{_head(at, colour)} {text}")
                left -= 1
            continue
        values = _values(spec, part.data)[:left]
        left -= len(values)
        texts = [_text(spec, value, lookup) for value in values]
        widest = max(map(len, texts), default=0)
        fit = max((columns - 20) // (widest + 2), 1)
        across = 1 if spec.format == "a" else 1 << (min(fit, 16).bit_length() - 1)
        for start in range(0, len(texts), across):
            row = "  ".join(text.rjust(widest) for text in texts[start : start + across])
            lines.append(f"{_head(part.linear + start * spec.width, colour)} {row}")
        whole = len(part.data) // spec.width * spec.width
        if left > 0 and whole < len(part.data):
            at = part.linear + whole
            lines.append(f"{_head(at, colour)} only {len(part.data) - whole} bytes readable here")
    return lines


def dump_objects(spec: Spec, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return a JSON-ready object a part: its bytes, or why they cannot be read."""
    return [
        {"linear": hex(part.linear), "bytes": part.data.hex(), "why": part.why} for part in parts
    ]


def _head(linear: int, colour: bool) -> str:
    return paint(f"{linear:#018x}:", "time", colour)


def _values(spec: Spec, data: bytes) -> list[int]:
    width = spec.width
    return [
        int.from_bytes(data[at : at + width], "little")
        for at in range(0, len(data) - width + 1, width)
    ]


def _text(spec: Spec, value: int, lookup: Lookup) -> str:
    bits = 8 * spec.width
    signed = value - (1 << bits) if value >> bits - 1 else value
    match spec.format:
        case "d":
            return str(signed)
        case "u":
            return str(value)
        case "o":
            return f"0{value:o}" if value else "0"
        case "t":
            return f"{value:0{bits}b}"
        case "a":
            name = lookup(value)
            return f"{value:#x}" + (f" <{printable(name)}>" if name else "")
        case "c":
            low = value & 0xFF
            return f"{signed} {repr(bytes([low]))[1:]}"
    return f"{value:#0{2 * spec.width + 2}x}"


def _strings(part: Part) -> list[tuple[int, str]]:
    found, at = [], 0
    while at < len(part.data):
        end = part.data.find(b"\0", at, at + LONGEST_STRING)
        cut = end < 0
        stop = min(at + LONGEST_STRING, len(part.data)) if cut else end
        text = repr(part.data[at:stop])[1:]
        found.append((part.linear + at, text + (" (goes on)" if cut else "")))
        at = stop if cut else end + 1
    return found
