"""The values in code that follows a read: what of them is the value that was read, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ZERO, ONE = -1, -2
"""Bits of a :class:`Read` that are constant."""

_MASK = (1 << 64) - 1
_MOST_WORDS = 60


@dataclass(frozen=True, slots=True)
class Read:
    """Hold 64 bits that depend on what was read, the lowest first.

    One of 0 or above is the bit of that number, one below -2 the complement of bit ``-3 - bit``.
    None depends on it in a way that is not followed.
    """

    bits: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """Hold a number that is known; ``said`` says where it is from, empty for the code itself."""

    value: int
    said: str = ""


@dataclass(frozen=True, slots=True)
class Other:
    """Stand for a number that is not known; ``said`` says where it is from."""

    said: str = ""


Value = Read | Number | Other

WHOLE = Read(tuple(range(64)))
"""The value that was read, unchanged."""


def inverted(bit: int | None) -> int | None:
    """Return the complement of one bit of a :class:`Read`."""
    return None if bit is None else -3 - bit


def part(value: Value, width: int, shift: int = 0) -> Value:
    """Return ``width`` bytes of a value, from bit ``shift`` on, extended with zeros."""
    size = 8 * width
    if isinstance(value, Number):
        return Number(value.value >> shift & (1 << size) - 1, value.said)
    if isinstance(value, Other) or (shift == 0 and width >= 8):
        return value
    kept = value.bits[shift : shift + size]
    return _simple(kept + (ZERO,) * (64 - len(kept)), "")


def extended(value: Value, width: int) -> Value:
    """Return the low ``width`` bytes of a value, extended with their sign."""
    size = 8 * width
    if isinstance(value, Number):
        low = value.value & (1 << size) - 1
        return Number((low ^ 1 << size - 1) - (1 << size - 1) & _MASK, value.said)
    if isinstance(value, Other):
        return value
    return Read((value.bits[:size] + (value.bits[size - 1],) * 64)[:64])


def merged(old: Value, new: Value, width: int, shift: int = 0) -> Value:
    """Return a register's value once ``width`` bytes of it, below 4, were written."""
    size = 8 * width
    if isinstance(old, Number) and isinstance(new, Number):
        hole = (1 << size) - 1 << shift
        value = old.value & ~hole | (new.value << shift & hole)
        return Number(value, joined(old.said, new.said))
    if isinstance(old, Other) and isinstance(new, Other):
        return Other(joined(old.said, new.said))
    bits = list(bits_of(old))
    bits[shift : shift + size] = bits_of(new)[:size]
    return _simple(tuple(bits), joined(_said(old), _said(new)))


def bits_of(value: Value) -> tuple[int | None, ...]:
    """Return a value's 64 bits; those of a number that is not known are None."""
    match value:
        case Read(bits):
            return bits
        case Number(number):
            return tuple(ONE if number >> bit & 1 else ZERO for bit in range(64))
        case Other():
            return (None,) * 64


def joined(*said: str) -> str:
    """Return what is said of several values, each once, short."""
    words = ", ".join(dict.fromkeys(filter(None, said)))
    return words if len(words) <= _MOST_WORDS else f"{words[: _MOST_WORDS - 1]}…"


def _said(value: Value) -> str:
    return "" if isinstance(value, Read) else value.said


def is_tainted(value: Value) -> bool:
    """Tell whether a value depends on what was read."""
    return isinstance(value, Read)


def _simple(bits: tuple[int | None, ...], said: str) -> Value:
    # Bits none of which is of the read are a number.
    if all(bit in (ZERO, ONE) for bit in bits):
        return Number(sum(1 << at for at, bit in enumerate(bits) if bit == ONE), said)
    return Read(bits)


_NUMBERS: dict[str, Callable[[int, int], int]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "shl": lambda a, b: a << (b & 63),
    "shr": lambda a, b: a >> (b & 63),
    "imul": lambda a, b: a * b,
}

_OF_BITS: dict[str, Callable[[int | None, int], int | None]] = {
    "and": lambda bit, known: bit if known else ZERO,
    "or": lambda bit, known: ONE if known else bit,
    "xor": lambda bit, known: inverted(bit) if known else bit,
}


def combined(operation: str, left: Value, right: Value, width: int) -> Value:
    """Return what an operation on ``width`` bytes makes of two values."""
    left, right = part(left, width), part(right, width)
    if isinstance(left, Number) and isinstance(right, Number) and operation in _NUMBERS:
        made = _NUMBERS[operation](left.value, right.value) & (1 << 8 * width) - 1
        return Number(made, joined(left.said, right.said))
    if not (is_tainted(left) or is_tainted(right)):
        return Other(joined(_said(left), _said(right)))
    if operation in ("and", "or", "xor") and isinstance(left, Number):
        left, right = right, left
    if isinstance(right, Number):
        found = _with_number(operation, bits_of(left), right, width)
        if found is not None:
            return part(_simple(found, right.said), width)
    if operation == "and" and left == right:
        return left
    return Read((None,) * 64)


def _with_number(
    operation: str, bits: Sequence[int | None], number: Number, width: int
) -> tuple[int | None, ...] | None:
    of_bit = _OF_BITS.get(operation)
    if of_bit is not None:
        return tuple(of_bit(bit, number.value >> at & 1) for at, bit in enumerate(bits))
    by = number.value & (63 if width == 8 else 31)
    size = 8 * width
    match operation:
        case "shl":
            return ((ZERO,) * by + tuple(bits))[:64]
        case "shr":
            return tuple(bits[by:size]) + (ZERO,) * (64 - max(size - by, 0))
        case "sar":
            return (tuple(bits[by:size]) + (bits[size - 1],) * 64)[:64]
        case "add" | "sub" if number.value == 0:
            return tuple(bits)
    return None
