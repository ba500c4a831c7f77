"""The prompt on a terminal: what is edited, completed and remembered.

Only here and in what colours, completes, draws and remembers a line is prompt_toolkit.

One prompt is open at a time: a list of candidates and the questions about it come between two
prompts for the same line. Ctrl-C is a key here, as the terminal hands it over while a line is
edited; a signal from elsewhere is handed to the open prompt as that key.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prompt_toolkit import PromptSession
from prompt_toolkit.application.current import get_app_or_none
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER, EditingMode
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import ANSI, AnyFormattedText
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import clear_typeahead, get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.search import stop_search
from prompt_toolkit.styles import Style

from tracer.repl.completion import Candidates
from tracer.repl.dumb import Dumb, is_dumb
from tracer.repl.echo import Echo
from tracer.repl.editor import STYLES, Colours, Menu
from tracer.repl.history import kept
from tracer.repl.listing import Found, listing, pages
from tracer.repl.setting import Settings
from tracer.repl.thread import Stopped
from tracer.text.printable import printable

TEXT = "(vetrace) "

_STYLE = Style.from_dict({"bottom-toolbar": "noinherit reverse"} | STYLES)

_DEFAULT = has_focus(DEFAULT_BUFFER)

_YES = dict.fromkeys(("y", "Y", " "), True)
_NO = dict.fromkeys(("n", "N", "q", "Q"), False)
_MORE = _YES | _NO | dict.fromkeys(("enter", "tab"), True)

# The lines of a terminal that pinned ones leave: for what goes by, what is typed, the toolbar.
_ROOM = 8

_MENU = 6  # lines, of a terminal that has four times as many

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Wanted:
    # A list of candidates is wanted, for a line that is edited further below it.
    found: Found
    line: Document


class Prompt:
    """Ask for lines at a terminal, with what is printed meanwhile above.

    ``on_interrupt`` is called for Ctrl-C and says whether it took care of it; else the line is
    cleared. ``status`` gives the line right above the one that is edited, for so many columns,
    empty for none: it is updated in place. ``text`` is what stands before the line, ``settings``
    how it is edited; ``colours`` tell the pieces of a line apart.
    """

    def __init__(
        self,
        candidates: Candidates,
        toolbar: Callable[[int], str],
        on_interrupt: Callable[[], bool],
        *,
        status: Callable[[int], str] = lambda columns: "",
        text: Callable[[], str] = lambda: TEXT,
        settings: Callable[[], Settings] = Settings,
        colours: Colours | None = None,
        colour: bool = True,
        history: Path | None = None,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._candidates = candidates
        self._on_interrupt = on_interrupt
        self._status = status
        self._text = text
        self._settings = settings
        if output is None and is_dumb():
            output = Dumb()
        self._ends = input, output
        self._echo: Echo | None = None
        self._pasted: deque[str] = deque()
        self._pinned: list[str] = []
        self._late = False
        self._session: PromptSession[str | _Wanted] = PromptSession(
            history=kept(history),
            key_bindings=self._keys(),
            bottom_toolbar=lambda: toolbar(self.columns),
            refresh_interval=0.5,
            style=_STYLE,
            color_depth=None if colour else ColorDepth.DEPTH_1_BIT,
            lexer=colours if colour else None,
            # A suggestion without colours would look like what is typed.
            auto_suggest=AutoSuggestFromHistory() if colour else None,
            completer=Menu(candidates, lambda: self.columns),
            complete_while_typing=Condition(self._has_menu),
            enable_open_in_editor=True,
            tempfile_suffix=".vetrace",
            enable_suspend=True,
            input=input,
            output=output,
        )
        self._plain: PromptSession[str] = PromptSession(
            history=InMemoryHistory(),
            key_bindings=self._plain_keys(),
            enable_suspend=True,
            input=input,
            output=output,
        )

    # ---- asking

    async def ask(self) -> str:
        """Return the next line. Raises EOFError at Ctrl-D on an empty one."""
        self._late = False
        vi = self._settings().editing == "vi"
        self._session.editing_mode = EditingMode.VI if vi else EditingMode.EMACS
        rows = self._session.output.get_size().rows
        self._session.reserve_space_for_menu = min(_MENU, rows // 4)
        answer = await self._line(self._session, self._message, self._text())
        while isinstance(answer, _Wanted):
            await self._list(answer.found)
            answer = await self._open(self._session, self._message, self._text(), answer.line)
        # Pinned text has been printed with the line.
        self._pinned = []
        self._heed_typeahead()
        # An editor gives several lines: none of them is left to be edited once more.
        first, *rest = answer.split("\n")
        if rest:
            self._pasted.extendleft(reversed([*rest, *([] if self._pasted else [""])]))
        return first

    def _has_menu(self) -> bool:
        return not is_dumb()

    # Ctrl-C right behind Enter is for what the line does: it came while the prompt was closed.
    def _heed_typeahead(self) -> None:
        ahead = [*get_typeahead(self._session.input), *self._session.input.read_keys()]
        if self._late or any(key.key == Keys.ControlC for key in ahead):
            self.drop()
            asyncio.get_running_loop().call_soon(self._on_interrupt)
        else:
            store_typeahead(self._session.input, ahead)

    async def ask_plainly(self, text: str) -> str:
        """Return a line that is no command. Raises EOFError at Ctrl-D, Stopped at Ctrl-C."""
        self._late = False
        answer = await self._line(self._plain, self._below_pinned(text), text)
        self._pinned = []
        self._heed_typeahead()
        return answer

    async def confirm(self, question: str) -> bool:
        """Ask for a yes. Ctrl-C and Ctrl-D are no, and a terminal that has gone away is a yes."""
        try:
            answer = await self.ask_plainly(question)
        except Stopped:
            return False
        except EOFError:
            return self._plain.input.closed
        return answer.strip().lower() in ("y", "yes")

    # The next line: of what was pasted, or typed. Only the last that was pasted is edited; those
    # before are shown as if they had been, as keys that are pressed meanwhile are not for them.
    async def _line(
        self, session: PromptSession[_T], text: AnyFormattedText, plain: str
    ) -> _T | str:
        if not self._pasted:
            return await self._open(session, text, plain)
        line = self._pasted.popleft()
        if not self._pasted:
            return await self._open(session, text, plain, Document(line))
        print(f"{plain}{printable(line)}", flush=True)
        session.history.append_string(line)
        return line

    async def _list(self, found: Found) -> None:
        size = self._session.output.get_size()
        sheets = list(pages(listing(found, size.columns), size.rows))
        if len(sheets) > 1:
            count = len(found.options)
            cut = f"{found.total:,} begin so, {count} are listed. " if found.left_out else ""
            question = f"{cut}Display all {count} possibilities? (y or n) "
            if not await self._sure(question, _YES | _NO):
                return
        for number, sheet in enumerate(sheets, 1):
            self._session.output.write_raw("".join(f"{line}\n" for line in sheet))
            self._session.output.flush()
            if number < len(sheets) and not await self._sure("--MORE--", _MORE):
                return

    # A question that one key answers; Ctrl-C and Ctrl-D are no.
    async def _sure(self, question: str, answers: dict[str, bool]) -> bool:
        keys = KeyBindings()

        def answered(answer: bool) -> Callable[[KeyPressEvent], None]:
            return lambda event: event.app.exit(result=answer)

        for key, answer in (answers | dict.fromkeys(("c-c", "c-d", "<sigint>"), False)).items():
            keys.add(key, eager=True)(answered(answer))
        keys.add(Keys.Any)(lambda event: None)
        input, output = self._ends
        session: PromptSession[bool] = PromptSession(
            key_bindings=keys, erase_when_done=True, enable_suspend=True,
            input=input, output=output,
        )  # fmt: skip
        return await self._open(session, question, question)

    # A line is written as it is typed where nothing is drawn.
    async def _open(
        self, session: PromptSession[_T], text: AnyFormattedText, plain: str,
        line: Document | None = None,
    ) -> _T:  # fmt: skip
        if not isinstance(session.output, Dumb):
            return await _open(session, text, line)
        buffer = session.default_buffer
        echo = Echo(plain, self.columns, _written)

        def follow(_: object) -> None:
            echo.follow(buffer.text)

        if line is not None:
            echo.follow(line.text)
        self._echo = echo
        buffer.on_text_changed += follow
        try:
            return await _open(session, text, line)
        finally:
            buffer.on_text_changed -= follow
            self._echo = None
            echo.end()

    # ---- what comes from elsewhere

    def interrupt(self) -> bool:
        """Hand Ctrl-C to the prompt that is open; tell whether one is."""
        app = get_app_or_none()
        if app is None:
            return False
        if app.is_done:
            self._late = True
        else:
            app.key_processor.send_sigint()
        return True

    def drop(self) -> None:
        """Forget what was pasted or typed ahead."""
        self._pasted.clear()
        clear_typeahead(self._session.input)

    @property
    def goes_on(self) -> bool:
        """Tell whether more lines have been pasted than were asked for."""
        return any(line.strip() for line in self._pasted)

    @property
    def columns(self) -> int:
        """Return how wide the terminal is."""
        return self._session.output.get_size().columns

    @property
    def rows(self) -> int:
        """Return how many lines the terminal has."""
        return self._session.output.get_size().rows

    def pin(self, lines: Sequence[str]) -> bool:
        """Keep lines right above the prompt, whatever is printed, until the next line is typed.

        They come below those that are pinned already. Tell whether there is room for them.
        """
        pinned = [*self._pinned, *lines]
        if is_dumb() or len(pinned) > self._session.output.get_size().rows - _ROOM:
            return False
        self._pinned = pinned
        self._session.app.invalidate()
        return True

    def unpin(self) -> Sequence[str]:
        """Return the lines that were pinned, and pin them no more."""
        pinned, self._pinned = self._pinned, []
        return pinned

    def _message(self) -> AnyFormattedText:
        # The status is of this moment: it is no part of what stays on the screen.
        app = self._session.app
        status = "" if app.is_done or is_dumb() else self._status(self.columns)
        return self._below_pinned(f"{status}\n{self._text()}" if status else self._text())

    def _below_pinned(self, text: str) -> AnyFormattedText:
        return ANSI("".join(f"{line}\n" for line in self._pinned) + text)

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Have everything that is printed go above the line that is edited.

        A terminal that cannot move its cursor has no above: there it comes where it comes.
        """
        with contextlib.nullcontext() if is_dumb() else patch_stdout(raw=True):
            yield

    # ---- keys. All are eager: on a terminal that is dumb prompt_toolkit's own would go before.

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c", eager=True)
        @keys.add("<sigint>", eager=True)
        def interrupt(event: KeyPressEvent) -> None:
            self.drop()
            if self._on_interrupt():
                return
            if event.app.layout.is_searching:
                stop_search()
            if self._echo is not None:
                self._echo.drop()
            self._session.default_buffer.reset()

        @keys.add("tab", filter=_DEFAULT, eager=True)
        def complete(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            found = self._candidates.of(buffer.document.text_before_cursor)
            if found.total == 0:
                found = self._candidates.near(buffer.document.text_before_cursor)
            if len(found.options) == 1:
                buffer.delete_before_cursor(len(found.word))
                buffer.insert_text(found.options[0].text)
            elif len(found.shared) > len(found.word):
                buffer.insert_text(found.shared[len(found.word) :])
            elif found.total > 1:
                event.app.exit(result=_Wanted(found, buffer.document))

        keys.add(Keys.BracketedPaste, filter=_DEFAULT, eager=True)(self._paste)
        return keys

    def _plain_keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c", eager=True)
        @keys.add("<sigint>", eager=True)
        def interrupt(event: KeyPressEvent) -> None:
            self.drop()
            event.app.exit(exception=Stopped(), style="class:aborting")

        keys.add(Keys.BracketedPaste, filter=_DEFAULT, eager=True)(self._paste)
        return keys

    # Each line that is pasted is a line that is typed; the last is left to be edited.
    def _paste(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        first, *rest = event.data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if rest:
            rest[-1] += buffer.document.text_after_cursor
            buffer.delete(len(buffer.document.text_after_cursor))
        buffer.insert_text(first)
        if rest:
            self._pasted.extend(rest)
            buffer.validate_and_handle()


def _written(text: str) -> None:
    print(text, end="", flush=True)


async def _open(
    session: PromptSession[_T], text: AnyFormattedText, line: Document | None = None
) -> _T:
    # prompt_toolkit would put a handler of its own in the place of ours for SIGINT and give none
    # back, and stop the session at an error of anything that runs beside.
    return await session.prompt_async(
        text, default=line or "", handle_sigint=False, set_exception_handler=False
    )
