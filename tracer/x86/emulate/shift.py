"""Shift and rotate.

Ref: Intel SDM vol. 2B, RCL/RCR/ROL/ROR, SAL/SAR/SHL/SHR, SHLD, SHRD; vol. 2B, RORX, SARX/SHLX/SHRX.
The signature is that of `tracer.x86.emulate.arithmetic`. Counts are masked to 5 bits, or to 6 for
64-bit operands; a count of 0 changes no flag.
"""

from __future__ import annotations

from tracer.x86.emulate import flags as flag
from tracer.x86.emulate.arithmetic import Operation, signed
from tracer.x86.emulate.flags import AF, CF, OF, PF, SF, ZF

COUNTED = frozenset(("shl", "shr", "sar", "rol", "ror", "rcl", "rcr", "shld", "shrd"))
"""Operations whose undefined flags depend on the count."""


def _masked(bits: int, count: int) -> int:
    return count & (63 if bits == 64 else 31)


def _shl(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    count = _masked(bits, count)
    if not count:
        return value, flags
    wide = value << count
    result = wide & ((1 << bits) - 1)
    carry = wide >> bits & 1
    overflow = OF if result >> (bits - 1) != carry else 0
    return result, flag.of_result(bits, result) | (carry and CF) | overflow


def _shr(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    count = _masked(bits, count)
    if not count:
        return value, flags
    result = value >> count
    carry = value >> (count - 1) & 1
    overflow = OF if value >> (bits - 1) else 0
    return result, flag.of_result(bits, result) | (carry and CF) | overflow


def _sar(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    count = _masked(bits, count)
    if not count:
        return value, flags
    number = signed(bits, value)
    result = number >> count & ((1 << bits) - 1)
    return result, flag.of_result(bits, result) | (number >> (count - 1) & 1 and CF)


def _rotated(flags: int, carry: int, overflow: int) -> int:
    # A rotate changes CF and OF alone.
    return flags & ~(CF | OF) | (CF if carry else 0) | (OF if overflow else 0)


def _rol(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    count = _masked(bits, count)
    if not count:
        return value, flags
    count %= bits
    result = (value << count | value >> (bits - count)) & ((1 << bits) - 1)
    carry = result & 1
    return result, _rotated(flags, carry, result >> (bits - 1) ^ carry)


def _ror(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    count = _masked(bits, count)
    if not count:
        return value, flags
    count %= bits
    result = (value >> count | value << (bits - count)) & ((1 << bits) - 1)
    top = result >> (bits - 1)
    return result, _rotated(flags, top, top ^ (result >> (bits - 2) & 1))


def _rcl(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    # The rotation goes through CF: bits + 1 positions.
    count = _masked(bits, count) % (bits + 1)
    if not count:
        return value, flags
    wide = value | (flags & CF) << bits
    wide = (wide << count | wide >> (bits + 1 - count)) & ((1 << bits + 1) - 1)
    carry = wide >> bits
    result = wide & ((1 << bits) - 1)
    return result, _rotated(flags, carry, result >> (bits - 1) ^ carry)


def _rcr(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    count = _masked(bits, count) % (bits + 1)
    if not count:
        return value, flags
    wide = value | (flags & CF) << bits
    wide = (wide >> count | wide << (bits + 1 - count)) & ((1 << bits + 1) - 1)
    result = wide & ((1 << bits) - 1)
    return result, _rotated(flags, wide >> bits, result >> (bits - 1) ^ (result >> (bits - 2) & 1))


def _shld(bits: int, flags: int, value: int, filler: int, count: int) -> tuple[int, int]:
    count = _masked(bits, count)
    if not count:
        return value, flags
    # A 16-bit count above 16 is undefined; filling with the destination again is what CPUs do.
    wide = ((value << bits | filler) << bits | value) << count
    result = wide >> 2 * bits & ((1 << bits) - 1)
    carry = wide >> 3 * bits & 1
    overflow = OF if (result ^ value) >> (bits - 1) & 1 else 0
    return result, flag.of_result(bits, result) | (carry and CF) | overflow


def _shrd(bits: int, flags: int, value: int, filler: int, count: int) -> tuple[int, int]:
    count = _masked(bits, count)
    if not count:
        return value, flags
    wide = (value << bits | filler) << bits | value
    result = wide >> count & ((1 << bits) - 1)
    carry = wide >> (count - 1) & 1
    overflow = OF if (result ^ value) >> (bits - 1) & 1 else 0
    return result, flag.of_result(bits, result) | (carry and CF) | overflow


def _rorx(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    count = _masked(bits, count)
    return (value >> count | value << (bits - count)) & ((1 << bits) - 1), flags


def _shlx(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    return value << _masked(bits, count), flags


def _shrx(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    return value >> _masked(bits, count), flags


def _sarx(bits: int, flags: int, value: int, count: int) -> tuple[int, int]:
    return signed(bits, value) >> _masked(bits, count), flags


def undefined(operation: str, bits: int, count: int) -> int:
    """Return the flags that a shift or rotate by the unmasked ``count`` leaves undefined.

    The table names what is undefined for some count. OF is defined at a masked count of 1; CF of
    SHL and SHR is undefined once the count reaches the width; SHLD and SHRD beyond the width leave
    all flags, and the result, undefined. A count of 0 changes nothing at all.
    """
    count = _masked(bits, count)
    if not count:
        return 0
    mask = 0 if count == 1 else OF
    if operation in ("rol", "ror", "rcl", "rcr"):
        return mask
    if operation in ("shld", "shrd") and count > bits:
        return CF | PF | AF | ZF | SF | OF
    if operation in ("shl", "shr") and count >= bits:
        mask |= CF
    return mask | AF


OPERATIONS: dict[str, Operation] = {
    "shl": _shl,
    "shr": _shr,
    "sar": _sar,
    "rol": _rol,
    "ror": _ror,
    "rcl": _rcl,
    "rcr": _rcr,
    "shld": _shld,
    "shrd": _shrd,
    "rorx": _rorx,
    "shlx": _shlx,
    "shrx": _shrx,
    "sarx": _sarx,
}
"""Operations of this module by the table's ``operation``."""
