"""vetrace from Python: traces as values, and a guest that waits.

::

    from tracer.api import boot, open_trace

    for access in open_trace("run.vtrace.zst").where(region="nvme", write=True):
        print(access.register, hex(access.value or 0))

    with boot(region="nvme") as guest:
        for access in guest.at("write nvme.CC"):
            guest.give(access.value & ~1)

Everything here waits until it is done, and raises :exc:`TracerError`. The page of it is
docs/howto/python.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Unpack

from tracer.access.region import Choice, check_choice
from tracer.bare.guidance import guidance
from tracer.compiled.inputs import Input
from tracer.compiled.layout import SLOTS
from tracer.devices import library
from tracer.devices.map import RegisterMaps
from tracer.errors import TracerError, UsageError
from tracer.export.dataframe import Library, dataframe
from tracer.guest.equipment import Equipment
from tracer.guest.software import Software
from tracer.host.event_loop import in_its_thread
from tracer.host.named_file import check_output, file_named
from tracer.host.streams import warn
from tracer.host.textfile import STANDARD
from tracer.host.typed import typed
from tracer.launch.plan import (
    WITHOUT_RING,
    Plan,
    parse_inputs,
    parse_kind,
    parse_memory,
    parse_ring,
    parse_trap,
    ways,
)
from tracer.launch.ring import kept_ring
from tracer.launch.start import header, launch
from tracer.launch.ways import first_standing
from tracer.qemu.firmware import parse_firmware
from tracer.query.source import Source
from tracer.query.words import Words, chosen
from tracer.repl.commands import command_table
from tracer.repl.context import Context
from tracer.repl.failures import Failures
from tracer.repl.guest import Guest
from tracer.repl.hosting import Hosting, hosting, install
from tracer.repl.live import Live
from tracer.session.control import Control
from tracer.session.own_host import delay, refuse, retry
from tracer.session.session import Session
from tracer.session.watchdog import Limits, Watchdog
from tracer.trace.flat import Access, flat
from tracer.trace.marker import ENTRY, LOG_END
from tracer.trace.naming import Naming
from tracer.trace.reader import TraceReader
from tracer.trace.record import Header, Intercept, Record
from tracer.trace.writer import TraceWriter, check_trace_output

__all__ = (
    "Access",
    "Guest",
    "Header",
    "Intercept",
    "Record",
    "Trace",
    "TracerError",
    "boot",
    "delay",
    "open_trace",
    "refuse",
    "retry",
    "to_dataframe",
)

to_dataframe = dataframe


class Trace:
    """Iterate over the accesses of a trace, as often as wanted; :func:`open_trace` makes one.

    ``header`` tells what ran. What is missing from a trace that was cut is warned of behind its
    last access.
    """

    def __init__(self, path: Path | str, maps: RegisterMaps) -> None:
        self.path = path
        self._maps = maps
        self._words: Words = {}
        self._conditions: tuple[str, ...] = ()
        self._selection = chosen({})
        reader = TraceReader(path)
        self.header: Header = reader.header
        self._opened = [reader] if path == STANDARD else []
        reader.close()

    def __repr__(self) -> str:
        conditions = "".join(f", {text!r}" for text in self._conditions)
        words = "".join(f", {name}={word!r}" for name, word in self._words.items())
        return f"<trace {str(self.path)!r}{conditions}{words}>"

    def where(self, *conditions: str, **words: Unpack[Words]) -> Trace:
        """Return what conditions choose of it: ``"register == CC and value & 1 == 1"``.

        Words are the filters of `vetrace show`, as in ``region="nvme"``, in the form that they have
        there: ``offset="0x14-0x1c"``, ``value="1/0xf"``, ``time="0.5-2"``; a number may be an int.
        Raises UsageError.
        """
        narrowed = copy.copy(self)
        narrowed._conditions = self._conditions + conditions
        narrowed._words = self._words | words
        narrowed._selection = chosen(narrowed._words, narrowed._conditions)
        return narrowed

    def __iter__(self) -> Iterator[Access]:
        """Yield each access.

        Raises TraceError where the trace is damaged, and UsageError at its end where it has not
        what a filter names.
        """
        with self._reader() as reader:
            source = Source(reader, self._selection, self._maps)
            for event in source.events():
                yield flat(event, source.stacks)
            source.check_names()
            for text in reader.missing():
                warnings.warn(text, stacklevel=2)

    def records(self) -> Iterator[Record]:
        """Yield every record of the trace, whatever the filters choose."""
        with self._reader() as reader:
            yield from reader

    def to_dataframe(self, library: Library | None = None) -> Any:
        """Return its accesses as a data frame of polars or pandas: see :func:`to_dataframe`."""
        return dataframe(self, library)

    def _reader(self) -> TraceReader:
        if self.path != STANDARD:
            return TraceReader(self.path)
        if not self._opened:
            raise UsageError("standard input is read once only: keep its accesses in a list")
        return self._opened.pop()


@typed
def open_trace(path: Path | str, *, registers: Sequence[Path | str] = ()) -> Trace:
    """Open a trace file, compressed or not; ``-`` is standard input, which is read once.

    ``registers`` are files that name a device's registers. Raises TraceError, and UsageError for
    such a file.
    """
    return Trace(path, library.load([Path(file) for file in registers]))


@typed
@contextlib.contextmanager
def boot(
    *,
    guest: str = "plain",
    kernel: Path | str | None = None,
    kernel_file: Path | str | None = None,
    symbols: Path | str | None = None,
    initrd: Path | str | None = None,
    modules: Sequence[Path | str] = (),
    add: Sequence[str] = (),
    init: Path | str | None = None,
    append: str | None = None,
    kaslr: bool = False,
    memory: str | None = None,
    machine: Path | str | None = None,
    disks: Sequence[Path | str] = (),
    devices: Sequence[str] = (),
    default_devices: bool = True,
    exit_ok: int | None = None,
    attach_at: str | None = None,
    mappings: Sequence[str] = (),
    stub_at: str | None = None,
    look_again: str | None = None,
    firmware: str = "bios",
    realtime: bool = False,
    qemu_args: Sequence[str] = (),
    region: str | Sequence[str] = (),
    bypass: str | Sequence[str] = (),
    stacks: bool = False,
    queues: bool = False,
    every_stop: bool = False,
    ring: int = SLOTS,
    inputs: str = "",
    trap: str | None = None,
    from_reset: bool = False,
    rules: Sequence[str] = (),
    host: object | None = None,
    registers: Sequence[Path | str] = (),
    output: Path | str | None = None,
    qemu_log: Path | str | None = None,
    timeout: float | None = None,
    guest_timeout: float | None = None,
    console: Callable[[bytes], None] = lambda data: None,
    console_at: str | None = None,
    progress: Callable[[str], None] = warn,
) -> Iterator[Guest]:
    """Boot a guest, which stands at its kernel's entry, and end it with the block.

    The words are the options of `vetrace boot`. ``output`` is where the trace goes, if anywhere;
    ``console`` is called with the bytes of the guest's serial port, and ``console_at`` is where
    somebody may type at it, as `--console` has it; ``progress`` is called with lines of text
    that `vetrace boot` has on standard error, by default the same. Where one of the two raises, it
    is called no more, and the next call of the guest, or the block's end, raises its error. Times
    are in seconds. ``host`` is a file as for `--host`, or an object with ``mmio(access)``. Raises
    what `vetrace boot` would say.
    """
    kind = parse_kind(guest)
    source = Path(host) if isinstance(host, str) else host
    asked = hosting(rules, source, kind=kind)
    plan = Plan(
        guest=kind,
        kernel=_path(kernel),
        kernel_file=_path(kernel_file),
        symbols=_path(symbols),
        initrd=_path(initrd),
        software=Software(tuple(map(str, modules)), tuple(add), _path(init)),
        append=append,
        kaslr=kaslr,
        equipment=Equipment(
            machine=None if machine is None else str(machine),
            devices=tuple(devices),
            default_devices=default_devices,
            disks=tuple(Path(disk) for disk in disks),
        ),
        firmware=parse_firmware(firmware),
        memory=None if memory is None else parse_memory(memory),
        choice=Choice(_several(region), _several(bypass)),
        inputs=parse_inputs(inputs) if inputs else frozenset(),
        from_reset=from_reset,
        realtime=realtime,
        qemu_log=_log(qemu_log),
        extra=tuple(qemu_args),
        exit_ok=exit_ok,
        console=console_at,
        guidance=guidance(attach_at, mappings, stub_at, look_again),
        limits=Limits(timeout, guest_timeout),
    )
    plans = ways(plan, parse_trap(trap))
    if plan.inputs and every_stop:
        raise UsageError(WITHOUT_RING.format(option="every_stop"))
    slots = None if every_stop else parse_ring(str(ring))
    maps = library.load([Path(file) for file in registers])
    failures = Failures()
    printed, told = failures.guarded(console), failures.guarded(progress)
    booted = _booted(
        plans, [launch(each, printed, told) for each in plans], told, Naming(maps),
        _output(output), asked, failures, stacks=stacks, queues=queues, ring=slots,
    )  # fmt: skip
    with in_its_thread(booted) as booted_guest:
        failures.tell()
        yield booted_guest
    failures.tell()


@contextlib.asynccontextmanager
async def _booted(
    plans: Sequence[Plan],
    starts: Sequence[AbstractAsyncContextManager[Session]],
    progress: Callable[[str], None],
    naming: Naming,
    output: Path | None,
    asked: Hosting,
    failures: Failures,
    *,
    stacks: bool,
    queues: bool,
    ring: int | None,
) -> AsyncIterator[Guest]:
    # Starts it by the first plan that can be.
    async with Watchdog(plans[0].limits) as watchdog:
        standing = [
            _standing(
                start, watchdog, naming, output, asked, failures,
                stacks=stacks, queues=queues, ring=ring, inputs=plan.inputs, nested=plan.nested,
                whole=plan is not plans[-1],
            )
            for plan, start in zip(plans, starts, strict=True)
        ]  # fmt: skip
        async with first_standing(standing, progress) as guest:
            yield guest


@contextlib.asynccontextmanager
async def _standing(
    start: AbstractAsyncContextManager[Session],
    watchdog: Watchdog,
    naming: Naming,
    output: Path | None,
    asked: Hosting,
    failures: Failures,
    *,
    stacks: bool,
    queues: bool,
    ring: int | None,
    inputs: frozenset[Input],
    nested: bool,
    whole: bool,
) -> AsyncIterator[Guest]:
    # A guest that stands at its kernel's entry, with every trap in place.
    async with start as session:
        watchdog.guard(session)
        session.naming = naming
        session.loop.lookout.follow_queues(naming, tell=queues)
        await session.reach_entry()
        with _written(session, output):
            control = Control(session)
            context = Context(Live(control, naming), command_table(), naming, trace=output)
            session.subscribers.append(context.take)
            try:
                regions = await session.refresh_regions(inputs)
                check_choice(regions.regions, session.choice)
                install(asked, control.host, context.known)
                await session.trap(
                    stacks=stacks, ring=ring, inputs=inputs, nested=nested, whole=whole
                )
                with kept_ring(session, output):
                    session.mark_log(ENTRY)
                    await control.start()
                    yield Guest(context, asyncio.get_running_loop(), failures)
            finally:
                await control.close()
                if session.machine.log_size is not None:
                    session.mark_log(LOG_END)
                session.end(control.outcome or "interrupted")
                for line in control.host.idle():
                    session.journal.progress(line)
                for warning in session.warnings:
                    session.journal.progress(warning)


@contextlib.contextmanager
def _written(session: Session, output: Path | None) -> Iterator[None]:
    if output is None:
        yield
        return
    with TraceWriter(output, header(session)) as writer:
        session.scribes.append(writer.append)
        yield


def _path(name: Path | str | None) -> Path | None:
    return None if name is None else Path(name)


def _output(name: Path | str | None) -> Path | None:
    if name is None:
        return None
    path = file_named(name)
    check_trace_output(path)
    return path


def _log(name: Path | str | None) -> Path | None:
    if name is None:
        return None
    path = file_named(name).absolute()
    check_output(path, in_place=True)
    return path


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
