"""Fetch what a first boot needs: a guest kernel; and name the programs that are missing."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from tracer.cli import EXIT_FAILED, EXIT_OK
from tracer.confidential.kind import Kind
from tracer.errors import GuestError, TracerError
from tracer.guest.program import missing_programs
from tracer.host.backports import backports
from tracer.host.package import fetch_kernel, install, make_default, newest_kernel
from tracer.host.streams import warn
from tracer.linux.kernel import Kernel, default_kernel, open_kernel

_OWN_KERNEL = "or boot your own: vetrace boot --kernel FILE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace setup``."""
    parser.add_argument(
        "--install",
        action="store_true",
        help="install missing programs with apt, as root or by sudo without a password",
    )
    parser.add_argument(
        "--guest",
        choices=[kind.value for kind in Kind],
        default=Kind.PLAIN.value,
        help="fetch a kernel that can be such a guest, too (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Do what is not done yet, and say what is left to the reader; return the exit status."""
    since = time.monotonic()
    kind = Kind(args.guest)

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
        if kind is not Kind.PLAIN:
            _set_up_confidential(kind, say)
    except TracerError as error:
        problems.append(f"no guest kernel: {error}; {_OWN_KERNEL}")
    if not problems:
        say("ready: vetrace boot" + f" --guest {kind}" * (kind is not Kind.PLAIN))
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
    say(f"guest kernel: {_told(kernel)}")


def _set_up_confidential(kind: Kind, say: Callable[[str], None]) -> None:
    # The default guest's own kernel, where it can; else the newest of Debian's backports.
    image = default_kernel(kind)
    kernel = None if image is None else open_kernel(image, progress=say)
    if kernel is None or kind not in kernel.kinds:
        archives = [backports(say)]
        package = newest_kernel(progress=say, archives=archives)
        kernel = open_kernel(fetch_kernel(package, say, archives), progress=say)
        if kind not in kernel.kinds:
            raise GuestError(f"{package} has no {kind.label} guest support either")
        make_default(package, kind)
    say(f"{kind.label} guest kernel: {_told(kernel)}")


def _told(kernel: Kernel) -> str:
    modules = "without modules" if kernel.modules is None else "with its modules"
    return f"{kernel.release} {modules}, {len(kernel.symbols)} symbols"
