"""Boot a kernel and trace its accesses to devices."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tracer.access.region import check_choice
from tracer.check.lines import divergence_lines
from tracer.check.replay import compiled_again
from tracer.cli import EXIT_FAILED, EXIT_MISMATCH, EXIT_OK, terminal
from tracer.cli.closing import closing_lines
from tracer.cli.filters import add_register_files, register_maps
from tracer.cli.guest_arguments import add_guest_arguments, guest_plan, tell
from tracer.cli.guest_console import GuestConsole, guest_console
from tracer.cli.hosting import add_host_arguments, asked
from tracer.cli.interactive import add_shell_arguments, screen, wish
from tracer.cli.printer import LinePrinter, json_printer
from tracer.cli.recorded import add_replay_arguments, recorded, with_also
from tracer.cli.run_arguments import add_run_arguments, inputs, last, limits
from tracer.cli.verify import compared, print_comparison, verdict
from tracer.compiled.layout import SLOTS
from tracer.confidential.kind import Kind
from tracer.errors import Diverged, Interrupted, TracerError, UsageError
from tracer.guest.equipment import device_names
from tracer.guest.report import GuestReport, why_missing
from tracer.host import signals
from tracer.host.scratch import scratch_folder
from tracer.host.signals import Ended, words_of
from tracer.host.streams import warn
from tracer.intercept.recording import RecordedDevice
from tracer.launch.plan import (
    Plan,
    check_plan,
    parse_ring,
)
from tracer.launch.ring import kept_ring
from tracer.launch.start import header, launch
from tracer.linux.kernel import Kernel
from tracer.linux.system import Linux
from tracer.repl.hosting import Hosting, install
from tracer.repl.interruption import Interruption
from tracer.repl.names import known_of
from tracer.repl.shell import Shell
from tracer.session.host import Host, ruled_host
from tracer.session.session import Session
from tracer.session.watchdog import Watchdog
from tracer.trace.marker import ENTRY, LOG_END
from tracer.trace.naming import Naming
from tracer.trace.reader import TraceReader
from tracer.trace.record import Header
from tracer.trace.recorder import FlightRecorder
from tracer.trace.summary import Summary
from tracer.trace.writer import TraceWriter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace boot``."""
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", metavar="TRACE", type=Path, help="write the trace here")
    output.add_argument(
        "--check", action="store_true", help="compare the trace with QEMU's own log of the run"
    )
    output.add_argument(
        "--qemu-log", metavar="FILE", type=Path, help="keep QEMU's log of its device accesses here"
    )
    output.add_argument(
        "--serial", metavar="FILE", type=Path, help="write the guest's serial output here"
    )
    output.add_argument(
        "--untraced", action="store_true", help="run the same guest without any interception"
    )
    output.add_argument(
        "--stacks", action="store_true", help="record the kernel's call chain of each access"
    )
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
    add_run_arguments(parser, output)
    add_shell_arguments(parser)
    add_host_arguments(parser)
    add_register_files(parser)
    add_guest_arguments(parser)
    add_replay_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Boot, trace, and show; return the exit status."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        log = args.qemu_log or (folder / "qemu.log" if args.check else None)
        trace = args.output or (folder / "check.vtrace.zst" if args.check else None)
        plan = guest_plan(args, log.absolute() if log is not None else None)
        plan = replace(
            with_also(plan, args),
            limits=limits(args),
            inputs=inputs(args),
            nested=args.trap == "nested",
        )
        check_plan(plan)
        device = recorded(args)
        host = asked(args)
        if host.asked and args.untraced:
            raise UsageError("--untraced leaves nothing to decide about: drop it, or the rules")
        console = stack.enter_context(guest_console(args))
        boot = _Boot(args, plan, trace, console, device, host)
        try:
            status = boot.run()
        except Ended as end:
            message = f"{words_of(end.number)}; {boot.kept()}"
            raise Interrupted(end.number, message) from None
        except Diverged as error:
            warn(str(error))
            return EXIT_MISMATCH
        if args.check and trace is not None and log is not None and status == EXIT_OK:
            status = _check(trace, log, quiet=args.json)
    return status or boot.judge_guest()


