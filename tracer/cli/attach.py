"""Trace a guest that runs already, in a QEMU that somebody else has started."""

from __future__ import annotations

import argparse
import contextlib
from functools import partial
from pathlib import Path

from tracer.access.region import Choice
from tracer.cli.filters import add_register_files
from tracer.cli.guest import Guest
from tracer.cli.guest_arguments import add_choice_arguments
from tracer.cli.hosting import add_host_arguments, asked
from tracer.cli.interactive import add_shell_arguments
from tracer.cli.run_arguments import add_run_arguments, add_trace_arguments, check_outputs, limits
from tracer.cli.traced_run import TracedRun
from tracer.confidential.kind import Kind
from tracer.errors import UsageError
from tracer.host.scratch import scratch_folder
from tracer.launch.attach import Attachment, attach, check_attachment
from tracer.launch.plan import GDB
from tracer.qemu.monitor_door import monitor_at, monitor_of
from tracer.session.watchdog import seconds
from tracer.text.number import is_whole, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace attach``."""
    guest = parser.add_argument_group("guest")
    where = guest.add_mutually_exclusive_group(required=True)
    where.add_argument("--qmp", metavar="SOCKET", help="the socket of QEMU's -qmp")
    where.add_argument("--pid", metavar="PID", help="the QEMU with this process identifier")
    guest.add_argument(
        "--kernel", metavar="IMAGE", type=Path,
        help="the kernel that it runs (default: what its RAM has of it)",
    )  # fmt: skip
    guest.add_argument(
        "--symbols", metavar="FILE", type=Path, help="vmlinux or System.map of that kernel"
    )
    guest.add_argument("--gdb", metavar="PROGRAM", default=GDB, help="the GDB to run")
    guest.add_argument(
        "--for", dest="duration", metavar="SECONDS", help="trace for so long, then detach"
    )
    output = add_trace_arguments(parser)
    add_run_arguments(parser, output)
    add_shell_arguments(parser)
    add_host_arguments(parser)
    add_register_files(parser)
    add_choice_arguments(parser)
    # A guest that vetrace starts can be given more.
    parser.set_defaults(untraced=False, serial=None, guest=Kind.PLAIN.value)


def run(args: argparse.Namespace) -> int:
    """Attach, trace, show, and leave the guest as it was; return the exit status."""
    check_outputs(args)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        log = args.qemu_log or (folder / "qemu.log" if args.check else None)
        trace = args.output or (folder / "check.vtrace.zst" if args.check else None)
        plan = _plan(args, None if log is None else log.absolute())
        guest = Guest(
            partial(attach, plan),
            plan.limits,
            qemu_log=plan.qemu_log,
            seconds=_duration(args),
            again=False,
        )
        traced = TracedRun(args, [guest], trace, lambda _: None, None, asked(args))
        return traced.checked(log)


def _duration(args: argparse.Namespace) -> float | None:
    if args.duration is None:
        return None
    if args.interactive or args.scripts:
        raise UsageError("--for leaves a prompt or a script no time of its own: `detach` ends it")
    return seconds("--for", args.duration)


def _plan(args: argparse.Namespace, log: Path | None) -> Attachment:
    if args.guest_timeout is not None:
        raise UsageError("--guest-timeout: this guest tells its clock to nobody: give --timeout")
    if args.inputs is not None:
        raise UsageError("--inputs are recorded from a guest's boot on: see vetrace boot")
    if args.trap not in (None, "entry"):
        raise UsageError(f"--trap {args.trap} begins with a guest's boot: see vetrace boot")
    if args.qmp is not None:
        monitor = monitor_at(args.qmp)
    elif is_whole(args.pid):
        monitor = monitor_of(whole(args.pid))
    else:
        raise UsageError(f"--pid {args.pid}: give the number of a process")
    plan = Attachment(
        monitor=monitor,
        kernel=args.kernel,
        symbols=args.symbols,
        choice=Choice(tuple(args.region), tuple(args.bypass)),
        qemu_log=log,
        limits=limits(args),
        gdb=args.gdb,
    )
    check_attachment(plan)
    return plan
