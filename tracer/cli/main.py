"""The ``vetrace`` command: find the command's module, run it, turn errors into one line.

Exit statuses are in :mod:`tracer.cli`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import keyword
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from tracer import __version__
from tracer.cli import EXIT_FAILED, EXIT_PIPE, EXIT_USAGE
from tracer.cli.parser import Misuse, Parser, command_name, parsers
from tracer.errors import Interrupted, MarkedError, TracerError, UsageError, suggestion
from tracer.host import streams
from tracer.host.signals import Ended, status_of, words_of
from tracer.host.streams import choose_colour, warn
from tracer.text.file_error import unread, unwritten

COMMANDS = {
    "boot": "boot a kernel and trace its accesses to devices",
    "attach": "trace a guest that runs already, in somebody else's QEMU",
    "regions": "list the regions that a guest would have",
    "open": "go through a trace at the prompt, forwards and back, without a guest",
    "show": "show the device accesses of a trace",
    "stats": "count what a trace holds",
    "tally": "count, sum or part what is asked for, of a trace's accesses",
    "replay": "carry out every recorded access again, without a guest, and compare",
    "diff": "compare two traces, region by region",
    "report": "write a trace, or how two differ, as a page for a browser",
    "export": "write a trace in another tool's format",
    "import": "read another tool's log as a trace",
    "recover": "complete the trace of a vetrace that was killed",
    "verify": "compare a trace with QEMU's own log of the same run",
    "allow-list": "tell which registers and values a driver uses, for who filters access",
    "audit": "tell whether the traced accesses would survive in a TDX or SEV-ES guest",
    "registers": "look up the registers of devices: place, access right, bits",
    "decode": "explain one instruction: accesses, flags, verdicts, result",
    "campaign": "boot again and again, with other values from a device each time",
    "setup": "fetch a guest kernel, and name the programs that are missing",
    "doctor": "check that everything vetrace needs is there",
}

# Asking whether a file is there fails with these, at whatever name a person has given.
_OF_A_NAME = frozenset({errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP})


class _Command(Protocol):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``vetrace`` with ``argv``, or with the process's arguments; return the exit status.

    A :exc:`tracer.errors.TracerError` becomes one line on standard error. Any other exception is
    a bug and passes through.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        streams.occupy()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A character that the locale's encoding lacks is escaped rather than fatal.
            sys.stdout.reconfigure(errors="backslashreplace")
        status = _run(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        streams.abandon_output()
        return EXIT_PIPE
    except OSError as error:
        if isinstance(error.filename, str | bytes) and error.errno in _OF_A_NAME:
            warn(unread(os.fsdecode(error.filename), error))
            return EXIT_FAILED
        if not streams.is_output_error(error):
            raise
        streams.abandon_output()
        warn(unwritten("the output", error))
        return EXIT_FAILED
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Ended) else signal.SIGINT
        warn(words_of(number))
        return status_of(number)
    except Interrupted as error:
        warn(str(error))
        return status_of(error.number)
    except MarkedError as error:
        warn(*error.detail.splitlines())
        return EXIT_USAGE
    except UsageError as error:
        warn(str(error))
        return EXIT_USAGE
    except TracerError as error:
        warn(str(error))
        return EXIT_FAILED


def _run(argv: list[str]) -> int:
    name = command_name(argv)
    parser, commands = parsers(COMMANDS, __version__)
    if name is not None and name not in COMMANDS:
        raise UsageError(f"there is no command {name}{suggestion(name, COMMANDS)}")
    command: _Command | None = None
    if name is not None:
        # Only the command asked for is loaded, so that `show` does not wait for what `boot` needs.
        command = _load(name)
        command.add_arguments(commands[name])
    try:
        args = _parsed(parser, commands[name] if name is not None else parser, argv)
    except SystemExit as error:  # argparse has printed help
        return error.code if isinstance(error.code, int) else EXIT_USAGE
    except Misuse as error:
        sys.stderr.write(error.usage)
        raise
    if command is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    choose_colour(args.color)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.WARNING,
        format="vetrace: %(name)s: %(message)s",
    )
    return command.run(args)


def _parsed(parser: Parser, found: Parser, argv: list[str]) -> argparse.Namespace:
    # Raises UsageError, which for a text that went without its quotes tells the line with them.
    def known(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        args, rest = parser.parse_known_args(words)
        return args, [*found.strays(args, words), *rest]

    def tried(words: Sequence[str]) -> argparse.Namespace | None:
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                args, strange = known(words)
            except (UsageError, SystemExit):
                return None
        return None if strange else args

    try:
        args, strange = known(argv)
    except Misuse as error:
        raise found.unquoted(argv, (), tried) or error from None
    told = found.unquoted(argv, strange, tried) if strange else found.unquoted(argv)
    if told is not None:
        raise told
    if strange:
        found.refuse(strange)
    return args


def whole_parsers(version: str) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of ``vetrace``, and those of its commands, with all their arguments."""
    parser, commands = parsers(COMMANDS, version)
    for name, made in commands.items():
        _load(name).add_arguments(made)
    return parser, commands


def _load(name: str) -> _Command:
    # A keyword cannot name a module.
    module = f"tracer.cli.{name.replace('-', '_')}{'_' if keyword.iskeyword(name) else ''}"
    return cast(_Command, importlib.import_module(module))
