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
    of it. ``names`` tells whether something goes by a word or a pattern, by default whether one of
    the words is it or fits it. Of a ``growing`` one others may come to be known.
    """

    noun: str
    words: Callable[[], Collection[str]]
    has: Callable[[str], bool] | None = None
    stem: Callable[[str], str] = str
    names: Callable[[str], bool] | None = None
    growing: bool = True

    def lacks(self, text: str) -> str:
        """Return what is wrong with a word, or an empty text where nothing is.

        An empty word stands for what has no name.
        """
        word = self.stem(text)
        if not word or (self.has is not None and self.has(word)):
            return ""
        known = self.words()
        if word in known:
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

    def lacks_named(self, text: str) -> str:
        """Return what is wrong with what follows `is`, or an empty text where something has it."""
        name = self.stem(text)
        known = self.words()
        names = self.names or (lambda name: any(fits(name, each) for each in known))
        if names(name):
            return ""
        if is_pattern(name):
            return f"no {self.noun} is called anything like {name}"
        return f"no {self.noun} is called {name}{advice(name, known)}"


def fits(pattern: str, text: str) -> bool:
    """Tell whether a text is what a person wrote, or fits it as a file name does; none is empty."""
    return bool(text) and (pattern == text or fnmatchcase(text, pattern))


def is_pattern(text: str) -> bool:
    """Tell whether a text stands for more names than itself."""
    return any(sign in text for sign in "*?[")
