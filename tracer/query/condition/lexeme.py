"""The words, numbers and operators of a condition, each with its place in the text."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from tracer.errors import ConditionError
from tracer.text.number import LIKE, duration, is_whole, whole

MAX_LENGTH = 1000
"""Longest text that is read, in characters: a person types less, and a paste is no condition."""

Kind = Literal["number", "text", "word", "register", "operator", "end"]


@dataclass(frozen=True, slots=True)
class Lexeme:
    """Hold one piece of a text, from ``start`` to before ``end``.

    ``value`` is the number, the text without its quotes, or else the piece as it was typed.
    """

    kind: Kind
    value: int | str
    start: int
    end: int


FOREIGN = {
    "=": "== compares",
    "===": "== compares",
    "<>": "!= compares",
    "=>": ">= compares",
    "=<": "<= compares",
    "=~": "~ fits a pattern: symbol ~ nvme_*",
    "/": "// divides whole numbers",
    "**": "<< shifts, * multiplies",
    "@": "there is none like it",
    "?": "`and` and `or` choose",
    ":": "a range is written 0x0..0xff",
    ",": "a range is written 0x0..0xff",
    ".": "a range is written 0x0..0xff",
    "[": "parentheses group",
    "]": "parentheses group",
    "{": "parentheses group",
    "}": "parentheses group",
}
"""Operators that other languages have, and what to write here."""

PIECE = re.compile(
    r"""(?P<number>\d\w*(?:\.\w+)?)
    |(?P<text>"(?:[^"]|"")*"|'(?:[^']|'')*')
    |(?P<register>\$\w*)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<foreign>===|=~|=>|=<|<>|\*\*|=(?!=)|/(?!/)|\.(?!\.)|[@?:,\[\]{}])
    |(?P<operator>\.\.|==|!=|<=|>=|<<|>>|//|&&|\|\||!~|[<>~!|^&+\-*%()])""",
    re.VERBOSE | re.ASCII,
)
"""A piece that stands anywhere."""

BARE = re.compile(r"[A-Za-z_][\w.#:+\-\[\]]*", re.ASCII)
"""A word that a name is compared with, up to a space, parenthesis or operator: nvme.msix-table."""

_NOT = re.compile(r"not(?=\s)")

PATTERN = re.compile(r"[^\s()\"'&|]+")
"""What follows ~ and `is`, up to a space, quote or parenthesis: nvme_*, *.msix-*."""


def lexemes(text: str, start: int, names: Container[str], *, commas: bool = False) -> list[Lexeme]:
    """Return the pieces of a text from ``start`` on; the last one has the kind ``end``.

    ``names`` are those that stand for text: what is compared with one may be written without
    quotes. With ``commas`` a comma is an operator. Raises ConditionError for what is no piece, and
    for a text that is too long.
    """
    shown = "".join(c if c.isprintable() else "?" for c in text.replace("\t", " "))
    if len(text) > MAX_LENGTH:
        message = f"{len(text):,} characters are too long: {MAX_LENGTH:,} are read"
        raise ConditionError(message, f"{shown[:60]}...", 1)
    for column, character in enumerate(text, 1):
        if not (character.isprintable() or character == "\t"):
            message = f"unprintable character {character!a} at column {column}"
            raise ConditionError(message, shown, column)
    found: list[Lexeme] = []
    position = start
    while (position := _next(text, position)) < len(text):
        if commas and text[position] == ",":
            piece = Lexeme("operator", ",", position, position + 1)
        else:
            piece = _unquoted(text, position, found, names) or _piece(text, position)
        if commas and piece.kind == "text" and text[piece.end - 1] == ",":
            # The comma behind a word parts expressions; the names of two registers have one inside.
            piece = Lexeme("text", str(piece.value)[:-1], piece.start, piece.end - 1)
        found.append(piece)
        position = piece.end
    found.append(Lexeme("end", "", len(text), len(text)))
    return found


def quoted(text: str) -> str:
    """Return a text as a condition has it."""
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def _next(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def ends_operand(piece: Lexeme) -> bool:
    """Tell whether an operator may follow."""
    if piece.kind == "word":
        return piece.value not in ("and", "or", "not", "in", "is", "touches")
    return piece.kind in ("number", "text", "register") or piece.value == ")"


def _unquoted(
    text: str, position: int, before: list[Lexeme], names: Container[str]
) -> Lexeme | None:
    if len(before) < 2:
        return None
    operand, operator = before[-2:]
    denied = operand.value == "is" and operator.kind == "word" and operator.value == "not"
    if denied and len(before) > 2:
        operand, operator = before[-3:-1]
    named = operator.kind == "word" and operator.value == "is"
    if named and not denied and _NOT.match(text, position):
        return None
    if (named or operator.value in ("~", "!~")) and ends_operand(operand):
        match = PATTERN.match(text, position)
        return match and Lexeme("text", match[0], position, match.end())
    if operator.value in ("==", "!=") and operand.kind == "word" and operand.value in names:
        match = BARE.match(text, position)
        if match and text[match.end() : match.end() + 1] in ("*", "?"):
            message = f"{operator.value} at column {operator.start + 1} takes no pattern; ~ does"
            raise ConditionError(message, text, operator.start + 1)
        if match and match[0] not in names:
            return Lexeme("text", match[0], position, match.end())
    return None


def _piece(text: str, position: int) -> Lexeme:
    match = PIECE.match(text, position)
    column = position + 1
    if match is None:
        character = text[position]
        if character in "\"'":
            message = f"the text that begins at column {column} has no closing {character}"
            raise ConditionError(message, text, column)
        message = f"no condition has the character {character} at column {column}"
        raise ConditionError(message, text, column)
    shown, end = match[0], match.end()
    match match.lastgroup:
        case "number":
            return Lexeme("number", _number(text, shown, column), position, end)
        case "text":
            # A quote within quotes is doubled.
            inside = shown[1:-1].replace(shown[0] * 2, shown[0])
            return Lexeme("text", inside, position, end)
        case "register":
            return Lexeme("register", shown, position, end)
        case "word":
            return Lexeme("word", shown, position, end)
        case "operator":
            return Lexeme("operator", shown, position, end)
        case _:
            message = f"unknown operator {shown} at column {column}; {FOREIGN[shown]}"
            raise ConditionError(message, text, column)


def _number(text: str, shown: str, column: int) -> int:
    nanoseconds = duration(shown)
    if nanoseconds is not None:
        return nanoseconds
    if is_whole(shown):
        return whole(shown)
    hint = f"a time has a unit: {shown}s" if re.fullmatch(r"\d+\.\d+", shown) else LIKE
    raise ConditionError(f"{shown} at column {column} is no number: {hint}", text, column)
