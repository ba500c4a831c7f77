"""Conditions that hold together, and which of them make a difference."""

from __future__ import annotations

from tracer.x86.poll.condition import Way
from tracer.x86.poll.conjunction import Conjunction, conjunction, joined, simplified

A, B = Way(1, 1), Way(2, 2)
GONE = Way(0xFFFF_FFFF, 0xFFFF_FFFF)


def of(*ways: Way) -> Conjunction:
    return frozenset(ways)


def test_two_bits_are_one_way() -> None:
    assert joined(of(A, B)) == Way(3, 3)
    assert joined(of(A, B.opposite)) == Way(3, 1)
    assert joined(of(A, GONE.opposite)) == A
    assert joined(of(GONE.opposite)) == GONE.opposite
    assert joined(of(A, A.opposite)) is None and joined(of()) is None


def test_what_is_not_followed_is_no_condition() -> None:
    assert conjunction([None, Way(0, 0), A]) == of(A)


def test_what_leads_out_either_way_makes_no_difference() -> None:
    assert simplified([of(A, B), of(A, B.opposite)]) == [of(A), of(A)]
    assert simplified([of(A), of(A.opposite, B)]) == [of(A), of(B)]
    assert simplified([of(GONE), of(GONE.opposite, A)]) == [of(GONE), of(A)]
    assert simplified([of(A, B)]) == [of(A, B)]
    assert simplified([of(A), of(A.opposite)]) == [of(A), of(A.opposite)]
