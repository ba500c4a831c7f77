"""Compute the status flags of results.

Ref: Intel SDM vol. 1, 3.4.3.1 (status flags). Functions take and return RFLAGS values as plain
integers; which of the bits count is the table's business.
"""

from __future__ import annotations

from tracer.x86.state import Flag

CF, PF, AF, ZF, SF, OF = (
    int(flag) for flag in (Flag.CF, Flag.PF, Flag.AF, Flag.ZF, Flag.SF, Flag.OF)
)

_PARITY = tuple(PF if byte.bit_count() % 2 == 0 else 0 for byte in range(256))


def of_result(bits: int, result: int) -> int:
    """Return SF, ZF and PF of a result of ``bits`` bits."""
    return (SF if result >> (bits - 1) & 1 else 0) | (0 if result else ZF) | _PARITY[result & 0xFF]


def of_sum(bits: int, a: int, b: int, total: int) -> int:
    """Return all six flags of ``total = a + b + carry``, untruncated and not negative."""
    result = total & ((1 << bits) - 1)
    return (
        of_result(bits, result)
        | (total >> bits and CF)
        | ((a ^ b ^ result) & AF)
        | (OF if ((a ^ result) & (b ^ result)) >> (bits - 1) & 1 else 0)
    )


def of_difference(bits: int, a: int, b: int, difference: int) -> int:
    """Return all six flags of ``difference = a - b - borrow``, untruncated."""
    result = difference & ((1 << bits) - 1)
    return (
        of_result(bits, result)
        | (CF if difference < 0 else 0)
        | ((a ^ b ^ result) & AF)
        | (OF if ((a ^ b) & (a ^ result)) >> (bits - 1) & 1 else 0)
    )


def condition(code: int, flags: int) -> bool:
    """Tell whether condition ``code`` holds, 0 to 15 (Intel SDM vol. 1, appendix B)."""
    sign_differs = bool(flags & SF) != bool(flags & OF)
    holds = (
        bool(flags & OF),
        bool(flags & CF),
        bool(flags & ZF),
        bool(flags & (CF | ZF)),
        bool(flags & SF),
        bool(flags & PF),
        sign_differs,
        bool(flags & ZF) or sign_differs,
    )[code >> 1]
    return holds != bool(code & 1)
