"""The arguments that ask for a prompt or a script on the guest."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from tracer.cli.phrase import phrase
from tracer.errors import UsageError
from tracer.host.streams import choose_colour, shows_colour
from tracer.repl.result import Screen
from tracer.repl.script import file_lines
from tracer.repl.shell import Script, Wish


def add_shell_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a prompt on a guest; :func:`wish` reads them."""
    _add_arguments(parser, "stop at the kernel's entry and take commands")


def add_script_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare those of a prompt on a recording; :func:`recording_wish` reads them."""
    _add_arguments(parser, "take commands after -x and -e as well")


def _add_arguments(parser: argparse.ArgumentParser, interactive: str) -> None:
    group = parser.add_argument_group("prompt and scripts (docs/repl.md has the commands)")
    group.add_argument("-i", "--interactive", action="store_true", help=interactive)
    group.add_argument(
        "-x", dest="scripts", metavar="FILE", action="append", default=[],
        type=Path, help="carry out the commands in FILE, then end",
    )  # fmt: skip
    group.add_argument(
        "-e", dest="scripts", metavar="'CMD; CMD'", action="append",
        type=phrase, help="carry out these commands, then end",
    )  # fmt: skip
    group.add_argument(
        "--plain", action="store_true",
        help="for screen readers: no menu, colours or line at the bottom, nothing drawn anew",
    )  # fmt: skip
    group.add_argument(
        "--load", metavar="FILE.py", type=Path, action="append", default=[],
        help="commands, filters and subscribers of your own",
    )  # fmt: skip


def wish(args: argparse.Namespace, trace: Path | None) -> Wish:
    """Return what the arguments ask for. Raises UsageError."""
    _make_plain(args)
    asked = Wish(
        interactive=args.interactive,
        scripts=tuple(map(_script, args.scripts)),
        extensions=tuple(args.load),
        json=args.json,
        plain=args.plain,
        quiet=args.quiet,
        trace=trace,
    )
    if asked.extensions and not asked.asked:
        raise UsageError("--load is for a prompt or a script: give -i, -x or -e as well")
    if asked.asked and args.untraced:
        raise UsageError("--untraced leaves nothing to stop at: drop it, or -i, -x and -e")
    _check_files(asked)
    return asked


def recording_wish(args: argparse.Namespace) -> Wish:
    """Return what the arguments ask for: a prompt where there is no script. Raises UsageError."""
    _make_plain(args)
    asked = Wish(
        interactive=args.interactive or not args.scripts,
        scripts=tuple(map(_script, args.scripts)),
        extensions=tuple(args.load),
        json=args.json,
        plain=args.plain,
    )
    _check_files(asked)
    return asked


# A terminal that is only written to is what every library here knows how to treat.
def _make_plain(args: argparse.Namespace) -> None:
    if args.plain:
        os.environ |= {"TERM": "dumb", "NO_COLOR": "1"}
        choose_colour("never")


def _check_files(asked: Wish) -> None:
    for path in asked.extensions:
        if not path.is_file():
            raise UsageError(f"there is no file {path} to load")


# Scripts are read before the guest starts, so that a person need not wait to hear of a wrong name.
def _script(given: Path | str) -> Script:
    if isinstance(given, Path):
        return Script(tuple(file_lines(given)), str(given))
    return Script((given,))


def screen() -> Screen:
    """Return what standard output is written on now."""
    out = sys.__stdout__ or sys.stdout
    if not out.isatty():
        return Screen(colour=shows_colour(out))
    return Screen(shutil.get_terminal_size().columns, shows_colour(out))
