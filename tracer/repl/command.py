"""A command of the prompt as a value, and the table in which its name is looked up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tracer.errors import UsageError, suggestion
from tracer.repl.parser import Statement
from tracer.repl.result import Result

if TYPE_CHECKING:
    from tracer.repl.context import Context

Action = Callable[["Context", Statement], Awaitable[Result]]

Group = Literal["go on", "stop", "look", "change", "watch", "script", "prompt", "yours"]
"""What a command is for; help lists them in this order."""

GROUPS: tuple[Group, ...] = (
    "go on", "stop", "look", "change", "watch", "script", "prompt", "yours",
)  # fmt: skip

Need = Literal["guest", "recording"]

Kind = Literal[
    "region", "register", "symbol", "break", "command", "file", "place", "cpu", "profile", "filter"
]
"""What an argument names, for completion; ``place`` is a region, with a register's name or not."""


@dataclass(frozen=True, slots=True)
class Command:
    """Hold what a command is called, what it does, and what help says of it.

    ``usage`` holds a line a form. ``examples`` can be typed as they stand. ``expects`` says of each
    argument what it may name, the last for all that follow; what is no :data:`Kind` stands for
    itself, as do ``words``, which tell help and completion what they are. With ``repeats``,
    an empty line does it again; with ``takes_line``, the argument is all the rest of the line.
    ``needs`` says whether it is for a guest alone, or for a recording; ``word_needs`` says it of a
    first argument that has a need of its own.
    """

    action: Action
    name: str
    group: Group
    usage: tuple[str, ...]
    brief: str
    text: str = ""
    aliases: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    expects: tuple[tuple[str, ...], ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    repeats: bool = False
    takes_line: bool = False
    needs: Need | None = None
    word_needs: tuple[tuple[str, Need | None], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the name and the aliases."""
        return self.name, *self.aliases

    def serves(self, recording: str | None) -> bool:
        """Tell whether it is for what the prompt is on: a ``recording``, or a guest."""
        needs = self.needs, *(need for _, need in self.word_needs)
        return any(_suits(need, recording) for need in needs)

    def takes(self, word: str, recording: str | None) -> bool:
        """Tell whether it is for what the prompt is on, with ``word`` as its first argument."""
        return _suits(self._need(word), recording)

    def _need(self, word: str) -> Need | None:
        return dict(self.word_needs).get(word, self.needs)

    def usage_for(self, recording: str | None) -> tuple[str, ...]:
        """Return those lines of its usage that are for what the prompt is on."""
        return tuple(each for each in self.usage if self.takes(_first(each), recording))

    def check(self, statement: Statement, recording: str | None) -> None:
        """Raise UsageError where it is not for what the prompt is on: ``recording``, or a guest."""
        word = statement.rest.replace("=", " ").partition(" ")[0]
        if self.takes(word, recording):
            return
        others = self.usage_for(recording)
        if others and not word:
            raise UsageError(f"{self.name} what? {'  or  '.join(others)}")
        what = f"{self.name} {word}" if word in dict(self.word_needs) else self.name
        if recording is not None:
            raise UsageError(
                f"{what} needs a guest, and this is a recording: `vetrace boot -i` starts one"
            )
        raise UsageError(
            f"{what} is for a recording, and this is a guest, which goes forwards alone: "
            "`vetrace open TRACE`"
        )

    def misused(self, why: str) -> UsageError:
        """Return the error for arguments that make no sense."""
        return UsageError(f"{why}; usage: {'  or  '.join(self.usage)}")


def _suits(need: Need | None, recording: str | None) -> bool:
    return need != ("recording" if recording is None else "guest")


def _first(usage: str) -> str:
    # The first argument of a form.
    return usage.partition(" ")[2].partition(" ")[0]


def command(
    name: str,
    *aliases: str,
    group: Group,
    brief: str,
    usage: Sequence[str] = (),
    text: str = "",
    examples: Sequence[str] = (),
    expects: Sequence[Sequence[str]] = (),
    words: Mapping[str, str] | None = None,
    repeats: bool = False,
    takes_line: bool = False,
    needs: Need | None = None,
    word_needs: Mapping[str, Need | None] | None = None,
) -> Callable[[Action], Command]:
    """Make a command of a function of the context and the statement."""

    def make(action: Action) -> Command:
        return Command(
            action=action,
            name=name,
            group=group,
            usage=tuple(usage) or (name,),
            brief=brief,
            text=text,
            aliases=aliases,
            examples=tuple(examples) or (name,),
            expects=tuple(tuple(kinds) for kinds in expects),
            words=tuple((words or {}).items()),
            repeats=repeats,
            takes_line=takes_line,
            needs=needs,
            word_needs=tuple((word_needs or {}).items()),
        )

    return make


class CommandTable:
    """Look commands up: by name, alias, or any beginning of a name that only one command has."""

    def __init__(self, commands: Iterable[Command] = ()) -> None:
        self._by_name: dict[str, Command] = {}
        for item in commands:
            self.add(item)

    def __iter__(self) -> Iterator[Command]:
        return iter(dict.fromkeys(self._by_name.values()))

    def add(self, item: Command) -> None:
        """Add a command. Raises UsageError when one of its names is taken by another."""
        for name in item.names:
            other = self._by_name.get(name)
            # A user's file that is loaded again brings its commands again.
            if other is not None and not (other.group == item.group == "yours"):
                raise UsageError(f"there is a command {name} already")
        for name in item.names:
            self._by_name[name] = item

    def find(self, name: str) -> Command:
        """Return the command that ``name`` stands for.

        Raises UsageError, with the candidates when there are several, else with the nearest name.
        """
        exact = self._by_name.get(name)
        if exact is not None:
            return exact
        begun = {
            item.name: item for key, item in self._by_name.items() if name and key.startswith(name)
        }
        if len(begun) == 1:
            return next(iter(begun.values()))
        if begun:
            raise UsageError(f"{name} is ambiguous: {', '.join(sorted(begun))}")
        hint = suggestion(name, self._by_name) or "; `help` lists all"
        raise UsageError(f"there is no command {name}{hint}")

    def judge(self, name: str) -> Literal["command", "begun", "unknown"]:
        """Tell whether a command is called so, one or several begin so, or none does."""
        if name in self._by_name:
            return "command"
        begun = name and any(key.startswith(name) for key in self._by_name)
        return "begun" if begun else "unknown"

    def takes_line(self, name: str) -> bool:
        """Tell whether ``name`` is a command whose argument is all the rest of the line."""
        item = self._by_name.get(name)
        return item is not None and item.takes_line
