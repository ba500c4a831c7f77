"""A run of a guest that a prompt is on: one that goes on, or one that was recorded.

What a command needs of either is here. What takes a guest is the :class:`Control` of a live run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tracer.access.decision import Pending
from tracer.access.region import RegionMap
from tracer.access.stack import Stack
from tracer.devices.entry import Entry
from tracer.devices.map import Named
from tracer.query.breakpoint import Breaks
from tracer.query.condition.vocabulary import Facts
from tracer.query.course import Changes
from tracer.query.facts import Course
from tracer.query.place import Known
from tracer.repl.feed import Seen
from tracer.session.course import Halt, Places, everywhere
from tracer.trace.flat import Stacks
from tracer.trace.queue import QueueRecord
from tracer.trace.record import MapRecord, Record
from tracer.trace.uses import RegisterUses, Uses

if TYPE_CHECKING:  # a recording is there before these are loaded
    from tracer.repl.playback import Playback
    from tracer.session.control import Control

State = Literal["stopped", "running", "detached", "ended"]


def _always(facts: Facts) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Goal:
    """Say what a run is to go on to: the first access that is ``wanted``; ``text`` says which.

    ``places`` tells where that can be, ``time_ns`` the guest's time before which it is not;
    ``may`` tells whether it can be one of a kind, of which some facts are known.
    """

    text: str
    wanted: Callable[[Facts], bool]
    places: Places = everywhere
    time_ns: int | None = None
    may: Callable[[Facts], bool] = _always


class Run(Protocol):
    """Tell where a run is, and let it go on.

    ``breaks`` say where it stops; ``on_halt`` and ``on_end`` hold who is told; ``subscribers`` are
    called with each record that goes by. ``stacks`` has the call chains that were recorded.
    """

    breaks: Breaks
    on_halt: list[Callable[[Halt], None]]
    on_end: list[Callable[[], None]]
    subscribers: list[Callable[[Record], None]]
    stacks: Stacks

    # ---- where it is

    @property
    def state(self) -> State: ...
    @property
    def halt(self) -> Halt | None: ...
    @property
    def outcome(self) -> str | None: ...
    @property
    def error(self) -> BaseException | None: ...
    @property
    def given(self) -> int | None: ...
    @property
    def time_ns(self) -> int: ...
    @property
    def phase(self) -> str | None: ...
    def stopped(self) -> Halt: ...
    def pending(self) -> Pending: ...
    def named(self, pending: Pending) -> Named | None: ...

    # ---- going on

    async def start(self) -> Halt | None: ...
    async def wait(self) -> Halt | None: ...
    async def close(self) -> None: ...
    async def interrupt(self) -> None: ...
    def resume(self) -> None: ...
    def step(self, count: int = 1) -> None: ...
    def go_to(self, goal: Goal) -> None: ...

    # ---- what there is

    @property
    def regions(self) -> RegionMap: ...
    @property
    def maps(self) -> Sequence[MapRecord]: ...
    @property
    def has_stacks(self) -> bool: ...
    def known(self, phases: Callable[[], Collection[str]]) -> Known: ...
    def untraced(self, name: str) -> str: ...
    async def registers(self) -> Mapping[str, int]: ...
    def unwind(self) -> Stack: ...
    def symbol(self, linear: int) -> str | None: ...
    def symbols(self) -> Iterable[str]: ...
    def address_of(self, name: str) -> int | None: ...
    def course(self, seen: Seen, changes: Changes) -> Course: ...
    async def uses(self, region: str, entry: Entry) -> Uses: ...
    async def counts(self) -> RegisterUses: ...
    def waiting_line(self, columns: int) -> str: ...
    def waiting_lines(self) -> list[str]: ...
    def queues_at(self, pending: Pending) -> list[QueueRecord]: ...
    def waiting_objects(self) -> list[dict[str, Any]]: ...

    # ---- who drives it

    def take(self, record: Record) -> Sequence[Seen]: ...

    @property
    def control(self) -> Control: ...
    @property
    def playback(self) -> Playback | None: ...
