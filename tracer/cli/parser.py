"""The parsers of the command line: one for ``vetrace``, one a command, and what they share."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import NoReturn, TypeVar

from tracer.cli import EXIT_STATUSES
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


class Parser(argparse.ArgumentParser):
    """Parse without guessing, and suggest what a person may have meant."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with a suggestion.

        The usage goes to standard error, but where one argument is told to be wrong and why.
        """
        if not message.startswith("argument "):
            self.print_usage(sys.stderr)
        _, found, rest = message.partition("unrecognized arguments: ")
        word = rest.split(" ")[0].partition("=")[0] if found else ""
        raise UsageError(f"{message}{self.near(word) if word.startswith('-') else ''}")

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
