"""What a command gives back: a value for programs, and lines for a reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paper:
    """Say what lines are written on: how many characters wide, and whether colours show.

    ``columns`` is None for a file, whose lines are never cut.
    """

    columns: int | None = None
    colour: bool = False

    @property
    def width(self) -> int:
        """Return the columns that a view may use."""
        return self.columns or 120


Lines = Sequence[str] | Callable[[Paper], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Result:
    """Hold a command's ``value``, ready for JSON, and its ``text``, made for the paper at hand.

    ``again`` is what an empty line stands for afterwards, where that is not the same command.
    ``stands`` says that the guest has come to a new stop, which this tells of.
    """

    value: object = None
    text: Lines = ()
    again: str | None = None
    stands: bool = False

    def lines(self, paper: Paper) -> Sequence[str]:
        """Return the lines for a reader."""
        return self.text(paper) if callable(self.text) else self.text


def said(text: str, **value: object) -> Result:
    """Return a result of one line; its value has the line, and what else is given."""
    return Result({"text": text, **value}, (text,))
