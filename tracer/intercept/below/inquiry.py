"""The accesses of a confidential guest: from where one faults to where its handler asks for it.

The fault becomes an exception of the guest's own, whose handler decodes the instruction and asks
its host. There the access is made, and recorded beside what vetrace has foretold at the fault: both
are an :class:`~tracer.intercept.below.waiting.Inquiry`. How a guest is told of a fault, and how it
asks, differs: :mod:`~tracer.intercept.below.trust_domain` has it for TDX,
:mod:`~tracer.intercept.below.encrypted_guest` for SEV-ES.

Handlers nest: a call belongs to the innermost fault at its address on its stack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tracer.access.decision import (
    Delay,
    Give,
    Go,
    Inject,
    Postpone,
    Refuse,
    Retry,
    Ruling,
)
from tracer.access.execution import CarryOut, Foretold, Outcome, answered, delivered_alike
from tracer.access.transfer import Transfer
from tracer.access.want import AskCompleted
from tracer.confidential import request as host
from tracer.confidential.agreement import Made, differing
from tracer.confidential.handler import Profile, judge
from tracer.confidential.request import MapGpa, Mmio, PortIo
from tracer.errors import EmulationError, GuestException, InterceptError
from tracer.intercept.below.firmware import Intercepted
from tracer.intercept.below.granting import Refused, decided, granted, unforeseen
from tracer.intercept.below.waiting import Inquiry, nearest
from tracer.intercept.entry import visit
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.fault import Fault, foretell_at
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.journal import Journal
from tracer.intercept.ledger import Asked
from tracer.intercept.names import Names
from tracer.intercept.port import access_port
from tracer.intercept.view import GuestView
from tracer.trace.call import Hypercall
from tracer.x86.bus import In, Out, PortAccess
from tracer.x86.paging import Leaf

_GO = Go()
_MOST_WAITING = 256
"""Faults that are remembered until they are asked about: handlers nest a few deep."""


@dataclass(frozen=True, slots=True)
class Place:
    """Say when, on which vCPU, and where in the guest's code."""

    time_ns: int
    vcpu: int
    rip: int
    symbol: str | None


@dataclass(frozen=True, slots=True)
class Call:
    """Hold a guest's call for a device access.

    ``code`` is the instruction that calls, ``given`` what it is recorded by. ``usual`` is what the
    host says to what no host makes, None where the machine has to be asked.
    """

    request: Mmio
    code: bytes
    given: Mapping[str, int]
    usual: host.Reply | None

    @property
    def possible(self) -> bool:
        """Tell whether there is a host that makes the access."""
        return self.usual is None and self.request.direction is not None


@dataclass(frozen=True, slots=True)
class Settled:
    """Tell what came of a call: what the host says, and what there is to record of it."""

    reply: host.Reply
    given: Mapping[str, int]
    agrees: bool = False
    fault: Fault | None = None
    foretold: Foretold | None = None
    outcome: Outcome | None = None


