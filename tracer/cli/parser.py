"""The parsers of the command line: one for ``vetrace``, one a command, and what they share."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import NoReturn, TypeVar

from tracer.cli import EXIT_STATUSES
from tracer.cli.phrase import quoted
from tracer.errors import UsageError, suggestion
from tracer.text.number import whole

_OPTION = re.compile(r"--?[a-z][a-z-]*")
_T = TypeVar("_T")
_VALUED = ("--color",)
"""Options before a command's name that take a value, which is no command's name."""


def argument(read: Callable[[str], _T]) -> Callable[[str], _T]:
    """Return what reads an option's value for argparse, which tells which option is wrong."""

    @wraps(read)
    def told(text: str) -> _T:
        try:
            return read(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return told


@argument
def count(text: str) -> int:
    """Return how many, from 0 on."""
    return whole(text, "count")


def passed_on(text: str) -> str:
    """Return an argument from behind ``--``, which is another program's."""
    return text


class Misuse(UsageError):
    """Refuse a command line that does not parse; ``usage`` tells how to write one, or nothing."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """Parse without guessing, and suggest what a person may have meant."""

    def strays(self, args: argparse.Namespace, argv: Sequence[str]) -> list[str]:
        """Return the arguments before ``--`` that were taken for some behind it."""
        behind = len(argv) - list(argv).index("--") - 1 if "--" in argv else 0
        taken = [getattr(args, each.dest) for each in self._actions if each.type is passed_on]
        return [word for words in taken for word in words[: len(words) - behind]]

    def refuse(self, strange: Sequence[str]) -> NoReturn:
        """Raise UsageError for arguments of a command line that nothing takes."""
        passed = [str(each.metavar) for each in self._actions if each.type is passed_on]
        hint = f"; {passed[0]} go behind --" if passed and strange[0][:1] != "-" else ""
        self.error(f"unrecognized arguments: {' '.join(strange)}{hint}")

    def unquoted(
        self,
        argv: Sequence[str],
        strange: Sequence[str] = (),
        parsed: Callable[[Sequence[str]], argparse.Namespace | None] | None = None,
    ) -> UsageError | None:
        """Return what tells of texts that went without their quotes, with the line that was meant.

        What it is told is :func:`tracer.cli.phrase.quoted`'s.
        """
        names, words = quoted(self._actions, argv, strange, parsed)
        if not names:
            return None
        each = "is one argument" if len(names) == 1 else "are one argument each"
        line = shlex.join(["vetrace", *words])
        return UsageError(f"{' and '.join(names)} {each}, in quotes: {line}")

    def error(self, message: str) -> NoReturn:
        """Raise Misuse with a suggestion.

        The usage belongs to it, but where one argument is told to be wrong and why.
        """
        usage = "" if message.startswith("argument ") else self.format_usage()
        _, found, rest = message.partition("unrecognized arguments: ")
        word = rest.split(" ")[0].partition("=")[0] if found else ""
        raise Misuse(f"{message}{self.near(word) if word.startswith('-') else ''}", usage)

    def near(self, option: str) -> str:
        """Return ``; did you mean --region?`` for a mistyped option, or nothing."""
        return suggestion(option, sorted(set(_OPTION.findall(self.format_help()))))


def program_parser(version: str) -> Parser:
    """Return the parser of what can stand before a command's name."""
    parser = Parser(
        prog="vetrace",
        description="Trace every MMIO access of an x86-64 guest, from outside.",
        epilog=EXIT_STATUSES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vetrace {version}")
    _add_shared(parser, given=False)
    return parser


def parsers(commands: Mapping[str, str], version: str) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of ``vetrace``, and those of its commands, which have a line of help each.

    What all commands share can stand before the command's name or after it.
    """
    parser = program_parser(version)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    made: dict[str, Parser] = {}
    for name, line in commands.items():
        made[name] = subparsers.add_parser(
            name, help=line, description=f"{line[0].upper()}{line[1:]}.", allow_abbrev=False
        )
        _add_shared(made[name], given=True)
    return parser, made


def command_name(argv: Sequence[str]) -> str | None:
    """Return the first word that is no option and no option's value."""
    words = iter(argv)
    for word in words:
        if word in _VALUED:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def _add_shared(parser: argparse.ArgumentParser, *, given: bool) -> None:
    # Behind a command's name an option that is not there must not undo one before it.
    group = parser.add_argument_group("general")
    group.add_argument(
        "-v", "--verbose", action="store_true", help="log what is being done",
        default=argparse.SUPPRESS if given else False,
    )  # fmt: skip
    group.add_argument(
        "--color", choices=("auto", "always", "never"), metavar="WHEN",
        help="auto (on a terminal that takes it, without NO_COLOR), always or never",
        default=argparse.SUPPRESS if given else "auto",
    )  # fmt: skip
