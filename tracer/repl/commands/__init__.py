"""The commands of the prompt: a function each, in modules by what they are for."""

from __future__ import annotations

from tracer.repl.command import CommandTable
from tracer.repl.commands import (
    change,
    go,
    host,
    info,
    look,
    pipe,
    prompt,
    script,
    stop,
    tally,
    watch,
)


def command_table() -> CommandTable:
    """Return a table of all commands that vetrace has."""
    modules = (go, stop, look, info, change, host, watch, tally, script, pipe, prompt)
    return CommandTable(item for module in modules for item in module.COMMANDS)
