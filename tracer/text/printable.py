"""Text that a person is shown."""

from __future__ import annotations

import re

# ECMA-48, 8.3.117: select graphic rendition.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# A number stays with what it counts, or with what it means: `1.125060 s`, `7 admin-only`.
_NUMBER = r"(?<!\S)\d+(?:[.,]\d+)*"
_WORD = re.compile(rf"{_NUMBER}\s\S+|\S+")
_PIECE = re.compile(rf"{_NUMBER} \S+|\s+|\S+")

# The text before a line's last column: words, and then more than one blank.
_COLUMNS = re.compile(r"\s*(?:\S+ )*\S+\s{2,}")


def printable(text: str) -> str:
    """Return ``text`` with every character that is not printable escaped as in Python."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def encodable(value: object) -> object:
    """Return a value of JSON whose texts can be written in UTF-8: other bytes are escaped.

    Bytes of the command line that are no text in the locale's encoding are lone surrogates
    (PEP 383).
    """
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {name: encodable(member) for name, member in value.items()}
        case list() | tuple():
            return [encodable(member) for member in value]
        case _:
            return value


def cut(text: str, columns: int) -> str:
    """Return a text in so many columns, with an ellipsis where some of it is left out."""
    return text if len(text) <= columns else f"{text[: max(columns - 1, 0)]}…"


def unparted(text: str) -> list[str]:
    """Return the words of a text between which a line may end, a number with the word after it."""
    return [" ".join(word.split()) for word in _WORD.findall(text)]


def wrapped(line: str, columns: int | None) -> list[str]:
    """Return a line as lines of ``columns`` characters, parted between words; None is no limit.

    What goes on is set below the line's second column if it has one, else a bit to the right. A
    word that is longer than a line stays whole. Colours take no room.
    """
    shown = _COLOUR.sub("", line)
    if columns is None or len(shown) <= columns:
        return [line]
    head = _COLUMNS.match(shown)
    hang = head.end() if head is not None else 0
    if not 0 < hang <= columns // 2:
        hang = min(len(shown) - len(shown.lstrip()) + 2, columns // 2)
    lines, width = [""], 0
    for piece in _PIECE.findall(line):
        size = len(_COLOUR.sub("", piece))
        if width + size > columns and lines[-1].strip() and not piece.isspace():
            lines[-1] = lines[-1].rstrip()
            width = min(hang, max(columns - size, 0))
            lines.append(" " * width)
        lines[-1] += piece
        width += size
    return lines
