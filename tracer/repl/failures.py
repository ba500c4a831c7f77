"""Errors of a person's own functions, which vetrace called while nobody of theirs waited."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class Failures:
    """Keep what functions raised that vetrace itself called, until a call of theirs can raise it.

    What serves a guest must not end with a person's function.
    """

    def __init__(self) -> None:
        self._errors: list[BaseException] = []

    def guarded(
        self, function: Callable[[_T], object], leave: Callable[[], object] = lambda: None
    ) -> Callable[[_T], None]:
        """Return a function that calls another, and does no more once that has raised.

        ``leave`` is called then: whoever calls the function can stop.
        """
        failed = False

        def call(value: _T) -> None:
            nonlocal failed
            if failed:
                return
            try:
                function(value)
            except (Exception, SystemExit) as error:
                failed = True
                self._errors.append(error)
                leave()

        return call

    def tell(self) -> None:
        """Raise the oldest error that is kept, if any, and forget it."""
        if self._errors:
            raise self._errors.pop(0)
