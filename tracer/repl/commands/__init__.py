"""The commands of the prompt: a function each, in modules by what they are for."""

from __future__ import annotations

from tracer.repl.command import CommandTable
from tracer.repl.commands import change, go, host, info, look, prompt, script, stop, watch


def command_table() -> CommandTable:
    """Return a table of all commands that vetrace has."""
    modules = (go, stop, look, info, change, host, watch, script, prompt)
    return CommandTable(item for module in modules for item in module.COMMANDS)
