"""Numbers drawn from a seed: the same ones for ever, whatever Python's own generator does.

Ref: G. L. Steele, D. Lea, C. H. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
2014 (SplitMix64).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_MASK = (1 << 64) - 1

T = TypeVar("T")


class Draw:
    """Draw one number after the other; ``seed`` tells which."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def bits(self) -> int:
        """Return a number of 64 bits."""
        self._state = (self._state + 0x9E37_79B9_7F4A_7C15) & _MASK
        z = self._state
        z = (z ^ z >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D0_49BB_1331_11EB & _MASK
        return z ^ z >> 31

    def below(self, end: int) -> int:
        """Return a number from 0 to before ``end``."""
        return self.bits() * end >> 64

    def chance(self, percent: int) -> bool:
        """Return true in so many of a hundred cases."""
        return self.below(100) < percent

    def choice(self, items: Sequence[T]) -> T:
        """Return one of some things."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return things in another order."""
        left, found = list(items), []
        while left:
            found.append(left.pop(self.below(len(left))))
        return found

    def code(self, size: int) -> bytes:
        """Return so many bytes."""
        return b"".join(self.bits().to_bytes(8, "little") for _ in range(size // 8 + 1))[:size]
