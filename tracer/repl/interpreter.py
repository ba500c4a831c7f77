"""Carry typed lines out: find the command, call it, print its result or what was wrong."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import AsyncIterable, Callable, Iterator, Sequence

import msgspec

from tracer.errors import MarkedError, TracerError, UsageError
from tracer.repl.context import Context
from tracer.repl.parser import Statement, statements
from tracer.repl.result import Result, Screen
from tracer.text.printable import encodable

FAILED = 1
MISUSED = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell would report it


class ScriptStopped(TracerError):
    """Tell that a script stopped at a command that failed, which has been told; has its status."""

    def __init__(self, name: str, status: int) -> None:
        super().__init__(f"{name} stopped")
        self.status = status


class Interpreter:
    """Carry out lines on a context.

    ``write`` takes lines of data and ``complain`` lines about errors; ``screen`` says what is
    written on. With ``json``, each command is one object a line. ``keeps_going`` survives a bug of
    a command, whose traceback is shown, as a person's session is worth more.
    """

    def __init__(
        self,
        context: Context,
        write: Callable[[Sequence[str]], None],
        complain: Callable[[Sequence[str]], None],
        screen: Callable[[], Screen] = Screen,
        *,
        json: bool = False,
        keeps_going: bool = False,
    ) -> None:
        self.context = context
        self.screen = screen
        self.json = json
        self.keeps_going = keeps_going
        self.again = ""
        self._write = write
        self._complain = complain
        self._depth = 0
        context.run_script = self.source

    async def line(self, text: str, where: str = "") -> int:
        """Carry out the statements of a line, up to the first that fails; return its status.

        Each but the last waits for the guest's next stop where it lets the guest go on. Ctrl-C
        drops those that have not begun. ``where`` is put before what was wrong. An empty line
        repeats the last command, where that makes sense.
        """
        text = text.strip() or self.again
        self.again = ""
        try:
            found = list(self._expanded(text))
        except UsageError as error:
            return self._failed(text, error, where)
        context = self.context
        waits, interrupts = context.waits, context.interrupts
        for index, statement in enumerate(found):
            if context.interrupts != interrupts:
                rest = "; ".join(map(str, found[index:]))
                self._complain([f"{where}interrupted, and not carried out: {rest}"])
                return INTERRUPTED
            # The next command is for where the guest stands then.
            context.waits = waits or index + 1 < len(found)
            try:
                status = await self.statement(statement, where)
            finally:
                context.waits = waits
            if status or context.leaving:
                return status
        return 0

    # The statements of a line, with what aliases stand for in their place.
    def _expanded(self, text: str) -> Iterator[Statement]:
        takes_line = self.context.commands.takes_line
        for statement in statements(text, takes_line):
            alias = self.context.aliases.get(statement.name)
            if alias is None:
                yield statement
            else:
                yield from statements(f"{alias} {statement.rest}", takes_line)

    async def statement(self, statement: Statement, where: str = "") -> int:
        """Carry out one statement; return its status: 0, or what the process would exit with."""
        try:
            item = self.context.commands.find(statement.name)
            item.check(self.context.recording)
            result = await item.action(self.context, statement)
        except TracerError as error:
            return self._failed(str(statement), error, where)
        except Exception:
            if not self.keeps_going:
                raise
            self._complain([*traceback.format_exc().splitlines(), "the session goes on"])
            return FAILED
        if item.repeats:
            self.again = result.again or str(statement)
        self._print(item.name, result)
        if result.stands:
            await self.display()
        return 0

    async def display(self) -> None:
        """Carry out what is displayed at each stop; what fails is told, and nothing else is lost.

        An empty line repeats afterwards what it would have before.
        """
        again = self.again
        for text in list(self.context.displays.values()):
            await self.line(text, f"display {text}: ")
        self.again = again

    async def script(self, lines: AsyncIterable[str], name: str) -> int:
        """Carry out lines until one fails, `quit`, or Ctrl-C; return the status of the last."""
        number, interrupts = 0, self.context.interrupts
        async for line in lines:
            number += 1
            if not line.strip():
                continue  # nothing is repeated in a script
            self.again = ""
            status = await self.line(line, f"{name}:{number}: " if name else "")
            if status or self.context.leaving:
                return status
            if self.context.interrupts != interrupts:
                self._complain([f"{name or 'script'} interrupted"])
                return INTERRUPTED
        return 0

    async def source(self, lines: AsyncIterable[str], name: str) -> None:
        """Carry out a script within a command. Raises ScriptStopped."""
        if self._depth >= 16:
            raise UsageError(f"{name} is the 16th script within another: does it name itself?")
        waits, self.context.waits = self.context.waits, True
        scripted, self.context.scripted = self.context.scripted, True
        self._depth += 1
        try:
            status = await self.script(lines, name)
        finally:
            self._depth -= 1
            self.context.waits, self.context.scripted = waits, scripted
        if status:
            raise ScriptStopped(name, status)

    def _print(self, name: str, result: Result) -> None:
        if self.json:
            self._object({"type": "command", "command": name, "ok": True, "result": result.value})
            return
        lines = result.lines(self.screen())
        if lines:
            self._write(lines)

    def _failed(self, text: str, error: TracerError, where: str) -> int:
        status = MISUSED if isinstance(error, UsageError) else FAILED
        if isinstance(error, ScriptStopped):
            status = error.status
        if self.json:
            name = next((s.name for s in _statements(text)), "")
            with contextlib.suppress(UsageError):  # then it is told as typed
                name = self.context.commands.find(name).name
            told = f"{where}{error}"
            self._object(
                {"type": "command", "command": name, "ok": False, "error": told, "status": status}
            )
        elif not isinstance(error, ScriptStopped):
            self._complain(f"{where}{self._told(error)}".splitlines())
        return status

    # The place of an error is shown where the line and the caret below it fit.
    def _told(self, error: TracerError) -> str:
        columns = self.screen().columns
        if isinstance(error, MarkedError):
            lines = error.detail.splitlines()
            if columns is None or max(map(len, lines)) <= columns:
                return error.detail
        return str(error)

    def _object(self, value: dict[str, object]) -> None:
        plain = encodable(msgspec.to_builtins(value))
        self._write([msgspec.json.encode(plain).decode()])


def _statements(text: str) -> list[Statement]:
    try:
        return list(statements(text))
    except UsageError:
        return []
