"""The context of the prompt's commands: the guest, what is shown of it, and what is kept."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import msgspec

from tracer.access.decision import Pending
from tracer.access.region import Choice
from tracer.access.transfer import located
from tracer.devices.map import Named
from tracer.errors import MarkedError, TracerError, UsageError, suggestion
from tracer.qemu.console import Console
from tracer.query.breakpoint import PENDING, Pattern, parse_pattern
from tracer.query.course import Changes
from tracer.query.facts import Course, Recorded
from tracer.query.place import Known
from tracer.repl.aim import Aim, aim
from tracer.repl.command import CommandTable
from tracer.repl.feed import Feed, Item, Rule, Seen
from tracer.repl.names import known_of
from tracer.repl.result import Result, Screen, plain_lines
from tracer.repl.stop import end_lines, halt_lines, halt_object
from tracer.repl.tally import Running
from tracer.repl.thread import LoopCall, UserThread
from tracer.repl.watching import Watch
from tracer.session.control import Control
from tracer.session.course import INTERRUPTED, Halt
from tracer.session.host import Host
from tracer.session.outlook import Outlook
from tracer.trace.event import Event, Events, Everything
from tracer.trace.flat import Stacks
from tracer.trace.member import Space
from tracer.trace.name import RegionNames
from tracer.trace.naming import Naming
from tracer.trace.record import MapRecord, MemoryAccess, Record
from tracer.trace.summary import Summary
from tracer.x86.state import CpuState

_T = TypeVar("_T")

KEPT = 10_000
"""How many accesses `show last` reaches back."""


class Context:
    """Join what one prompt or script works on.

    ``waits`` tells whether a command that lets the guest go on waits for its next stop. ``recent``
    has the last accesses, ``maps`` what the guest has mapped, ``displays`` the commands that are
    carried out at each stop, ``inputs`` how many accesses were made in which space, ``answered``
    how many of them had another value than the device's, ``user_filters`` those of the person's own
    file, ``listeners`` who is told of each access as it is made, ``tallies`` those that go on.
    ``leaving`` is set by `quit`, ``interrupts`` counts how often Ctrl-C was pressed. ``confirm``
    asks a person, unless a command is ``scripted``; ``sit`` takes one to the guest's console, where
    there is a terminal. ``screen`` says what is written on.
    """

    def __init__(
        self,
        control: Control,
        commands: CommandTable,
        names: Naming,
        *,
        waits: bool = True,
        feed: Feed | None = None,
        trace: Path | None = None,
    ) -> None:
        self.control = control
        self.commands = commands
        self.names = names
        everything = Everything(names)
        self.outlook = Outlook(control.session, names, everything)
        self.watch = Watch(self.outlook)
        session = control.session
        control.custody.host = Host(session, self.outlook, session.system.kind)
        control.custody.breaks = self.watch
        control.custody.free = self.watch.free
        control.custody.missed = self.watch.missed
        control.custody.calls = self.watch.called
        self.waits = waits
        self.feed = feed or Feed(on=False)
        self.trace = trace
        self.summary = Summary()
        self.recent: deque[Seen] = deque(maxlen=KEPT)
        self.inputs: Counter[Space] = Counter()
        self.answered: Counter[Space] = Counter()
        self.maps: list[MapRecord] = []
        self.displays: dict[int, str] = {}
        self.user_filters: dict[str, Rule] = {}
        self.listeners: list[Callable[[Seen], None]] = []
        self.tallies: dict[int, Running] = {}
        self.stacks = Stacks()
        self.leaving = False
        self.interrupts = 0
        self.run_script: Callable[[AsyncIterable[str], str], Awaitable[None]]
        self.typed: deque[str] = deque(maxlen=1000)
        self.opening: Choice = control.session.choice
        self.on_shown: Callable[[Sequence[Item]], None] = lambda items: None
        self.complain: Callable[[str], None] = lambda text: None
        self.read_line: Callable[[str], Coroutine[Any, Any, str]] | None = None
        self.sit: Callable[[Console], Coroutine[Any, Any, None]] | None = None
        self.confirm: Callable[[str], Coroutine[Any, Any, bool]] | None = None
        self.scripted = False
        self.thread = UserThread()
        self.loop_call = LoopCall()
        self.screen: Callable[[], Screen] = Screen
        self.python: dict[str, object] = {}
        self.captures = False
        self._regions = RegionNames()
        self._events = Events(everything)
        self._last: dict[tuple[str | None, int | None, int], int] = {}

    # ---- what comes in

    def take(self, record: Record) -> None:
        """Take the next record of the session: it is a subscriber."""
        found = [self._seen(event) for event in self._events.add(record)]
        self._events.note(record)
        self.stacks.learn(record)
        self.outlook.marks.add(record)
        self._regions.learn(record)
        self.summary.add(record, found)
        if isinstance(record, MapRecord):
            self.maps.append(record)
        for seen in found:
            self._count(seen.access)
            self.recent.append(seen)
            self._offer(seen)
            for listener in tuple(self.listeners):
                listener(seen)

    def _count(self, access: MemoryAccess) -> None:
        self.inputs[access.space] += 1
        self.answered[access.space] += access.device is not None

    def _offer(self, seen: Seen) -> None:
        # A filter without an answer must not end the run that it looks at.
        try:
            items = self.feed.add(seen, monotonic())
        except TracerError as error:
            self.feed.filters, self.feed.hidden = [], []
            self.complain(f"{error}; every access is shown from here on")
            return
        if items:
            self.on_shown(items)

    def _seen(self, event: Event) -> Seen:
        access = event.access
        place = access.region, access.offset, access.width
        before = self._last.get(place)
        if access.value is not None:
            self._last[place] = access.value
        marks = self.outlook.marks.count
        return Seen(**msgspec.structs.asdict(event), before=before, marks=marks)

    # ---- where the guest is

    @property
    def phase(self) -> str | None:
        """Return the phase of the boot, None while it is unknown."""
        return self._events.chooser.phase

    @property
    def halt(self) -> Halt:
        """Return where the guest stands. Raises UsageError when it does not stand."""
        return self.control.stopped()

    @property
    def cpu(self) -> CpuState | None:
        """Return the registers where the guest stands, None while it does not."""
        halt = self.control.halt
        return None if halt is None else halt.cpu

    def address_of(self, name: str) -> int | None:
        """Return the linear address of a kernel symbol."""
        return self.control.session.names.symbols.address_of(name)

    def region_names(self) -> list[str]:
        """Return the names of the guest's regions, each once, by their physical addresses."""
        regions = self.control.session.view.regions.regions
        return list(dict.fromkeys(region.name for region in regions))

    def named(self, pending: Pending | None) -> Named | None:
        """Return the name of the register that an access is about to reach, None without one."""
        if pending is None:
            return None
        region, offset = located(pending.transfer)
        return self.names.name(region, offset, pending.transfer.width)

    @property
    def known(self) -> Known:
        """Return the places that a person can name."""
        halt = self.control.halt
        return known_of(
            self.control.session,
            self.names,
            None if halt is None else halt.space,
            lambda: [phase for phase, _ in self.summary.phases],
        )

    async def checked(self, parse: Callable[[str], _T], text: str) -> _T:
        """Return what ``parse`` makes of a text.

        A person is asked whether to wait for a name that nothing has yet; a script has to say so
        itself. Raises UsageError.
        """
        try:
            return parse(text)
        except UsageError as error:
            if not error.may_come:
                raise
            if self.scripted or self.confirm is None:
                raise error.noted(f"`{PENDING}` waits for one that is to come") from None
            self.complain(error.detail if isinstance(error, MarkedError) else str(error))
        if not await self.confirm("Wait for one that is to come? (y or [n]) "):
            raise UsageError("nothing is changed")
        return parse(f"{text} {PENDING}")

    def aim(self, text: str) -> Aim:
        """Return the one place in a device that ``text`` names. Raises UsageError."""
        return aim(text, self.control.session.view.regions, self.names)

    async def pattern(self, text: str) -> Pattern:
        """Return what ``[read|write] [PLACE] [if CONDITION]`` wants. Raises UsageError."""
        return await self.checked(lambda text: parse_pattern(text, self.known), text)

    async def rule(self, text: str) -> Rule:
        """Return what a filter wants: the name of one's own, or a pattern. Raises UsageError."""
        own = self.user_filters.get(text)
        if own is not None:
            return own
        pattern = await self.pattern(text)
        condition = pattern.condition
        asked = condition is not None and "callers" in condition.names
        if asked and not self.control.session.stacks:
            raise UsageError(
                "callers of accesses that were made are not known: `vetrace boot --stacks`"
                " records them; a break knows them"
            )

        facts = self.facts_of_seen()
        return Rule(text, lambda event: pattern.wants(facts(event)))

    def facts_of_seen(self) -> Callable[[Seen], Recorded]:
        """Return what tells the facts of accesses that were made, to one who asks for them."""
        changes = Changes()

        def facts(event: Seen) -> Recorded:
            marks = self.outlook.marks
            if event.marks != marks.count:
                marks = marks.upto(event.marks)  # of an access that is shown again
            course = Course(self._regions, self.stacks, marks, changes, event.phase)
            return Recorded(course).at(event.record, event.access, event.seq, event.named)

        return facts

    @property
    def kept(self) -> str:
        """Return in words where accesses are that were not shown."""
        return "all in the trace" if self.trace else f"`show last` has the last {KEPT:,}"

    # ---- what goes on

    async def gone_on(self) -> Result:
        """Return the result of a command that lets the guest go on."""
        if not self.waits:
            return Result({"state": self.control.state})
        return self.stood(await self.control.wait())

    def stood(self, halt: Halt | None) -> Result:
        """Return the result of a stop, or of the guest's end; raises what it ended with.

        At the prompt it has no text: there each stop is told when it comes.
        """
        if halt is not None:
            value = halt_object(halt, self.control.given, self.named(halt.pending))
            if halt.text == INTERRUPTED:
                value["waiting"] = self.control.session.waiting_objects()
            return Result(value, self.told(halt), stands=True) if self.waits else Result(value)
        if self.waits and self.control.error is not None:
            raise self.control.error
        lines = end_lines(self.control) if self.waits else ()
        return Result({"state": "ended", "outcome": self.control.outcome}, lines)

    def told(self, halt: Halt) -> Callable[[Screen], list[str]]:
        """Return what writes the lines about a stop."""
        given, named = self.control.given, self.named(halt.pending)
        symbol = self.control.symbol(halt.cpu.rip)
        # Who interrupts a guest wonders first what it waits for.
        waits = self.control.session.waiting_lines() if halt.text == INTERRUPTED else []
        return lambda screen: [
            *plain_lines(waits, screen),
            *halt_lines(halt, screen, symbol, given, named),
        ]

    def misses(self, what: str, name: str, known: Sequence[str]) -> UsageError:
        """Return the error for a name that nothing has, with the nearest one."""
        near = suggestion(name, known)
        if near:
            return UsageError(f"there is no {what} {name}{near}")
        some = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        return UsageError(f"there is no {what} {name}; there are {some or 'none'}")
