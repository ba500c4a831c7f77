"""The condition of a jump: whether what was read decides it, and by which of its bits.

Ref: Intel SDM vol. 2A, Jcc and SETcc; vol. 1, appendix B (condition codes).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tracer.x86.poll.value import (
    ONE,
    ZERO,
    Number,
    Other,
    Read,
    Value,
    bits_of,
    inverted,
    is_tainted,
    joined,
)
from tracer.x86.state import GPR


@dataclass(frozen=True, slots=True)
class Way:
    """Say for which values read a condition holds: those whose ``mask`` bits are ``value``.

    Without ``equal`` it is all others. A ``mask`` of 0 stands for a condition that is not followed.
    """

    mask: int
    value: int
    equal: bool = True

    @property
    def opposite(self) -> Way:
        """Return the way of all other values."""
        if self.mask and not self.mask & self.mask - 1:
            return Way(self.mask, self.value ^ self.mask, self.equal)  # of one bit
        return Way(self.mask, self.value, not self.equal)


@dataclass(frozen=True, slots=True)
class Open:
    """Stand for a condition that what was read has no part in; ``said`` says what has."""

    said: str = ""


Found = bool | Way | Open
"""A condition: decided, or decided by the value that was read, or by something else."""


@dataclass(frozen=True, slots=True)
class Flags:
    """Hold what set the flags: ``left`` less ``right`` of ``width`` bytes, or the ``carry``.

    A result alone is one less 0.
    """

    left: Value = field(default_factory=Other)
    right: Value = field(default_factory=lambda: Number(0))
    width: int = 8
    carry: int | None = None


_ALIASES = {
    "z": "e", "nz": "ne", "c": "b", "nae": "b", "nc": "ae", "nb": "ae", "na": "be", "nbe": "a",
    "nge": "l", "nl": "ge", "ng": "le", "nle": "g", "pe": "p", "po": "np",
}  # fmt: skip

CONDITIONS = frozenset(
    ("e", "ne", "b", "ae", "be", "a", "s", "ns", "l", "ge", "le", "g", "o", "no", "p", "np")
)
_OPPOSITES = {"ne": "e", "ae": "b", "a": "be", "ns": "s", "ge": "l", "g": "le"}


def condition_of(suffix: str) -> str | None:
    """Return the condition that a mnemonic's end names, None for what is no condition."""
    code = _ALIASES.get(suffix, suffix)
    return code if code in CONDITIONS else None


def found(condition: str, flags: Flags) -> Found:
    """Return what a condition comes to."""
    if condition in _OPPOSITES:
        return _not(found(_OPPOSITES[condition], flags))
    if flags.carry is not None:
        return _of_bit(flags.carry) if condition == "b" else Way(0, 0)
    left, right = flags.left, flags.right
    if not (is_tainted(left) or is_tainted(right)):
        return _untainted(condition, flags)
    if isinstance(left, Number):
        left, right = right, left
        if condition != "e":
            return Way(0, 0)
    if not isinstance(right, Number):
        return Way(0, 0)
    bits = bits_of(left)[: 8 * flags.width]
    match condition:
        case "e":
            return _equal(bits, right.value)
        case "s" | "l" if right.value == 0:
            return _of_bit(bits[-1])
        case "be" if right.value == 0:
            return _equal(bits, 0)
        case "b" | "be":
            return _below(bits, right.value + (condition == "be"))
    return Way(0, 0)


def _not(it: Found) -> Found:
    match it:
        case bool():
            return not it
        case Way():
            return it.opposite
        case Open():
            return it


def _of_bit(bit: int | None) -> Found:
    # Tells whether a bit is set.
    if bit is None:
        return Way(0, 0)
    if bit in (ZERO, ONE):
        return bit == ONE
    if bit >= 0:
        return Way(1 << bit, 1 << bit)
    number = inverted(bit)
    assert number is not None
    return Way(1 << number, 0)


def _equal(bits: tuple[int | None, ...], number: int) -> Found:
    mask = value = 0
    for at, bit in enumerate(bits):
        wanted = number >> at & 1
        if bit is None:
            return Way(0, 0)
        if bit in (ZERO, ONE):
            if (bit == ONE) != bool(wanted):
                return False
            continue
        if bit < 0:
            bit, wanted = -3 - bit, wanted ^ 1
        if mask >> bit & 1 and value >> bit & 1 != wanted:
            return False
        mask |= 1 << bit
        value |= wanted << bit
    return Way(mask, value) if mask else True


def _below(bits: tuple[int | None, ...], number: int) -> Found:
    # A number below a power of two has none of the bits from there on.
    if not number or number & number - 1:
        return Way(0, 0)
    return _equal((ZERO,) * (number.bit_length() - 1) + bits[number.bit_length() - 1 :], 0)


def _untainted(condition: str, flags: Flags) -> Found:
    left, right = flags.left, flags.right
    words = [each.said for each in (left, right) if not isinstance(each, Read)]
    # A register's name says less than what is in memory, or what a function returns.
    said = joined(*(each for each in words if each not in GPR)) or joined(*words)
    if not isinstance(left, Number) or not isinstance(right, Number) or said:
        return Open(said)
    # Both are constants of the code.
    size = 8 * flags.width
    a, b = left.value & (1 << size) - 1, right.value & (1 << size) - 1
    signed = tuple((each ^ 1 << size - 1) - (1 << size - 1) for each in (a, b))
    match condition:
        case "e":
            return a == b
        case "b":
            return a < b
        case "be":
            return a <= b
        case "s":
            return bool(a - b >> size - 1 & 1)
        case "l":
            return signed[0] < signed[1]
        case "le":
            return signed[0] <= signed[1]
    return Open(said)
