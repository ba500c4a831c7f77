"""Convert between the formats of the x87: extended, double, single, and integers.

Ref: Intel SDM vol. 1, 4.2.2, 4.8 (formats, NaNs, rounding), 4.9.1 (exceptions), 8.2 (unsupported
encodings), table 4-4. IEEE 754: tininess is detected after rounding.

Values are the bits of each format as unsigned integers. Results come with the exception flags of
the x87 status word they raise, as if all exceptions were masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

INVALID, DENORMAL, OVERFLOW, UNDERFLOW, PRECISION = 1, 2, 8, 16, 32
"""Exception flags in status word and control word: IE, DE, OE, UE, PE."""

INDEFINITE = 0xFFFF_C000_0000_0000_0000
"""The QNaN that stands for the result of a masked invalid operation, as extended real."""

_BIAS = 16383
_INTEGER_BIT = 1 << 63
_QUIET_BIT = 1 << 62


class Rounding(IntEnum):
    """Name the values of the RC field of the control word."""

    NEAREST = 0
    DOWN = 1
    UP = 2
    ZERO = 3


@dataclass(frozen=True, slots=True)
class Format:
    """Describe a binary interchange format by its field widths in bits."""

    exponent: int
    fraction: int

    @property
    def bias(self) -> int:
        """Return what is added to exponents."""
        return (1 << self.exponent - 1) - 1


FORMATS = {4: Format(8, 23), 8: Format(11, 52)}
"""Single and double precision by width in bytes."""


@dataclass(frozen=True, slots=True)
class Converted:
    """Hold a converted value, the exceptions it raises, and whether rounding went up (C1).

    ``tiny`` tells of a result below the normal numbers. Masked, that is an underflow only when it
    is inexact too; unmasked, always (Intel SDM vol. 1, 4.9.1.5).
    """

    value: int
    exceptions: int = 0
    rounded_up: bool = False
    tiny: bool = False


def widen(width: int, value: int) -> Converted:
    """Convert a single or double of ``width`` bytes to extended: always exact."""
    form = FORMATS[width]
    sign = value >> 8 * width - 1
    top = (1 << form.exponent) - 1
    exponent = value >> form.fraction & top
    fraction = value & (1 << form.fraction) - 1
    significand = fraction << 63 - form.fraction
    exceptions = 0
    if exponent == top:
        extended = 0x7FFF
        if fraction and not significand & _QUIET_BIT:
            exceptions, significand = INVALID, significand | _QUIET_BIT
        significand |= _INTEGER_BIT
    elif exponent:
        extended = exponent - form.bias + _BIAS
        significand |= _INTEGER_BIT
    elif fraction:
        shift = 64 - significand.bit_length()
        extended = 1 - form.bias + _BIAS - shift
        significand <<= shift
        exceptions = DENORMAL
    else:
        extended = 0
    return Converted(sign << 79 | extended << 64 | significand, exceptions)


def from_integer(value: int) -> int:
    """Convert a signed integer of at most 64 bits to extended: always exact."""
    if not value:
        return 0
    magnitude = abs(value)
    length = magnitude.bit_length()
    exponent = _BIAS + length - 1
    return (value < 0) << 79 | exponent << 64 | magnitude << 64 - length


def narrow(width: int, value: int, rounding: Rounding) -> Converted:
    """Convert an extended real to a single or double of ``width`` bytes."""
    form = FORMATS[width]
    top = (1 << form.exponent) - 1
    sign = value >> 79
    signed = sign << 8 * width - 1
    exponent = value >> 64 & 0x7FFF
    significand = value & (1 << 64) - 1
    if unsupported(value):
        return Converted(narrow(width, INDEFINITE, rounding).value, INVALID)
    if exponent == 0x7FFF:
        fraction = (significand & _INTEGER_BIT - 1) >> 63 - form.fraction
        exceptions = 0
        if significand != _INTEGER_BIT:
            exceptions = 0 if significand & _QUIET_BIT else INVALID
            fraction |= 1 << form.fraction - 1
        return Converted(signed | top << form.fraction | fraction, exceptions)
    if not significand:
        return Converted(signed)
    # A denormal has the exponent of the smallest normal number.
    shift = 64 - significand.bit_length()
    power = max(exponent, 1) - _BIAS - shift
    significand <<= shift
    lowest = 1 - form.bias
    # The result rounded to full precision decides about tininess.
    rounded, _, _ = _round(significand, 63 - form.fraction, sign, rounding)
    tiny = power + (rounded >> form.fraction + 1) < lowest
    extra = max(0, lowest - power) if power < lowest else 0
    rounded, inexact, up = _round(significand, min(63 - form.fraction + extra, 66), sign, rounding)
    exceptions = PRECISION if inexact else 0
    if power < lowest:
        if tiny and inexact:
            exceptions |= UNDERFLOW
        return Converted(signed | rounded, exceptions, up, tiny)
    # A carry out of the fraction moves into the exponent by itself.
    result = (power + form.bias - 1 << form.fraction) + rounded
    if result >> form.fraction >= top:
        infinite = rounding is Rounding.NEAREST or rounding is (
            Rounding.DOWN if sign else Rounding.UP
        )
        result = (top << form.fraction) - (0 if infinite else 1)
        return Converted(signed | result, OVERFLOW | PRECISION, infinite)
    return Converted(signed | result, exceptions, up)


def to_integer(width: int, value: int, rounding: Rounding) -> Converted:
    """Convert an extended real to a signed integer of ``width`` bytes (two's complement)."""
    bits = 8 * width
    indefinite = Converted(1 << bits - 1, INVALID)
    exponent = value >> 64 & 0x7FFF
    sign = value >> 79
    if unsupported(value) or exponent - _BIAS > 63:
        return indefinite
    significand = value & (1 << 64) - 1
    drop = 63 - (max(exponent, 1) - _BIAS)
    magnitude, inexact, up = _round(significand, min(drop, 66), sign, rounding)
    if magnitude > (1 << bits - 1) - (0 if sign else 1):
        return indefinite
    number = -magnitude if sign else magnitude
    return Converted(number & (1 << bits) - 1, PRECISION if inexact else 0, up)


def unsupported(value: int) -> bool:
    """Tell pseudo-NaNs, pseudo-infinities and unnormals (Intel SDM vol. 1, table 8-3)."""
    return bool(value >> 64 & 0x7FFF) and not value & _INTEGER_BIT


def tag(value: int) -> int:
    """Return the tag of an extended real: 0 valid, 1 zero, 2 special (SDM vol. 1, 8.1.7)."""
    exponent = value >> 64 & 0x7FFF
    if not value & (1 << 79) - 1:
        return 1
    return 2 if exponent in (0, 0x7FFF) or not value & _INTEGER_BIT else 0


def _round(significand: int, drop: int, sign: int, rounding: Rounding) -> tuple[int, bool, bool]:
    # Drops low bits: the rounded rest, whether anything was lost, whether the magnitude grew.
    kept = significand >> drop
    rest = significand & (1 << drop) - 1
    if not rest:
        return kept, False, False
    half = 1 << drop - 1
    match rounding:
        case Rounding.NEAREST:
            up = rest > half or (rest == half and bool(kept & 1))
        case Rounding.DOWN:
            up = bool(sign)
        case Rounding.UP:
            up = not sign
        case Rounding.ZERO:
            up = False
    return kept + up, True, up
