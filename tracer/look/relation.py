"""How a result comes from a value that is not known yet, found by trial.

An instruction is executed with many answers in the place of what a device has not said; what
comes out tells which results depend on it, and often exactly how. Single bits, all zeros and all
ones tell every function apart that is named here; one that only differs at some value nobody
tried would be named wrongly, so a caller adds the values that the instruction compares with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Sample = tuple[int, int]
"""What was read, and what came of it; both unsigned."""

_SINGLE_BITS = 128


def trials(bits: int, others: Iterable[int] = ()) -> tuple[int, ...]:
    """Return answers of a number of bits to try: none set, all, one at a time, and ``others``."""
    if bits == 0:
        return (0,)
    ones = (1 << bits) - 1
    if bits == 8:
        return tuple(range(256))
    step = 1 if bits <= _SINGLE_BITS else 8
    singles = [1 << bit for bit in range(0, bits, step)]
    mixed = int.from_bytes(bytes(0x9E + 0x3B * n & 0xFF for n in range((bits + 7) // 8)), "big")
    limits = (ones >> 1, 1 << bits - 1)  # the greatest and the least as signed numbers
    tried = (0, ones, *singles, *limits, mixed, ~mixed, *others)
    return tuple(dict.fromkeys(value & ones for value in tried))


def relation(samples: Sequence[Sample], read_width: int, width: int) -> str | None:
    """Say how a result of ``width`` bytes is made of the ``read_width`` bytes read.

    The words follow "is": ``the 4 bytes read, zero-extended``. None when it is nothing that is
    known here: a product, or a shift.
    """
    noun = read_noun(read_width)
    ones = (1 << 8 * width) - 1
    if all(result == value for value, result in samples):
        return noun if width == read_width else f"{noun}, zero-extended"
    if width > read_width and all(
        result == _signed(value, read_width) & ones for value, result in samples
    ):
        return f"{noun}, sign-extended"
    if width == read_width and all(
        result == int.from_bytes(value.to_bytes(width, "little"), "big")
        for value, result in samples
    ):
        return f"{noun}, in reverse order"
    return _bitwise(samples, noun, ones) or _sum(samples, noun, ones)


def read_noun(width: int) -> str:
    """Return what to call ``width`` bytes that were read."""
    return "the byte read" if width == 1 else f"the {width} bytes read"


def _signed(value: int, width: int) -> int:
    return value - (1 << 8 * width) if value >> 8 * width - 1 else value


def _bitwise(samples: Sequence[Sample], noun: str, ones: int) -> str | None:
    # (value & kept) ^ flipped: every combination with a constant, bit by bit.
    first_value, first = samples[0]
    kept = 0
    for _, result in samples:
        kept |= result ^ first
    if any(result ^ first != (value ^ first_value) & kept for value, result in samples):
        return None
    flipped = first ^ first_value & kept
    if kept == ones:
        return f"{noun}, each bit inverted" if flipped == ones else f"{noun} ^ {flipped:#x}"
    if flipped == 0:
        return f"{noun} & {kept:#x}"
    if kept & flipped:
        return f"({noun} & {kept:#x}) ^ {flipped:#x}"
    if kept | flipped == ones:
        return f"{noun} | {flipped:#x}"
    return f"({noun} & {kept:#x}) | {flipped:#x}"


def _sum(samples: Sequence[Sample], noun: str, ones: int) -> str | None:
    value, result = samples[0]
    addend = result - value & ones
    if all(result == value + addend & ones for value, result in samples):
        negative = (-addend) & ones
        return f"{noun} - {negative:#x}" if negative < addend else f"{noun} + {addend:#x}"
    total = result + value & ones
    if all(result == total - value & ones for value, result in samples):
        return f"{total:#x} - {noun}"
    return None
