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
