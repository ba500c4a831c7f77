"""Ranges of numbers, some of which are open."""

from __future__ import annotations

import pytest

from tracer.text.span import Span


@pytest.mark.parametrize(
    ("span", "inside", "outside"),
    [
        (Span(2, 4), (2, 3, 4), (1, 5)),
        (Span(2), (2, 1 << 70), (1,)),
        (Span(None, 4), (-1, 4), (5,)),
        (Span(), (0, 1 << 70), ()),
    ],
)
def test_both_ends_are_included(
    span: Span, inside: tuple[int, ...], outside: tuple[int, ...]
) -> None:
    assert all(number in span for number in inside)
    assert not any(number in span for number in outside)


def test_a_part_is_enough_to_meet_it() -> None:
    assert Span(4, 7).meets(0, 5) and Span(4, 7).meets(7, 1) and Span(4).meets(9, 1)
    assert not Span(4, 7).meets(0, 4) and not Span(4, 7).meets(8, 4)
