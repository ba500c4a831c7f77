"""Candidates of a completion as lines for a terminal: with their hints, or in columns.

Nothing here knows a terminal, but for its size in characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tracer.text.printable import cut, printable

MOST = 200
"""How many candidates are listed at most."""

_GAP = 2


@dataclass(frozen=True, slots=True)
class Option:
    """Hold what a word can become, and a hint at what that is."""

    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """Hold what completes a ``word``.

    ``options`` are sorted, the first :data:`MOST` of ``total``. ``shared`` is what all begin with,
    those that are not among the options, too.
    """

    word: str
    options: tuple[Option, ...] = ()
    total: int = 0
    shared: str = ""

    @property
    def left_out(self) -> int:
        """Return how many candidates are not among the options."""
        return self.total - len(self.options)


def found(word: str, names: Sequence[str], hints: Mapping[str, str]) -> Found:
    """Return what completes a word: the ``names``, sorted, and the hints at some of them."""
    options = [Option(name, hints.get(name, "")) for name in names[:MOST]]
    # The first and the last of sorted names differ the earliest.
    common = shared(names[0], names[-1]) if names else ""
    return Found(word, tuple(options), len(names), common)


def ranked(word: str, names: Iterable[str]) -> list[str]:
    """Return those of the names that have a word's letters in their order, what fits best first.

    Names that begin with it come first, then those that have it in one piece, then the others.
    """
    if not word:
        return sorted(names)
    loose = re.compile(".*?".join(map(re.escape, word)), re.IGNORECASE)
    fitting = []
    for name in names:
        match = loose.search(name)
        if match is not None:
            piece = name.casefold().find(word.casefold())
            spread = match.end() - match.start()
            fitting.append((not name.startswith(word), piece < 0, spread, max(piece, 0), name))
    return [name for *_, name in sorted(fitting)]


def shared(first: str, second: str) -> str:
    """Return what two texts begin with, both of them."""
    length = 0
    while length < min(len(first), len(second)) and first[length] == second[length]:
        length += 1
    return first[:length]


def listing(told: Found, columns: int) -> list[str]:
    """Return the options as lines, one a line where there are hints, and how many are left out."""
    names = [printable(option.text) for option in told.options]
    widest = max(map(len, names), default=0)
    if any(option.hint for option in told.options):
        width = min(widest, max(columns // 2, 8))
        lines = [
            cut(f"{name:<{width}}{' ' * _GAP}{printable(option.hint)}".rstrip(), columns)
            for name, option in zip(names, told.options, strict=True)
        ]
    else:
        lines = list(_in_columns(names, widest, columns))
    if told.left_out:
        lines.append(f"… and {told.left_out:,} more: type more of the name")
    return lines


def pages(lines: Sequence[str], rows: int) -> Iterator[Sequence[str]]:
    """Yield as many lines as a terminal of ``rows`` shows with a question below, and the rest."""
    size = max(rows - 1, 1)
    for start in range(0, len(lines), size):
        yield lines[start : start + size]


# Down each column, then on to the next, as ls and readline do.
def _in_columns(names: Sequence[str], widest: int, columns: int) -> Iterator[str]:
    across = max((columns + _GAP) // (widest + _GAP), 1)
    down = -(-len(names) // across)
    for row in range(down):
        yield "".join(f"{name:<{widest + _GAP}}" for name in names[row::down]).rstrip()
