"""How a result comes from what was read, told from samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tracer.look.relation import relation, trials


def told(function: Callable[[int], int], read_width: int, width: int) -> str | None:
    ones = (1 << 8 * width) - 1
    samples = [(value, function(value) & ones) for value in trials(8 * read_width)]
    return relation(samples, read_width, width)


def signed(value: int) -> int:
    return value - 0x100 if value & 0x80 else value


@pytest.mark.parametrize(
    ("function", "read_width", "width", "words"),
    [
        (lambda v: v, 4, 4, "the 4 bytes read"),
        (lambda v: v, 1, 1, "the byte read"),
        (lambda v: v, 4, 8, "the 4 bytes read, zero-extended"),
        (signed, 1, 8, "the byte read, sign-extended"),
        (lambda v: int.from_bytes(v.to_bytes(4, "little"), "big"), 4, 4,
         "the 4 bytes read, in reverse order"),
        (lambda v: v & 0xF0, 4, 4, "the 4 bytes read & 0xf0"),
        (lambda v: v | 0x81, 4, 4, "the 4 bytes read | 0x81"),
        (lambda v: v ^ 0x81, 4, 4, "the 4 bytes read ^ 0x81"),
        (lambda v: ~v, 4, 4, "the 4 bytes read, each bit inverted"),
        (lambda v: v & 0xF0 | 1, 4, 4, "(the 4 bytes read & 0xf0) | 0x1"),
        (lambda v: v & 0xF0 ^ 0x10, 4, 4, "(the 4 bytes read & 0xf0) ^ 0x10"),
        (lambda v: v + 5, 4, 4, "the 4 bytes read + 0x5"),
        (lambda v: v - 5, 8, 8, "the 8 bytes read - 0x5"),
        (lambda v: -v, 4, 4, "0x0 - the 4 bytes read"),
        (lambda v: 7 - v, 4, 4, "0x7 - the 4 bytes read"),
        (lambda v: v << 1, 4, 4, None),
        (lambda v: v * 3, 4, 4, None),
        (lambda v: 0 if v == 1 else v, 4, 4, None),
    ],
)  # fmt: skip
def test_words(
    function: Callable[[int], int], read_width: int, width: int, words: str | None
) -> None:
    assert told(function, read_width, width) == words


def test_a_byte_is_tried_in_full() -> None:
    assert trials(8) == tuple(range(256))
    assert trials(0) == (0,)


def test_trials_are_distinct_and_fit() -> None:
    tried = trials(16, (0x1_0005, 5, -1))
    assert len(set(tried)) == len(tried) and max(tried) == 0xFFFF and min(tried) == 0
    assert {5, 0x8000, 0x7FFF} <= set(tried)
    assert len(trials(512)) < 100
