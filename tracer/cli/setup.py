"""Fetch what a first boot needs: a guest kernel; and name the programs that are missing."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from tracer.cli import EXIT_FAILED, EXIT_OK
from tracer.confidential.kind import Kind
from tracer.errors import GuestError, TracerError, UsageError
from tracer.guest.program import missing_programs
from tracer.host.backports import backports, suite_archive
from tracer.host.package import (
    CURRENT,
    FLAVOURS,
    Archive,
    fetch_kernel,
    install,
    kept_kernel,
    make_default,
    newest_kernel,
)
from tracer.host.streams import warn
from tracer.linux.kernel import Kernel, default_kernel, open_kernel

_DEFAULT = next(iter(FLAVOURS))
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
    parser.add_argument(
        "--suite",
        metavar="SUITE",
        help="take the kernel, that of --guest or --flavour if given, from this suite of Debian, "
        "such as trixie-backports",
    )
    parser.add_argument(
        "--flavour",
        choices=[*FLAVOURS],
        default=_DEFAULT,
        help="fetch Debian's full kernel, which has more drivers, or its real-time one, too, for "
        "boot --kernel (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Do what is not done yet, and say what is left to the reader; return the exit status."""
    since = time.monotonic()
    kind, flavour = Kind(args.guest), args.flavour
    if kind is not Kind.PLAIN and flavour != _DEFAULT:
        raise UsageError("--flavour fetches a kernel beside that of --guest: give one of them")

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
    command = "vetrace boot" + f" --guest {kind}" * (kind is not Kind.PLAIN)
    try:
        suite = args.suite if flavour == _DEFAULT else None
        for wanted in dict.fromkeys((Kind.PLAIN, kind)):
            _set_up_kernel(wanted, suite if wanted is kind else None, say)
        if flavour != _DEFAULT:
            image = _set_up_flavour(flavour, args.suite, say)
            command += f" --kernel {shlex.quote(str(image))}"
    except TracerError as error:
        problems.append(f"no guest kernel: {error}; {_OWN_KERNEL}")
    if not problems:
        say(f"ready: {command}")
        return EXIT_OK
    warn(f"not ready, {len(problems)} problem{'s' * (len(problems) > 1)}:")
    for problem in problems:
        warn(f"  {problem}")
    warn("then run setup again")
    return EXIT_FAILED


def _set_up_kernel(kind: Kind, suite: str | None, say: Callable[[str], None]) -> None:
    # A kernel that is there does, the plain guest's for another kind, unless a suite is asked for.
    image = default_kernel(kind) if suite is None else None
    kernel = None if image is None else open_kernel(image, progress=say)
    if kernel is None or kind not in kernel.kinds:
        archives = _archives(kind, suite, say)
        package = newest_kernel(progress=say, archives=archives)
        kernel = open_kernel(fetch_kernel(package, say, archives), progress=say)
        if kind not in kernel.kinds:
            raise GuestError(f"{package} has no {kind.label} guest support either")
        make_default(package, CURRENT if kind is Kind.PLAIN else kind)
    _tell(kernel, "" if kind is Kind.PLAIN else f"{kind.label} ", say)


def _set_up_flavour(flavour: str, suite: str | None, say: Callable[[str], None]) -> Path:
    image = kept_kernel(flavour) if suite is None else None
    if image is None:
        archives = _archives(Kind.PLAIN, suite, say)
        package = newest_kernel(FLAVOURS[flavour], say, archives)
        image = fetch_kernel(package, say, archives)
        make_default(package, flavour)
    _tell(open_kernel(image, progress=say), f"{flavour} ", say)
    return image


def _tell(kernel: Kernel, label: str, say: Callable[[str], None]) -> None:
    modules = "without modules" if kernel.modules is None else "with its modules"
    say(f"{label}guest kernel: {kernel.release} {modules}, {len(kernel.symbols)} symbols")


def _archives(kind: Kind, suite: str | None, say: Callable[[str], None]) -> list[Archive]:
    # None are the machine's own.
    if suite is not None:
        return [suite_archive(suite, say)]
    return [] if kind is Kind.PLAIN else [backports(say)]
