"""The life of a prompt or a script on one guest: from its kernel's entry to its end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal

import msgspec

from tracer.control import Control, Halt
from tracer.errors import TracerError, UsageError
from tracer.fold import Event
from tracer.naming import Naming
from tracer.render import access_object
from tracer.repl.commands import command_table
from tracer.repl.commands.look import plan_at
from tracer.repl.commands.script import load
from tracer.repl.completion import Candidates
from tracer.repl.desk import KEPT, Desk
from tracer.repl.feed import LINES_PER_SECOND, Feed, Item, Meter
from tracer.repl.interpreter import FAILED, MISUSED, Interpreter
from tracer.repl.interruption import Interruption
from tracer.repl.paper import console_line, item_lines
from tracer.repl.result import Paper
from tracer.repl.script import file_lines, stream_lines, text_lines
from tracer.repl.stop import brief_lines, end_lines
from tracer.repl.toolbar import toolbar_cells, toolbar_text
from tracer.session import Session

if TYPE_CHECKING:
    from tracer.repl.prompt import Prompt

Step = tuple[Literal["file", "commands"], str]
"""A script of the command line: ``-x FILE`` or ``-e COMMANDS``."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Say what the command line asks of the shell.

    ``steps`` are carried out in order; then, if ``interactive``, what is typed or comes through
    standard input.
    """

    interactive: bool = False
    steps: tuple[Step, ...] = ()
    extensions: tuple[Path, ...] = ()
    json: bool = False
    quiet: bool = False
    trace: Path | None = None

    @property
    def asked(self) -> bool:
        """Tell whether there is anything for a shell to do."""
        return self.interactive or bool(self.steps)


class Shell:
    """Join a guest, a person or a script, and a terminal or none."""

    def __init__(
        self,
        session: Session,
        names: Naming,
        wish: Wish,
        interruption: Interruption,
        paper: Callable[[], Paper],
    ) -> None:
        tty = sys.stdin.isatty() and sys.stdout.isatty() and not wish.json
        self.prompts = wish.interactive and tty
        self.control = Control(session)
        feed = Feed(
            limit=LINES_PER_SECOND if sys.stdout.isatty() else None,
            on=wish.interactive and not wish.quiet,
            folds=sys.stdout.isatty(),
        )
        self.desk = Desk(self.control, command_table(), names, feed=feed, trace=wish.trace)
        self._wish = wish
        self._paper = paper
        self._interruption = interruption
        self._meter = Meter()
        self.desk.on_shown = self._show
        self.desk.complain = lambda text: self._complain([text])
        self.desk.captures = wish.json
        self._interpreter = Interpreter(
            self.desk, self._write, self._complain, paper, json=wish.json, keeps_going=self.prompts
        )
        session.subscribers.append(self.desk.take)
        self._out = sys.stdout

    # ---- the whole of it

    async def run(self) -> int:
        """Carry out what the command line asks for; return the exit status.

        Raises TracerError when the guest cannot be brought to its kernel's entry.
        """
        for path in self._wish.extensions:
            load(self.desk, path)
        self.control.on_halt.append(self._halted)
        self.control.on_end.append(self._ended)
        await self.control.start()
        self._interruption.on_interrupt = self.interrupt
        ticking = asyncio.create_task(self._tick())
        try:
            status = await self._steps()
            if not status and self._wish.interactive and not self.desk.leaving:
                status = await (self._converse() if self.prompts else self._pipe())
            if self.control.state == "detached":
                await self.control.wait()
            if self.control.state == "ended" and self.control.error is not None:
                return status or FAILED
            return status
        finally:
            ticking.cancel()
            self._interruption.on_interrupt = None
            await self.control.close()

    async def _steps(self) -> int:
        for kind, text in self._wish.steps:
            try:
                lines = file_lines(Path(text)) if kind == "file" else text_lines([text])
            except UsageError as error:
                self._complain([str(error)])
                return MISUSED
            status = await self._interpreter.script(lines, text if kind == "file" else "")
            # Where a prompt follows, a script that failed leaves its guest to the person.
            if status and not self.prompts:
                return status
            if self.desk.leaving:
                return status
        return 0

    async def _pipe(self) -> int:
        lines = stream_lines(sys.stdin)
        return await self._interpreter.script(lines, "" if sys.stdin.isatty() else "standard input")

    # ---- at a terminal

    async def _converse(self) -> int:
        from tracer.repl.prompt import Prompt, history_file

        prompt = Prompt(
            Candidates(self.desk),
            self._toolbar,
            self.interrupt,
            colour=self._paper().colour,
            history=history_file(),
        )
        self.desk.read_line = prompt.ask_plainly
        self.desk.waits = False

        def interrupted() -> None:
            if not self.interrupt():
                prompt.clear_line()

        self._interruption.on_interrupt = interrupted
        with prompt.above():
            self._out = sys.stdout
            try:
                self._write(self._banner())
                await self._ask(prompt)
            finally:
                self._out = sys.__stdout__ or sys.stdout
        return 0

    async def _ask(self, prompt: Prompt) -> None:
        while not self.desk.leaving:
            try:
                text = await prompt.ask()
            except EOFError:
                text = "quit"
            except KeyboardInterrupt:
                continue
            if text.strip():
                self.desk.typed.append(text.strip())
            await self._interpreter.line(text)
            self.desk.interrupted = False
            if self.desk.leaving and not await self._may_leave(prompt.ask_plainly):
                self.desk.leaving = False

    async def _may_leave(self, ask: Callable[[str], Awaitable[str]]) -> bool:
        state = self.control.state
        if state == "ended":
            return True
        words = {
            "detached": "The guest still runs, without vetrace; it ends with this session.",
            "running": "The guest is running.",
        }
        question = words.get(state, "The guest has not finished.")
        try:
            answer = await ask(f"{question} Quit anyway? (y or n) ")
        except EOFError:
            return True
        except KeyboardInterrupt:
            return False
        return answer.strip().lower() in ("y", "yes")

    def _banner(self) -> list[str]:
        kept = (
            f"The trace goes to {self._wish.trace}."
            if self._wish.trace
            else f"Nothing is kept without -o TRACE, but the last {KEPT:,} accesses in memory."
        )
        return [
            kept,
            "The guest stands at its kernel's entry.",
            "`continue` lets it go, Ctrl-C stops it, `help` lists the commands.",
        ]

    def _toolbar(self, columns: int) -> str:
        control = self.control
        state: str = control.state
        if control.halt is not None:
            state = f"stopped: {control.halt.text}" if columns >= 100 else "stopped"
        accesses = self.desk.summary.accesses
        cells = toolbar_cells(
            state,
            control.session.view.time_ns / 1e9,
            accesses,
            self._meter.rate(accesses, monotonic()),
            str(self._wish.trace) if self._wish.trace else None,
            paused=self.desk.feed.paused,
        )
        return toolbar_text(cells, columns)

    # ---- what comes while it runs

    def interrupt(self) -> bool:
        """Do what Ctrl-C asks for: stop what runs. Tell whether there was anything to stop."""
        if self.desk.thread.busy:
            self.desk.thread.interrupt()
        if self.desk.waits:
            self.desk.interrupted = True
        if self.control.state == "running":
            task = asyncio.get_running_loop().create_task(self.control.interrupt())
            self._asked = task  # a task that nobody holds may be collected
            return True
        return self.desk.thread.busy

    def console(self, text: str) -> None:
        """Show a line of the guest's console."""
        if self.prompts:
            self._write([console_line(text, self._paper())])

    def _halted(self, halt: Halt) -> None:
        self._show(self.desk.feed.flush(monotonic()))
        if self.desk.waits:
            return
        paper = self._paper()
        self._write([*self.desk.told(halt)(paper), *self._brief(halt, paper)])
        if self.desk.displays:
            shown = self._interpreter.display()
            self._displaying = asyncio.get_running_loop().create_task(shown)

    def _brief(self, halt: Halt, paper: Paper) -> list[str]:
        if halt.pending is None:
            return []
        with contextlib.suppress(TracerError):
            return brief_lines(plan_at(self.desk), paper)
        return []

    def _ended(self) -> None:
        self._show(self.desk.feed.flush(monotonic()))
        if not (self.desk.waits or self.desk.leaving):
            self._write(end_lines(self.control))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self._show(self.desk.feed.tick(monotonic()))

    def _show(self, items: Sequence[Item]) -> None:
        if self._wish.json:
            encode = msgspec.json.encode
            self._write([
                encode(access_object(item.record, item.seq, item.access, item.named)).decode()
                for item in items if isinstance(item, Event)
            ])  # fmt: skip
            return
        paper = self._paper()
        self._write([line for item in items for line in item_lines(item, paper, self.desk.kept)])

    def _write(self, lines: Sequence[str]) -> None:
        if lines:
            print("\n".join(lines), file=self._out, flush=True)

    def _complain(self, lines: Sequence[str]) -> None:
        head = "" if self.prompts else "vetrace: "
        for line in lines:
            print(f"{head}{line}", file=sys.stderr, flush=True)
            head = ""
