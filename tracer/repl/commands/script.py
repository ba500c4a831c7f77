"""Commands that carry out files and Python."""

from __future__ import annotations

import asyncio
import pprint
from pathlib import Path

from tracer.errors import UsageError
from tracer.repl.command import Action, Command, command
from tracer.repl.console import PythonFailed, converse, namespace, run_line
from tracer.repl.desk import Desk
from tracer.repl.extension import (
    CommandFunction,
    FilterFunction,
    Found,
    SubscriberFunction,
    blamed,
    read_extension,
)
from tracer.repl.feed import Rule, Seen
from tracer.repl.guest import Guest
from tracer.repl.parser import Statement
from tracer.repl.result import Result, said
from tracer.repl.script import file_lines
from tracer.repl.thread import Stopped
from tracer.trace import Record


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
async def source(desk: Desk, statement: Statement) -> Result:
    words = statement.words
    if len(words) != 1:
        raise source.misused("one file is needed")
    path = Path(words[0]).expanduser()
    if path.suffix == ".py":
        found = load(desk, path)
        return said(
            str(found),
            commands=[name for name, *_ in found.commands],
            filters=[name for name, _ in found.filters],
            subscribers=[name for name, _ in found.subscribers],
        )
    await desk.run_script(file_lines(path), str(path))
    return Result({"file": str(path)})


def load(desk: Desk, path: Path) -> Found:
    """Add what a person's file brings to the desk. Raises UsageError, naming file and line."""
    found = read_extension(path)
    for name, brief, usage, function in found.commands:
        desk.commands.add(
            Command(
                action=_action(path, function), name=name, group="yours", usage=(usage,),
                brief=brief, text=f"From {path}.", examples=(name,),
            )
        )  # fmt: skip
    for name, wanted in found.filters:
        desk.user_filters[name] = Rule(name, _guarded(path, wanted))
    for _, listen in found.subscribers:
        desk.control.session.subscribers.append(_listener(desk, path, listen))
    return found


def _action(path: Path, function: CommandFunction) -> Action:
    async def act(desk: Desk, statement: Statement) -> Result:
        guest = Guest(desk, asyncio.get_running_loop())
        words = statement.words
        try:
            value = await desk.thread.run(lambda: function(guest, *words))
        except Stopped:
            raise UsageError(f"{statement.name} was interrupted") from None
        except Exception as error:
            raise UsageError(blamed(error, path)) from None
        return _shown(value)

    return act


def _shown(value: object) -> Result:
    if value is None:
        return Result()
    if isinstance(value, str):
        return Result(value, value.splitlines())
    return Result(value, lambda paper: pprint.pformat(value, width=paper.width).splitlines())


def _guarded(path: Path, wanted: FilterFunction) -> FilterFunction:
    def fits(seen: Seen) -> bool:
        try:
            return bool(wanted(seen))
        except Exception as error:
            raise UsageError(blamed(error, path)) from None

    return fits


# One that fails is told of once, and called no more: the trace goes on.
def _listener(desk: Desk, path: Path, listen: SubscriberFunction) -> SubscriberFunction:
    failed = False

    def take(record: Record) -> None:
        nonlocal failed
        if failed:
            return
        try:
            listen(record)
        except Exception as error:
            failed = True
            desk.complain(f"{blamed(error, path)}; it is not called any more")

    return take


@command(
    "py",
    group="script",
    usage=("py CODE", "py"),
    brief="Python with the guest as an object; without code, a console",
    text="""\
`guest`, `registers`, `regions` and `breaks` are there: guest.step(), guest.peek("nvme.CSTS"),
registers.rax, regions["nvme"].start, breaks.add("write nvme.CC"). The code is all the rest of the
line. Names stay from one `py` to the next.""",
    examples=("py hex(registers.rip)", 'py guest.peek("nvme.VS")', "py x = 1; print(x)"),
    takes_line=True,
)
async def py(desk: Desk, statement: Statement) -> Result:
    loop = asyncio.get_running_loop()
    if not desk.python:
        desk.python.update(namespace(Guest(desk, loop)))
    if not statement.rest:
        if desk.read_line is None:
            raise UsageError("a script has no Python console: py needs its code on the line")
        ask = desk.read_line

        def read(text: str) -> str:
            return asyncio.run_coroutine_threadsafe(ask(text), loop).result()

        await desk.thread.run(lambda: converse(desk.python, read))
        return Result()
    try:
        value, printed = await desk.thread.run(
            lambda: run_line(statement.rest, desk.python, desk.captures)
        )
    except Stopped:
        raise PythonFailed("the code was interrupted") from None
    lines = printed.splitlines()
    if value is None:
        return Result({"value": None, "printed": printed}, lines)
    return Result({"value": _plain(value), "printed": printed}, [*lines, *repr(value).splitlines()])


def _plain(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str)) else repr(value)


COMMANDS = (source, py)