class Inquiries:
    """Follow the accesses of one guest.

    ``waiting`` are those that it has not asked about yet, in the order of their faults.
    ``exception`` is what its handler is of, such as ``#VE``, and ``profile`` what that makes of an
    instruction. The ``interceptor`` makes and records the accesses that are asked for.
    """

    def __init__(
        self,
        interceptor: Interceptor,
        view: GuestView,
        names: Names,
        journal: Journal,
        exception: str,
        profile: Profile,
    ) -> None:
        self.waiting: list[Inquiry] = []
        self._interceptor = interceptor
        self._view = view
        self._names = names
        self._journal = journal
        self._counts: Counter[str] = journal.counts
        self._exception = exception
        self._profile = profile

    # ---- faults

    async def foretell(self, fault: Fault, leaf: Leaf, physical: int) -> Inquiry:
        """Look ahead, as far as the first access to a device: the handler makes no other."""
        inquiry = Inquiry(fault, physical)
        try:
            inquiry.foretold = await foretell_at(fault, (leaf,))
            inquiry.carry = CarryOut(inquiry.foretold)
            asked = next(inquiry.carry)
        except (EmulationError, StopIteration):
            return inquiry
        if not isinstance(asked, PortAccess) and len(asked) == 1:
            inquiry.expected = asked[0]
        return inquiry

    async def decided(self, inquiry: Inquiry, gate: PageFaultGate) -> Intercepted | None:
        """Ask what becomes of an access; return how the guest goes on without it, if it does."""
        fault, foretold = inquiry.fault, inquiry.foretold
        insn = None if foretold is None else foretold.insn
        transfers = () if foretold is None else foretold.transfers
        decision = await decided(self._interceptor, fault, insn, inquiry.expected, transfers)
        match decision:
            case Inject(vector, error_code, linear):
                exception = GuestException(fault.code, vector, error_code, linear, injected=True)
                return await self._interceptor.deliver(fault, gate, exception)
            case Retry(cpu):
                fault.cpu = cpu
                return Intercepted(tuple(fault.write_back()))
        inquiry.decision = decision
        return None

    def add(self, inquiry: Inquiry) -> None:
        """Have a fault wait until its handler asks."""
        self.waiting.append(inquiry)
        if len(self.waiting) > _MOST_WAITING:
            self._give_up(self.waiting.pop(0))

    def forget(self, stack: int) -> None:
        """Tell of faults whose handlers have come to their end without asking.

        Something else uses the stack at a linear address.
        """
        for inquiry in [it for it in self.waiting if it.is_over(stack)]:
            self.waiting.remove(inquiry)
            self._give_up(inquiry)

    def settle(self) -> None:
        """Tell of each fault about which the guest has not asked."""
        for inquiry in self.waiting:
            self._give_up(inquiry)
        self.waiting.clear()

    # ---- calls

    def matched(self, physical: int, fault: Fault) -> Inquiry | None:
        """Return the fault that a call is for, which waits no longer."""
        match = self.nearest(physical, fault)
        if match is not None:
            self.waiting.remove(match)
            self._counts["nested"] += bool(self.waiting)
        return match

    def nearest(self, physical: int, fault: Fault) -> Inquiry | None:
        """Return the fault that a call is for, which goes on to wait."""
        return nearest(self.waiting, physical, fault)

    async def asked(
        self,
        call: Call,
        inquiry: Inquiry | None,
        fault: Fault,
        gate: PageFaultGate,
        ruling: Go | Ruling = _GO,
    ) -> Settled:
        """Make the access that a call is for, if there is a host that makes it.

        ``inquiry`` is its fault, if there is one. The vCPU stands where it calls. A ``ruling`` on
        the call comes later than what was said of the fault, and holds.
        """
        if call.possible:
            if inquiry is not None and not isinstance(ruling, Go):
                inquiry.decision = ruling
            return await self._make(call, inquiry, fault, gate, ruling)
        self.remark(fault, call.request, "which no host makes")
        return Settled(call.usual or host.Refuse(), call.given)

    async def _make(
        self,
        call: Call,
        inquiry: Inquiry | None,
        fault: Fault,
        gate: PageFaultGate,
        ruling: Go | Ruling,
    ) -> Settled:
        request = call.request
        agrees = inquiry is not None and _is(request, inquiry.expected)
        self._counts["agreed" if agrees else "disagreed"] += 1
        regions = fault.space.regions
        ram = regions.is_ram(request.physical)
        if ram:
            self.remark(fault, request, "where RAM is, and no device")
        assert request.direction is not None  # or no host makes it
        transfer = Transfer(
            direction=request.direction,
            linear=inquiry.fault.spill.cr2 if inquiry is not None else 0,
            physical=request.physical,
            width=request.width,
            value=request.value,
            region=regions.find(request.physical),
            traced=regions.is_recorded(request.physical, read=request.direction == "read"),
            ram=ram,
        )
        # It is made from where the vCPU stands now, for an instruction that faulted before.
        made = replace(fault, cpu=replace(fault.cpu, rip=fault.spill.frame.rip), code=call.code)
        if inquiry is not None:
            made = replace(
                inquiry.fault, stack=fault.stack, space=fault.space, time_ns=fault.time_ns
            )
        foretold = None if inquiry is None else inquiry.foretold
        if agrees and inquiry is not None and inquiry.expected is not None:
            transfer = inquiry.expected
        elif inquiry is None:
            self.remark(fault, request, "at which it has not faulted")
        reply: host.Reply
        outcome = Outcome(made.cpu, (transfer,))
        try:
            if inquiry is None or foretold is None:
                value = await unforeseen(self._interceptor, ruling, made, transfer, gate)
            else:
                value = await self._granted(inquiry, foretold, transfer, made, call, gate)
        except Refused as refused:
            reply = _said(refused, request)
        else:
            reply = host.Give(value or 0)
            outcome = Outcome(made.cpu, (answered(transfer, value),))
            if agrees and inquiry is not None and inquiry.carry is not None:
                outcome = _completed(inquiry.carry, value)
        return Settled(reply, call.given, agrees, made, foretold, outcome)

    async def record(self, made: Settled, returned: Mapping[str, int]) -> None:
        """Record what came of a call, which has ``returned`` something to the guest."""
        if made.outcome is None or made.fault is None:
            return
        call = Hypercall(given=dict(made.given), returned=dict(returned))
        asked = Asked(call, made.agrees)
        self._interceptor.ledger.record_asked(made.fault, made.foretold, made.outcome, asked)
        if self._interceptor.asks and made.outcome.cpu.rip != made.fault.cpu.rip:
            # A person's changes there are the guest's to find.
            await AskCompleted(made.outcome.cpu)

    async def _granted(
        self,
        inquiry: Inquiry,
        foretold: Foretold,
        transfer: Transfer,
        made: Fault,
        call: Call,
        gate: PageFaultGate,
    ) -> int | None:
        # An access that is asked for otherwise may be nowhere that the instruction maps.
        whole = transfer is inquiry.expected or delivered_alike([transfer], made.space.regions)
        if not whole:
            return await unforeseen(self._interceptor, inquiry.decision, made, transfer, gate)
        what = made, foretold.insn, foretold.transfers
        given = call.given
        return await granted(self._interceptor, inquiry.decision, what, transfer, given, gate)

    async def answer(
        self,
        request: host.Request,
        ruling: Go | Ruling,
        usual: host.Reply | None,
        fault: Fault,
        gate: PageFaultGate,
    ) -> host.Reply:
        """Return what the host says to a call that is for no device access.

        That is its own answer, or the usual. Where the machine has to be asked, the vCPU accesses
        an I/O port; the rest is refused.
        """
        match ruling:
            case Give(value):
                return host.Give(value)
            case Refuse():
                return host.Refuse()
            case Postpone(physical=physical):
                start = request.start if isinstance(request, MapGpa) else 0
                return host.Retry(start if physical is None else physical)
            case Delay(time_ns):
                await visit.delay(time_ns, gate.stub, realtime=self._view.realtime)
        if usual is None and isinstance(request, PortIo):
            read = await access_port(_port(request), fault, gate)
            if fault.silence is not None:
                raise fault.silence  # QEMU's end tells whether it was made
            return host.Give(read or 0)
        return usual or host.Refuse()

    # ---- what is told

    def _give_up(self, inquiry: Inquiry) -> None:
        if inquiry.passed_on:
            return
        self._counts["given_up"] += 1
        fault, foretold = inquiry.fault, inquiry.foretold
        where = self._symbol(fault) or hex(fault.cpu.rip)
        text, why = fault.code.hex(" "), ""
        if foretold is not None:
            text = foretold.insn.text
            verdict = judge(self._profile, foretold.insn, cpl=fault.cpu.cpl, linear=fault.spill.cr2)
            why = f" ({verdict.outcome}: {verdict.reason})"
        self._journal.remark(
            f"the guest's {self._exception} handler did not ask for the access of `{text}` at "
            f"{where}, physical {inquiry.physical:#x}{why}"
        )

    def remark(self, fault: Fault, request: Mmio, what: str) -> None:
        """Tell what is odd about a call for an access."""
        where = self._symbol(fault) or hex(fault.cpu.rip)
        self._journal.remark(
            f"at {where} the guest asks its host for {request.width} bytes at physical "
            f"{request.physical:#x}, {what}"
        )

    def place(self, fault: Fault) -> Place:
        """Return where a stop is, for a record of its own."""
        rip = fault.spill.frame.rip
        symbol = self._names.lookup(rip, fault.space)
        return Place(fault.time_ns, fault.vcpu, rip, symbol)

    def _symbol(self, fault: Fault) -> str | None:
        return self._names.lookup(fault.cpu.rip, fault.space)


def _port(request: PortIo) -> PortAccess:
    if request.direction == "read":
        return In(request.port, request.width)
    return Out(request.port, request.width, request.value or 0)


def _said(refused: Refused, request: Mmio) -> host.Refuse | host.Retry:
    if isinstance(refused.ruling, Postpone):
        return host.Retry(request.physical)
    return host.Refuse()


def _is(request: Mmio, expected: Transfer | None) -> bool:
    # Tells whether a guest asks for just the access that its instruction makes.
    if expected is None:
        return False
    written = expected.value if expected.direction == "write" else None
    made = Made(expected.direction, expected.width, expected.physical, written)
    return not differing(made, request)


def _completed(carry: CarryOut, value: int | None) -> Outcome:
    # Runs the instruction to its end on what its only access read.
    carry.answers = [value]
    for _ in carry:
        raise InterceptError("an instruction of several accesses was carried out as one of one")
    return carry.outcome
