"""What a run is given on the command line beside its guest: inputs, limits, how much is kept."""

from __future__ import annotations

import argparse
from pathlib import Path

from tracer.cli.output import output_file
from tracer.compiled.inputs import Input
from tracer.compiled.layout import SLOTS
from tracer.errors import UsageError
from tracer.host.named_file import check_output
from tracer.launch.plan import TRAPS, USUAL_INPUTS, WITHOUT_RING, parse_inputs
from tracer.session.watchdog import Limits, seconds
from tracer.text.number import is_whole, whole
from tracer.trace.writer import check_trace_output


def add_trace_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare the arguments that say what becomes of a trace; return the group of its output."""
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--output", metavar="TRACE", type=output_file, help="write the trace here"
    )
    output.add_argument(
        "--check", action="store_true", help="compare the trace with QEMU's own log of the run"
    )
    output.add_argument(
        "--qemu-log", metavar="FILE", type=output_file,
        help="keep QEMU's log of its device accesses here",
    )  # fmt: skip
    output.add_argument(
        "--stacks", action="store_true", help="record the kernel's call chain of each access"
    )
    output.add_argument(
        "--queues", action="store_true",
        help="record what each doorbell tells its device: the entries of the queue in RAM",
    )  # fmt: skip
    how = output.add_mutually_exclusive_group()
    how.add_argument("--quiet", action="store_true", help="show the closing table only")
    how.add_argument("--json", action="store_true", help="print one JSON object an access")
    ways = parser.add_argument_group("how an access is made").add_mutually_exclusive_group()
    ways.add_argument(
        "--every-stop",
        action="store_true",
        help="by a stop each, through GDB and the emulator: a thousand times slower",
    )
    ways.add_argument(
        "--ring",
        metavar="N",
        default=str(SLOTS),
        help="by the guest itself, with room for N records, a power of two (default: %(default)s)",
    )
    return output


def add_run_arguments(parser: argparse.ArgumentParser, output: argparse._ArgumentGroup) -> None:
    """Declare the arguments; those about the trace go into the group ``output``."""
    output.add_argument(
        "--last", metavar="N", help="keep the last N accesses only, however long the guest runs"
    )
    output.add_argument(
        "--inputs",
        metavar="KINDS",
        nargs="?",
        const="",
        help="record what else the host gives the guest: port, which has PCI configuration space "
        "(config) by ports as well, msr, cpuid, irq, which has the messages (msi) that interrupts "
        "came of, tsc (all but tsc without KINDS)",
    )
    output.add_argument(
        "--trap",
        choices=TRAPS,
        help="fault at page-table entries of the guest's (entry), or at physical addresses, with "
        "nothing of the guest's changed (nested); without it at entries, and nested where these "
        "cannot be",
    )
    limits = parser.add_argument_group("limits (what a guest did last is told)")
    limits.add_argument(
        "--timeout", metavar="SECONDS", help="end a run that takes longer, with status 1"
    )
    limits.add_argument(
        "--guest-timeout", metavar="SECONDS", help="the same by the guest's own clock"
    )


def last(args: argparse.Namespace) -> int | None:
    """Return how many accesses are kept, None for all. Raises UsageError."""
    if args.last is None:
        return None
    last = whole(args.last) if is_whole(args.last) else 0
    if not last:
        raise UsageError(f"--last {args.last}: give a number of accesses from 1 on")
    if args.output is None:
        raise UsageError("--last says something only with -o TRACE")
    if not is_kept(args.output):
        raise UsageError(f"--last keeps two files, and {args.output} is none")
    if args.check:
        raise UsageError("--check compares a whole run, of which --last keeps the end: drop one")
    return last


def check_trace(args: argparse.Namespace) -> None:
    """Raise UsageError where the trace is to be read again, and goes where it cannot be."""
    if args.check and args.output is not None and not is_kept(args.output):
        raise UsageError(f"--check reads the trace again, and {args.output} is no file")


def check_outputs(args: argparse.Namespace) -> None:
    """Look whether each file that a run writes can be written, before there is a guest.

    QEMU's log of a guest that somebody else has started is its QEMU's to write. Raises TracerError.
    """
    if args.output is not None:
        check_trace_output(args.output)
    for path in (args.serial, None if "pid" in args else args.qemu_log):
        if path is not None:
            check_output(path, in_place=True)


def is_kept(trace: Path) -> bool:
    """Tell whether a trace goes into a file, there or not, rather than into a pipe or a device."""
    return trace.is_file() or not trace.exists()


def inputs(args: argparse.Namespace) -> frozenset[Input]:
    """Return the kinds of inputs that are recorded. Raises UsageError."""
    if args.inputs is None:
        return frozenset()
    for option in ("every_stop", "untraced"):
        if getattr(args, option):
            raise UsageError(WITHOUT_RING.format(option=f"--{option.replace('_', '-')}"))
    return parse_inputs(args.inputs or USUAL_INPUTS)


def limits(args: argparse.Namespace) -> Limits:
    """Return how long the run may take. Raises UsageError."""
    wall, guest = args.timeout, args.guest_timeout
    return Limits(
        wall=None if wall is None else seconds("--timeout", wall),
        guest=None if guest is None else seconds("--guest-timeout", guest),
    )
