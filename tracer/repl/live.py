"""A guest that goes on, as the prompt has it: its control, its breaks, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from tracer.access.decision import Pending
from tracer.access.region import RegionMap
from tracer.access.stack import Stack
from tracer.access.transfer import located
from tracer.devices.entry import Entry
from tracer.devices.map import Named
from tracer.query.breakpoint import Breaks
from tracer.query.course import Changes
from tracer.query.facts import Course
from tracer.query.place import Known
from tracer.repl.feed import Seen
from tracer.repl.names import known_of
from tracer.repl.run import Goal, State
from tracer.repl.watching import Watch
from tracer.session.control import Control
from tracer.session.course import Halt
from tracer.session.host import Host
from tracer.session.outlook import Outlook
from tracer.trace.event import Event, Events, Everything
from tracer.trace.flat import Stacks
from tracer.trace.name import RegionNames
from tracer.trace.naming import Naming
from tracer.trace.queue import QueueRecord
from tracer.trace.record import MapRecord, Record
from tracer.trace.uses import RegisterUses, Uses


class Live:
    """Have a prompt on a guest that goes on: a :class:`tracer.repl.run.Run`."""

    playback = None

    def __init__(self, control: Control, names: Naming) -> None:
        self.control = control
        session = control.session
        self.on_halt = control.on_halt
        self.on_end = control.on_end
        self.subscribers = session.subscribers
        self.stacks = Stacks()
        self.maps: list[MapRecord] = []
        self._session = session
        self._names = names
        everything = Everything(names)
        self._events = Events(everything)
        self._outlook = Outlook(session, names, everything)
        self.watch = Watch(self._outlook)
        self._regions = RegionNames()
        self._last: dict[tuple[str | None, int | None, int], int] = {}
        self._uses = RegisterUses()
        control.custody.host = Host(session, self._outlook, session.system.kind)
        control.custody.breaks = self.watch
        control.custody.free = self.watch.free
        control.custody.missed = self.watch.missed
        control.custody.calls = self.watch.called

    # ---- what comes in

    def take(self, record: Record) -> list[Seen]:
        """Take the next record of the session; return its accesses."""
        found = [self._seen(event) for event in self._events.add(record)]
        self._events.note(record)
        self.stacks.learn(record)
        self._outlook.marks.add(record)
        self._regions.learn(record)
        if isinstance(record, MapRecord):
            self.maps.append(record)
        return found

    def _seen(self, event: Event) -> Seen:
        access = event.access
        place = access.region, access.offset, access.width
        before = self._last.get(place)
        if access.value is not None:
            self._last[place] = access.value
        self._uses.add(event)
        marks = self._outlook.marks.count
        return Seen(**msgspec.structs.asdict(event), before=before, marks=marks)

    def course(self, seen: Seen, changes: Changes) -> Course:
        """Return what was before an access."""
        marks = self._outlook.marks
        if seen.marks != marks.count:
            marks = marks.upto(seen.marks)  # of an access that is shown again
        return Course(self._regions, self.stacks, marks, changes, seen.phase)

    # ---- where it is

    @property
    def state(self) -> State:
        """Return in a word what can be done with the guest."""
        return self.control.state

    @property
    def halt(self) -> Halt | None:
        """Return where the guest stands; None while it does not."""
        return self.control.halt

    @property
    def outcome(self) -> str | None:
        """Return how the guest ended; None before it has."""
        return self.control.outcome

    @property
    def error(self) -> BaseException | None:
        """Return what ended the guest, unless it ended well."""
        return self.control.error

    @property
    def given(self) -> int | None:
        """Return the value that the access which waits is to have instead of its own, if any."""
        return self.control.given

    @property
    def time_ns(self) -> int:
        """Return the guest's time, as of the last stop that told it."""
        return self._session.view.time_ns

    @property
    def phase(self) -> str | None:
        """Return the phase of the boot, None while it is unknown."""
        return self._events.chooser.phase

    def stopped(self) -> Halt:
        """Return where the guest stands. Raises UsageError when it does not stand."""
        return self.control.stopped()

    def pending(self) -> Pending:
        """Return the access that waits. Raises UsageError when none does."""
        return self.control.pending()

    def named(self, pending: Pending) -> Named | None:
        """Return the name of the register that an access is about to reach, None without one."""
        region, offset = located(pending.transfer)
        return self._names.name(region, offset, pending.transfer.width)

    # ---- going on

    async def start(self) -> Halt:
        """Let the session begin; return where the guest stands first, at its kernel's entry."""
        return await self.control.start()

    async def wait(self) -> Halt | None:
        """Wait until the guest stands; None once it has ended."""
        return await self.control.wait()

    async def close(self) -> None:
        """End the session's task."""
        await self.control.close()

    async def interrupt(self) -> None:
        """Ask a running guest to stop."""
        await self.control.interrupt()

    def resume(self) -> None:
        """Let the guest go on."""
        self.control.resume()

    def step(self, count: int = 1) -> None:
        """Go on to before the ``count``-th next access."""
        self.control.step(count)

    def go_to(self, goal: Goal) -> None:
        """Go on to before the first access that is wanted."""
        self.control.run_until(
            goal.text,
            lambda pending: goal.wanted(self.watch.facts(pending)),
            goal.places,
            goal.time_ns,
        )

    # ---- what there is

    @property
    def breaks(self) -> Breaks:
        """Return where a person wants the guest to stop."""
        return self.watch.breaks

    @breaks.setter
    def breaks(self, breaks: Breaks) -> None:
        self.watch.breaks = breaks

    @property
    def regions(self) -> RegionMap:
        """Return where devices are now."""
        return self._session.view.regions

    @property
    def has_stacks(self) -> bool:
        """Tell whether call chains are recorded."""
        return self._session.stacks

    def known(self, phases: Callable[[], Collection[str]]) -> Known:
        """Return what a person can name of the guest."""
        halt = self.control.halt
        return known_of(self._session, self._names, None if halt is None else halt.space, phases)

    def untraced(self, name: str) -> str:
        """Return what is not traced of a region, or of all; empty where the guest would stop."""
        regions = self.regions
        wanted = regions.named(name) if name else regions.regions
        if any(regions.is_traced_region(region) for region in wanted):
            return ""
        told = f"{name} is not traced" if name else "nothing is traced"
        return f"{told}, so nothing would stop the guest: `trace {name or 'on'}` first"

    async def registers(self) -> Mapping[str, int]:
        """Return the registers of the interrupted code, by GDB's names."""
        return await self.control.registers()

    def unwind(self) -> Stack:
        """Return the functions under way where the guest stands."""
        return self.control.unwind()

    def symbol(self, linear: int) -> str | None:
        """Return the name of a linear address with its offset."""
        if self.control.halt is None:
            return self._session.names.symbols.lookup(linear)
        return self.control.symbol(linear)

    def symbols(self) -> Iterable[str]:
        """Return the names of the kernel's symbols."""
        return self._session.names.symbols.by_name

    def address_of(self, name: str) -> int | None:
        """Return the linear address of a kernel symbol."""
        return self._session.names.symbols.address_of(name)

    async def uses(self, region: str, entry: Entry) -> Uses:
        """Return what a register was used for so far."""
        return self._uses.of(region, entry)

    async def counts(self) -> RegisterUses:
        """Return the uses of all registers so far."""
        return self._uses

    def waiting_line(self, columns: int) -> str:
        """Return in so many columns what the guest waits for the longest; empty for nothing."""
        return self._session.waits.line(columns)

    def waiting_lines(self) -> list[str]:
        """Return in a line each what the guest reads again and again."""
        return self._session.waits.lines()

    def queues_at(self, pending: Pending) -> list[QueueRecord]:
        """Return what a doorbell that is about to be rung tells, or a device that interrupts."""
        return self._session.queues_at(pending)

    def waiting_objects(self) -> list[dict[str, Any]]:
        """Return the same ready for JSON."""
        return self._session.waits.objects()
