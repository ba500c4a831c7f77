"""Numbers as a person types them: whole ones, sizes, times, and spans of these.

Everything that a person may type is read here, so that a number that one command takes is taken by
all, and is refused in the same words. What is refused is a UsageError of one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tracer.errors import UsageError
from tracer.text.printable import printable

LIKE = "16 and 0x10 are"
"""Examples for whoever typed a number that is none."""

_SPAN = "0x10-0x1f and 0x10..0x1f"

LONGEST = 600  # characters; the widest value, of 512 bits, has 514 of them in binary
_SHOWN = 60

NUMBER = re.compile(r"0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|[0-9](?:_?[0-9])*")
"""A whole number. One underscore may part digits; leading zeros mean nothing: 010 is ten."""

_HEXADECIMAL = re.compile(r"(?:0[xX])?[0-9a-fA-F](?:_?[0-9a-fA-F])*")
TIME = re.compile(r"(?P<whole>[0-9](?:_?[0-9])*)?(?:\.(?P<part>[0-9]*))?(?P<unit>ns|us|ms|s)?")
"""A time; one of its digits must be there."""

_SIZE = re.compile(r"(?P<number>[0-9]+)(?P<unit>[KMGkmg]?)")

_BASES = {"0x": 16, "0b": 2, "0o": 8}
NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
"""The units of a time."""

_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def whole(
    text: str,
    what: str = "number",
    *,
    least: int = 0,
    bits: int | None = None,
    like: str = LIKE,
) -> int:
    """Return a number: decimal, or with 0x, 0o or 0b in front, from ``least`` on.

    ``bits`` is how many can hold it, None for any number. ``what`` is what it should have been,
    and ``like`` shows some that are. Raises UsageError.
    """
    value = _signed(text, what, like)
    if value < least:
        raise UsageError(f"{_shown(text)} is no {what}: it is below {least}")
    if bits is not None and value >> bits:
        raise UsageError(f"{_shown(text)} does not fit in {_room(bits)}")
    return value


def fitting(text: str, bits: int, what: str = "value") -> int:
    """Return a number as ``bits`` hold it, a negative one as its two's complement.

    Raises UsageError for one that does not fit.
    """
    value = _signed(text, what, LIKE)
    if not -(1 << bits - 1) <= value < 1 << bits:
        raise UsageError(f"{_shown(text)} does not fit in {_room(bits)}")
    return value & (1 << bits) - 1


def is_whole(text: str) -> bool:
    """Tell whether a text is written as a number from 0 on is."""
    return len(text) <= LONGEST and NUMBER.fullmatch(text) is not None


def hexadecimal(text: str, what: str = "number") -> int:
    """Return a number that is in hexadecimal with or without 0x. Raises UsageError."""
    if len(text) > LONGEST or _HEXADECIMAL.fullmatch(text) is None:
        raise UsageError(f"{_shown(text)} is no {what}: fee00000 and 0xfee00000 are")
    return int(text, 16)


def byte_size(text: str, what: str = "size") -> int:
    """Return the bytes in a size such as ``512M``, ``2G`` or ``1024`` (MiB, as QEMU has it).

    Raises UsageError.
    """
    found = _SIZE.fullmatch(text) if len(text) <= _SHOWN else None
    if found is None:
        raise UsageError(f"{_shown(text)} is no {what}: 512M and 2G are")
    return int(found["number"]) * _BYTES[found["unit"].upper() or "M"]


def nanoseconds(text: str, what: str = "time", *, like: str = "1.5, 1.5s and 20ms are") -> int:
    """Return the nanoseconds in ``1.5s``, ``20ms``, ``3us``, ``5ns``, or ``1.5``, which is seconds.

    Less than a nanosecond is cut off. Raises UsageError.
    """
    found = _time(text)
    if found is None:
        raise UsageError(f"{_shown(text)} is no {what}: {like}")
    return _scaled(found)


def duration(text: str) -> int | None:
    """Return the nanoseconds in a time that has its unit, or None for any other text."""
    found = _time(text)
    return None if found is None or found["unit"] is None else _scaled(found)


def ends(text: str, read: Callable[[str], int]) -> tuple[int, int]:
    """Return the ends of ``0x10-0x1f`` or ``0x10..0x1f``, both included; one number is both.

    ``read`` reads an end. Raises UsageError, as ``read`` does, and for an end before the beginning.
    """
    first, last = open_ends(text, read)
    if first is None or last is None:
        read(text)  # tells that it is none, but of -0
        raise UsageError(f"{_shown(text)} has one end: {_SPAN} have two")
    return first, last


def open_ends(text: str, read: Callable[[str], int]) -> tuple[int | None, int | None]:
    """Return the ends as :func:`ends` does, None for one that is left out, as in ``0x10-``."""
    first, dash, last = text.replace("..", "-", 1).partition("-")
    low = read(first) if first or not dash else None
    high = low if not dash else read(last) if last else None
    if low is not None and high is not None and high < low:
        raise UsageError(f"{_shown(text)} ends before it begins")
    return low, high


def _signed(text: str, what: str, like: str) -> int:
    digits = text.removeprefix("-")
    if not is_whole(digits):
        raise UsageError(f"{_shown(text)} is no {what}: {like}")
    value = int(digits, _BASES.get(digits[:2].lower(), 10))
    return -value if text.startswith("-") else value


def _time(text: str) -> re.Match[str] | None:
    found = TIME.fullmatch(text) if len(text) <= _SHOWN else None
    return found if found is not None and (found["whole"] or found["part"]) else None


def _scaled(found: re.Match[str]) -> int:
    scale, part = NANOSECONDS[found["unit"] or "s"], found["part"] or ""
    fraction: int = int(part or "0") * scale // 10 ** len(part)
    return int(found["whole"] or "0") * scale + fraction


def _room(bits: int) -> str:
    if bits % 8:
        return f"{bits} bit{'s' * (bits != 1)}"
    return f"{bits // 8} byte{'s' * (bits != 8)}"


def _shown(text: str) -> str:
    if not text:
        return "nothing"
    return printable(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")
