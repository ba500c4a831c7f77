"""Names that a condition mentions, for whoever knows which there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tracer.query.condition.lexicon import Lexicon


@dataclass(frozen=True, slots=True)
class Mention:
    """Hold a word that a fact is held against with ``==``, ``~`` or ``is``.

    It stands at ``start`` of the text, counted from 0.
    """

    fact: str
    sign: str
    word: str
    start: int

    def wrong(self, known: Mapping[str, Lexicon]) -> str:
        """Return what is wrong with the word, an empty text where nothing is or nobody knows."""
        lexicon = known.get(self.fact)
        if lexicon is None:
            return ""
        match self.sign:
            case "is":
                return lexicon.lacks_named(self.word)
            case "~":
                return lexicon.lacks_like(self.word)
        return lexicon.lacks(self.word)
