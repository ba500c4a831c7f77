"""The prompt on a terminal: what is edited, completed and remembered. Only here is prompt_toolkit.

Ctrl-C is a key here, as the terminal hands it over while a line is edited; a signal from elsewhere
is the shell's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import is_dumb_terminal

from tracer.repl.completion import Candidates

TEXT = "(vetrace) "

_STYLE = Style.from_dict({"bottom-toolbar": "noinherit reverse"})


class Prompt:
    """Ask for lines at a terminal, with what is printed meanwhile above.

    ``on_interrupt`` is called for Ctrl-C and says whether it took care of it; else the line is
    cleared.
    """

    def __init__(
        self,
        candidates: Candidates,
        toolbar: Callable[[int], str],
        on_interrupt: Callable[[], bool],
        *,
        colour: bool = True,
        history: Path | None = None,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._on_interrupt = on_interrupt
        self._history = _history(history)
        self._session: PromptSession[str] = PromptSession(
            completer=_Completer(candidates),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            history=self._history,
            key_bindings=self._keys(),
            bottom_toolbar=lambda: toolbar(self._columns()),
            refresh_interval=0.5,
            style=_STYLE,
            color_depth=None if colour else ColorDepth.DEPTH_1_BIT,
            input=input,
            output=output,
        )
        self._plain: PromptSession[str] = PromptSession(
            history=InMemoryHistory(), key_bindings=None, input=input, output=output
        )

    async def ask(self, text: str = TEXT) -> str:
        """Return the next line. Raises EOFError at Ctrl-D."""
        return await self._session.prompt_async(ANSI(text), handle_sigint=False)

    async def ask_plainly(self, text: str) -> str:
        """Return a line that is no command. Raises EOFError and KeyboardInterrupt."""
        return await self._plain.prompt_async(ANSI(text), handle_sigint=False)

    def clear_line(self) -> None:
        """Forget what is being typed."""
        self._session.default_buffer.reset()
        self._session.app.invalidate()

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Have everything that is printed go above the line that is edited.

        A terminal that cannot move its cursor has no above: there it comes where it comes.
        """
        with contextlib.nullcontext() if is_dumb_terminal() else patch_stdout(raw=True):
            yield

    def _columns(self) -> int:
        return self._session.app.output.get_size().columns

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c")
        @keys.add("<sigint>")
        def interrupt(event: KeyPressEvent) -> None:
            if not self._on_interrupt():
                event.current_buffer.reset()

        return keys


class _Completer(Completer):
    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        word, found = self._candidates.of(document.text_before_cursor)
        for text, hint in found:
            yield Completion(text, start_position=-len(word), display_meta=hint)


class _File(FileHistory):
    # What cannot be written is no error: the history is a convenience.
    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)

    def load_history_strings(self) -> Iterator[str]:
        with contextlib.suppress(OSError):
            yield from super().load_history_strings()


def _history(path: Path | None) -> InMemoryHistory | FileHistory:
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return InMemoryHistory()
    return _File(str(path))


def history_file() -> Path | None:
    """Return where the history is kept: ``$XDG_STATE_HOME/vetrace/history``.

    Ref: XDG Base Directory Specification: ``~/.local/state`` by default, and a path that is not
    absolute is ignored.
    """
    xdg = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(xdg) if xdg.startswith("/") else Path.home() / ".local" / "state"
    except RuntimeError:  # no home
        return None
    return base / "vetrace" / "history"
