"""The context of the prompt's commands: the run, what is shown of it, and what is kept."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from tracer.access.decision import Pending
from tracer.access.region import RegionMap
from tracer.devices.map import Named
from tracer.errors import MarkedError, TracerError, UsageError, suggestion
from tracer.query.breakpoint import PENDING, Pattern, parse_pattern
from tracer.query.course import Changes
from tracer.query.facts import Recorded
from tracer.query.place import Known
from tracer.repl.aim import Aim, aim
from tracer.repl.command import CommandTable
from tracer.repl.feed import Feed, Item, Rule, Seen, Waited
from tracer.repl.order import Taking, due
from tracer.repl.result import Result, Screen, plain_lines
from tracer.repl.run import Run
from tracer.repl.setting import Settings
from tracer.repl.stop import end_lines, halt_lines, halt_object
from tracer.repl.tally import Running
from tracer.repl.thread import LoopCall, UserThread
from tracer.session.course import INTERRUPTED, Halt
from tracer.trace.member import Space
from tracer.trace.naming import Naming
from tracer.trace.polls import Polls
from tracer.trace.record import MemoryAccess, Record
from tracer.trace.summary import Summary
from tracer.x86.state import CpuState

if TYPE_CHECKING:  # a recording is there before these are loaded
    from tracer.qemu.console import Console
    from tracer.repl.playback import Playback
    from tracer.session.control import Control

_T = TypeVar("_T")

KEPT = 10_000
"""How many accesses `show last` reaches back."""


class Context:
    """Join what one prompt or script works on: a run, live or ``recorded``.

    ``waits`` tells whether a command that lets the guest go on waits for its next stop. ``recent``
    has the last accesses of a live run, ``displays`` the commands that are carried out at each
    stop, ``aliases`` what a name of the person's own stands for, ``orders`` by a break's number
    what is carried out where it stops, ``taking`` those that are being typed, ``settings`` the
    prompt's own. ``inputs`` has how many accesses were made in which space, ``answered`` how many
    of them had another value than the device's, ``user_filters`` those of the person's own file,
    ``listeners`` who is told of each access as it is made, ``tallies`` those that go on.
    ``leaving`` is set by `quit`, ``interrupts`` counts how often Ctrl-C was pressed. ``restart``
    starts the same guest again; ``check_restart`` raises UsageError where that cannot be.
    ``confirm`` asks a person, unless a command is
    ``scripted``; ``sit`` takes one to the guest's console, where there is a terminal. ``screen``
    says what is written on.
    """

    def __init__(
        self,
        run: Run,
        commands: CommandTable,
        names: Naming,
        *,
        waits: bool = True,
        feed: Feed | None = None,
        trace: Path | None = None,
    ) -> None:
        self.run = run
        self.commands = commands
        self.names = names
        self.waits = waits
        self.feed = feed or Feed(on=False)
        self.trace = trace
        self.summary = Summary()
        self.recent: deque[Seen] = deque(maxlen=KEPT)
        self._polls = Polls()
        self.inputs: Counter[Space] = Counter()
        self.answered: Counter[Space] = Counter()
        self.displays: dict[int, str] = {}
        self.aliases: dict[str, str] = {}
        self.orders: dict[int, tuple[str, ...]] = {}
        self.taking: Taking | None = None
        self.settings = Settings()
        self.user_filters: dict[str, Rule] = {}
        self.listeners: list[Callable[[Seen], None]] = []
        self.tallies: dict[int, Running] = {}
        self.leaving = False
        self.interrupts = 0
        self.check_restart: Callable[[], None] = _refuse_restart
        self.restart: Callable[[], Awaitable[Halt]]
        self.run_script: Callable[[AsyncIterable[str], str], Awaitable[None]]
        self.typed: deque[str] = deque(maxlen=1000)
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

    @property
    def control(self) -> Control:
        """Return what drives a guest. Raises UsageError for a recording."""
        return self.run.control

    @property
    def recorded(self) -> Playback | None:
        """Return the recording that this is on, None for a guest."""
        return self.run.playback

    @property
    def recording(self) -> str | None:
        """Return the name of the recording that this is on, None for a guest."""
        return None if self.recorded is None else self.recorded.tape.reader.name

    # ---- the same guest again

    def renewed(self, run: Run, names: Naming, trace: Path | None) -> None:
        """Go on with another run of the same guest: what a person made is kept, counts are not."""
        run.breaks = self.run.breaks.anew()
        self.run, self.names, self.trace = run, names, trace
        self.summary = Summary()
        self._polls = Polls()
        for counts in (self.recent, self.inputs, self.answered):
            counts.clear()
        for number, tally in list(self.tallies.items()):
            self.end_tally(number)
            self.begin_tally(number, Running(tally.counted.tally, self.facts_of_seen(), 0))

    def begin_tally(self, number: int, tally: Running) -> None:
        """Have a tally count each access from here on."""
        tally.complain = lambda text: self.complain(f"tally {number}: {text}")
        self.tallies[number] = tally
        self.listeners.append(tally.listener)

    def end_tally(self, number: int) -> None:
        """Have a tally count no more, and forget it."""
        listener = self.tallies.pop(number).listener
        if listener in self.listeners:  # of a recording all is counted at once
            self.listeners.remove(listener)

    # ---- what comes in

    def take(self, record: Record) -> None:
        """Take the next record of a live run: it is a subscriber."""
        found = self.run.take(record)
        self.summary.add(record, found)
        for poll in self._polls.add(record):
            if poll.is_wait:
                named = self.names.name(poll.region, poll.offset, poll.width)
                self.feed.wait(Waited(poll, named))
        for seen in found:
            self._count(seen.access)
            self.recent.append(seen)
            self.pass_by(seen)

    def pass_by(self, seen: Seen) -> None:
        """Show an access as it goes by, and tell who listens."""
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

    # ---- where the guest is

    @property
    def phase(self) -> str | None:
        """Return the phase of the boot, None while it is unknown."""
        return self.run.phase

    @property
    def halt(self) -> Halt:
        """Return where the guest stands. Raises UsageError when it does not stand."""
        return self.run.stopped()

    @property
    def cpu(self) -> CpuState | None:
        """Return the registers where the guest stands, None while they are not known."""
        halt = self.run.halt
        if halt is None or (halt.made is not None and not halt.made.record.before):
            return None
        return halt.cpu

    @property
    def regions(self) -> RegionMap:
        """Return where devices are."""
        return self.run.regions

    def address_of(self, name: str) -> int | None:
        """Return the linear address of a kernel symbol."""
        return self.run.address_of(name)

    def region_names(self) -> list[str]:
        """Return the names of the guest's regions, each once, by their physical addresses."""
        return list(dict.fromkeys(region.name for region in self.run.regions.regions))

    def named(self, pending: Pending | None) -> Named | None:
        """Return the name of the register that an access is about to reach, None without one."""
        return None if pending is None else self.run.named(pending)

    @property
    def known(self) -> Known:
        """Return the places that a person can name."""
        return self.run.known(lambda: [phase for phase, _ in self.summary.phases])

    async def counted(self) -> Summary:
        """Return what has been counted: of a recording, all that it has."""
        recorded = self.recorded
        return self.summary if recorded is None else await recorded.reads(recorded.scene.counted())

    async def checked(self, parse: Callable[[str], _T], text: str) -> _T:
        """Return what ``parse`` makes of a text.

        A name that nothing has yet may be further on in a recording, which is read to its end for
        that. Of a guest a person is asked whether to wait for it; a script has to say so itself.
        Raises UsageError, and Interrupted.
        """
        try:
            return parse(text)
        except UsageError as error:
            if not error.may_come:
                raise
            if self.recorded is not None:
                await self.recorded.read_on()
                return parse(text)
            if self.scripted or self.confirm is None:
                raise error.noted(f"`{PENDING}` waits for one that is to come") from None
            self.complain(error.detail if isinstance(error, MarkedError) else str(error))
        if not await self.confirm("Wait for one that is to come? (y or [n]) "):
            raise UsageError("nothing is changed")
        return parse(f"{text} {PENDING}")

    def aim(self, text: str) -> Aim:
        """Return the one place in a device that ``text`` names. Raises UsageError."""
        return aim(text, self.run.regions, self.names)

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
        if asked and not self.run.has_stacks:
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
            told = Recorded(self.run.course(event, changes))
            return told.at(event.record, event.access, event.seq, event.named)

        return facts

    @property
    def kept(self) -> str:
        """Return in words where accesses are that were not shown."""
        if self.recorded is not None:
            return "`watch all` shows all"
        return "all in the trace" if self.trace else f"`show last` has the last {KEPT:,}"

    # ---- what goes on

    async def gone_on(self) -> Result:
        """Return the result of a command that lets the guest go on."""
        if not self.waits:
            return Result({"state": self.run.state})
        return self.stood(await self.run.wait())

    def stood(self, halt: Halt | None) -> Result:
        """Return the result of a stop, or of the guest's end; raises what it ended with.

        At the prompt it has no text: there each stop is told when it comes.
        """
        run = self.run
        if halt is not None:
            value = halt_object(halt, run.given, self.named(halt.pending))
            if halt.text == INTERRUPTED:
                value["waiting"] = run.waiting_objects()
            return Result(value, self.told(halt), stands=True) if self.waits else Result(value)
        if self.waits and run.error is not None:
            raise run.error
        lines = end_lines(run) if self.waits else ()
        return Result({"state": "ended", "outcome": run.outcome}, lines)

    def due(self, halt: Halt | None) -> tuple[tuple[str, ...], ...]:
        """Return the orders of the breaks that have stopped the guest, by break."""
        return () if halt is None else due(halt.text, self.run.breaks.met, self.orders)

    def told(self, halt: Halt) -> Callable[[Screen], list[str]]:
        """Return what writes the lines about a stop."""
        given, named = self.run.given, self.named(halt.pending)
        symbol = self.run.symbol(halt.cpu.rip)
        # Who interrupts a guest wonders first what it waits for.
        waits = self.run.waiting_lines() if halt.text == INTERRUPTED else []
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


def _refuse_restart() -> None:
    raise UsageError(
        "this guest cannot be started again from here: leave, and start one as you did this one"
    )
