"""What can stand where the cursor is."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

from tracer.condition.vocabulary import NAMES
from tracer.errors import UsageError
from tracer.repl.command import Command
from tracer.repl.desk import Desk
from tracer.verdict import PROFILES
from tracer.x86 import GPR

MOST = 200
"""How many candidates are offered at most."""

_CPU = tuple(f"${name}" for name in (*GPR, "rip", "rflags"))
_FACT = re.compile(r"[$\w]*\Z")


class Candidates:
    """Find what completes a line, with the names of one guest.

    A command that takes a condition has ``if`` among what it expects.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def of(self, before: str) -> tuple[str, list[tuple[str, str]]]:
        """Return the word at the end of ``before``, and what it can become with a hint each."""
        text = before.rpartition(";")[2].lstrip()
        name, blank, rest = text.partition(" ")
        if not blank:
            return name, list(self._commands(name))
        try:
            item = self._desk.commands.find(name.partition("/")[0])
        except UsageError:
            return "", []
        if item.name == "display" and " " in rest:
            return self.of(rest)
        words = rest.split(" ")
        last = words[-1]
        index = min(len([word for word in words[:-1] if word]), len(item.expects) - 1)
        if index < 0:
            return last, []
        kinds = item.expects[index]
        if "if" in words[:-1]:
            kinds = ("fact",) if any("if" in each for each in item.expects) else ()
        if "fact" in kinds:
            last = "".join(_FACT.findall(last))  # an operator may stand before it
        found = dict.fromkeys(option for kind in kinds for option in self._names(kind, last))
        return last, [(option, "") for option in islice(sorted(found), MOST)]

    def _commands(self, beginning: str) -> Iterator[tuple[str, str]]:
        for item in sorted(self._desk.commands, key=_by_name):
            if item.name.startswith(beginning):
                yield item.name, item.brief

    def _names(self, kind: str, beginning: str) -> Iterable[str]:
        return [name for name in self._all(kind, beginning) if name.startswith(beginning)]

    def _all(self, kind: str, beginning: str) -> Iterable[str]:
        desk = self._desk
        match kind:
            case "region":
                return [*desk.region_names(), *desk.known.regions]
            case "place":
                return self._places(beginning)
            case "symbol":
                return _from(self._symbols, beginning) if len(beginning) > 1 else ()
            case "break":
                return [str(item.number) for item in desk.watch.breaks.items]
            case "command":
                return [item.name for item in desk.commands]
            case "cpu":
                return _CPU
            case "fact":
                return [*NAMES, *_CPU]
            case "profile":
                return list(PROFILES)
            case "filter":
                return list(desk.user_filters)
            case "file":
                return _files(beginning)
        return (kind,)

    @cached_property
    def _symbols(self) -> list[str]:
        return sorted(self._desk.control.session.names.kernel.by_name)

    # Regions, and the registers of the one that has been typed up to its point.
    def _places(self, beginning: str) -> Iterator[str]:
        for region in self._desk.known.regions:
            yield region
            if beginning.startswith(f"{region}."):
                found = self._desk.names.map_of(region)
                if found is not None:
                    yield from (f"{region}.{name}" for name in found.names())


def _by_name(item: Command) -> str:
    return item.name


def _from(names: Sequence[str], beginning: str) -> Sequence[str]:
    start = bisect_left(names, beginning)
    return names[start : start + MOST]


def _files(beginning: str) -> list[str]:
    head, slash, _ = beginning.rpartition("/")
    try:
        found = sorted(Path(head + slash or ".").expanduser().iterdir())
    except OSError:
        return []
    return [f"{head}{slash}{path.name}{'/' if path.is_dir() else ''}" for path in found[:MOST]]
