"""A recorded run, as the prompt has it: at one access of a trace, on the way to another one.

Where a live guest stands before an access, this stands at one that was made: what it read is known.
Nothing of it can be changed, and it goes back as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tracer.access.decision import Pending
from tracer.access.reenactment import pending_of
from tracer.access.region import RegionMap
from tracer.access.stack import Stack
from tracer.devices.entry import Entry
from tracer.devices.map import Named, RegisterMaps
from tracer.errors import Interrupted, UsageError
from tracer.query.breakpoint import Breaks
from tracer.query.course import Changes
from tracer.query.facts import Course
from tracer.query.place import Known
from tracer.repl.feed import Seen
from tracer.repl.journey import TURN, Arrival, Journey
from tracer.repl.run import Goal, State
from tracer.repl.scene import Scene
from tracer.repl.search import Search, Spot
from tracer.session.course import Halt, halt_at
from tracer.trace.event import Event
from tracer.trace.queue import QueueRecord
from tracer.trace.record import MapRecord, Record
from tracer.trace.tape import Tape
from tracer.trace.uses import RegisterUses, Uses

if TYPE_CHECKING:
    from tracer.session.control import Control

_T = TypeVar("_T")

BEGINNING = "the beginning of the trace"


class Playback:
    """Go through a trace, forwards and back: a :class:`tracer.repl.run.Run`.

    ``on_passed`` is told of each access that is passed on the way forwards while ``follows`` says
    that somebody wants to know, ``subscribers`` of their records. ``place`` is that of the access
    that it stands at, counted from 0; ``scene`` knows what there was.
    """

    def __init__(self, tape: Tape, maps: RegisterMaps) -> None:
        self.tape = tape
        self.scene = Scene(tape, maps)
        self.breaks = Breaks()
        self.on_halt: list[Callable[[Halt], None]] = []
        self.on_end: list[Callable[[], None]] = []
        self.subscribers: list[Callable[[Record], None]] = []
        self.on_passed: Callable[[Seen], None] = lambda seen: None
        self.follows: Callable[[], bool] = lambda: False
        self.stacks = tape.stacks
        self.place = 0
        self._halt: Halt | None = None
        self._task: asyncio.Task[Any] | None = None
        self._journey: Journey | None = None

    # ---- lifetime

    async def start(self) -> Halt | None:
        """Stand at the first access; nothing behind it is read yet."""
        if self.tape.more():
            self._stand(0, BEGINNING)
        return self._halt

    async def wait(self) -> Halt | None:
        """Wait until a motion is over; None at the end of the trace."""
        if self._task is not None:
            await self._task
        return self._halt

    async def close(self) -> None:
        """End a motion that is under way, and close the file."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task
        self.tape.reader.close()

    async def interrupt(self) -> None:
        """Have a journey stop where it is, and end a reading."""
        if self._journey is not None:
            self._journey.stopped = True
        elif self._task is not None:
            self._task.cancel()

    # ---- where it is

    @property
    def playback(self) -> Playback:
        """Return itself: it is a recording."""
        return self

    @property
    def control(self) -> Control:
        """Raise UsageError: there is no guest to drive."""
        raise UsageError("that needs a guest, and this is a recording")

    @property
    def state(self) -> State:
        """Return whether it stands at an access, goes on, or has come to the end."""
        if self._task is not None and not self._task.done():
            return "running"
        return "ended" if self._halt is None else "stopped"

    @property
    def halt(self) -> Halt | None:
        """Return where it stands; None at the end and while it goes on."""
        return None if self.state == "running" else self._halt

    @property
    def outcome(self) -> str | None:
        """Return how the guest ended, once the trace has been read to its end."""
        return None if self.tape.end is None else self.tape.end.outcome

    @property
    def ending(self) -> str:
        """Return in words why there is nothing more."""
        return self.scene.ending

    @property
    def error(self) -> None:
        """Return that nothing has failed here."""

    @property
    def given(self) -> None:
        """Return that no access is given another value."""

    @property
    def time_ns(self) -> int:
        """Return the guest's time where it stands."""
        return self.tape.time_ns if self._halt is None else self._halt.time_ns

    @property
    def phase(self) -> str | None:
        """Return the phase of the boot, None while it is unknown."""
        return None if self._halt is None or self._halt.made is None else self._halt.made.phase

    def stopped(self) -> Halt:
        """Return where it stands. Raises UsageError where it does not."""
        if self.state == "running":
            raise UsageError("the trace is being gone through: interrupt it first")
        if self._halt is None:
            hint = ": `back` goes back" if self.tape.accesses else ""
            raise UsageError(f"the end of the trace ({self.ending}){hint}")
        return self._halt

    def pending(self) -> Pending:
        """Return the access that it stands at. Raises UsageError at the end."""
        pending = self.stopped().pending
        assert pending is not None  # it stands at one
        return pending

    def named(self, pending: Pending) -> Named | None:
        """Return the name of the register that an access was to, None without one."""
        return None if self._halt is None or self._halt.made is None else self._halt.made.named

    # ---- going on

    def resume(self) -> None:
        """Go on to the next break, or to the end."""
        self._forward(None, None)

    def step(self, count: int = 1) -> None:
        """Go on by some accesses, to the next break at most."""
        self._forward(None, self.place + count)

    def go_to(self, goal: Goal) -> None:
        """Go on to the first access that is wanted."""
        self._forward(goal, None)

    def back(self, count: int) -> None:
        """Go back by some accesses, to the break before at most."""
        lowest = self.place - count
        why = "back" if lowest >= 0 else BEGINNING
        self._set_out(lambda way: way.backward(self.place, max(lowest, 0), why))

    def go_back_to(self, goal: Goal | None) -> None:
        """Go back to the last access before that is wanted, or to the last one at a break."""
        self._set_out(lambda way: way.backward(self.place, 0, BEGINNING), goal)

    def place_of(self, seq: int) -> int:
        """Return the place of the access with a number, 0 of one before the first.

        The numbers of a trace count up without a gap.
        """
        first = self.tape.at(0).seq if self.tape.accesses else 0
        return max(seq - first, 0)

    def jump(self, place: int | None) -> None:
        """Stand at an access, whatever breaks there are between; None for the end."""
        self._set_out(lambda way: way.to(place))

    def _forward(self, goal: Goal | None, last: int | None) -> None:
        stands = self._halt is not None
        # More may have been written meanwhile.
        if self.state != "running" and not stands and not self.tape.more():
            self.stopped()
        self._set_out(lambda way: way.forward(self.place, last, stands=stands), goal)

    def _set_out(
        self, motion: Callable[[Journey], Awaitable[Arrival]], goal: Goal | None = None
    ) -> None:
        if self.state == "running" or not self.tape.accesses:
            self.stopped()
        follows = bool(self.subscribers) or self.follows()
        journey = Journey(
            self.tape, Search(self.tape, self.breaks, goal), self._pass if follows else None
        )
        self._journey = journey
        self._task = asyncio.get_running_loop().create_task(self._arrive(journey, motion))

    async def _arrive(
        self, journey: Journey, motion: Callable[[Journey], Awaitable[Arrival]]
    ) -> None:
        try:
            arrival = await motion(journey)
        finally:
            self._journey = None
        self.breaks = arrival.breaks
        if arrival.place < self.tape.accesses:
            self._stand(arrival.place, arrival.why)
        else:
            self._end()

    async def reads(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Have something found out by reading. Raises Interrupted where Ctrl-C ends that."""
        if self.state == "running":
            work.close()
            self.stopped()
        task: asyncio.Task[_T] = asyncio.get_running_loop().create_task(work)
        self._task = task
        try:
            return await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # it is the session that ends
            raise Interrupted(signal.SIGINT, "interrupted while the trace was read") from None

    async def read_on(self) -> None:
        """Read the trace to its end. Raises Interrupted."""
        await self.reads(self._read_on())

    async def _read_on(self) -> None:
        while self.tape.more():
            await asyncio.sleep(0)

    def _stand(self, place: int, why: str) -> None:
        event = self.tape.at(place)
        self.place = place
        self._halt = replace(halt_at(pending_of(event, self.regions), "access", why), made=event)
        for tell in tuple(self.on_halt):
            tell(self._halt)

    def _end(self) -> None:
        self.place, self._halt = self.tape.accesses, None
        for tell in tuple(self.on_end):
            tell()

    # ---- what is passed, and what lies around

    def take(self, record: Record) -> Sequence[Seen]:
        """Return nothing: no record comes from elsewhere."""
        return ()

    def _pass(self, spot: Spot) -> None:
        event = spot.event
        if event.seq == event.record.seq:
            for subscriber in tuple(self.subscribers):
                subscriber(event.record)
        self.on_passed(self._seen(spot.place, event))

    def _seen(self, place: int, event: Event) -> Seen:
        return Seen(**msgspec.structs.asdict(event), marks=self.tape.marks_before(place))

    async def before(self, count: int, fits: Callable[[Seen], bool]) -> list[Seen]:
        """Return the last accesses that fit before the one it stands at. Raises Interrupted."""
        found = await self.reads(self._around(range(self.place - 1, -1, -1), count, fits))
        return found[::-1]

    async def ahead(self, count: int, fits: Callable[[Seen], bool]) -> list[Seen]:
        """Return the next ones from the access on that it stands at. Raises Interrupted."""
        return await self.reads(self._around(itertools.count(self.place), count, fits))

    async def _around(
        self, places: Iterable[int], count: int, fits: Callable[[Seen], bool]
    ) -> list[Seen]:
        found: list[Seen] = []
        for place in places:
            if len(found) == count or not (place < self.tape.accesses or self.tape.more()):
                break
            seen = self._seen(place, self.tape.at(place))
            if fits(seen):
                found.append(seen)
            if place % TURN == 0:
                await asyncio.sleep(0)
        return found

    def course(self, seen: Seen, changes: Changes) -> Course:
        """Return what was before an access."""
        return self.scene.course(seen, changes)

    # ---- what there is

    @property
    def regions(self) -> RegionMap:
        """Return where devices were."""
        return self.scene.regions(self.place)

    @property
    def maps(self) -> list[MapRecord]:
        """Return what the guest had mapped."""
        return [each for each in self.tape.before(self.place) if isinstance(each, MapRecord)]

    @property
    def has_stacks(self) -> bool:
        """Tell whether call chains are recorded."""
        return self.scene.has_stacks

    def known(self, phases: Callable[[], Collection[str]]) -> Known:
        """Return what a person can name: what the trace has, as far as it has been read."""
        return self.scene.known(self.place)

    def untraced(self, name: str) -> str:
        """Return nothing: a trace has an end."""
        return ""

    async def registers(self) -> Mapping[str, int]:
        """Return those registers that were recorded, by GDB's names. Raises UsageError."""
        record = self._made().record
        if not record.before:
            raise UsageError("no registers were recorded, as in no trace that was imported")
        known = dict(record.before)
        known["eflags"] = known.pop("rflags", 0)
        return {**known, "rip": record.rip}

    def unwind(self) -> Stack:
        """Return the functions that were under way, as far as they were recorded."""
        return self.scene.stack(self._made().record)

    def _made(self) -> Event:
        made = self.stopped().made
        assert made is not None  # it stands at one
        return made

    def symbol(self, linear: int) -> str | None:
        """Return the name that a linear address has in the trace."""
        return self.scene.names.lookup(linear)

    def symbols(self) -> Iterable[str]:
        """Return the functions that made accesses, as far as the trace has been read."""
        return self.scene.names.functions

    def address_of(self, name: str) -> int | None:
        """Return where a function begins that made an access, or called one that did."""
        return self.scene.names.address_of(name)

    async def uses(self, region: str, entry: Entry) -> Uses:
        """Return how often a register is used, and its last uses before. Raises Interrupted."""
        return await self.reads(self.scene.uses(region, entry, self.place))

    async def counts(self) -> RegisterUses:
        """Return how often each register is used, the last uses in no order. Raises Interrupted."""
        return (await self.reads(self.scene.counts())).uses

    def waiting_line(self, columns: int) -> str:
        """Return nothing, likewise."""
        return ""

    def waiting_lines(self) -> list[str]:
        """Return nothing: a recording waits for nobody."""
        return []

    def queues_at(self, pending: Pending) -> list[QueueRecord]:
        """Return what the doorbell that it stands at told, or the device that interrupts."""
        return self.scene.queues_at(self._made(), self.place)

    def waiting_objects(self) -> list[dict[str, Any]]:
        """Return nothing, likewise."""
        return []
