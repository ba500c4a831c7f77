"""tracer.host.typed: what a person's Python gives to a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tracer.errors import UsageError
from tracer.host.typed import typed


@typed
@contextmanager
def opened(
    name: Path | str | None = None,
    *,
    several: Sequence[Path | str] = (),
    either: str | Sequence[str] = (),
    number: int | None = None,
    seconds: float | None = None,
    whether: bool = False,
    call: Callable[[str], object] = print,
    anything: object | None = None,
) -> Iterator[list[Any]]:
    """Yield what was given."""
    yield [name, list(several), either, number, seconds, whether, call, anything]


@pytest.mark.parametrize(
    "words",
    [
        {}, {"name": "x"}, {"name": Path("x")}, {"several": ["x", Path("y")]}, {"several": ("x",)},
        {"either": "x"}, {"either": ["x"]}, {"number": 5}, {"seconds": 5}, {"seconds": 0.5},
        {"whether": True}, {"call": len}, {"anything": 5}, {"seconds": None},
    ],
)  # fmt: skip
def test_what_fits_is_taken(words: dict[str, Any]) -> None:
    with opened(**words) as given:
        assert len(given) == 8


class Number:
    """Be a number of somebody's own, as numpy's are."""

    def __index__(self) -> int:
        return 5

    @typed
    def plus(self, other: int) -> int:
        """Return the sum."""
        return self.__index__() + other.__index__()


def test_a_method_takes_numbers_of_any_kind() -> None:
    number: Any = Number()
    assert number.plus(number) == 10
    with pytest.raises(UsageError, match=r"^other is 1\.5, and takes int$"):
        number.plus(1.5)


def test_what_can_be_gone_through_once_is_left_whole() -> None:
    with opened(several=(name for name in "ab")) as given:
        assert given[1] == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"name": 5}, "name is 5, and takes Path | str | None"),
        ({"name": b"x"}, "name is b'x', and takes Path | str | None"),
        ({"several": "x.toml"}, "several is 'x.toml', and takes Sequence[Path | str]"),
        ({"several": None}, "several is None, and takes Sequence[Path | str]"),
        ({"several": ["x", 5]}, "several is ['x', 5], and takes Sequence[Path | str]"),
        ({"either": [5]}, "either is [5], and takes str | Sequence[str]"),
        ({"number": "5"}, "number is '5', and takes int | None"),
        ({"seconds": "5"}, "seconds is '5', and takes float | None"),
        ({"whether": "no"}, "whether is 'no', and takes bool"),
        ({"call": None}, "call is None, and takes Callable[[str], object]"),
        ({"name": "a\0b"}, "name has a NUL, which no name and no program takes"),
        ({"several": ["a\0b"]}, "several has a NUL, which no name and no program takes"),
        ({"number": "9" * 100}, f"number is '{'9' * 58}…, and takes int | None"),
    ],
)
def test_what_does_not_is_told(words: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        opened(**words)
    assert str(caught.value) == why
