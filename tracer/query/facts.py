"""The facts in a trace: of an access that was made, and of what stands between accesses.

This is all that conditions see of records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tracer.devices.map import Named
from tracer.query.condition.vocabulary import COVERED, MEMORY, OWNERS, SITE, Fact
from tracer.query.course import Changes, Marks
from tracer.trace.call import CallRecord, SharedRecord
from tracer.trace.flat import Stacks
from tracer.trace.member import Space
from tracer.trace.name import RegionNames, device_of
from tracer.trace.queue import QueueRecord
from tracer.trace.record import Intercept, LostRecord, Mark, MemoryAccess, UserRecord
from tracer.trace.summary import mnemonic
from tracer.trace.waiting import WaitRecord
from tracer.x86.bus import Direction


@dataclass(slots=True)
class Course:
    """Hold what was before an access, as far as its facts depend on that.

    ``regions`` know devices, ``phase`` is None while it is unknown.
    """

    regions: RegionNames = field(default_factory=RegionNames)
    stacks: Stacks = field(default_factory=Stacks)
    marks: Marks = field(default_factory=Marks)
    changes: Changes = field(default_factory=Changes)
    phase: str | None = None


class Recorded:
    """Know the facts of one recorded device access; ``seq`` is its number in the trace.

    The same one can go from access to access.
    """

    __slots__ = ("access", "course", "named", "record", "seq")

    record: Intercept
    access: MemoryAccess
    seq: int
    named: Named | None

    def __init__(self, course: Course) -> None:
        self.course = course

    def at(
        self, record: Intercept, access: MemoryAccess, seq: int, named: Named | None
    ) -> Recorded:
        """Return itself, gone to an access."""
        self.record, self.access, self.seq, self.named = record, access, seq, named
        return self

    def __getitem__(self, name: str) -> Fact:
        return _OF_RECORD[name](self)

    def other(self, name: str) -> Fact:
        """Return a fact that has a name of its own in each condition."""
        if name.startswith(MEMORY):
            access, named = self.access, self.named
            place = (
                access.region, access.offset, access.direction, access.width,
                None if named is None else named.text,
            )  # fmt: skip
            return self.course.changes.asked(name, place, access.value)
        if name.startswith("$"):
            # An imported trace has no registers.
            return self.record.rip if name == "$rip" else self.record.before.get(name[1:])
        return self.course.marks.between(name)

    @property
    def callers(self) -> tuple[str, ...] | None:
        """Return the functions under way, the innermost first; None where no stack is recorded."""
        chain = self.course.stacks.of(self.record.stack)
        return None if chain is None else with_functions((self.record.symbol or "", *chain))


def causes(record: Intercept, access: MemoryAccess) -> tuple[str, ...]:
    """Return what may have sent an interrupt; nothing for all else."""
    return senders(None if access.space == "msi" else record.cause)


def sources(record: Intercept, access: MemoryAccess) -> tuple[str, ...]:
    """Return what may have sent a message; nothing for all else."""
    return senders(record.cause if access.space == "msi" else None)


def senders(told: str | None) -> tuple[str, ...]:
    """Return the names of which a cause is one; nothing without one."""
    return () if told is None else tuple(told.split(" or "))


def site(symbol: str | None) -> str:
    """Return a call site without its module."""
    return (symbol or "").partition(" [")[0]


def function(symbol: str | None) -> str:
    """Return the function of a call site; empty where that has no name."""
    return site(symbol).partition("+")[0]


def module(symbol: str | None) -> str:
    """Return the module of a call site; empty for the kernel itself."""
    return (symbol or "").partition(" [")[2].rstrip("]")


def with_functions(sites: tuple[str, ...]) -> tuple[str, ...]:
    """Return call sites, and the functions that these are in."""
    told = (name for each in sites if each for name in (each, site(each), function(each)))
    return tuple(dict.fromkeys(told))


def covered(named: Named | None) -> tuple[str, ...]:
    """Return the name of what is accessed, then those of the registers that it covers."""
    if named is None:
        return ()
    if len(named.parts) == 1:
        return named.text, named.parts[0].name
    return named.text, *(part.name for part in named.parts)


def _in_space(access: MemoryAccess, space: Space) -> int | None:
    return access.physical if access.space == space else None


def low(address: int | None) -> int | None:
    """Return the leaf of CPUID, which with its subleaf is one address."""
    return None if address is None else address & (1 << 32) - 1


def high(address: int | None) -> int | None:
    """Return the subleaf, likewise."""
    return None if address is None else address >> 32


class _Finders(dict[str, Callable[[Recorded], Fact]]):
    # A fact that is asked for often is found without a search for its kind.
    def __missing__(self, name: str) -> Callable[[Recorded], Fact]:
        return lambda told: told.other(name)


_OF_RECORD = _Finders({
    "value": lambda told: told.access.value,
    "offset": lambda told: told.access.offset,
    "width": lambda told: told.access.width,
    "extent": lambda told: told.access.span,
    "address": lambda told: told.access.physical,
    "data": lambda told: told.access.value if told.access.space == "msi" else None,
    "linear": lambda told: told.access.linear,
    "space": lambda told: told.access.space,
    "port": lambda told: _in_space(told.access, "port"),
    "msr": lambda told: _in_space(told.access, "msr"),
    "leaf": lambda told: low(_in_space(told.access, "cpuid")),
    "subleaf": lambda told: high(_in_space(told.access, "cpuid")),
    "region": lambda told: told.access.region or "",
    OWNERS: lambda told: told.course.regions.owners(told.access.region or ""),
    "device": lambda told: device_of(
        told.access.region or "", told.course.regions.owners(told.access.region or "")
    ),
    "register": lambda told: "" if told.named is None else told.named.text,
    COVERED: lambda told: covered(told.named),
    SITE: lambda told: told.record.symbol or "",
    "symbol": lambda told: site(told.record.symbol),
    "function": lambda told: function(told.record.symbol),
    "module": lambda told: module(told.record.symbol),
    "callers": lambda told: told.callers,
    "direction": lambda told: told.access.direction,
    "vcpu": lambda told: told.record.vcpu,
    "cpl": lambda told: told.record.cpl,
    "seq": lambda told: told.seq,
    "time": lambda told: told.record.time_ns,
    "count": lambda told: None,
    "mnemonic": lambda told: mnemonic(told.record.text),
    "via": lambda told: told.record.via,
    "cause": lambda told: causes(told.record, told.access),
    "source": lambda told: sources(told.record, told.access),
    "phase": lambda told: told.course.phase or "",
    "mark": lambda told: told.course.marks.last,
})  # fmt: skip


class Partial(dict[str, Fact]):
    """Hold the few facts that are known of something; all others are unknown."""

    def __missing__(self, name: str) -> Fact:
        return None


def facts_of_region(region: str, owners: tuple[str, ...]) -> Partial:
    """Return what is known of every access to a region."""
    told: dict[str, Fact] = {"region": region, OWNERS: owners, "device": device_of(region, owners)}
    return Partial(told)


def facts_of_note(record: Mark | LostRecord, course: Course, phase: str | None) -> Moment:
    """Return what is known of a mark or a loss, taken to be in a phase."""
    return Moment(course, {"time": record.time_ns, "phase": phase or ""})


def facts_of_deed(
    record: UserRecord | CallRecord | SharedRecord | WaitRecord | QueueRecord, course: Course
) -> Moment:
    """Return what is known of a person's doing, a confidential guest's call, or a wait."""
    told: dict[str, Fact] = {
        "time": record.time_ns,
        "vcpu": record.vcpu,
        "phase": course.phase or "",
    }
    return Moment(course, told)


def facts_of_touch(
    record: UserRecord, access: MemoryAccess, named: Named | None, course: Course
) -> Moment:
    """Return what is known of an access that the debugger made for a person."""
    facts = facts_of_deed(record, course)
    region = access.region or ""
    facts.update(facts_of_region(region, course.regions.owners(region)))
    direction: Direction = access.direction
    facts.update(
        {
            "value": access.value, "offset": access.offset,
            "width": access.width, "extent": access.span, "address": access.physical,
            "space": access.space, "direction": direction,
            "register": "" if named is None else named.text,
            COVERED: covered(named),
        }
    )  # fmt: skip
    return facts


class Moment(Partial):
    """Hold what is known of a moment between accesses."""

    def __init__(self, course: Course, known: Mapping[str, Fact]) -> None:
        super().__init__(known)
        self._marks = course.marks

    def __missing__(self, name: str) -> Fact:
        return self._marks.last if name == "mark" else self._marks.between(name, next_=False)
