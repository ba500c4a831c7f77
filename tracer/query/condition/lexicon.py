"""The words that can stand for a fact which is text: the regions of this guest, its functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tracer.errors import advice

_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Hold what the words are called, and how to find them when they are asked for.

    ``has`` tells whether a word is one of them, where ``words`` are only some: of an array of
    registers the first few. ``stem`` returns the part of a word that is looked for, by default all
    of it. Of a ``growing`` one others may come to be known.
    """

    noun: str
    words: Callable[[], Collection[str]]
    has: Callable[[str], bool] | None = None
    stem: Callable[[str], str] = str
    growing: bool = True

    def lacks(self, text: str) -> str:
        """Return what is wrong with a word, or an empty text where nothing is.

        An empty word stands for what has no name.
        """
        word, known = self.stem(text), self.words()
        if not word or word in known or (self.has is not None and self.has(word)):
            return ""
        return f"no {self.noun} is called {word}{advice(word, known)}"

    def lacks_like(self, text: str) -> str:
        """Return what is wrong with a pattern, or an empty text where it fits a word."""
        pattern = self.stem(text)
        if not is_pattern(pattern):
            return self.lacks(text)
        # The first few of an array stand for all of it.
        wide = pattern if self.has is None else _DIGITS.sub("*", pattern)
        if any(fnmatchcase(name, wide) for name in self.words()):
            return ""
        return f"no {self.noun} is called anything like {pattern}"


def is_pattern(text: str) -> bool:
    """Tell whether a text stands for more names than itself."""
    return any(sign in text for sign in "*?[")
