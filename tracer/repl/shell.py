"""The life of a prompt or a script on one run: from its beginning to its end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from tracer.errors import TracerError, UsageError
from tracer.repl.commands import command_table
from tracer.repl.commands.look import plan_at
from tracer.repl.commands.script import load
from tracer.repl.context import Context
from tracer.repl.feed import LINES_PER_SECOND, Feed, Item, Meter
from tracer.repl.feed_lines import console_lines, item_lines
from tracer.repl.interpreter import FAILED, Interpreter
from tracer.repl.interruption import Interruption
from tracer.repl.order import is_silent
from tracer.repl.result import Screen, plain_lines, wrapped_lines
from tracer.repl.run import Run
from tracer.repl.script import file_lines, rc_file, stream_lines, text_lines
from tracer.repl.stop import brief_lines, end_lines
from tracer.report.objects import access_object
from tracer.session.course import Halt
from tracer.text.printable import printable
from tracer.trace.event import Event
from tracer.trace.naming import Naming

if TYPE_CHECKING:
    from tracer.qemu.console import Console
    from tracer.repl.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Script:
    """Hold a script of the command line: the lines and the name of ``-x FILE``, or ``-e``'s."""

    lines: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """Say what the command line asks of the shell.

    ``scripts`` are carried out in order; then, if ``interactive``, what is typed or comes through
    standard input. What is ``plain`` is only written, line after line.
    """

    interactive: bool = False
    scripts: tuple[Script, ...] = ()
    extensions: tuple[Path, ...] = ()
    json: bool = False
    quiet: bool = False
    trace: Path | None = None
    plain: bool = False

    @property
    def asked(self) -> bool:
        """Tell whether there is anything for a shell to do."""
        return self.interactive or bool(self.scripts)


