"""Commands about the prompt itself."""

from __future__ import annotations

import textwrap

from tracer.errors import UsageError
from tracer.repl.command import GROUPS, Command, command
from tracer.repl.context import Context
from tracer.repl.parser import Statement, statements
from tracer.repl.result import Result, Screen, said
from tracer.text.number import whole
from tracer.text.printable import cut, printable

_READABLE = 100  # columns


@command(
    "help", "h", "?",
    group="prompt",
    usage=("help [COMMAND]",),
    brief="all commands, or one with examples",
    examples=("help", "help break"),
    expects=(("command",),),
)  # fmt: skip
async def help_(context: Context, statement: Statement) -> Result:
    if statement.rest:
        return described(context.commands.find(statement.words[0]), context.recording)
    lines: list[str] = []
    for group in GROUPS:
        items = sorted(
            (c for c in context.commands if c.group == group and c.serves(context.recording)),
            key=lambda c: c.name,
        )
        if items:
            lines += ["", f"{group}:"] if lines else [f"{group}:"]
            lines += [f"  {', '.join(c.names):<24} {c.brief}" for c in items]
    lines += ["", "Any beginning of a name will do that no other has. `help COMMAND`: examples."]
    served = (c for c in context.commands if c.serves(context.recording))
    return Result({c.name: c.brief for c in served}, lines)


def described(item: Command, recording: str | None = None) -> Result:
    """Return what help says of a command, of a guest's prompt or of a ``recording``'s."""
    usages = item.usage_for(recording)

    def lines(screen: Screen) -> list[str]:
        told = [f"{item.brief[0].upper()}{item.brief[1:]}.", ""]
        told += [f"  {usage}" for usage in usages]
        if item.aliases:
            told.append(f"  also called {', '.join(item.aliases)}")
        if item.text:
            told += ["", *textwrap.wrap(_paragraph(item.text), min(screen.width, _READABLE))]
        if item.words:
            widest = max(len(word) for word, _ in item.words)
            about = (f"  {word:<{widest}}  {hint}" for word, hint in item.words)
            told += ["", *(cut(line, screen.width) for line in about)]
        return [*told, "", "examples:", *(f"  {example}" for example in item.examples)]

    value = {
        "name": item.name, "aliases": item.aliases, "usage": usages, "brief": item.brief,
        "text": item.text, "words": dict(item.words), "examples": item.examples,
    }  # fmt: skip
    return Result(value, lines)


def _paragraph(text: str) -> str:
    return printable(" ".join(text.split()))


@command(
    "history",
    group="prompt",
    usage=("history [N]",),
    brief="what was typed, in this session",
    examples=("history", "history 5"),
)
async def history(context: Context, statement: Statement) -> Result:
    count = whole(statement.rest or "20", "count")
    last = list(context.typed)[-count:] if count > 0 else []
    start = len(context.typed) - len(last) + 1
    return Result(last, [f"{index:>5}  {text}" for index, text in enumerate(last, start)])


@command(
    "display",
    group="prompt",
    usage=("display [COMMAND]",),
    brief="carry a command out at each stop",
    text="Without a command: all that are displayed, now.",
    examples=("display plan", "display x/4xg $rsp", "display regs rax rdx"),
    expects=(("command",),),
)
async def display(context: Context, statement: Statement) -> Result:
    if not statement.rest:
        return await context.commands.find("info").action(context, Statement("info", "display"))
    name = next(statements(statement.rest)).name
    item = context.commands.find(name)
    if item.group in ("go on", "change", "script", "prompt"):
        raise UsageError(f"{item.name} does something: only what looks can be displayed")
    index = max(context.displays, default=0) + 1
    context.displays[index] = statement.rest
    return said(f"display {index}: {statement.rest}", number=index)


@command(
    "undisplay",
    group="prompt",
    usage=("undisplay [NUMBER]",),
    brief="display nothing, or one thing less",
    examples=("undisplay 1", "undisplay"),
)
async def undisplay(context: Context, statement: Statement) -> Result:
    if not statement.rest:
        context.displays.clear()
        return said("nothing is displayed at stops")
    index = whole(statement.rest, "number")
    if index not in context.displays:
        raise UsageError(f"there is no display {index}; `info display` lists them")
    return said(f"no longer displayed: {context.displays.pop(index)}", number=index)


@command(
    "alias",
    group="prompt",
    usage=("alias [NAME [COMMAND; COMMAND]]",),
    brief="have a name of your own stand for commands",
    text="""\
What is typed behind the name comes behind the last of them. Without commands: what the name stands
for; without a name: all aliases. `$XDG_CONFIG_HOME/vetrace/rc`, by default
`~/.config/vetrace/rc`, is a script that each prompt begins with: the place for them.""",
    examples=("alias look plan; bt", "alias wcc break write nvme.CC", "alias"),
    takes_line=True,
)
async def alias(context: Context, statement: Statement) -> Result:
    name, _, text = statement.rest.partition(" ")
    if not text.strip():
        known = context.aliases if not name else {name: context.aliases.get(name, "")}
        if name and not known[name]:
            raise context.misses("alias", name, list(context.aliases))
        lines = [f"{name}  {told}" for name, told in known.items()]
        return Result(dict(known), lines or ["there are no aliases; `help alias` tells how"])
    if any(name in item.names for item in context.commands):
        raise UsageError(f"there is a command {name} already")
    list(statements(text, context.commands.takes_line))
    context.aliases[name] = text.strip()
    return said(f"{name} stands for {text.strip()}", name=name)


@command(
    "unalias",
    group="prompt",
    usage=("unalias NAME",),
    brief="forget an alias",
    examples=("unalias look",),
)
async def unalias(context: Context, statement: Statement) -> Result:
    name = statement.rest
    if name not in context.aliases:
        raise context.misses("alias", name, list(context.aliases))
    return said(f"{name} stood for {context.aliases.pop(name)}", name=name)


COMMANDS = (help_, history, display, undisplay, alias, unalias)
