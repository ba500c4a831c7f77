"""Expressions as closures: each takes the facts of an access and returns its value."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NoReturn

from tracer.query.condition.vocabulary import Facts

MAX_SHIFT = 1024
"""Largest shift to the left in bits, so that no condition eats the memory."""


class Unknown(Exception):
    """Leave an expression that depends on an unknown fact."""


Run = Callable[[Facts], Any]
"""Evaluate an expression. Raises Unknown, and ConditionError where it has no answer."""


ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "|": operator.or_, "^": operator.xor, "&": operator.and_, "+": operator.add,
    "-": operator.sub, "*": operator.mul,
}  # fmt: skip

COMPARISON: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def among(sign: str, swapped: bool) -> Callable[[Any, Any], bool]:
    """Return ``==`` or ``!=`` of several texts and one: whether it is any of them, or none."""
    wanted = sign == "=="
    if swapped:
        return lambda one, several: (one in several) is wanted
    return lambda several, one: (one in several) is wanted


def careful(sign: str, fail: Callable[[str], NoReturn]) -> Callable[[int, int], int]:
    """Return ``//``, ``%``, ``<<`` or ``>>``; ``fail`` is told why there is no answer."""

    def divide(left: int, right: int) -> int:
        if right == 0:
            fail("division by zero")
        return left // right if sign == "//" else left % right

    def shift(left: int, right: int) -> int:
        if right < 0:
            fail(f"shift by {right} bits")
        if sign == ">>":
            return left >> right
        if right > MAX_SHIFT:
            fail(f"shift by more than {MAX_SHIFT} bits")
        return left << right

    return shift if sign in ("<<", ">>") else divide


def lookup(name: str) -> Run:
    """Return what looks a fact up. Raises Unknown when it is."""

    def look(facts: Facts) -> int | str | tuple[str, ...]:
        fact = facts[name]
        if fact is None:
            raise Unknown
        return fact

    return look


def constantly(value: Any) -> Run:
    """Return what needs no facts."""
    return lambda facts: value


def applied(change: Callable[[int], int], run: Run) -> Run:
    """Return a unary operation."""
    return lambda facts: change(run(facts))


def binary(combine: Callable[[Any, Any], Any], first: Run, second: Run, constant: bool) -> Run:
    """Return a binary operation; a ``constant`` on the right, the usual case, costs no call."""
    if constant:
        known = second({})
        return lambda facts: combine(first(facts), known)
    return lambda facts: combine(first(facts), second(facts))


def chain(compare: list[Callable[[Any, Any], bool]], runs: list[Run]) -> Run:
    """Return comparisons that are joined as Python joins them: ``0 < offset <= 8``."""
    steps = list(zip(compare, runs[1:], strict=True))

    def run(facts: Facts) -> bool:
        left = runs[0](facts)
        for holds, following in steps:
            right = following(facts)
            if not holds(left, right):
                return False
            left = right
        return True

    return run


def between(number: Run, low: Run | None, high: Run | None, wanted: bool) -> Run:
    """Return whether a number is from ``low`` to ``high``, or is not; an end may be open."""

    def run(facts: Facts) -> bool:
        value = number(facts)
        inside = (low is None or low(facts) <= value) and (high is None or value <= high(facts))
        return inside is wanted

    return run


def touching(start: Run, size: Run, low: Run | None, high: Run | None) -> Run:
    """Return whether any of ``size`` numbers from ``start`` on is from ``low`` to ``high``."""

    def run(facts: Facts) -> bool:
        first = start(facts)
        return (high is None or first <= high(facts)) and (
            low is None or low(facts) < first + size(facts)
        )

    return run


def any_of(runs: list[Run]) -> Run:
    """Return whether any part is true; then what is unknown of the others does not matter."""
    return _settled(runs, True)


def all_of(runs: list[Run]) -> Run:
    """Return whether no part is false; one that is decides, whatever is unknown of the others."""
    return _settled(runs, False)


def _settled(runs: list[Run], decisive: bool) -> Run:
    def run(facts: Facts) -> bool:
        unknown = False
        for part in runs:
            try:
                if part(facts) == decisive:
                    return decisive
            except Unknown:
                unknown = True
        if unknown:
            raise Unknown
        return not decisive

    return run