class Shell:
    """Join a guest, a person or a script, and a terminal or none."""

    def __init__(
        self,
        run: Run,
        names: Naming,
        wish: Wish,
        interruption: Interruption,
        screen: Callable[[], Screen],
    ) -> None:
        tty = sys.stdin.isatty() and sys.stdout.isatty() and not wish.json
        self.prompts = wish.interactive and tty
        self._run = run
        feed = Feed(
            limit=LINES_PER_SECOND if sys.stdout.isatty() else None,
            on=wish.interactive and not wish.quiet and run.playback is None,
            folds=sys.stdout.isatty(),
        )
        feed.clocks = not self.prompts
        self.context = Context(run, command_table(), names, feed=feed, trace=wish.trace)
        self._wish = wish
        if wish.plain:
            # A line that is heard is none of a terminal's width.
            screen = partial(_unbounded, screen)
        self._screen = screen
        self._interruption = interruption
        self._meter = Meter()
        self.context.on_shown = self._show
        self.context.complain = lambda text: self._complain([text])
        self.context.captures = wish.json
        self.context.screen = screen
        interruption.loop_call = self.context.loop_call
        self.status = 0
        self.check_restart: Callable[[], None] = self.context.check_restart
        self._whole: asyncio.Task[int] | None = None
        self._wanted: asyncio.Future[None] | None = None
        self._there: asyncio.Future[None] | None = None
        self._interpreter = Interpreter(
            self.context,
            self._answer,
            self._complain,
            screen,
            json=wish.json,
            keeps_going=self.prompts,
        )
        if run.playback is None:
            run.subscribers.append(self.context.take)
        else:
            run.playback.on_passed = self.context.pass_by
            run.playback.follows = lambda: feed.on or bool(self.context.listeners)
        run.on_halt.append(self._halted)
        run.on_end.append(self._ended)
        self._out = sys.stdout
        self._talk: Conversation | None = None
        self._held: list[str] | None = None

    # ---- the whole of it

    async def run(self) -> int:
        """Carry out what the command line asks for; return the exit status.

        Raises TracerError when a guest cannot be brought to its kernel's entry.
        """
        for path in self._wish.extensions:
            await load(self.context, path)
        await self._run.start()
        self._interruption.on_interrupt = self.interrupt
        ticking = asyncio.create_task(self._tick())
        try:
            if self.prompts:
                await self._begin()
            status = await self._scripts()
            if not status and self._wish.interactive and not self.context.leaving:
                status = await (self._converse() if self.prompts else self._pipe())
            status = status or self._interpreter.close()
            if self._run.state == "detached":
                await self._run.wait()
            if self._run.state == "ended" and self._run.error is not None:
                return status or FAILED
            return status
        finally:
            ticking.cancel()
            self._interruption.on_interrupt = None
            await self._run.close()

    async def attend(self) -> bool:
        """Carry that out on this run; tell whether it is over, with ``status`` what it has come to.

        It is not where the same guest is wanted again: :meth:`renew` it, and attend once more. That
        is refused where ``check_restart`` raises UsageError. Raises TracerError as :meth:`run`.
        """
        self._wanted = asyncio.get_running_loop().create_future()
        if self._there is not None:
            self._there.set_result(None)
        else:
            self.context.restart = self._restarted
            self.context.check_restart = self.check_restart
            self._whole = asyncio.create_task(self.run())
        whole = self._whole
        assert whole is not None
        either: set[asyncio.Future[Any]] = {whole, self._wanted}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.close()
            raise
        if not whole.done():
            return False
        self.status = whole.result()
        return True

    def renew(self, run: Run, names: Naming, trace: Path | None) -> None:
        """Have all go on with another run of the guest, which has not been started yet."""
        self.context.renewed(run, names, trace)
        self._run = run
        run.subscribers.append(self.context.take)
        run.on_halt.append(self._halted)
        run.on_end.append(self._ended)

    async def close(self) -> None:
        """End what is carried out."""
        if self._whole is not None:
            self._whole.cancel()
            with contextlib.suppress(asyncio.CancelledError, TracerError):
                await self._whole

    # Ends the guest in silence, and waits for the next one.
    async def _restarted(self) -> Halt:
        run, wanted = self._run, self._wanted
        assert wanted is not None
        for told in (run.on_halt, run.on_end):
            told.clear()
        await run.close()
        self._there = asyncio.get_running_loop().create_future()
        wanted.set_result(None)
        await self._there
        halt = await self._run.start()
        assert halt is not None  # one that ends before its kernel's entry is an error
        return halt

    # A mistake in a person's own script is told, and keeps nobody from the prompt.
    async def _begin(self) -> None:
        path = rc_file()
        if path is None or not path.is_file():
            return
        try:
            lines = file_lines(path)
        except UsageError as error:
            self._complain([str(error)])
            return
        for number, line in enumerate(lines, 1):
            if line.strip():
                await self._interpreter.line(line, f"{path}:{number}: ")
                self._interpreter.again = ""

    async def _scripts(self) -> int:
        for script in self._wish.scripts:
            status = await self._interpreter.script(text_lines(script.lines), script.name)
            # A script that failed leaves its guest to the person where a prompt follows.
            if status and not self.prompts:
                return status
            if self.context.leaving:
                return status
        return 0

    async def _pipe(self) -> int:
        lines = stream_lines(sys.stdin)
        return await self._interpreter.script(lines, "" if sys.stdin.isatty() else "standard input")

    # ---- at a terminal

    async def _converse(self) -> int:
        from tracer.repl.conversation import Conversation

        talk = Conversation(
            self.context, self._interpreter, self._meter, self.interrupt, self._screen()
        )
        self._interruption.on_interrupt = talk.interrupt
        self._talk = talk
        self._interpreter.page = talk.page
        self.context.sit = self._sit
        # Text that is printed above a prompt may come after the first line typed at it.
        self._write(plain_lines(talk.banner(), self._screen()))
        # A recording says nothing while a line is edited, so its answers can be there at once.
        guest = self._run.playback is None
        with talk.prompt.above() if guest else contextlib.nullcontext():
            self._out = sys.stdout
            try:
                await talk.run()
            finally:
                self._out = sys.__stdout__ or sys.stdout
        return 0

    async def _sit(self, console: Console) -> None:
        from tracer.repl.sitting import sit  # a recording has no console to sit at

        # Accesses and lines of the console are not shown meanwhile; all else is, afterwards.
        self._held = held = list[str]()

        try:
            await sit(console, self._run.wait())
        finally:
            self._held = None
            self._write(held)

    # ---- what comes while it runs

    def interrupt(self) -> bool:
        """Do what Ctrl-C asks for: stop what runs. Tell whether there was anything to stop."""
        self.context.interrupts += 1
        if self.context.thread.busy:
            self.context.thread.interrupt()
        if self._run.state == "running":
            task = asyncio.get_running_loop().create_task(self._run.interrupt())
            self._asked = task  # a task that nobody holds may be collected
            return True
        return self.context.thread.busy

    def console(self, text: str) -> None:
        """Show a line of the guest's console."""
        if self.prompts and self._held is None:
            self._write(console_lines(text, self._screen()))

    def _halted(self, halt: Halt) -> None:
        self._show(self.context.feed.flush(monotonic()))
        if self._talk is not None:
            self._write(self._talk.prompt.unpin())
        if self.context.waits:
            return
        orders = self.context.due(halt)
        silent = is_silent(orders)
        if not silent:
            screen = self._screen()
            # After a stream of accesses a stop stands apart.
            apart = [""] if self.prompts and self.context.feed.on else []
            self._write([*apart, *self.context.told(halt)(screen), *self._brief(halt, screen)])
        if orders or self.context.displays:
            following = self._follow(shows=not silent)
            self._following = asyncio.get_running_loop().create_task(following)

    # Displays show the stop before its orders leave it.
    async def _follow(self, *, shows: bool) -> None:
        if shows:
            await self._interpreter.display()
        await self._interpreter.obey()

    def _brief(self, halt: Halt, screen: Screen) -> list[str]:
        if halt.pending is None:
            return []
        with contextlib.suppress(TracerError):
            return brief_lines(plan_at(self.context), screen)
        return []

    def _ended(self) -> None:
        self._show(self.context.feed.flush(monotonic()))
        if self._talk is not None:
            self._write(self._talk.prompt.unpin())
        if not (self.context.waits or self.context.leaving):
            self._write(end_lines(self._run))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self._show(self.context.feed.tick(monotonic()))

    def _show(self, items: Sequence[Item]) -> None:
        if self._held is not None:
            return
        if self._wish.json:
            encode = msgspec.json.encode
            self._write([
                encode(access_object(item)).decode()
                for item in items if isinstance(item, Event)
            ])  # fmt: skip
            return
        screen = self._screen()
        self._write(
            [line for item in items for line in item_lines(item, screen, self.context.kept)]
        )

    def _write(self, lines: Sequence[str]) -> None:
        if self._held is not None:
            self._held += lines
        elif lines:
            shown = lines if self._wish.json else wrapped_lines(self._heard(lines), self._screen())
            print("\n".join(shown), file=self._out, flush=True)

    # A rule that is drawn says nothing to somebody who hears it.
    def _heard(self, lines: Sequence[str]) -> Sequence[str]:
        if not self._wish.plain:
            return lines
        return [line.replace("─", "-") for line in lines if not line.strip() or line.strip(" ─")]

    def _complain(self, lines: Sequence[str]) -> None:
        if self.prompts:
            self._answer(plain_lines(lines, self._screen()), sys.stderr)
            return
        for head, line in zip_longest(["vetrace: "], lines, fillvalue=""):
            print(f"{head}{printable(line)}", file=sys.stderr, flush=True)

    # While the guest runs, what is answered stays at the prompt; else it would go by with the rest.
    def _answer(self, lines: Sequence[str], out: TextIO | None = None) -> None:
        if self._talk is not None:
            if self._talk.keeps(lines):
                return
            self._write(self._talk.prompt.unpin())  # what was answered before comes before
        if self._held is not None:
            self._held += lines
        elif lines:
            print("\n".join(self._heard(lines)), file=out or self._out, flush=True)


def _unbounded(screen: Callable[[], Screen]) -> Screen:
    return replace(screen(), columns=None)
