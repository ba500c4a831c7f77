"""Boot a kernel and trace its accesses to devices."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from functools import partial

from tracer.cli import EXIT_OK
from tracer.cli.filters import add_register_files
from tracer.cli.guest import Guest
from tracer.cli.guest_arguments import add_guest_arguments, guest_plan
from tracer.cli.guest_console import guest_console
from tracer.cli.hosting import add_host_arguments, asked
from tracer.cli.interactive import add_shell_arguments
from tracer.cli.output import output_file
from tracer.cli.recorded import add_replay_arguments, recorded, with_also
from tracer.cli.run_arguments import (
    add_run_arguments,
    add_trace_arguments,
    check_outputs,
    inputs,
    limits,
)
from tracer.cli.traced_run import TracedRun
from tracer.compiled.inputs import Input
from tracer.confidential.kind import Kind
from tracer.errors import UsageError
from tracer.host.scratch import scratch_folder
from tracer.launch.plan import (
    Plan,
    parse_trap,
    ways,
)
from tracer.launch.start import launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace boot``."""
    output = add_trace_arguments(parser)
    output.add_argument(
        "--serial", metavar="FILE", type=output_file, help="write the guest's serial output here"
    )
    output.add_argument(
        "--console", metavar="pty|SOCKET",
        help="let somebody type at the guest's console: at a pseudo-terminal, or a socket there",
    )  # fmt: skip
    output.add_argument(
        "--untraced", action="store_true", help="run the same guest without any interception"
    )
    add_run_arguments(parser, output)
    output.add_argument(
        "--from-reset",
        action="store_true",
        help="trace firmware and boot loader, too, and a guest of which nothing is known, by "
        "nested traps",
    )
    add_shell_arguments(parser)
    add_host_arguments(parser)
    add_register_files(parser)
    add_guest_arguments(parser)
    add_replay_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Boot, trace, and show; return the exit status."""
    check_outputs(args)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        log = args.qemu_log or (folder / "qemu.log" if args.check else None)
        trace = args.output or (folder / "check.vtrace.zst" if args.check else None)
        plan = guest_plan(args, log.absolute() if log is not None else None)
        plan = replace(
            with_also(plan, args),
            limits=limits(args),
            inputs=inputs(args),
            console=args.console,
            from_reset=args.from_reset,
        )
        # Firmware asks for the time by ports, millions of times.
        sifted = args.from_reset and args.qemu_log is None and Input.PORT not in plan.inputs
        plans = ways(replace(plan, log_sifted=sifted), parse_trap(args.trap))
        device = recorded(args)
        host = asked(args)
        if host.asked and args.untraced:
            raise UsageError("--untraced leaves nothing to decide about: drop it, or the rules")
        if args.untraced and plan.guest is not Kind.PLAIN:
            raise UsageError(
                f"--untraced leaves a {plan.guest.label} guest without who answers it: drop it, or "
                "--guest"
            )
        console = stack.enter_context(guest_console(args))
        guests = [_guest(each) for each in (plans[:1] if args.untraced else plans)]
        boot = TracedRun(args, guests, trace, console, device, host)
        status = boot.checked(log)
    return status or (EXIT_OK if plan.initrd is not None else boot.judge_guest(plan.software))


def _guest(plan: Plan) -> Guest:
    return Guest(partial(launch, plan), plan.limits, plan.inputs, plan.qemu_log, plan.nested)
