"""Arguments that a person's Python gives to a function are held to its annotations."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tracer.errors import UsageError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_SHOWN = 60  # characters of a value


def typed(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return a function that raises UsageError for an argument that is none of its annotation.

    A text where several are taken is refused too, and one with a NUL, which no program takes.
    """
    hints: dict[str, Any] = {}
    known = signature(function)

    @wraps(function)
    def checked(*args: _P.args, **words: _P.kwargs) -> _T:
        __tracebackhide__ = True  # in a test suite a traceback ends in the test
        if not hints:
            hints.update(typing.get_type_hints(function))
        for name, value in known.bind(*args, **words).arguments.items():
            if name in hints and not _fits(value, hints[name]):  # self has none
                shown = repr(value)
                shown = shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"
                takes = known.parameters[name].annotation
                raise UsageError(f"{name} is {shown}, and takes {takes}")
            if _has_nul(value):
                raise UsageError(f"{name} has a NUL, which no name and no program takes")
        return function(*args, **words)

    return checked


def _fits(value: object, hint: Any) -> bool:
    inside = typing.get_args(hint)
    match typing.get_origin(hint) or hint:
        case types.UnionType | typing.Union:
            return any(_fits(value, each) for each in inside)
        case kind if kind is Sequence:
            if not isinstance(value, Iterable) or isinstance(value, str | bytes):
                return False
            # An iterator, which can be gone through once only, is left to the function.
            return isinstance(value, Iterator) or all(_fits(each, inside[0]) for each in value)
        case kind if kind is Callable:
            return callable(value)
        case kind if kind is Path:
            return isinstance(value, os.PathLike)
        case kind if kind is float:
            return isinstance(value, float | int)
        case kind if kind is int or kind is bool:
            return isinstance(value, typing.SupportsIndex)
        case kind:
            return isinstance(value, kind)


def _has_nul(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_nul, value))
    return isinstance(value, str | Path) and "\0" in str(value)
