"""Try a kernel's own handler: ``vetrace audit --live``, which reads no trace."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from tracer.access.region import Choice
from tracer.cli import EXIT_MISMATCH, EXIT_OK
from tracer.cli.guest_arguments import tell
from tracer.cli.parser import count
from tracer.confidential.findings import findings_object, lines
from tracer.confidential.handler import CURRENT, CURRENT_SEV, PROFILES
from tracer.confidential.kind import Kind
from tracer.errors import UsageError
from tracer.host import signals
from tracer.launch.borrow import try_handler
from tracer.launch.plan import Plan, check_plan
from tracer.query.words import Words

_MANY = 3000
_TICKS = ("lapic",)
"""A kernel of a thousand ticks a second accesses it at each: nothing is to be learned of that."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``--live``."""
    group = parser.add_argument_group(
        "a kernel's own handler",
        "with --live no trace is read: a guest is started, and instructions are tried on the"
        " handler that its kernel has for accesses to devices",
    )
    group.add_argument("--live", action="store_true", help="try it, held to --profile")
    group.add_argument(
        "--guest",
        choices=[kind.value for kind in Kind if kind is not Kind.PLAIN],
        default=Kind.TDX.value,
        help="which kind of a guest (default: %(default)s)",
    )
    group.add_argument("--kernel", metavar="BZIMAGE", type=Path, help="whose (default: Debian's)")
    group.add_argument(
        "-n", dest="count", metavar="N", type=count, default=_MANY,
        help="instructions to try (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--seed", metavar="N", type=count, default=0, help="which ones (default: %(default)s)"
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Raise UsageError where a trace and a guest are both asked for, or neither is."""
    if not args.live:
        if args.trace is None:
            raise UsageError("give a TRACE, or --live")
        return
    if args.sarif:
        raise UsageError("--sarif is of a trace, and --live reads none: drop one of them")
    if args.trace is not None:
        raise UsageError("--live reads no trace: drop TRACE, or --live")
    given = [
        f"--{'if' if name == 'conditions' else name.replace('_', '-')}"
        for name in ("conditions", *Words.__annotations__, "registers")
        if getattr(args, name)
    ]
    if given:
        raise UsageError(f"filters are for a trace: drop {', '.join(given)}, or --live")


def run(args: argparse.Namespace) -> int:
    """Print in what a kernel's handler is not as foretold; return the exit status."""
    kind = Kind(args.guest)
    sev = kind is Kind.SEV_ES
    name = args.profile or (CURRENT_SEV if sev else CURRENT)
    if name not in PROFILES:
        raise UsageError(f"--live takes one profile: {', '.join(PROFILES)}")
    if args.count == 0:
        raise UsageError("-n 0: there is nothing to try")
    profile = PROFILES[name]
    if profile.sev is not sev:
        article = "an" if sev else "a"
        fitting = ", ".join(it.name for it in PROFILES.values() if it.sev is sev)
        raise UsageError(
            f"--profile {profile.name} is no handler of {article} {kind.label} guest: {fitting}"
        )
    plan = Plan(guest=kind, kernel=args.kernel, choice=Choice(bypassed=_TICKS))
    check_plan(plan)
    work = try_handler(plan, profile, args.seed, args.count, tell)
    findings = signals.run(work)
    if args.json:
        print(msgspec.json.encode(findings_object(findings, args.seed)).decode())
    else:
        print(*lines(findings, args.seed), sep="\n")
    return EXIT_OK if findings.agrees else EXIT_MISMATCH
