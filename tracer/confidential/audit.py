"""Whether a guest is ready for TDX or SEV-ES: what a handler would make of its device accesses.

Every device access of a confidential guest is an exit: an exception, a decoded instruction, a
hypercall. An instruction that the handler does not know is fatal; a function that makes many exits
is better changed to ask the host without the exception ("paravirtualised").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tracer.confidential.handler import PROFILES, Profile, Verdict, alike, judge, profile_of
from tracer.confidential.hypercall import ghcb_asked
from tracer.confidential.input_verdict import JUDGED, judge_input
from tracer.confidential.kind import Kind
from tracer.errors import EmulationError
from tracer.trace.call import TdcallRecord, VmgexitRecord
from tracer.trace.event import Event, events_of
from tracer.trace.member import Space
from tracer.trace.record import Intercept, MemoryAccess, Record
from tracer.x86.decode import decode
from tracer.x86.state import Flag, Mode

MOST = 0.8
"""Which part of all exits the functions worth paravirtualising make together."""


@dataclass(frozen=True, slots=True)
class Place:
    """Name code: a function, None where there is no symbol, and its module, None in the kernel."""

    function: str | None
    module: str | None


@dataclass(slots=True)
class Site:
    """Count the exits of one instruction; ``fatal`` are those that the handler cannot handle.

    ``rip`` is linear. ``verdict`` is the worst of all its accesses.
    """

    place: Place
    offset: str | None
    rip: int
    code: bytes
    text: str
    verdict: Verdict
    exits: int = 0
    fatal: int = 0
    regions: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Exits:
    """Hold what of a record is judged, the same for every profile.

    ``given`` are the inputs, ``reached`` the accesses to devices in memory, ``operands`` what of
    their linear addresses a verdict depends on.
    """

    given: Sequence[Event]
    reached: Sequence[Event]
    operands: tuple[object, ...]


def exits_of(record: Intercept, events: Sequence[Event]) -> Exits:
    """Return what of a record is judged, of those of its events that are counted."""
    given = [event for event in events if event.space in JUDGED]
    reached = [event for event in events if event.space == "memory"]
    return Exits(given, reached, tuple(map(alike, _operands(record.accesses))) if reached else ())


class Audit:
    """Judge records as they come, in memory that grows with the call sites alone.

    ``unjudged`` counts the exits of instructions that the trace does not tell, ``inside`` by space
    the inputs that are carried out in the guest, without an exit.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.unjudged = 0
        self.inside: Counter[Space] = Counter()
        self._verdicts: dict[tuple[object, ...], Verdict] = {}
        self._sites: dict[tuple[int, bytes], Site] = {}

    def add(self, record: Record, events: Sequence[Event] | None = None) -> None:
        """Judge one record, emulated or natively stepped.

        Of its device accesses those of the events are counted, all when that is None. An
        instruction that is given an input makes one exit. Interrupts are not judged: the host takes
        them.
        """
        if isinstance(record, Intercept):
            events = events_of(record) if events is None else events
            self.judge(record, exits_of(record, events))

    def judge(self, record: Intercept, exits: Exits) -> None:
        """Judge what was found of a record with :func:`exits_of`, once for all audits."""
        if exits.given:
            self._add_input(record, exits.given)
        reached = exits.reached
        if not reached:
            return
        if not record.code:
            self.unjudged += len(reached)
            return
        told = record.rip, record.code, record.mode, record.cpl, exits.operands
        verdict = self._verdicts.get(told)
        if verdict is None:
            verdict = self._verdicts[told] = judgement(record, self.profile)
        # A handler makes one hypercall for each device access.
        self._count(record, reached, verdict, len(reached))

    def _add_input(self, record: Intercept, given: Sequence[Event]) -> None:
        access = given[0].access
        if not record.code:
            self.unjudged += 1
            return
        count = record.before.get("rcx", 0) if access.space == "port" else 0
        number = access.physical & 0xFFFF_FFFF  # a subleaf lies above
        several, df = min(count, 2), record.before.get("rflags", 0) & Flag.DF
        told = (
            record.rip, record.code, record.mode, record.cpl, access.space, number, several, df,
        )  # fmt: skip
        verdict = self._verdicts.get(told)
        if verdict is None:
            verdict = self._verdicts[told] = input_judgement(record, access, self.profile)
        exits = verdict.outcome != "none"
        if not exits:
            self.inside[access.space] += 1
        self._count(record, given, verdict, int(exits))

    def _count(
        self, record: Intercept, events: Sequence[Event], verdict: Verdict, exits: int
    ) -> None:
        key = record.rip, record.code
        site = self._sites.get(key)
        if site is None:
            place, offset = locate(record.symbol)
            site = Site(place, offset, record.rip, record.code, record.text, verdict)
            self._sites[key] = site
        site.exits += exits
        site.regions.update(event.access.region or "" for event in events)
        if verdict.outcome == "oops":
            site.fatal += exits
            site.verdict = verdict
        elif site.verdict.outcome == "none" or (verdict.note and site.verdict.outcome != "oops"):
            site.verdict = verdict

    @property
    def sites(self) -> list[Site]:
        """Return the call sites: fatal ones first, then by how many exits they make."""
        return sorted(
            self._sites.values(), key=lambda site: (not site.fatal, -site.exits, site.rip)
        )

    @property
    def exits(self) -> int:
        """Return how many exits there were."""
        return sum(site.exits for site in self._sites.values())

    @property
    def fatal_sites(self) -> int:
        """Return how many call sites the handler would not survive."""
        return sum(site.fatal > 0 for site in self._sites.values())

    def functions(self) -> list[tuple[Place, int]]:
        """Return each function with the exits it makes, the costliest first."""
        counts: Counter[Place] = Counter()
        for site in self._sites.values():
            counts[site.place] += site.exits
        return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))

    def costliest(self) -> list[tuple[Place, int]]:
        """Return the fewest functions that together make :data:`MOST` of all exits."""
        enough, found = MOST * self.exits, []
        for place, exits in self.functions():
            if enough <= 0:
                break
            found.append((place, exits))
            enough -= exits
        return found


