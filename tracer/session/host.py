"""The host of a guest: what becomes of its accesses, by rules and by a person's own Python.

A write is decided before it reaches its device, a read once its device has answered: so rules are
asked in one order, whether they ask for the value or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tracer.access.decision import (
    NO_LEEWAY,
    Called,
    Decision,
    Give,
    Go,
    Leeway,
    Pending,
    Postpone,
    Refuse,
    Ruling,
)
from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Reason
from tracer.access.transfer import located
from tracer.confidential.kind import Kind
from tracer.confidential.request import FatalError, Halt, Mmio, Request
from tracer.errors import HostFailed, UsageError
from tracer.query.breakpoint import Pattern, parse_pattern
from tracer.query.course import Changes
from tracer.query.pending import PendingFacts
from tracer.query.place import Known
from tracer.query.rule import Rule, Rules, parse_rule
from tracer.session.outlook import NEED_RECORDS, Outlook
from tracer.session.own_host import OwnHost
from tracer.session.session import Session
from tracer.text.amount import counted
from tracer.trace.naming import Naming
from tracer.trace.record import UserRecord
from tracer.x86.state import CpuState


def check_told(ruling: Ruling, kind: Kind) -> None:
    """Raise UsageError for what no guest of this kind can be told."""
    if isinstance(ruling, Postpone) and kind is Kind.SEV_ES:
        raise UsageError(
            f"retry is an answer to a {Kind.TDX.label} guest: the host of an {kind.label} guest "
            "grants an access, or it refuses: `refuse`"
        )
    if isinstance(ruling, Refuse | Postpone) and kind is Kind.PLAIN:
        word = "refuse" if isinstance(ruling, Refuse) else "retry"
        raise UsageError(
            f"{word} is an answer to a guest that asks its host for each access: it takes "
            "--guest tdx or --guest sev-es"
        )


class Host:
    """Decide what becomes of each access of one guest that no person has decided about.

    ``rules`` are asked in their order, then ``own``. ``applied`` counts the accesses and calls of
    which one of them decided. The ``kind`` of guest says what it can be told.
    """

    def __init__(self, session: Session, outlook: Outlook, kind: Kind = Kind.PLAIN) -> None:
        self.kind = kind
        self.rules = Rules()
        self.own: OwnHost | None = None
        self.applied = 0
        self._session = session
        self.outlook = outlook
        self._changes = Changes()
        self._patterns: tuple[Pattern, ...] = ()
        self._by_own = 0
        self._answered = 0
        self._refused = 0
        self._remarked: set[str] = set()

    # ---- what it goes by

    def add(self, text: str, known: Known) -> Rule:
        """Take one more rule, behind the others; return it. Raises UsageError."""
        rule = parse_rule(text, known)
        check_told(rule.ruling, self.kind)
        self._check_traced(rule)
        self.rules = self.rules.added(rule)
        rule = self.rules.items[-1]
        self._tell(f"{rule.name}: {rule.text}")
        return rule

    def take(self, own: OwnHost, known: Known) -> None:
        """Ask a person's own Python after the rules. Raises UsageError."""
        self._patterns = tuple(parse_pattern(text, known) for text in own.on)
        self.own = own
        self._tell(f"host {own.name}")

    def remove(self, numbers: Sequence[int]) -> None:
        """Forget some rules."""
        self.rules = self.rules.without(numbers)
        for number in numbers:
            self._tell(f"rule {number}: off")

    def _check_traced(self, rule: Rule) -> None:
        # An access that is not traced makes no stop, so nobody would be asked.
        regions = self._session.view.regions
        places = rule.trigger.pattern.places(regions)
        if not places:
            return
        reached = {
            region.name: regions.is_traced_region(region)
            for region in regions.regions
            if any(part.start <= region.end and region.start < part.stop for part in places)
        }
        if reached and not any(reached.values()):
            raise UsageError(
                f"{', '.join(reached)} is not traced, so no rule can be asked: see --region and "
                "--bypass"
            )

    def _tell(self, text: str) -> None:
        self._session.publish(UserRecord(time_ns=self._session.view.time_ns, text=text))

    @property
    def needs_records(self) -> bool:
        """Tell whether what it asks for is known only to who has seen all records."""
        own = any(not pattern.facts.isdisjoint(NEED_RECORDS) for pattern in self._patterns)
        return own or self.own is not None or self.rules.asks(NEED_RECORDS)

    # ---- deciding

    def before(self, pending: Pending) -> Ruling | None:
        """Return what becomes of an access that nothing has reached yet; None lets it go on."""
        waits = pending.transfer.direction == "read" and not pending.fixed
        return None if waits else self._ruling(pending)

    def answered(self, pending: Pending) -> Ruling | None:
        """Return what becomes of a read that its device has answered; None lets it go on."""
        return self._ruling(pending)

    def called(self, request: Request | None) -> Ruling | None:
        """Return what is said to a call that is no device access; None for the usual answer.

        Rules are for accesses, so a person's Python alone is asked; and it is not where no host has
        a choice. Raises HostFailed.
        """
        if self.own is None or request is None or isinstance(request, Mmio | Halt | FatalError):
            return None
        ruling = self._possible(self.own, self.own.answer(request))
        if ruling is not None:
            self.applied += 1
            self._answered += 1
        return ruling

    def leeway(self, regions: RegionMap) -> Leeway:
        """Return which accesses it need not be asked about."""
        now_ns = self._session.view.time_ns
        found = self.rules.leeway(regions, now_ns)
        if self.own is not None and self.own.hypercall is not None and self.kind is not Kind.PLAIN:
            return NO_LEEWAY  # guest code would answer some calls without asking
        if self.own is not None and self.own.mmio is not None:
            for pattern in self._patterns or (Pattern(),):
                found = found.within(pattern.leeway(regions, now_ns))
        return found

    def _ruling(self, pending: Pending) -> Ruling | None:
        if not self.rules.items and self.own is None:
            return None
        facts = self.outlook.facts(pending, self._changes)
        decided = self.rules.decide(facts)
        ruling: Ruling | None = None
        if decided.rule is not None:
            ruling = decided.rule.to(pending.transfer.width)
        elif self.own is not None and self._concerns(facts):
            ruling = self._asked(self.own, facts)
        if pending.fixed and isinstance(ruling, Give):
            why = "it is a vector"
            if pending.via == "stepped":
                why = f"the vCPU carries the instruction out by itself ({pending.why})"
            self._remark(f"{ruling.by} did not change {_told(pending)}: {why}")
            return None
        if decided.rule is not None and decided.rule.cuts(pending.transfer.width):
            self._remark(
                f"the value of {decided.rule.name} is wider than {_told(pending)}, which has its "
                f"low {pending.transfer.width} bytes"
            )
        self.rules = decided.rules
        self.applied += ruling is not None
        if decided.rule is None:
            self._by_own += ruling is not None
            self._refused += isinstance(ruling, Refuse | Postpone)
        return ruling

    def _asked(self, own: OwnHost, facts: PendingFacts) -> Ruling | None:
        return self._possible(own, own.rule(self.outlook.access(facts)))

    def _possible(self, own: OwnHost, ruling: Ruling | None) -> Ruling | None:
        # Returns what it says, if a guest of this kind can be told that.
        if ruling is not None:
            try:
                check_told(ruling, self.kind)
            except UsageError as error:
                raise HostFailed(f"{own.path}: {error}") from None
        return ruling

    def _concerns(self, facts: PendingFacts) -> bool:
        return not self._patterns or any(pattern.wants(facts) for pattern in self._patterns)

    def _remark(self, text: str) -> None:
        if text not in self._remarked:
            self._remarked.add(text)
            self._session.journal.remark(text)

    # ---- what is told at the end

    def told(self) -> Iterator[str]:
        """Yield in a line each how often rules were applied."""
        for rule in self.rules.items:
            if rule.applied:
                times = "once" if rule.applied == 1 else f"{rule.applied:,} times"
                yield f"{rule.name} applied {times}: {rule.text}"
        if self.own is not None:
            calls = f", and about {counted(self._answered, 'call')}" if self._answered else ""
            refused = f", {self._refused:,} of them refused" if self._refused else ""
            yield f"{self.own.name} decided about {counted(self._by_own, 'access')}{refused}{calls}"

    def idle(self) -> Iterator[str]:
        """Yield in a line each why a rule was never applied."""
        for rule in self.rules.items:
            if not rule.applied:
                yield f"{rule.name} never applied: {self._why_idle(rule)}: {rule.text}"

    def _why_idle(self, rule: Rule) -> str:
        places = rule.trigger.pattern.places(self._session.view.regions)
        if rule.trigger.pending and places is not None and not places:
            return "no region came that it names"
        return rule.why_idle


