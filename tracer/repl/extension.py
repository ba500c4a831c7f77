"""What a person's own Python file brings to the prompt: commands, filters, subscribers.

A file is read by ``vetrace boot --load FILE.py`` or by `source FILE.py`. Its functions become
commands and so on by the decorators here, and stay functions that can be called::

    from tracer.repl.extension import Access, Guest, Record, command, filter, subscriber

    @command("doorbells", help="how often each NVMe doorbell was written")
    def doorbells(guest: Guest, *words: str) -> object: ...

    @filter("doorbell")
    def doorbell(access: Access) -> bool: ...

    @subscriber
    def count(record: Record) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tracer.host.own_code import run_file
from tracer.repl.feed import Seen
from tracer.repl.guest import Guest
from tracer.trace.record import Record

__all__ = ("Access", "Guest", "Record", "command", "filter", "subscriber")

Access = Seen
"""An access as a filter sees it: ``record`` and ``access`` are as in the trace, ``named`` is its
register, ``before`` the value seen there before, ``phase`` that of the boot."""

CommandFunction = Callable[..., object]
"""Takes the guest, and each word that was typed. A text that it returns is printed; another value
is shown, and is what ``--json`` has."""

FilterFunction = Callable[[Access], bool]
SubscriberFunction = Callable[[Record], None]

_MARK = "__vetrace__"
_C = TypeVar("_C", bound=CommandFunction)
_F = TypeVar("_F", bound=FilterFunction)
_S = TypeVar("_S", bound=SubscriberFunction)


def command(name: str, *, help: str, usage: str = "") -> Callable[[_C], _C]:
    """Make a command of a function ``(guest, *words) -> object``.

    ``help`` is one line. ``usage`` names the words it takes. It runs in a thread of its own, so
    that its calls of the guest may wait.
    """

    def mark(function: _C) -> _C:
        setattr(function, _MARK, ("command", name, help, usage or name))
        return function

    return mark


def filter(name: str) -> Callable[[_F], _F]:
    """Make a filter of a function, for `filter NAME`, `hide NAME` and `show last N NAME`."""

    def mark(function: _F) -> _F:
        setattr(function, _MARK, ("filter", name, "", ""))
        return function

    return mark


def subscriber(function: _S) -> _S:
    """Have a function called with every record of the trace, as it is written."""
    setattr(function, _MARK, ("subscriber", function.__name__, "", ""))
    return function


class Found:
    """Hold what a file brings, by kind, in the order of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commands: list[tuple[str, str, str, CommandFunction]] = []
        self.filters: list[tuple[str, FilterFunction]] = []
        self.subscribers: list[tuple[str, SubscriberFunction]] = []

    def __str__(self) -> str:
        parts = [
            (len(self.commands), "command"),
            (len(self.filters), "filter"),
            (len(self.subscribers), "subscriber"),
        ]
        told = [f"{n} {what}{'s' * (n > 1)}" for n, what in parts if n]
        return f"{self.path}: {', '.join(told) or 'nothing for vetrace'}"


def read_extension(path: Path) -> Found:
    """Run a person's file and return what it brings. Raises UsageError naming file and line."""
    return _collected(path, run_file(path))


def _collected(path: Path, space: dict[str, object]) -> Found:
    found = Found(path)
    # A function that has two names in the file is there once.
    for item in {id(value): value for value in space.values()}.values():
        mark = getattr(item, _MARK, None) if callable(item) else None
        if not isinstance(mark, tuple):
            continue
        kind, name, brief, usage = mark
        if kind == "command":
            found.commands.append((name, brief, usage, item))  # type: ignore[arg-type]
        elif kind == "filter":
            found.filters.append((name, item))  # type: ignore[arg-type]
        else:
            found.subscribers.append((name, item))  # type: ignore[arg-type]
    return found