class OwnAudit:
    """Judge a trace for the handler of the guest that it is of, whose kind its records tell.

    An ordinary guest has no handler: it is judged for the one that a TDX guest's Linux has now.
    ``release`` is its kernel's. ``audits`` are for all that it may turn out to be.
    """

    def __init__(self, release: str) -> None:
        names = {kind: profile_of(kind, release) for kind in Kind}
        by_name = {name: Audit(PROFILES[name]) for name in names.values()}
        self.audits = list(by_name.values())
        self.kind = Kind.PLAIN
        self._by_kind = {kind: by_name[name] for kind, name in names.items()}

    def hear(self, record: Record) -> None:
        """Take note of what a record tells of the guest's kind."""
        match record:
            case VmgexitRecord():
                self.kind = Kind.SEV_ES
            case TdcallRecord():
                self.kind = Kind.TDX
            case Intercept() if record.asked is not None and self.kind is Kind.PLAIN:
                exit = ghcb_asked(record.asked.given, record.asked.returned)
                self.kind = Kind.TDX if exit is None else Kind.SEV_ES

    @property
    def own(self) -> Audit:
        """Return the audit for what the guest has turned out to be."""
        return self._by_kind[self.kind]


def side_by_side(audits: Sequence[Audit]) -> list[tuple[Site, ...]]:
    """Return each call site as every audit of one trace judged it.

    Those fatal to one come first, then those that make more exits in any.
    """
    columns = [{(site.rip, site.code): site for site in audit.sites} for audit in audits]
    rows = [tuple(column[key] for column in columns) for key in columns[0]]
    return sorted(rows, key=_rank)


def _rank(row: tuple[Site, ...]) -> tuple[bool, int, int]:
    return not any(site.fatal for site in row), -max(site.exits for site in row), row[0].rip


def audit(records: Iterable[Record], profile: Profile) -> Audit:
    """Judge a whole trace."""
    result = Audit(profile)
    for record in records:
        result.add(record)
    return result


def judgement(record: Intercept, profile: Profile) -> Verdict:
    """Return what a profile's handler would do with the instruction of one record."""
    try:
        insn = decode(record.code, record.rip, Mode(record.mode))
    except EmulationError:
        return Verdict("oops", "no instruction that this decoder knows")
    verdict = Verdict("none", "no device access")
    for linear in _operands(record.accesses):
        verdict = judge(profile, insn, cpl=record.cpl, linear=linear)
        if verdict.outcome == "oops":
            break
    return verdict


def input_judgement(record: Intercept, access: MemoryAccess, profile: Profile) -> Verdict:
    """Return what a profile's handler would do with an instruction that is given an input."""
    try:
        insn = decode(record.code, record.rip, Mode(record.mode))
    except EmulationError:
        return Verdict("oops", "no instruction that this decoder knows")
    return judge_input(
        profile,
        insn,
        access.space,
        access.physical & 0xFFFF_FFFF,
        access.direction,
        width=access.width,
        cpl=record.cpl,
        count=record.before.get("rcx", 0),
        backwards=bool(record.before.get("rflags", 0) & Flag.DF),
    )


def _operands(accesses: list[MemoryAccess]) -> list[int]:
    # Yields where each memory operand that reached a device begins: an access that crosses a page
    # is recorded in parts, of which one may be RAM. No handler knows an instruction that has two
    # operands of one direction.
    if len(accesses) == 1:
        return [accesses[0].linear] if accesses[0].region is not None else []
    starts = []
    for direction in ("read", "write"):
        parts = [access for access in accesses if access.direction == direction]
        if any(part.region is not None for part in parts):
            starts.append(parts[0].linear)
    return starts


def locate(symbol: str | None) -> tuple[Place, str | None]:
    """Return where a call site is, and the offset in the function, from what records have.

    That is ``function+0x1c``, with ``[module]`` behind it where the function is in one.
    """
    if symbol is None:
        return Place(None, None), None
    head, bracket, owner = symbol.partition(" [")
    function, plus, offset = head.rpartition("+")
    return (
        Place(function if plus else head, owner.rstrip("]") if bracket else None),
        offset if plus else None,
    )
