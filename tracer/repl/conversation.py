"""The person's side of a prompt: a line is asked for, carried out, and answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from tracer.repl.completion import Candidates
from tracer.repl.context import KEPT, Context
from tracer.repl.dumb import is_dumb
from tracer.repl.editor import Colours
from tracer.repl.feed import Meter
from tracer.repl.highlight import Piece
from tracer.repl.history import history_file
from tracer.repl.interpreter import Interpreter
from tracer.repl.order import END, SILENT
from tracer.repl.pager import paged, pager
from tracer.repl.prompt import TEXT, Prompt
from tracer.repl.recording_view import opening_lines, recording_cells
from tracer.repl.result import Screen
from tracer.repl.toolbar import toolbar_cells, toolbar_text
from tracer.text.printable import cut, printable


class Conversation:
    """Carry out what is typed at a ``prompt``, until the person leaves.

    ``stop`` stops what runs, and tells whether there was anything; ``screen`` is the terminal.
    """

    def __init__(
        self,
        context: Context,
        interpreter: Interpreter,
        meter: Meter,
        stop: Callable[[], bool],
        screen: Screen,
    ) -> None:
        self.prompt = Prompt(
            Candidates(context), self._toolbar, self._interrupted, status=self._waiting,
            text=self._text, settings=lambda: context.settings, colour=screen.colour,
            colours=Colours(self._judged, context.commands.takes_line), history=history_file(),
        )  # fmt: skip
        self._context = context
        self._interpreter = interpreter
        self._meter = meter
        self._stop = stop
        context.read_line, context.confirm = self.prompt.ask_plainly, self.prompt.confirm
        context.waits = self._waits

    # A recording is where it is to be in a moment, and Ctrl-C is the prompt's after that.
    @property
    def _waits(self) -> bool:
        return self._context.recorded is not None

    # Ctrl-C at orders that are being typed forgets them.
    def _interrupted(self) -> bool:
        self._context.taking = None
        return self._stop()

    def _text(self) -> str:
        return TEXT if self._context.taking is None else ">"

    def _judged(self, name: str) -> Piece:
        context = self._context
        if name in context.aliases or name in (END, SILENT):
            return "command"
        return context.commands.judge(name)

    async def page(self, lines: Sequence[str]) -> bool:
        """Show an answer that the terminal is too small for by a pager; tell whether so.

        Not while the guest runs, as what goes by would be written over it.
        """
        context, program = self._context, pager()
        if program is None or not context.settings.pager or is_dumb():
            return False
        if context.scripted or context.run.state == "running" or len(lines) < self.prompt.rows:
            return False
        return await paged(lines, program)

    async def run(self) -> None:
        """Ask for lines and carry them out until one of them leaves."""
        context, prompt = self._context, self.prompt
        while not context.leaving:
            try:
                text = await prompt.ask()
            except EOFError:
                text = "quit" if context.taking is None else END
            if text.strip():
                context.typed.append(text.strip())
            # Each pasted line but the last waits, as in a script.
            context.waits = prompt.goes_on or self._waits
            try:
                await self._interpreter.line(text)
            finally:
                context.waits = self._waits
            if context.leaving and not await self._may_leave():
                context.leaving = False

    def interrupt(self) -> None:
        """Take Ctrl-C: it is the open prompt's, else it stops what is carried out."""
        if not self.prompt.interrupt():
            self.prompt.drop()
            self._stop()

    def keeps(self, lines: Sequence[str]) -> bool:
        """Keep an answer at the prompt if the guest runs and there is room; tell whether so."""
        return self._context.run.state in ("running", "detached") and self.prompt.pin(lines)

    async def _may_leave(self) -> bool:
        state = self._context.run.state
        if state == "ended" or self._context.recorded is not None:
            return True
        words = {
            "detached": "The guest still runs, without vetrace; it ends with this session.",
            "running": "The guest is running.",
        }
        question = words.get(state, "The guest has not finished.")
        return await self.prompt.confirm(f"{question} Quit anyway? (y or n) ")

    def banner(self) -> list[str]:
        """Return what a person is told first."""
        if self._context.recorded is not None:
            return opening_lines(self._context.recorded)
        trace = self._context.trace
        kept = (
            f"The trace goes to {trace}."
            if trace
            else f"Nothing is kept without -o TRACE, but the last {KEPT:,} accesses in memory."
        )
        return [
            kept,
            "The guest stands at its kernel's entry.",
            "`continue` lets it go, Ctrl-C stops it, `help` lists the commands.",
        ]

    def _waiting(self, columns: int) -> str:
        # One line has room for the longest wait alone.
        run = self._context.run
        if run.state != "running":
            return ""
        return cut(printable(run.waiting_line(columns - 1)), columns - 1)

    def _toolbar(self, columns: int) -> str:
        context, run = self._context, self._context.run
        if context.recorded is not None:
            return toolbar_text(recording_cells(context.recorded), columns)
        state: str = run.state
        if run.halt is not None:
            state = f"stopped: {run.halt.text}" if columns >= 100 else "stopped"
        accesses = context.summary.accesses
        cells = toolbar_cells(
            state,
            run.time_ns / 1e9,
            accesses,
            self._meter.rate(accesses, monotonic()),
            str(context.trace) if context.trace else None,
            paused=context.feed.paused,
        )
        return toolbar_text(cells, columns)
