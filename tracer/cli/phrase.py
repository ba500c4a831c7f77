"""Texts with blanks on the command line, and the quotes that one went without."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tracer.errors import UsageError

_OPTION = re.compile(r"--?[A-Za-z]|--$")
_GOING_ON = [["and"], ["or"], ["by"], ["if"]]
"""A text behind which such a word comes is not whole, though it reads."""

_MOST_WORDS = 64
"""A text of more words than this is not looked for: a command line may have thousands."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """Be the type of an argument that mostly has blanks: a text as it is.

    ``check`` raises UsageError for what is no such text; without one any text may be meant.
    """

    check: Callable[[str], object] | None = None

    def __call__(self, text: str) -> str:
        """Return the text."""
        return text

    def reads(self, text: str) -> bool:
        """Return whether this surely is such a text."""
        if self.check is None:
            return False
        try:
            self.check(text)
        except UsageError:
            return False
        return True


phrase = Phrase()
"""The type of a text about which no more is known."""


def quoted(
    actions: Sequence[argparse.Action],
    argv: Sequence[str],
    strange: Sequence[str] = (),
    parsed: Callable[[Sequence[str]], argparse.Namespace | None] | None = None,
) -> tuple[list[str], list[str]]:
    """Return the names of the phrases whose quotes are missing, and the words with these joined.

    ``strange`` are the words that nothing takes. ``parsed`` returns what a line means, None where
    it means nothing; without it nothing was wrong so far, and only what surely reads is joined.
    """
    words, names = list(argv), list[str]()
    at = 1
    while at < len(words) and words[at] != "--":
        for start in _starts(actions, words, at):
            end = start.surely(words) or (parsed and start.probably(words, strange, parsed))
            if end:
                words[at:end] = [" ".join(words[at:end])]
                names.append(start.name)
                break
        at += 1
    return names, words


@dataclass(frozen=True, slots=True)
class _Start:
    # A phrase may begin at this word, of which the first characters may be its option.
    name: str
    kind: Phrase
    dest: str
    is_option: bool
    at: int
    glued: int
    limit: int

    def surely(self, words: Sequence[str]) -> int | None:
        # Returns the index behind the longest text that reads, None where that is one word.
        reads = (end for end in self._ends() if self.kind.reads(self._text(words, end)))
        end = next(reads, None)
        return None if end is None or words[end : end + 1] in _GOING_ON else end

    def probably(
        self,
        words: Sequence[str],
        strange: Sequence[str],
        parsed: Callable[[Sequence[str]], argparse.Namespace | None],
    ) -> int | None:
        # Returns the index behind the longest text with which the line means something.
        alone = self._text(words, self.at + 1)
        if " " in alone and self.kind.reads(alone):
            return None
        for end in self._ends():
            text = " ".join(words[self.at : end])
            means = parsed([*words[: self.at], text, *words[end:]])
            if means and (self.is_option or getattr(means, self.dest) == text):
                return end
        is_strange = set(words[self.at + 1 : self.limit]) & set(strange)
        return self.limit if self.is_option and is_strange else None

    def _ends(self) -> Iterable[int]:
        return range(self.limit, self.at + 1, -1)

    def _text(self, words: Sequence[str], end: int) -> str:
        return " ".join(words[self.at : end])[self.glued :]


def _starts(actions: Sequence[argparse.Action], words: Sequence[str], at: int) -> Iterator[_Start]:
    stops = (stop for stop in range(at + 1, len(words)) if _OPTION.match(words[stop]))
    limit = min(next(stops, len(words)), at + _MOST_WORDS)
    option, glued, _ = words[at].partition("=")
    for each in actions:
        kind, options = each.type, each.option_strings
        if not isinstance(kind, Phrase):
            continue
        if words[at - 1] in options:
            yield _Start(words[at - 1], kind, each.dest, True, at, 0, limit)
        elif glued and option in options:
            yield _Start(option, kind, each.dest, True, at, len(option) + 1, limit)
        elif not options and not _OPTION.match(words[at]):
            yield _Start(str(each.metavar), kind, each.dest, False, at, 0, limit)
