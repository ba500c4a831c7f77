"""Errors of a person's functions are kept until somebody can be told of them."""

from __future__ import annotations

import pytest

from tracer.repl.failures import Failures


def test_a_function_that_raises_is_called_no_more_and_its_error_is_told_once() -> None:
    failures, heard = Failures(), []

    def fails(value: int) -> None:
        heard.append(value)
        if value == 2:
            raise ValueError("two")

    left: list[None] = []
    call = failures.guarded(fails, lambda: left.append(None))
    other = failures.guarded(heard.append)
    for value in (1, 2, 3):
        call(value)
    other(4)
    assert (heard, len(left)) == ([1, 2, 4], 1)
    with pytest.raises(ValueError, match="two"):
        failures.tell()
    failures.tell()


def test_errors_are_told_in_their_order() -> None:
    failures = Failures()
    failures.guarded(lambda _: exec("raise SystemExit(1)"))(None)
    failures.guarded(lambda _: {}["second"])(None)
    with pytest.raises(SystemExit):
        failures.tell()
    with pytest.raises(KeyError, match="second"):
        failures.tell()
