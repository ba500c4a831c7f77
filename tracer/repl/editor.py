"""A line while it is edited: its colours, and the menu of what its last word can become."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.lexers import Lexer

from tracer.repl.completion import Candidates
from tracer.repl.highlight import Piece, pieces
from tracer.text.printable import printable

STYLES = {
    "command": "bold",
    "begun": "",
    "unknown": "ansired",
    "number": "ansicyan",
    "register": "ansimagenta",
    "operator": "ansiyellow",
    "word": "ansiyellow",
    "text": "ansigreen",
    "comment": "ansibrightblack",
    "auto-suggestion": "ansibrightblack",
    "completion-menu": "bg:ansibrightblack ansiwhite",
    "completion-menu.completion.current": "noinherit reverse",
    "completion-menu.meta.completion": "bg:ansibrightblack ansiwhite",
    "completion-menu.meta.completion.current": "noinherit reverse",
}
"""How pieces of a line look; where there are no colours, only what is bold or reverse shows."""

_HINT = 60  # characters


class Colours(Lexer):
    """Give each piece of a line its style; ``judge`` and ``takes_line`` know the commands."""

    def __init__(self, judge: Callable[[str], Piece], takes_line: Callable[[str], bool]) -> None:
        self._judge = judge
        self._takes_line = takes_line

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        """Return what gives a line its styles, by its number."""
        lines = document.lines

        def line(number: int) -> StyleAndTextTuples:
            try:
                text = lines[number]
            except IndexError:
                return []
            return [
                (f"class:{kind}", text)
                for kind, text in pieces(text, self._judge, self._takes_line)
            ]

        return line


class Menu(Completer):
    """Offer what the last word can become while it is typed, what fits best first."""

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """Yield the completions, with what each of them is."""
        told = self._candidates.near(document.text_before_cursor)
        if [option.text for option in told.options] == [told.word]:
            return
        for option in told.options:
            hint = printable(option.hint)
            yield Completion(
                option.text,
                start_position=-len(told.word),
                display=printable(option.text),
                display_meta=hint if len(hint) <= _HINT else f"{hint[: _HINT - 1]}…",
            )
