"""Fetch what a first boot needs: a guest kernel; and name the programs that are missing."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from tracer.cli import EXIT_FAILED, EXIT_OK
from tracer.errors import TracerError
from tracer.guest.program import missing_programs
from tracer.host.package import fetch_kernel, install, make_default, newest_kernel
from tracer.host.streams import warn
from tracer.linux.kernel import default_kernel, open_kernel

_OWN_KERNEL = "or boot your own: vetrace boot --kernel FILE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace setup``."""
    parser.add_argument(
        "--install",
        action="store_true",
        help="install missing programs with apt, as root or by sudo without a password",
    )


def run(args: argparse.Namespace) -> int:
    """Do what is not done yet, and say what is left to the reader; return the exit status."""
    since = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - since:4.0f} s] {text}", flush=True)

    problems: list[str] = []
    missing = missing_programs()
    if missing and args.install:
        packages = [program.package for program in missing]
        say(f"installing {' '.join(packages)}")
        try:
            install(packages)
        except TracerError as error:
            problems.append(f"nothing installed: {error}")
        missing = missing_programs()
    if not missing:
        say("programs: all there")
    problems += [
        f"missing: {program.name}: {program.purpose} (Debian package {program.package})"
        for program in missing
    ]
    try:
        _set_up_kernel(say)
    except TracerError as error:
        problems.append(f"no guest kernel: {error}; {_OWN_KERNEL}")
    if not problems:
        say("ready: vetrace boot")
        return EXIT_OK
    warn(f"not ready, {len(problems)} problem{'s' * (len(problems) > 1)}:")
    for problem in problems:
        warn(f"  {problem}")
    warn("then run setup again")
    return EXIT_FAILED


def _set_up_kernel(say: Callable[[str], None]) -> None:
    image = default_kernel()
    if image is None:
        package = newest_kernel(progress=say)
        image = fetch_kernel(package, say)
        make_default(package)
    kernel = open_kernel(image, progress=say)
    modules = "without modules" if kernel.modules is None else "with its modules"
    say(f"guest kernel: {kernel.release} {modules}, {len(kernel.symbols)} symbols")
