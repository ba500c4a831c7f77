"""A playbook: what a coroutine of the engine wants, one after the other, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tracer.access.want import Want

Result = TypeVar("Result")

Step = tuple[Want[Any] | type, Any]
"""What is wanted, as a value or by its kind alone; and the answer. An exception is raised where the
engine waits, a function is called with the want and answers."""


class Cancelled(BaseException):
    """Stand for the cancellation of whoever drives."""


def play(work: Coroutine[Any, Any, Result], *steps: Step) -> Result:
    """Run a coroutine on answers from a list, all of which have to be asked for in that order."""
    left = list(steps)
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            wanted = work.send(answer) if error is None else work.throw(error)
        except StopIteration as stop:
            assert not left, f"not wanted: {left}"
            result: Result = stop.value
            return result
        except BaseException:
            assert not left, f"not wanted: {left}"
            raise
        answer = error = None
        if not left:
            work.close()
            raise AssertionError(f"nobody expected {wanted}")
        expected, told = left.pop(0)
        fits = type(wanted) is expected if isinstance(expected, type) else wanted == expected
        if not fits:
            work.close()
            raise AssertionError(f"expected {expected}, wanted {wanted}")
        try:
            answer = _told(told, wanted)
        except BaseException as raised:
            error = raised


def _told(told: Any, wanted: Want[Any]) -> Any:
    if isinstance(told, BaseException):
        raise told
    if isinstance(told, Callable):  # type: ignore[arg-type]
        return told(wanted)
    return told
