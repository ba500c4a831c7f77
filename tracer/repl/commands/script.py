"""Commands that carry out files and Python."""

from __future__ import annotations

import asyncio
import pprint
from pathlib import Path

import msgspec

from tracer.errors import UsageError
from tracer.host.named_file import at_home
from tracer.host.own_code import blamed
from tracer.repl.command import Action, Command, command
from tracer.repl.console import PythonFailed, converse, namespace, run_line
from tracer.repl.context import Context
from tracer.repl.extension import (
    CommandFunction,
    FilterFunction,
    Found,
    SubscriberFunction,
    read_extension,
)
from tracer.repl.feed import Rule, Seen
from tracer.repl.guest import Guest
from tracer.repl.parser import Statement
from tracer.repl.result import Result, said
from tracer.repl.script import file_lines, text_lines
from tracer.repl.thread import LoopCall, Stopped, ask_loop
from tracer.trace.record import Record


@command(
    "source",
    group="script",
    usage=("source FILE",),
    brief="carry out the commands of a file, or load a Python file of your own",
    text="""\
A file is carried out up to the first command that fails; `continue` waits for the stop. A file
whose name ends in .py may bring commands, filters and subscribers: docs/repl.md has an example.""",
    examples=("source boot.txt", "source doorbells.py"),
    expects=(("file",),),
)
async def source(context: Context, statement: Statement) -> Result:
    words = statement.words
    if len(words) != 1:
        raise source.misused("one file is needed")
    path = at_home(Path(words[0]))
    if path.suffix == ".py":
        found = await load(context, path)
        return said(
            str(found),
            commands=[name for name, *_ in found.commands],
            filters=[name for name, _ in found.filters],
            subscribers=[name for name, _ in found.subscribers],
        )
    await context.run_script(text_lines(file_lines(path)), str(path))
    return Result({"file": str(path)})


async def load(context: Context, path: Path) -> Found:
    """Add what a person's file brings to the context. Raises UsageError, naming file and line."""
    try:
        found = await context.thread.run(lambda: read_extension(path))
    except Stopped as stopped:
        raise UsageError(f"{path} {stopped}") from None
    for name, brief, usage, function in found.commands:
        context.commands.add(
            Command(
                action=_action(path, function), name=name, group="yours", usage=(usage,),
                brief=brief, text=f"From {path}.", examples=(name,),
            )
        )  # fmt: skip
    for name, wanted in found.filters:
        context.user_filters[name] = Rule(name, _guarded(context.loop_call, path, wanted))
    for _, listen in found.subscribers:
        context.run.subscribers.append(_listener(context, path, listen))
    return found


def _action(path: Path, function: CommandFunction) -> Action:
    async def act(context: Context, statement: Statement) -> Result:
        guest = Guest(context, asyncio.get_running_loop())
        words, width = statement.words, context.screen().width

        # All that is theirs is done beside the event loop, texts of values and errors as well.
        def call() -> Result:
            try:
                return _shown(function(guest, *words), width)
            except Exception as error:
                raise UsageError(blamed(error, str(path))) from None

        try:
            return await context.thread.run(call)
        except Stopped as stopped:
            raise UsageError(f"{statement.name} {stopped}") from None

    return act


def _shown(value: object, width: int) -> Result:
    if value is None:
        return Result()
    # A value that JSON lacks is its text there.
    try:
        plain = msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError):
        plain = repr(value)
    text = value if isinstance(value, str) else pprint.pformat(value, width=width)
    lines = text.splitlines()
    return Result(plain, lambda screen: lines)  # as they are: colours are theirs to choose


def _guarded(call: LoopCall, path: Path, wanted: FilterFunction) -> FilterFunction:
    def fits(seen: Seen) -> bool:
        try:
            with call:
                return bool(wanted(seen))
        except KeyboardInterrupt:
            raise UsageError(f"{path}: the filter was interrupted") from None
        except (Exception, SystemExit) as error:
            raise UsageError(blamed(error, str(path))) from None

    return fits


# One that fails is told of once, and called no more: the trace goes on.
def _listener(context: Context, path: Path, listen: SubscriberFunction) -> SubscriberFunction:
    failed = False

    def take(record: Record) -> None:
        nonlocal failed
        if failed:
            return
        try:
            with context.loop_call:
                listen(record)
        except KeyboardInterrupt:
            failed = True
            context.complain(f"{path}: a subscriber was interrupted; it is not called any more")
        except (Exception, SystemExit) as error:
            failed = True
            context.complain(f"{blamed(error, str(path))}; it is not called any more")

    return take


@command(
    "py",
    group="script",
    usage=("py CODE", "py"),
    brief="Python, with `guest` as an object; without code, a console",
    text="""\
`guest`, `registers`, `regions` and `breaks` are there: guest.step(), guest.peek("nvme.CSTS"),
registers.rax, regions["nvme"].start, breaks.add("write nvme.CC"). The code is all the rest of the
line. Names stay from one `py` to the next.""",
    examples=("py hex(registers.rip)", 'py guest.peek("nvme.VS")', "py x = 1; print(x)"),
    takes_line=True,
)
async def py(context: Context, statement: Statement) -> Result:
    loop = asyncio.get_running_loop()
    if not context.python:
        context.python.update(namespace(Guest(context, loop)))
    if not statement.rest:
        if context.read_line is None:
            raise UsageError("a script has no Python console: py needs its code on the line")
        ask = context.read_line

        def read(text: str) -> str:
            return ask_loop(ask(text), loop, cancels=True)

        try:
            await context.thread.run(lambda: converse(context.python, read))
        except Stopped as stopped:
            raise PythonFailed(f"the console {stopped}") from None
        return Result()
    try:
        done = await context.thread.run(
            lambda: run_line(statement.rest, context.python, context.captures)
        )
    except Stopped as stopped:
        raise PythonFailed(f"the code {stopped}") from None
    lines = [*done.printed.splitlines(), *done.shown.splitlines()]
    return Result({"value": done.value, "printed": done.printed}, lines)


COMMANDS = (source, py)
