"""A line while it is edited: its colours, and the menu of what its last word can become."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.lexers import Lexer

from tracer.repl.completion import Candidates
from tracer.repl.highlight import Piece, pieces
from tracer.text.printable import cut, printable

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

# prompt_toolkit keeps a column for its scroll bar, and two for blanks around a name or a hint.
_BAR, _AROUND = 1, 2

_HINT = 60  # the most columns of a hint
_LEAST = 12  # the fewest that a hint is worth


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
    """Offer what the last word can become while it is typed, what fits best first.

    Names and hints are cut to the ``columns`` of the terminal, as prompt_toolkit would in its way.
    """

    def __init__(self, candidates: Candidates, columns: Callable[[], int]) -> None:
        self._candidates = candidates
        self._columns = columns

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """Yield the completions, with what each of them is."""
        told = self._candidates.near(document.text_before_cursor)
        if [option.text for option in told.options] == [told.word]:
            return
        names = [printable(option.text) for option in told.options]
        room = self._columns() - _BAR - _AROUND
        hinted = any(option.hint for option in told.options)
        # A name has more of a narrow terminal than its hint.
        widest = min(max(map(len, names), default=0), room * 2 // 3 if hinted else room)
        left = min(room - widest - _AROUND, _HINT)
        for option, name in zip(told.options, names, strict=True):
            yield Completion(
                option.text,
                start_position=-len(told.word),
                display=cut(name, widest),
                display_meta=cut(printable(option.hint), left) if left >= _LEAST else "",
            )
