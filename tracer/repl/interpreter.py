"""Carry typed lines out: find the command, call it, print its result or what was wrong."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence

import msgspec

from tracer.errors import Interrupted, MarkedError, TracerError, UsageError
from tracer.repl.console import PythonFailed
from tracer.repl.context import Context
from tracer.repl.order import END, is_silent, steps
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
    a command, whose traceback is shown, as a person's session is worth more. ``page`` may show an
    answer in its own way, and tells whether it has.
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
        self._obeying = False
        self.page: Callable[[Sequence[str]], Awaitable[bool]] = _never
        context.run_script = self.source

    async def line(self, text: str, where: str = "") -> int:
        """Carry out the statements of a line, up to the first that fails; return its status.

        Each but the last waits for the guest's next stop where it lets the guest go on. Ctrl-C
        drops those that have not begun. ``where`` is put before what was wrong. An empty line
        repeats the last command, where that makes sense. What is ordered of a break is kept up to
        `end`, and what it orders carried out where it has stopped the guest, before what follows.
        """
        text = text.strip() or ("" if self.context.taking is not None else self.again)
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
                status = await self._taken(statement, where)
            finally:
                context.waits = waits
            if status or context.leaving:
                return status
        return 0

    async def _taken(self, statement: Statement, where: str) -> int:
        taking = self.context.taking
        if taking is None:
            halt = self.context.run.halt
            status = await self.statement(statement, where)
            if status or self.context.run.halt is halt:
                return status
            return await self.obey()
        if str(statement) != END:
            taking.lines.append(str(statement))
            return 0
        self.context.taking = None
        for number in taking.numbers:
            self.context.orders.pop(number, None)
            if taking.lines:
                self.context.orders[number] = tuple(taking.lines)
        return 0

    async def obey(self) -> int:
        """Carry out what the breaks order that have stopped the guest; return the status.

        One that lets the guest go on is the last of its list; then come those of its next stop.
        """
        if self._obeying:
            return 0
        context, interrupts = self.context, self.context.interrupts
        self._obeying = True
        again, self.again = self.again, ""
        try:
            halt = context.run.halt
            while halt is not None:
                for order in (step for each in context.due(halt) for step in steps(each)):
                    status = await self.line(order, "commands: ")
                    if status or context.leaving:
                        return status
                    if context.interrupts != interrupts:
                        self._complain(["commands interrupted"])
                        return INTERRUPTED
                    if context.run.halt is not halt:
                        break
                if context.run.halt is halt:
                    return 0
                halt = context.run.halt
            return 0
        finally:
            self._obeying = False
            self.again = again

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
            item.check(statement, self.context.recording)
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
        silent = result.stands and is_silent(self.context.due(self.context.run.halt))
        if self.json or not silent:
            await self._print(item.name, result)
        if result.stands and not silent:
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
        outer = self.context.taking
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
        if self.context.taking is not outer and (name or self._depth):
            return self.close(f"{name}:{number}: ")
        return 0

    def close(self, where: str = "") -> int:
        """Refuse orders that nobody has closed; return the status, 0 where there are none."""
        taking, self.context.taking = self.context.taking, None
        if taking is None:
            return 0
        numbers = ", ".join(map(str, taking.numbers))
        error = UsageError(f"the commands of break {numbers} have no `{END}`")
        return self._failed("commands", error, where)

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

    async def _print(self, name: str, result: Result) -> None:
        if self.json:
            self._object({"type": "command", "command": name, "ok": True, "result": result.value})
            return
        lines = result.lines(self.screen())
        if lines and not await self.page(lines):
            self._write(lines)

    def _failed(self, text: str, error: TracerError, where: str) -> int:
        status = MISUSED if isinstance(error, UsageError) else FAILED
        if isinstance(error, ScriptStopped):
            status = error.status
        elif isinstance(error, Interrupted):
            status = INTERRUPTED
        if self.json:
            name = next((s.name for s in _statements(text)), "")
            with contextlib.suppress(UsageError):  # then it is told as typed
                name = self.context.commands.find(name).name
            told = f"{where}{error}"
            self._object(
                {"type": "command", "command": name, "ok": False, "error": told, "status": status}
            )
        elif not isinstance(error, ScriptStopped):
            first, *rest = self._told(error)
            self._complain([f"{where}{first}", *rest])
        return status

    # The place of an error is shown where the line and the caret below it fit. All else but a
    # traceback of a person's own is one line, whatever a name in it has.
    def _told(self, error: TracerError) -> list[str]:
        columns = self.screen().columns
        if isinstance(error, MarkedError):
            lines = error.detail.splitlines()
            if columns is None or max(map(len, lines)) <= columns:
                return lines
        return str(error).splitlines() if isinstance(error, PythonFailed) else [str(error)]

    def _object(self, value: dict[str, object]) -> None:
        plain = encodable(msgspec.to_builtins(value))
        self._write([msgspec.json.encode(plain).decode()])


async def _never(lines: Sequence[str]) -> bool:
    return False


def _statements(text: str) -> list[Statement]:
    try:
        return list(statements(text))
    except UsageError:
        return []
