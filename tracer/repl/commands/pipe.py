"""The command `pipe`: what a command tells, through a program of the shell."""

from __future__ import annotations

import asyncio
import contextlib

from tracer.errors import UsageError
from tracer.repl.command import command
from tracer.repl.context import Context
from tracer.repl.parser import Statement, statements
from tracer.repl.result import Result, Screen

_BAR = "|"
_LOOKING = ("look", "watch", "yours", "stop")


@command(
    "pipe",
    group="script",
    usage=("pipe COMMAND | PROGRAM", "pipe -d DELIMITER COMMAND DELIMITER PROGRAM"),
    brief="give what a command tells to a program of the shell",
    text="""\
The first | outside of quotes and parentheses parts them, `||` does not; another DELIMITER does
where COMMAND has one itself. As of gdb's `pipe`.""",
    examples=(
        "pipe tally count by register, function | sort",
        "pipe show last 1000 | grep -c CSTS",
        "pipe -d : show last 50 if value | 1 == 3 : wc -l",
    ),
    expects=(("command",),),
)
async def pipe(context: Context, statement: Statement) -> Result:
    head, program = _parted(statement.rest)
    if not head or not program:
        raise pipe.misused("a command and a program are needed, with | between them")
    found = list(statements(head, context.commands.takes_line))
    if len(found) != 1:
        raise pipe.misused(f"{head} is not one command")
    item = context.commands.find(found[0].name)
    if item.group not in _LOOKING:
        raise UsageError(f"{item.name} does something: only what looks can be piped")
    result = await item.action(context, found[0])
    lines = result.lines(Screen())
    status, output = await _run(program, "".join(f"{line}\n" for line in lines))
    shown = output.splitlines()
    if status:
        shown.append(f"{program}: exit status {status}")
    return Result({"output": output, "status": status}, shown)


def _parted(text: str) -> tuple[str, str]:
    sign = _BAR
    if text.startswith("-d "):
        _, _, text = text.partition(" ")
        sign, _, text = text.strip().partition(" ")
        at = text.find(f" {sign} ")
        if not sign or at < 0:
            raise pipe.misused(f"there is no {sign or 'delimiter'} with blanks around it")
        return text[:at].strip(), text[at + len(sign) + 2 :].strip()
    quote, depth = "", 0
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == sign and depth == 0 and sign not in (text[at - 1 : at], text[at + 1 : at + 2]):
            return text[:at].strip(), text[at + 1 :].strip()
    return "", ""


# Runs a program of the shell to its end; it may end before it has read all.
async def _run(program: str, given: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_shell(
        program,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate(given.encode(errors="backslashreplace"))
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode(errors="backslashreplace")


COMMANDS = (pipe,)
