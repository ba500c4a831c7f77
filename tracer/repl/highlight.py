"""What is typed, in pieces of a kind each: for colours, whatever draws them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

Piece = Literal[
    "command", "begun", "unknown", "number", "register", "operator", "word", "text", "comment",
    "plain",
]  # fmt: skip

_WORDS = frozenset(("if", "and", "or", "not", "in", "is", "once", "times", "after", "pending"))

_TOKEN = re.compile(
    r"""(?P<comment>(?:(?<=\s)|^)\#.*)
    |(?P<end>;)
    |(?P<text>(?<!\w)(?:"[^"]*"?|'[^']*'?))
    |(?P<register>\$\w+)
    |(?P<number>(?<![\w.])(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[mun]?s)?)(?![\w.]))
    |(?P<word>[A-Za-z_][\w.\#\[\]-]*|\?)
    |(?P<operator>\.\.|==|!=|<=|>=|<<|>>|//|&&|\|\||!~|[-<>~!|^&+*%()=])
    |(?P<plain>\s+|.)""",
    re.VERBOSE,
)


def pieces(
    line: str, judge: Callable[[str], Piece], takes_line: Callable[[str], bool]
) -> Iterator[tuple[Piece, str]]:
    """Yield the pieces of a line, which are all of it.

    ``judge`` tells of a name whether a command has it, one or several begin so, or none does.
    ``takes_line`` tells the commands behind which there is something else: code.
    """
    begins = True
    for match in _TOKEN.finditer(line):
        kind, text = match.lastgroup, match.group()
        if kind == "end":
            begins = True
            yield "operator", text
        elif kind == "word" and begins:
            begins = False
            yield judge(text), text
            if takes_line(text):
                yield "plain", line[match.end() :]
                return
        elif kind == "word":
            yield ("word" if text in _WORDS else "plain"), text
        else:
            begins = begins and text.isspace()
            yield _KINDS[kind or "plain"], text


_KINDS: dict[str, Piece] = {
    "comment": "comment", "text": "text", "register": "register", "number": "number",
    "operator": "operator", "plain": "plain",
}  # fmt: skip
