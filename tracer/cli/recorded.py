"""``vetrace boot --replay``: the arguments, and the recorded device that they describe."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from fnmatch import fnmatchcase

from tracer.access.region import Choice, parse_range
from tracer.cli import terminal
from tracer.cli.parser import argument
from tracer.errors import UsageError, advice
from tracer.guest.software import Software
from tracer.host.streams import warn
from tracer.intercept.recording import VARYING_WRITES, RecordedDevice, Replayed, recorded_device
from tracer.launch.plan import Plan
from tracer.text.printable import printable
from tracer.trace.mask import parse_mask
from tracer.trace.reader import TraceReader


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that put a recording in a device's place."""
    replay = parser.add_argument_group(
        "a recording instead of the device",
        "Exit status 3 tells that the guest did not do what is recorded.",
    )
    replay.add_argument(
        "--replay", metavar="TRACE", help="answer each --region from this trace, in order"
    )
    replay.add_argument(
        "--also", metavar="NAME|START-END", action="append", default=[],
        help="with --replay: trace this region too, on its own device; again for more",
    )  # fmt: skip
    replay.add_argument(
        "--mask", metavar="RULE", type=argument(parse_mask), action="append", default=[],
        help="with --replay: bytes of writes that may differ, as REGION+FIRST[-LAST][%%STRIDE]",
    )  # fmt: skip


def recorded(args: argparse.Namespace) -> RecordedDevice | None:
    """Read the recording that the arguments name, if they do. Raises UsageError."""
    if args.replay is None:
        for option in ("also", "mask"):
            if getattr(args, option):
                raise UsageError(f"--{option} says something only with --replay TRACE")
        return None
    if not args.region:
        raise UsageError("--replay wants --region: which devices the trace answers for")
    for spec in (*args.region, *args.bypass):
        if parse_range(spec) is not None:
            raise UsageError(f"--replay wants the names of regions, and {spec} is a range")
    if args.check:
        raise UsageError(
            "--check does not go with --replay: QEMU's devices do not see what a trace answers"
        )
    if args.untraced:
        raise UsageError("--untraced does not go with --replay, which answers traced accesses")
    with TraceReader(args.replay) as trace:
        if args.output is not None and args.output.exists() and args.output.samefile(args.replay):
            raise UsageError(f"--output would overwrite {args.replay}, which --replay reads")
        replayed = Replayed(tuple(args.region), tuple(args.bypass))
        try:
            device = recorded_device(args.replay, trace, replayed, (*VARYING_WRITES, *args.mask))
        except ValueError as error:
            raise UsageError(printable(f"--replay: {error}")) from None
    for rule in args.mask:
        if not any(fnmatchcase(region, rule.region) for region in device.regions):
            hint = advice(rule.region, device.regions)
            raise UsageError(f"--mask: {args.replay} answers for no region {rule.region}{hint}")
    terminal.warn_of_losses(trace)
    _tell_software(args, trace.header.software)
    return device


def _tell_software(args: argparse.Namespace, recorded: list[str]) -> None:
    # Drivers do what the guest's programs have them do.
    given = Software(tuple(args.module), tuple(args.add), args.init).words
    if list(given) != recorded:
        was, now = (shlex.join(words) if words else "none" for words in (recorded, given))
        warn(
            f"{args.replay} is of another guest: --module, --add and --init were {was}, and are "
            f"{now}"
        )


def with_also(plan: Plan, args: argparse.Namespace) -> Plan:
    """Return the plan with what is traced beside what is answered."""
    if not args.also:
        return plan
    choice = Choice((*plan.choice.wanted, *args.also), plan.choice.bypassed)
    return replace(plan, choice=choice)
