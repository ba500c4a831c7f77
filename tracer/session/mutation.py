"""Values drawn from a seed, for accesses that a campaign mutates.

Everything follows from the seed and from the number of the access among those that fit: the same
guest gets the same values in each run. Which accesses are hit is drawn too: a seed takes either one
access out of the first hundred or so, early ones more often, or a share of all of them.

Ref: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (OOPSLA 2014), for the
mixing of bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tracer.access.decision import Refuse
from tracer.session.own_host import OwnHost, refuse
from tracer.trace.flat import Access

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E37_79B9_7F4A_7C15

_REFUSED = 8
"""A confidential guest's accesses that are hit are refused once in so many."""

Kind = Literal["ones", "zero", "flip", "boundary", "random"]
KINDS: tuple[Kind, ...] = ("ones", "zero", "flip", "flip", "boundary", "random")
"""The ways to change a value, each as likely as it is often here."""

MOST_BITS = 7
"""An access that is hit alone is among the first two to the power of this."""

_SHARES = (2, 8, 32)


def draw(seed: int, *numbers: int) -> int:
    """Return 64 bits that a seed and numbers choose, alike for like ones."""
    state = seed & _WORD
    for number in numbers:
        state = _mixed(state + _GOLDEN * (number + 1))
    return _mixed(state + _GOLDEN)


def _mixed(word: int) -> int:
    word &= _WORD
    word = (word ^ word >> 30) * 0xBF58_476D_1CE4_E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D0_49BB_1331_11EB & _WORD
    return word ^ word >> 31


@dataclass(frozen=True, slots=True)
class Aimed:
    """Say which accesses a seed hits: the one number ``only``, or else one out of ``share``."""

    seed: int
    only: int | None
    share: int = 1

    def hits(self, number: int) -> bool:
        """Tell whether the access with a number, from 0 on, is hit."""
        if self.only is not None:
            return number == self.only
        return draw(self.seed, 2, number) % self.share == 0


def aim(seed: int) -> Aimed:
    """Return which accesses a seed hits: half of all seeds hit a single one."""
    if draw(seed, 0) & 1:
        bits = draw(seed, 1) % (MOST_BITS + 1)
        return Aimed(seed, draw(seed, 1, 1) % (1 << bits))
    return Aimed(seed, None, _SHARES[draw(seed, 1) % len(_SHARES)])


def mutated(seed: int, number: int, value: int, width: int) -> int:
    """Return what a seed makes of the value of the access with a number; width in bytes.

    It is another value, of that width.
    """
    bits, last = 8 * width, (1 << 8 * width) - 1
    kind = KINDS[draw(seed, 3, number) % len(KINDS)]
    chosen = draw(seed, 4, number)
    match kind:
        case "ones":
            found = last
        case "zero":
            found = 0
        case "flip":
            found = value ^ 1 << chosen % bits
        case "boundary":
            edges = boundaries(bits)
            found = edges[chosen % len(edges)]
        case "random":
            found = draw(seed, 5, number) & last
    return found if found != value else value ^ 1 << chosen % bits


def boundaries(bits: int) -> tuple[int, ...]:
    """Return numbers of so many bits at whose like code goes wrong: around signs, powers, ends."""
    last, sign = (1 << bits) - 1, 1 << bits - 1
    pages = (0xFFF, 0x1000, 0xFFFF, 0x10000)
    around = (1, 2, sign - 1, sign, sign + 1, last - 1)
    return tuple(dict.fromkeys(number for number in (*around, *pages) if number <= last))


class Mutation:
    """Mutate the accesses of one guest that come to it, as a host that is written in Python.

    A ``confidential`` guest is refused some.
    """

    def __init__(self, seed: int, *, confidential: bool = False) -> None:
        self.met = 0
        self._seed = seed
        self._aim = aim(seed)
        self._confidential = confidential

    def mmio(self, access: Access) -> int | Refuse | None:
        """Return what becomes of the next access, None for one that is not hit."""
        number, self.met = self.met, self.met + 1
        if access.value is None or not self._aim.hits(number):
            return None
        if self._confidential and draw(self._seed, 6, number) % _REFUSED == 0:
            return refuse
        return mutated(self._seed, number, access.value, access.width)


def mutating_host(seed: int, pattern: str, *, confidential: bool = False) -> OwnHost:
    """Return a host that mutates the accesses that a pattern chooses."""
    mutation = Mutation(seed, confidential=confidential)
    return OwnHost(f"seed {seed}", "--mutate", mutation.mmio, None, (pattern,))
