"""Split what is typed into statements, and a statement into words.

``;`` parts statements and ``#`` begins a comment, both outside quotes; a ``#`` within a word is a
part of it (``nvme#2``). A quote opens at the beginning of a word or behind an operator, so that an
apostrophe within a word is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tracer.errors import UsageError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*|\S")


@dataclass(frozen=True, slots=True)
class Statement:
    """Hold a command as typed: its ``name``, and the ``rest`` of it without outer blanks."""

    name: str
    rest: str

    def __str__(self) -> str:
        joint = "" if self.rest.startswith("/") else " "
        return f"{self.name}{joint}{self.rest}".strip()

    @property
    def words(self) -> list[str]:
        """Return the rest as words, without their quotes."""
        return words(self.rest)


def statements(
    line: str, takes_line: Callable[[str], bool] = lambda name: False
) -> Iterator[Statement]:
    """Yield the statements of a line.

    ``takes_line`` tells the commands whose argument is all the rest of the line: code, in which
    quotes, ``;`` and ``#`` have a meaning of their own. Raises UsageError for an open quote.
    """
    rest = line.strip()
    while rest:
        match = _NAME.match(rest)
        if match and takes_line(match.group()):
            yield _statement(rest)
            return
        head, rest = _cut(rest)
        if head:
            yield _statement(head)


def words(text: str) -> list[str]:
    """Return the words of ``text``: blanks part them, quotes keep them together.

    Raises UsageError for an open quote.
    """
    found: list[str] = []
    word: str | None = None
    for char, quoted, edge in _scan(text):
        if edge:
            word = word or ""
        elif char.isspace() and not quoted:
            if word is not None:
                found.append(word)
            word = None
        else:
            word = (word or "") + char
    return found if word is None else [*found, word]


def _statement(text: str) -> Statement:
    match = _NAME.match(text)
    assert match is not None  # text is not blank
    return Statement(match.group(), text[match.end() :].strip())


# The first statement of a text, and what follows its `;`.
def _cut(text: str) -> tuple[str, str]:
    before = " "
    for index, (char, quoted, _) in enumerate(_scan(text)):
        if not quoted and char == ";":
            return text[:index].strip(), text[index + 1 :].strip()
        if not quoted and char == "#" and before.isspace():
            return text[:index].strip(), ""
        before = char
    return text.strip(), ""


# Every character, whether a quote holds it, and whether it is such a quote's edge.
def _scan(text: str) -> Iterator[tuple[str, bool, bool]]:
    quote = ""
    before = " "
    for index, char in enumerate(text):
        if quote:
            yield char, True, char == quote
            if char == quote:
                quote = ""
        elif char in "\"'" and not before.isalnum() and before not in "\"'":
            quote, opened = char, index
            yield char, True, True
        else:
            yield char, False, False
        before = char
    if quote:
        raise UsageError(f"the quote {quote} at column {opened + 1} is not closed")
