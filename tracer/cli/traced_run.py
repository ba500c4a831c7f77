"""A run of a command that traces a guest, whoever started that."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from tracer.access.region import check_choice
from tracer.cli import EXIT_FAILED, EXIT_MISMATCH, EXIT_OK, terminal
from tracer.cli.closing import closing_lines
from tracer.cli.filters import register_maps
from tracer.cli.guest import Guest, detached_after
from tracer.cli.guest_arguments import tell
from tracer.cli.guest_console import GuestConsole, Printed
from tracer.cli.interactive import screen, wish
from tracer.cli.printer import LinePrinter, json_printer
from tracer.cli.recorded import recorded
from tracer.cli.run_arguments import check_trace, is_kept, last
from tracer.cli.verify import check_run
from tracer.errors import Diverged, Interrupted, TracerError, UsageError
from tracer.guest.equipment import device_names
from tracer.guest.report import why_failed, why_missing, why_unloaded
from tracer.guest.software import Software
from tracer.host import signals
from tracer.host.streams import warn
from tracer.intercept.recording import RecordedDevice
from tracer.launch.plan import parse_ring
from tracer.launch.ring import kept_ring
from tracer.launch.start import header
from tracer.launch.ways import first_standing
from tracer.linux.kernel import Kernel
from tracer.linux.system import Linux
from tracer.qemu.machine import Machine
from tracer.query.rule import Rule
from tracer.repl.hosting import Hosting, install
from tracer.repl.interruption import Interruption
from tracer.repl.live import Live
from tracer.repl.names import known_of
from tracer.repl.shell import Shell
from tracer.session.control import Control
from tracer.session.host import Host, ruled_host
from tracer.session.session import Session
from tracer.session.watchdog import Watchdog
from tracer.trace.marker import ENTRY, LOG_END
from tracer.trace.naming import Naming
from tracer.trace.record import Header
from tracer.trace.recorder import FlightRecorder
from tracer.trace.summary import Summary
from tracer.trace.writer import TraceWriter, next_of


class TracedRun:
    """Run a command that traces a guest: who listens to the records, what is told at the end.

    The first of ``guests`` that can be traced is run; ``console`` takes what it prints.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        guests: Sequence[Guest],
        trace: Path | None,
        console: Callable[[bytes], object],
        recorded: RecordedDevice | None,
        host: Hosting,
    ) -> None:
        self._args = args
        self._guests = guests
        self._trace = trace
        self._console = console
        self._recorded = recorded
        self._hosting = host
        self._host: Host | None = None
        self._ring = None if args.every_stop else parse_ring(args.ring)
        self._last = last(args)
        check_trace(args)
        self._summary = Summary()
        self._wish = wish(args, args.output)
        self._status = EXIT_OK
        self._interruption = Interruption(tell, person=args.interactive)
        self._maps = register_maps(args)
        self._naming = Naming(self._maps)
        self._shell: Shell | None = None
        self._output: Path | None = args.output
        self._runs = 1
        self._over = True
        self._rules: Sequence[Rule] = ()
        self._task: asyncio.Task[None] | None = None
        self._printed = Printed(console, self._cancel)
        self._kernel: Kernel | None = None
        self._devices: frozenset[str] = frozenset()
        self._watchdog = Watchdog(guests[0].limits)
        self._disagreed = 0

    def checked(self, log: Path | None) -> int:
        """Run to the end, compare with QEMU's ``log`` if that is wanted; return the exit status.

        Raises Interrupted at a signal, with how much was recorded.
        """
        try:
            status = self._run_whole()
        except signals.Ended as end:
            message = f"{signals.words_of(end.number)}; {self._kept()}"
            raise Interrupted(end.number, message) from None
        except Diverged as error:
            warn(str(error))
            return EXIT_MISMATCH
        except TracerError:
            self._tell_uncompared()
            raise
        trace = self._trace
        if not self._args.check or trace is None or log is None:
            return status
        if status != EXIT_OK:
            self._tell_uncompared()
            return status
        return check_run(trace, log, quiet=self._args.json)

    def _tell_uncompared(self) -> None:
        if self._args.check and self._summary.accesses:
            tell(
                "nothing was compared with QEMU's log, as the run did not come to its end: "
                "-e 'until 30s; quit' ends one that is compared up to there"
            )

    def _run_whole(self) -> int:
        if self._wish.asked:
            self._interruption.begin()
        # At a prompt Ctrl-C is for the guest.
        signals.run(self._run(), interruptible=not self._wish.asked)
        if self._disagreed:
            number = self._disagreed
            warn(f"the guest asked for {number} accesses otherwise than vetrace decodes them")
        return self._status or (EXIT_MISMATCH if self._disagreed else EXIT_OK)

    def _kept(self) -> str:
        some = self._summary.accesses and self._args.output is not None
        kept = f", kept in {self._output}" if some else ""
        return f"{self._summary.accesses} accesses were recorded{kept}"

    async def _run(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None
        if self._wish.asked:
            self._interruption.install(task)
        try:
            async with self._watchdog:
                await self._run_once()
                while not self._over:
                    self._renew()
                    await self._run_once()
        except asyncio.CancelledError:
            if self._printed.error is None:
                raise
            where, why = self._args.serial or "standard error", self._printed.error.strerror
            raise TracerError(f"cannot write the guest's console to {where}: {why}") from None
        finally:
            if self._shell is not None:
                await self._shell.close()

    async def _run_once(self) -> None:
        last = self._guests[-1]
        ways = [self._standing(guest, whole=guest is not last) for guest in self._guests]
        async with first_standing(ways, tell) as run:
            await run()

    # Makes ready for the same guest once more.
    def _renew(self) -> None:
        self._runs += 1
        self._naming, self._printed = Naming(self._maps), Printed(self._console, self._cancel)
        self._rules = () if self._host is None else self._host.rules.items
        if self._recorded is not None:
            self._recorded = recorded(self._args)
        if self._args.output is not None:
            kept, self._output = self._output, next_of(self._args.output, self._runs)
            self._trace = self._output
            tell(f"the trace so far is in {kept}, the next one goes to {self._output}")

    def _check_restart(self) -> None:
        leave = "leave, and start it anew"
        guest, own, output = self._guests[0], self._hosting.own, self._args.output
        if not guest.again:
            raise UsageError("vetrace has joined this guest: its owner alone can start it again")
        if own is not None:
            raise UsageError(f"{own.name} has decided about accesses of this guest: {leave}")
        if guest.qemu_log is not None:
            raise UsageError(f"QEMU's log, for --check or --qemu-log, is of one run: {leave}")
        if output is not None and not is_kept(output):
            raise UsageError(f"{output} is no file, and has room for one trace: {leave}")

    @contextlib.asynccontextmanager
    async def _standing(
        self, guest: Guest, *, whole: bool
    ) -> AsyncIterator[Callable[[], Awaitable[object]]]:
        # The guest at its kernel's entry, every trap in place, and what runs it from there.
        self._host, self._summary = None, Summary()
        async with guest.open(self._printed.take, tell) as session:
            session.naming = self._naming
            if self._args.queues or self._wish.asked:
                session.loop.lookout.follow_queues(self._naming, tell=self._args.queues)
            self._watchdog.guard(session)
            await session.reach_entry()
            if self._args.untraced:
                yield session.run_untraced
            else:
                async with self._traced(session, guest, whole=whole) as run:
                    # A restart does not try again what cannot be.
                    self._guests = self._guests[self._guests.index(guest) :]
                    yield run
            if isinstance(session.system, Linux):
                self._kernel = session.system.kernel
            if isinstance(session.machine, Machine):
                self._devices = device_names(session.machine.config.devices)

    def judge_guest(self, software: Software) -> int:
        """Return the exit status that a default guest deserves.

        That is for how its script ended, and for the modules and devices that it has missed.
        """
        report, status = self._printed.report, self._printed.report.status
        if status and software.script is not None:
            warn(why_failed(software.script, status))
            return EXIT_FAILED
        # A person at a prompt, a recording, or a rule may well have kept a driver from its device.
        kernel, missing = self._kernel, report.missing_of(self._devices)
        unloaded = report.unloaded_of(software.modules)
        ruled = self._host is not None and self._host.applied
        meddled = self._wish.asked or self._recorded is not None or ruled
        if ruled and missing:
            tell(f"the guest found no {', no '.join(missing)}, which rules may have seen to")
        if meddled:
            return EXIT_OK
        if unloaded:
            warn(why_unloaded(unloaded))
            return EXIT_FAILED
        if not missing or kernel is None:
            return EXIT_OK
        warn(why_missing(missing, kernel.release, modules=kernel.modules is not None))
        return EXIT_FAILED

    def _cancel(self) -> None:
        assert self._task is not None  # the guest was started from it
        self._task.cancel()

    @contextlib.asynccontextmanager
    async def _traced(
        self, session: Session, guest: Guest, *, whole: bool
    ) -> AsyncIterator[Callable[[], Awaitable[object]]]:
        # The run is recorded and told of, until the block ends.
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
            outcome, in_order = "interrupted", False
            try:
                if self._wish.asked:
                    control = Control(session)
                    run = self._conversation(control)
                else:
                    control, run = None, partial(self._unattended, session, guest)
                await self._trap(session, guest, stack, whole=whole)
                yield run
                in_order = True
                outcome = session.outcome if control is None else control.outcome or outcome
                if self._recorded is not None and outcome == "poweroff":
                    self._recorded.finish()
            except asyncio.CancelledError:
                outcome = self._why_cancelled() or outcome
                self._tell_waiting(session, told=False)
                raise
            except TracerError as error:
                outcome = str(error)
                self._tell_waiting(session, told=True)
                raise
            except Exception as error:
                outcome = f"failed: {type(error).__name__}: {error}"
                raise
            finally:
                try:
                    # The disk may be full, which is then on its way as an error already.
                    with contextlib.nullcontext() if in_order else contextlib.suppress(TracerError):
                        if guest.qemu_log is not None:
                            session.mark_log(LOG_END)
                        session.end(outcome)
                finally:
                    self._close(session)

    def _tell_waiting(self, session: Session, *, told: bool) -> None:
        # Lines come first; who ends a guest for its time has told them.
        if not told:
            for line in session.waits.lines():
                tell(line)
        if self._args.json and not self._wish.asked:
            for found in session.waits.objects():
                print(msgspec.json.encode(found).decode(), flush=True)

    def _why_cancelled(self) -> str:
        # Why the run is over where nobody has interrupted it.
        if self._printed.error is not None:
            return f"the guest's console could not be written: {self._printed.error.strerror}"
        return str(self._watchdog.error or "")

    def _opened(self, trace: Path, opening: Header) -> TraceWriter | FlightRecorder:
        if self._last is None:
            return TraceWriter(trace, opening)
        return FlightRecorder(trace, opening, self._last)

    async def _unattended(self, session: Session, guest: Guest) -> None:
        async with detached_after(session, guest.seconds):
            await session.run()

    def _conversation(self, control: Control) -> Callable[[], Awaitable[object]]:
        # The guest is left to a person or a script.
        live = Live(control, self._naming)
        if self._shell is None:
            self._shell = Shell(live, self._naming, self._wish, self._interruption, screen)
            self._shell.check_restart = self._check_restart
        else:
            self._shell.renew(live, self._naming, self._output)
        shell = self._shell
        control.session.attended = shell.prompts
        self._host = control.host
        if shell.prompts and isinstance(self._console, GuestConsole):
            self._console.show = shell.console

        async def converse() -> None:
            self._over = await shell.attend()
            self._status = shell.status
            if isinstance(control.error, Diverged):
                self._status = EXIT_MISMATCH

        return converse

    async def _trap(
        self, session: Session, guest: Guest, stack: contextlib.ExitStack, *, whole: bool
    ) -> None:
        session.replay(self._recorded)
        regions = await session.refresh_regions(guest.inputs)
        check_choice(regions.regions, session.choice)
        if self._runs > 1 and self._host is not None:
            for rule in self._rules:
                self._host.add(rule.text, known_of(session, self._naming))
        elif self._hosting.asked:
            self._host = self._host or ruled_host(session, self._naming)
            install(self._hosting, self._host, known_of(session, self._naming))
            if self._host.needs_records and not self._wish.asked:
                session.subscribers.append(self._host.outlook.take)
        await session.trap(
            stacks=self._args.stacks, ring=self._ring, inputs=guest.inputs, nested=guest.nested,
            whole=whole,
        )  # fmt: skip
        stack.enter_context(kept_ring(session, self._output))
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
        self._disagreed = session.counts["disagreed"]
        for line in closing_lines(session, self._host, self._recorded, sites=self._args.verbose):
            tell(line)
        for line in (*(() if self._host is None else self._host.idle()), *session.warnings):
            warn(line)
