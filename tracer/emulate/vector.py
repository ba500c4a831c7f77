"""Moves between memory and XMM registers that are more than a copy.

Ref: Intel SDM vol. 2B, MOVLPS, MOVHPS, MOVDDUP, MOVSLDUP, MOVSHDUP. The signature is that of
`tracer.emulate.arithmetic`; register values are integers of 128 bits.
"""

from __future__ import annotations

from tracer.emulate.arithmetic import Operation

_LOW = (1 << 64) - 1
_EVEN = 0xFFFFFFFF_00000000_FFFFFFFF


def _low_half(bits: int, flags: int, target: int, source: int) -> tuple[int, int]:
    return target & ~_LOW | source, flags


def _high_half(bits: int, flags: int, target: int, source: int) -> tuple[int, int]:
    return target & _LOW | source << 64, flags


def _store_high_half(bits: int, flags: int, source: int) -> tuple[int, int]:
    return source >> 64, flags


def _movddup(bits: int, flags: int, source: int) -> tuple[int, int]:
    return source | source << 64, flags


def _movsldup(bits: int, flags: int, source: int) -> tuple[int, int]:
    even = source & _EVEN
    return even | even << 32, flags


def _movshdup(bits: int, flags: int, source: int) -> tuple[int, int]:
    odd = source >> 32 & _EVEN
    return odd | odd << 32, flags


OPERATIONS: dict[str, Operation] = {
    "low half": _low_half,
    "high half": _high_half,
    "store high half": _store_high_half,
    "movddup": _movddup,
    "movsldup": _movsldup,
    "movshdup": _movshdup,
}
"""Operations of this module by the table's ``operation``."""
