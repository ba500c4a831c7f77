"""The prompt on a live guest: ``vetrace boot -i``, and the same commands from a script.

A line is split in :mod:`parser`, found in the table of :mod:`command`, carried out by one function
of :mod:`commands` on the :class:`~tracer.repl.context.Context`, and its
:class:`~tracer.repl.result.Result` printed by :mod:`interpreter`. Only :mod:`prompt` knows
prompt_toolkit.
"""

__all__ = (
    "commands",
    "context",
    "failures",
    "guest",
    "hosting",
    "interruption",
    "live",
    "names",
    "playback",
    "result",
    "script",
    "shell",
)
