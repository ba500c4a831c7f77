"""The place up to which the pieces of a condition have been read, and what is wrong there."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

from tracer.errors import ConditionError, suggestion
from tracer.query.condition.lexeme import Lexeme, lexemes
from tracer.query.condition.node import TYPES, Node
from tracer.query.condition.vocabulary import TEXTS


class Cursor:
    """Go through the pieces of a text from ``start`` on, up to one of ``stops``.

    These are words, a comma or a closing parenthesis.

    Raises ConditionError, with the place in the text.
    """

    def __init__(self, text: str, start: int, stops: Collection[str]) -> None:
        self._text = text
        self._stops = stops
        self._pieces = lexemes(text, start, TEXTS, commas="," in stops)
        self._at = 0

    @property
    def piece(self) -> Lexeme:
        """Return the piece that comes next; the last one has the kind ``end``."""
        return self._pieces[self._at]

    def advance(self) -> Lexeme:
        """Take the piece that comes next, whichever it is; the end stays."""
        piece = self.piece
        self._at += piece.kind != "end"
        return piece

    def take(self, *wanted: str) -> Lexeme | None:
        """Take the piece that comes next if it is one of these operators or words."""
        piece = self.piece
        if piece.kind in ("operator", "word") and piece.value in wanted:
            self._at += 1
            return piece
        return None

    def take_not_in(self) -> Lexeme | None:
        """Take the two words ``not in`` if they come next."""
        following = self._pieces[min(self._at + 1, len(self._pieces) - 1)]
        if self.piece.value == "not" and self.piece.kind == "word" and following.value == "in":
            self._at += 2
            return Lexeme("word", "not in", following.start, following.end)
        return None

    def stops_at(self, piece: Lexeme) -> bool:
        """Tell whether a condition ends before a piece."""
        known = piece.kind in ("word", "operator") and piece.value in self._stops
        return piece.kind == "end" or known

    def shown(self, part: Node | Lexeme) -> str:
        """Return the text of a part, as it was typed."""
        return self._text[part.start : part.end]

    def told(self, node: Node) -> str:
        """Return in words what an expression is: `region` at column 1 is text."""
        return f"`{self.shown(node)}` at column {node.start + 1} is {TYPES[node.type]}"

    def fail(self, position: int, message: str, *, may_come: bool = False) -> NoReturn:
        """Refuse the text for what is at a position."""
        raise ConditionError(
            message, self._text.replace("\t", " "), position + 1, may_come=may_come
        )

    def fail_operator(self, piece: Lexeme) -> NoReturn:
        """Refuse a piece in the place of an operator."""
        shown, column = self.shown(piece), piece.start + 1
        if shown == ")":
            self.fail(piece.start, f") at column {column} closes nothing")
        if shown == "..":
            self.fail(piece.start, f".. at column {column} needs `in`: offset in 0x0..0xff")
        words = ("or", "and", "not", "in", *filter(str.isalpha, self._stops))
        hint = suggestion(shown, words) if piece.kind == "word" else ""
        self.fail(piece.start, f"expected an operator at column {column}, not {shown}{hint}")

    def fail_value(self, piece: Lexeme) -> NoReturn:
        """Refuse a piece in the place of a value."""
        if piece.kind != "end" and piece.value not in self._stops:
            column = piece.start + 1
            self.fail(piece.start, f"expected a value at column {column}, not {self.shown(piece)}")
        before = self._pieces[: self._pieces.index(piece)]
        if not before:
            self.fail(piece.start, "the condition is empty: value & 0xff == 3 is one")
        last = before[-1]
        self.fail(
            piece.start, f"a value is missing after {self.shown(last)} at column {last.start + 1}"
        )