def _check(trace: Path, log: Path, *, quiet: bool) -> int:
    stream = sys.stderr if quiet else sys.stdout
    with TraceReader(trace) as reader:
        comparison = compared(reader, log)
    print_comparison(comparison, stream)
    if not comparison.traced:
        warn("nothing was traced, so nothing was compared")
    with TraceReader(trace) as reader:
        again, divergence = compiled_again(reader, reader.header.vcpus)
    if divergence is not None:
        print(*divergence_lines(divergence), sep="\n", file=stream)
        return EXIT_MISMATCH
    if again.replayed:
        print(f"{again.replayed:,} compiled accesses carried out again: no divergence", file=stream)
    return verdict(comparison, log)


class _Boot:
    # One run of the command: who listens to the records, and what is told at the end.

    def __init__(
        self,
        args: argparse.Namespace,
        plan: Plan,
        trace: Path | None,
        console: Callable[[bytes], object],
        recorded: RecordedDevice | None,
        host: Hosting,
    ) -> None:
        self._args = args
        self._plan = plan
        self._trace = trace
        self._console = console
        self._recorded = recorded
        self._hosting = host
        self._host: Host | None = None
        self._ring = None if args.every_stop else parse_ring(args.ring)
        self._last = last(args)
        if args.untraced and plan.guest is not Kind.PLAIN:
            raise UsageError(
                f"--untraced leaves a {plan.guest.label} guest without who answers it: drop it, or "
                "--guest"
            )
        self._summary = Summary()
        self._wish = wish(args, args.output)
        self._status = EXIT_OK
        self._interruption = Interruption(tell, person=args.interactive)
        self._naming = Naming(register_maps(args))
        self._task: asyncio.Task[None] | None = None
        self._console_error: OSError | None = None
        self._report = GuestReport()
        self._kernel: Kernel | None = None
        self._devices: frozenset[str] = frozenset()
        self._watchdog = Watchdog(plan.limits)
        self._disagreed = 0

    def run(self) -> int:
        if self._wish.asked:
            self._interruption.begin()
        # At a prompt Ctrl-C is for the guest.
        signals.run(self._run(), interruptible=not self._wish.asked)
        if self._disagreed:
            number = self._disagreed
            warn(f"the guest asked for {number} accesses otherwise than vetrace decodes them")
        return self._status or (EXIT_MISMATCH if self._disagreed else EXIT_OK)

    def kept(self) -> str:
        some = self._summary.accesses and self._args.output is not None
        kept = f", kept in {self._args.output}" if some else ""
        return f"{self._summary.accesses} accesses were recorded{kept}"

    async def _run(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None
        if self._wish.asked:
            self._interruption.install(task)
        try:
            async with (
                self._watchdog as watchdog,
                launch(self._plan, self._take_console, tell) as session,
            ):
                session.naming = self._naming
                watchdog.guard(session)
                await session.reach_entry()
                if self._args.untraced:
                    await session.run_untraced()
                else:
                    await self._trace_run(session)
                if isinstance(session.system, Linux):
                    self._kernel = session.system.kernel
                self._devices = device_names(session.machine.config.devices)
        except asyncio.CancelledError:
            if self._console_error is None:
                raise
            where = self._args.serial or "standard error"
            why = self._console_error.strerror
            raise TracerError(f"cannot write the guest's console to {where}: {why}") from None

    def judge_guest(self) -> int:
        # A person at a prompt, a recording, or a rule may well have kept a driver from its device.
        kernel, missing = self._kernel, self._report.missing_of(self._devices)
        ruled = self._host is not None and self._host.applied
        meddled = self._wish.asked or self._recorded is not None or ruled
        if ruled and missing:
            tell(f"the guest found no {', no '.join(missing)}, which rules may have seen to")
        if not missing or kernel is None or self._plan.initrd is not None or meddled:
            return EXIT_OK
        warn(why_missing(missing, kernel.release, modules=kernel.modules is not None))
        return EXIT_FAILED

    def _take_console(self, data: bytes) -> None:
        # Called by the event loop, which would only log an error.
        self._report.take(data)
        if self._console_error is not None:
            return
        try:
            self._console(data)
        except OSError as error:
            self._console_error = error
            assert self._task is not None  # the guest was started from it
            self._task.cancel()

    async def _trace_run(self, session: Session) -> None:
        with contextlib.ExitStack() as stack:
            if self._trace is not None:
                # First: what is shown is in the file.
                writer = self._opened(self._trace, header(session))
                stack.enter_context(writer)
                session.scribes.append(writer.append)
            session.scribes.append(self._summary.take)
            if not (self._args.quiet or self._wish.asked):
                show = json_printer if self._args.json else LinePrinter
                session.subscribers.append(show(self._naming))
            outcome = "interrupted"
            try:
                if self._wish.asked:
                    outcome = await self._converse(session, stack)
                else:
                    await self._trap(session, stack)
                    await session.run()
                    outcome = "poweroff"
                if self._recorded is not None and outcome == "poweroff":
                    self._recorded.finish()
            except asyncio.CancelledError:
                outcome = self._why_cancelled() or outcome
                raise
            except TracerError as error:
                outcome = str(error)
                raise
            except Exception as error:
                outcome = f"failed: {type(error).__name__}: {error}"
                raise
            finally:
                with contextlib.suppress(TracerError):
                    # The disk may be full, which is then on its way as an error already.
                    if self._plan.qemu_log is not None:
                        session.mark_log(LOG_END)
                    session.end(outcome)
                self._close(session)

    def _why_cancelled(self) -> str:
        # Why the run is over where nobody has interrupted it.
        if self._console_error is not None:
            return f"the guest's console could not be written: {self._console_error.strerror}"
        return str(self._watchdog.error or "")

    def _opened(self, trace: Path, opening: Header) -> TraceWriter | FlightRecorder:
        if self._last is None:
            return TraceWriter(trace, opening)
        return FlightRecorder(trace, opening, self._last)

    async def _converse(self, session: Session, stack: contextlib.ExitStack) -> str:
        # Leave the guest to a person or a script; return how it ended.
        shell = Shell(session, self._naming, self._wish, self._interruption, screen)
        self._watchdog.person = shell.prompts
        self._host = shell.control.host
        if shell.prompts and isinstance(self._console, GuestConsole):
            self._console.show = shell.console
        await self._trap(session, stack)
        self._status = await shell.run()
        if isinstance(shell.control.error, Diverged):
            self._status = EXIT_MISMATCH
        return shell.control.outcome or "interrupted"

    async def _trap(self, session: Session, stack: contextlib.ExitStack) -> None:
        session.replay(self._recorded)
        regions = await session.refresh_regions()
        check_choice(regions.regions, session.choice)
        if self._hosting.asked:
            self._host = self._host or ruled_host(session, self._naming)
            install(self._hosting, self._host, known_of(session, self._naming))
            if self._host.needs_records and not self._wish.asked:
                session.subscribers.append(self._host.outlook.take)
        plan = self._plan
        await session.trap(
            stacks=self._args.stacks, ring=self._ring, inputs=plan.inputs, nested=plan.nested
        )
        stack.enter_context(kept_ring(session, self._args.output))
        session.mark_log(ENTRY)
        traced = sum(regions.is_traced_region(region) for region in regions.regions)
        how = ", with a stop at each access" if session.loop.every_stop else ""
        tell(
            f"{session.system.title} under QEMU {session.machine.version} and GDB "
            f"{session.target.client.version}: tracing {traced} of {len(regions.regions)} regions"
            f"{how}"
        )

    def _close(self, session: Session) -> None:
        if not (session.counts["stops"] or session.counts["accesses"]):
            return
        if not self._wish.asked:  # there `stats` is
            from tracer.report.tables import closing_table  # rich: see terminal.table_console

            stream = sys.stderr if self._args.json else sys.stdout
            terminal.table_console(stream).print(closing_table(self._summary))
        sites = session.loop.sites
        self._disagreed = session.counts["disagreed"]
        for line in closing_lines(session.counts, 0 if sites is None else len(sites)):
            tell(line)
        if sites and self._args.verbose:
            for line in sites.told():
                tell(line)
        if self._host is not None:
            for line in self._host.told():
                tell(line)
            for line in self._host.idle():
                warn(line)
        if self._recorded is not None:
            device = self._recorded
            tell(f"{device.answered} of {device.recorded} accesses of {device.name} replayed")
        for warning in session.warnings:
            warn(warning)
