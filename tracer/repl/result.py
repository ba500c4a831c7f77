"""What a command gives back: a value for programs, and lines for a reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracer.text.printable import printable, wrapped


@dataclass(frozen=True, slots=True)
class Screen:
    """Say what lines are written on: how many characters wide, and whether colours show.

    ``columns`` is None for a file, whose lines are never cut.
    """

    columns: int | None = None
    colour: bool = False

    @property
    def width(self) -> int:
        """Return the columns that a view may use."""
        return self.columns or 120


Lines = Sequence[str] | Callable[[Screen], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Result:
    """Hold a command's ``value``, ready for JSON, and its ``text``, made for the screen at hand.

    Lines that are given as they are may hold what was typed or what a guest says: what could steer
    a terminal is escaped in them. Who makes lines for a screen sees to that.

    ``again`` is what an empty line stands for afterwards, where that is not the same command.
    ``stands`` says that the guest has come to a new stop, which this tells of.
    """

    value: object = None
    text: Lines = ()
    again: str | None = None
    stands: bool = False

    def lines(self, screen: Screen) -> Sequence[str]:
        """Return the lines for a reader."""
        if not callable(self.text):
            return plain_lines(self.text, screen)
        return wrapped_lines(self.text(screen), screen)


def plain_lines(lines: Sequence[str], screen: Screen) -> list[str]:
    """Return lines that cannot steer a terminal, none longer than the screen is wide."""
    return wrapped_lines([printable(line) for line in lines], screen)


def wrapped_lines(lines: Sequence[str], screen: Screen) -> list[str]:
    """Return lines none of which is parted within a word where the screen ends."""
    return [part for line in lines for part in wrapped(line, screen.columns)]


def said(text: str, **value: object) -> Result:
    """Return a result of one line; its value has the line, and what else is given."""
    return Result({"text": text, **value}, (text,))