def _told(pending: Pending) -> str:
    region, offset = located(pending.transfer)
    site = pending.symbol or hex(pending.cpu.rip)
    return f"the {pending.transfer.direction} of {region}+{offset:#x} at {site}"


def ruled_host(session: Session, naming: Naming) -> Host:
    """Return a host that decides alone about a session, which is not trapped yet."""
    outlook = Outlook(session, naming)
    host = Host(session, outlook, session.system.kind)
    session.oversee(Ruled(host))
    return host


class Ruled:
    """Let a guest be decided about by its host alone: nobody holds it.

    It is a :class:`tracer.session.driver.Overseer`.
    """

    wants_halt = False
    wants_clock = False

    def __init__(self, host: Host) -> None:
        self.host = host

    def is_due(self, time_ns: int) -> bool:
        """Return that nothing waits for a time."""
        return False

    async def before(self, pending: Pending) -> Decision:
        """Decide before the access is made."""
        return self.host.before(pending) or Go()

    def where(self, regions: RegionMap) -> Leeway:
        """Return which accesses the host need not be asked about."""
        return self.host.leeway(regions)

    async def answered(self, pending: Pending) -> Go | Ruling:
        """Decide once a device has answered a read."""
        return self.host.answered(pending) or Go()

    async def called(self, called: Called) -> Go | Ruling:
        """Return what the host says to a call of a confidential guest."""
        return self.host.called(called.request) or Go()

    async def completed(self, cpu: CpuState) -> CpuState:
        """Return the state as it is."""
        return cpu

    async def halted(self, reason: Reason, vcpu: int, cpu: CpuState, space: AddressSpace) -> None:
        """Let the guest go on."""

    def expire(self) -> None:
        """Do nothing: the guest is not held."""
