"""A TDX guest's stops: faults on what it shares with its host, and its calls of the TDX module.

The guest marks what it shares by a bit in its own page-table entries, which is reserved in QEMU's
CPU: so each access to a device faults by itself. Follow one through :meth:`TrustDomain.take`: the
fault becomes a #VE, the guest's handler fetches what it is about, decodes the instruction, and asks
for the access by a hypercall. There it is made, and recorded beside what vetrace has foretold.

A handler lets interrupts in once it knows what its #VE is about, so that handlers nest: a hypercall
belongs to the innermost fault at its address on its stack.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from tracer.access.decision import (
    Decision,
    Delay,
    Give,
    Go,
    Inject,
    Postpone,
    Refuse,
    Retry,
)
from tracer.access.execution import CarryOut, Foretold, Outcome, answered, delivered_alike
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.access.vcpu import Change, SetMemory, SetRegister
from tracer.access.want import AskCalled, AskCompleted
from tracer.compiled.asking import SharedPage, rip_of, touched
from tracer.compiled.module import Kind
from tracer.compiled.pending import Waiting
from tracer.compiled.ring import Raw
from tracer.confidential import request as host
from tracer.confidential import tdx_module
from tracer.confidential.agreement import Made, differing
from tracer.confidential.handler import CURRENT, PROFILES, judge
from tracer.confidential.request import FatalError, Halt, MapGpa, Mmio
from tracer.confidential.tdx_host import CALLS
from tracer.confidential.tdx_module import Answered, Nested, Strip, Tdcall
from tracer.confidential.tdx_state import TdxState
from tracer.errors import EmulationError, GuestError, GuestException, InterceptError
from tracer.intercept import carrier
from tracer.intercept.fault import Fault
from tracer.intercept.gate import PageFaultGate
from tracer.intercept.granting import Refused, decided, granted
from tracer.intercept.guest_module import GuestModule
from tracer.intercept.interceptor import Asked, Intercepted, Interceptor
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.stub import CALLED, frame_at, pack_return
from tracer.intercept.view import GuestView
from tracer.trace.record import Hypercall, SharedRecord, TdcallRecord
from tracer.x86.bus import PortAccess
from tracer.x86.paging import Leaf
from tracer.x86.state import GPR, RSP, VIRTUALIZATION_VECTOR, Flag, PageFaultCode

CALL = b"\x66\x0f\x01\xcc"
"""TDCALL (Intel TDX Module ABI Reference Specification, "TDCALL Instruction")."""

_VEINFO_GET = "TDG.VP.VEINFO.GET"
_STACK = 1 << 14
"""Bytes of a stack of Linux on x86-64 at most (arch/x86/include/asm/page_64_types.h)."""
_MOST_WAITING = 256
"""Faults that are remembered until their hypercall comes: handlers nest a few deep."""
_PROFILE = PROFILES[CURRENT]


@dataclass(slots=True)
class _Waiting:
    # A fault whose handler has not asked yet: what the instruction makes, as far as that is known.
    fault: Fault
    physical: int
    foretold: Foretold | None = None
    carry: CarryOut | None = None
    expected: Transfer | None = None
    decision: Decision = field(default_factory=Go)
    known: bool = False  # to the guest code, which may answer the hypercall then

    @property
    def frame(self) -> int:
        # The address of the CPU's own frame, from RIP on.
        return frame_at(self.fault.stack)

    def may_be(self, stack: int) -> bool:
        # Tells whether a vCPU whose RSP is there may be in the handler of this fault.
        return 0 <= self.fault.stack - stack < _STACK

    def is_over(self, stack: int) -> bool:
        # Tells whether the handler has returned: something else uses its part of the stack.
        begun = self.fault.stack
        return stack > begun and stack // _STACK == begun // _STACK


@dataclass(frozen=True, slots=True)
class _Place:
    # When, on which vCPU, and where in the guest's code.
    time_ns: int
    vcpu: int
    rip: int
    symbol: str | None


class TrustDomain:
    """Play the TDX module, and the host behind it, for one guest.

    ``state`` is the module's. The ``interceptor`` makes and records the accesses that are asked
    for. Where the ``module`` is code in the guest too, what comes here is what that leaves to it:
    both know of the same #VE, in the guest's memory.
    """

    def __init__(
        self, interceptor: Interceptor, view: GuestView, names: Names, journal: Journal
    ) -> None:
        self.state = TdxState(pending=(None,) * view.vcpus)
        self._interceptor = interceptor
        self._view = view
        self._names = names
        self._journal = journal
        self._counts: Counter[str] = journal.counts
        self._waiting: list[_Waiting] = []
        self.module: GuestModule | None = None
        self._seen: Counter[str] = Counter()

    async def take(self, fault: Fault, gate: PageFaultGate) -> Intercepted | None:
        """Take a stop at the stub; return None for a fault on vetrace's own poison."""
        error = fault.spill.frame.error_code
        if error == CALLED:
            self._learn(fault.vcpu)
            taken = await self._called(fault, gate)
        else:
            if not error & PageFaultCode.RSVD:
                return None
            leaf = fault.space.leaf(fault.spill.cr2)
            if leaf is None or not fault.space.paging.shares(leaf):
                return None
            self._learn(fault.vcpu)
            taken = await self._faulted(fault, leaf, gate)
        if self.module is not None:
            self.module.tell(fault.vcpu, self.state.pending[fault.vcpu])
        return taken

    def _learn(self, vcpu: int) -> None:
        # Takes over what the guest code has done since.
        if self.module is None:
            return
        self.state = self.state.with_pending(vcpu, self.module.information(vcpu))
        waiting = {fault.stack for fault in self.module.waiting()}
        self._waiting = [it for it in self._waiting if not it.known or it.frame in waiting]

    def conclude(self) -> None:
        """Tell what was left open at the end. Raises GuestError where there was not one #VE."""
        self.settle()
        self.count()
        if not self._counts["ve"]:
            raise GuestError(
                "the guest ended without one #VE: its kernel did not take itself for a TDX guest, "
                "and no access was traced as one's"
            )

    def settle(self) -> None:
        """Tell of each #VE of which no hypercall has come."""
        self._learn(0)
        for waiting in self._waiting:
            self._give_up(waiting)
        self._waiting.clear()

    # ---- faults

    async def _faulted(self, fault: Fault, leaf: Leaf, gate: PageFaultGate) -> Intercepted:
        regions = fault.space.regions
        physical = leaf.translate(fault.spill.cr2)
        write = bool(fault.spill.frame.error_code & PageFaultCode.W)
        state, outcome = tdx_module.fault(
            self.state,
            fault.vcpu,
            gla=fault.spill.cr2,
            gpa=physical | self.state.shared_bit,
            write=write,
            is_ram=regions.is_ram(physical),
        )
        match outcome:
            case Strip():
                memory, paging = fault.space.memory, fault.space.paging
                entry = leaf.entry & ~paging.shared
                memory.write(leaf.entry_address, entry.to_bytes(8, "little"))
                page = SharedPage(leaf.linear, leaf.physical, leaf.size, physical)
                self._touched(page, self._place(fault))
                return Intercepted()
            case Nested(pending):
                raise InterceptError(
                    f"a #VE at RIP {fault.cpu.rip:#x} (linear {fault.spill.cr2:#x}) before the "
                    f"guest has fetched what the last one is about (linear {pending.gla:#x}): "
                    "on hardware a double fault"
                )
        self._forget(fault.stack)
        waiting = await self._foretell(fault, leaf, physical)
        if self._interceptor.asks:
            elsewhere = await self._decided(waiting, gate)
            if elsewhere is not None:
                return elsewhere
        self.state = state
        self._counts["ve"] += 1
        self._waiting.append(waiting)
        if self.module is not None and not self._interceptor.asks:
            waiting.known = True
            self.module.keep(
                Waiting(
                    stack=frame_at(fault.stack),
                    linear=fault.spill.cr2,
                    gpa=physical | self.state.shared_bit,
                    error=fault.spill.frame.error_code,
                    tsc=fault.spill.tsc,
                    cpu=fault.cpu,
                    code=fault.code,
                )
            )
        if len(self._waiting) > _MOST_WAITING:
            self._give_up(self._waiting.pop(0))
        place = await gate.raising(fault.space, fault.vcpu, VIRTUALIZATION_VECTOR)
        return Intercepted((SetRegister("rip", place),))

    def _touched(self, shared: SharedPage, at: _Place) -> None:
        # The instruction runs again, on the one copy that there is of the page.
        self._counts["shared_ram"] += 1
        self._journal.publish(
            SharedRecord(
                time_ns=at.time_ns,
                vcpu=at.vcpu,
                rip=at.rip,
                symbol=at.symbol,
                what="touch",
                physical=shared.physical,
                size=shared.size,
                shared=True,
                linear=shared.linear,
                converted=self.state.is_shared(shared.touched),
            )
        )

    async def _foretell(self, fault: Fault, leaf: Leaf, physical: int) -> _Waiting:
        # Look ahead, as far as the first access to a device: the handler makes no other.
        waiting = _Waiting(fault, physical)
        try:
            waiting.foretold = await self._interceptor.foretell(fault, (leaf,))
            waiting.carry = CarryOut(waiting.foretold)
            asked = next(waiting.carry)
        except (EmulationError, StopIteration):
            return waiting
        if not isinstance(asked, PortAccess) and len(asked) == 1:
            waiting.expected = asked[0]
        return waiting

    async def _decided(self, waiting: _Waiting, gate: PageFaultGate) -> Intercepted | None:
        # Asks what becomes of the access; returns how the guest goes on without a #VE, if it does.
        fault, foretold = waiting.fault, waiting.foretold
        insn = None if foretold is None else foretold.insn
        transfers = () if foretold is None else foretold.transfers
        decision = await decided(self._interceptor, fault, insn, waiting.expected, transfers)
        match decision:
            case Inject(vector, error_code, linear):
                exception = GuestException(fault.code, vector, error_code, linear, injected=True)
                return await self._interceptor.deliver(fault, gate, exception)
            case Retry(cpu):
                fault.cpu = cpu
                return Intercepted(tuple(fault.write_back()))
        waiting.decision = decision
        return None

    # ---- calls

    async def _called(self, fault: Fault, gate: PageFaultGate) -> Intercepted:
        registers = dict(zip(GPR, fault.spill.gpr, strict=True))
        done = tdx_module.answer(self.state, fault.vcpu, registers)
        self.state = done.state
        self._forget(fault.stack)
        before = fault.cpu
        fault.cpu = replace(before, rip=before.rip + len(CALL))
        changes: list[Change] = []
        match done.event.request:
            case Mmio() as request if done.event.waits:
                done = await self._access(done.event, request, fault, gate)
            case Halt() as request if done.event.waits:
                done = tdx_module.reply(self.state, done.event, host.Give())
                changes = self._sleep(fault, request, gate)
            case FatalError(_, text):
                self._told(done.event, self._place(fault))
                raise GuestError(f"the guest told its host that it cannot go on: {text}")
            case request if request is not None and done.event.waits:
                said = await self._answered(request, gate)
                done = tdx_module.reply(self.state, done.event, said)
        self.state = done.state
        self._told(done.event, self._place(fault))
        cpu = fault.cpu
        gpr = tuple(done.changes.get(name, value) for name, value in zip(GPR, cpu.gpr, strict=True))
        fault.cpu = replace(cpu, gpr=gpr)
        return Intercepted((*fault.write_back(), *changes))

    async def _answered(self, request: host.Request, gate: PageFaultGate) -> host.Reply:
        # Returns what the host says to a call: its own answer, or the usual one.
        usual = tdx_module.usual(self.state, request) or host.Refuse()
        if not self._interceptor.asks:
            return usual
        match await AskCalled(request):
            case Give(value):
                return host.Give(value)
            case Refuse():
                return host.Refuse()
            case Postpone():
                return host.Retry(request.start if isinstance(request, MapGpa) else 0)
            case Delay(time_ns):
                await carrier.delay(time_ns, gate.stub, realtime=self._view.realtime)
        return usual

    def _sleep(self, fault: Fault, request: Halt, gate: PageFaultGate) -> list[Change]:
        # The vCPU goes to sleep in the stub, and on from there to behind its call.
        cpu = fault.cpu
        lets_in = not cpu.rflags & Flag.IF and not request.blocked
        asleep = SetMemory(fault.stack, pack_return(fault.spill, cpu.rip))
        gpr = list(cpu.gpr)
        gpr[RSP] = fault.stack
        fault.cpu = replace(cpu, gpr=tuple(gpr), rip=gate.stub.halts[lets_in])
        return [asleep]

    def _told(self, event: Tdcall, at: _Place) -> None:
        # Publish a call that is no step of a device access.
        if isinstance(event.request, Mmio):
            return
        if event.name == _VEINFO_GET and not event.note:
            self._counts["ve_info"] += 1
            return
        self._counts["tdcalls"] += 1
        self._journal.publish(
            TdcallRecord(
                time_ns=at.time_ns,
                vcpu=at.vcpu,
                rip=at.rip,
                symbol=at.symbol,
                leaf=event.leaf,
                name=_name(event),
                given=event.given,
                returned=event.returned,
                note=event.note or None,
            )
        )
        if isinstance(event.request, MapGpa):
            wanted = event.request
            self._journal.publish(
                SharedRecord(
                    time_ns=at.time_ns,
                    vcpu=at.vcpu,
                    rip=at.rip,
                    symbol=at.symbol,
                    what="map",
                    physical=wanted.start,
                    size=wanted.size,
                    shared=wanted.shared,
                )
            )

    # ---- what the guest code tells

    def count(self) -> None:
        """Count what the guest code has done since it was asked last."""
        if self.module is None:
            return
        for name, done in (("ve", "FAULTS"), ("ve_info", "FETCHED")):
            now = self.module.count(done)
            self._counts[name] += now - self._seen[name]
            self._seen[name] = now

    def told(self, raw: Raw, space: AddressSpace) -> None:
        """Take a record of the guest code's that is of no access."""
        assert self.module is not None
        rip = rip_of(raw)
        self._view.tell_time_at(raw.tsc)
        at = _Place(self._view.time_ns, raw.vcpu, rip, self._names.lookup(rip, space))
        if raw.site == Kind.TOUCH:
            self._touched(touched(raw, self.module.window.base), at)
            return
        registers = dict(zip(GPR, raw.gpr, strict=True))
        done = tdx_module.answer(self.state, raw.vcpu, registers)
        if done.event.waits:
            done = tdx_module.reply(self.state, done.event, host.Give())
        self.state = done.state
        self._told(done.event, at)

    # ---- device accesses

    async def _access(
        self, event: Tdcall, request: Mmio, fault: Fault, gate: PageFaultGate
    ) -> Answered:
        self._counts["mmio_calls"] += 1
        said = tdx_module.usual(self.state, request)
        if said is not None or request.direction is None:
            self._remark(fault, request, "which no host makes")
            return tdx_module.reply(self.state, event, said or host.Refuse())
        waiting = await self._asked(request, fault)
        agrees = waiting is not None and _is(request, waiting.expected)
        self._counts["agreed" if agrees else "disagreed"] += 1
        regions = fault.space.regions
        ram = regions.is_ram(request.physical)
        if ram:
            self._remark(fault, request, "where RAM is, and no device")
        transfer = Transfer(
            direction=request.direction,
            linear=waiting.fault.spill.cr2 if waiting is not None else 0,
            physical=request.physical,
            width=request.width,
            value=request.value,
            region=regions.find(request.physical),
            traced=regions.is_recorded(request.physical, read=request.direction == "read"),
            ram=ram,
        )
        # It is made from where the vCPU stands now, for an instruction that faulted before.
        made = replace(fault, cpu=replace(fault.cpu, rip=fault.spill.frame.rip), code=CALL)
        if waiting is not None:
            made = replace(
                waiting.fault, stack=fault.stack, space=fault.space, time_ns=fault.time_ns
            )
        foretold = None if waiting is None else waiting.foretold
        if agrees and waiting is not None and waiting.expected is not None:
            transfer = waiting.expected
        elif waiting is None:
            self._remark(fault, request, "at which it has not faulted")
        outcome = Outcome(made.cpu, (transfer,))
        try:
            if waiting is None or foretold is None:
                value = await carrier.reach(transfer, made.stand(gate), None)
            else:
                value = await self._granted(waiting, foretold, transfer, made, event, gate)
        except Refused as refused:
            done = tdx_module.reply(self.state, event, _said(refused, request))
        else:
            done = tdx_module.reply(self.state, event, host.Give(value or 0))
            outcome = Outcome(made.cpu, (answered(transfer, value),))
            if agrees and waiting is not None and waiting.carry is not None:
                outcome = _completed(waiting.carry, value)
        call = Hypercall(given=dict(event.given), returned=dict(done.event.returned))
        self._interceptor.record_asked(made, foretold, outcome, Asked(call, agrees))
        if self._interceptor.asks and outcome.cpu.rip != made.cpu.rip:
            await AskCompleted(outcome.cpu)  # what a person changes there is the guest's to find
        return done

    async def _granted(
        self,
        waiting: _Waiting,
        foretold: Foretold,
        transfer: Transfer,
        made: Fault,
        event: Tdcall,
        gate: PageFaultGate,
    ) -> int | None:
        # An access that is asked for otherwise may be nowhere that the instruction maps.
        whole = transfer is waiting.expected or delivered_alike([transfer], made.space.regions)
        if not whole:
            return await carrier.reach(transfer, made.stand(gate), None)
        what = made, foretold.insn, foretold.transfers
        given = event.given
        return await granted(self._interceptor, waiting.decision, what, transfer, given, gate)

    async def _asked(self, request: Mmio, fault: Fault) -> _Waiting | None:
        # The fault that a hypercall is for, which waits no longer.
        if self.module is None:
            return self._matched(request, fault)
        mine = [it for it in self._waiting if not it.known and it.physical == request.physical]
        if any(it.may_be(fault.stack) for it in mine):
            return self._matched(request, fault)  # somebody has decided about it
        gpa = request.physical | self.state.shared_bit
        found = self.module.asked(frame_at(fault.stack), gpa)
        if found is None:
            return None
        same = next((it for it in self._waiting if it.frame == found.stack), None)
        if same is not None:
            self._waiting.remove(same)
            return same
        # The guest code has made it a #VE.
        spill, cpu = fault.spill, found.cpu
        frame = replace(
            spill.frame, error_code=found.error, rip=cpu.rip, rflags=cpu.rflags, rsp=cpu.gpr[RSP]
        )
        begun = replace(
            fault,
            stack=found.stack - frame_at(0),
            spill=replace(spill, gpr=cpu.gpr, frame=frame, tsc=found.tsc, cr2=found.linear),
            cpu=replace(fault.cpu, gpr=cpu.gpr, rip=cpu.rip, rflags=cpu.rflags),
            code=found.code,
        )
        leaf = fault.space.leaf(found.linear)
        if leaf is None:
            return _Waiting(begun, request.physical)
        return await self._foretell(begun, leaf, request.physical)

    def _matched(self, request: Mmio, fault: Fault) -> _Waiting | None:
        # The fault that a hypercall is for, which is forgotten: of those at its address the nearest
        # one up the stack, or else the newest one of the vCPU.
        found = [it for it in self._waiting if it.physical == request.physical]
        near = [it for it in found if it.may_be(fault.stack)]
        mine = [it for it in found if it.fault.vcpu == fault.vcpu]
        if near:
            match = min(near, key=lambda it: it.fault.stack)
        elif mine:
            match = mine[-1]
        else:
            return None
        self._waiting.remove(match)
        self._counts["nested"] += bool(self._waiting)
        return match

    def _forget(self, stack: int) -> None:
        # Faults whose handlers have come to their end without asking.
        for waiting in [it for it in self._waiting if it.is_over(stack)]:
            self._waiting.remove(waiting)
            self._give_up(waiting)

    def _give_up(self, waiting: _Waiting) -> None:
        self._counts["given_up"] += 1
        fault, foretold = waiting.fault, waiting.foretold
        where = self._symbol(fault) or hex(fault.cpu.rip)
        text, why = fault.code.hex(" "), ""
        if foretold is not None:
            text = foretold.insn.text
            verdict = judge(_PROFILE, foretold.insn, cpl=fault.cpu.cpl, linear=fault.spill.cr2)
            why = f" ({verdict.outcome}: {verdict.reason})"
        self._journal.remark(
            f"the guest's #VE handler did not ask for the access of `{text}` at {where}, "
            f"physical {waiting.physical:#x}{why}"
        )

    def _remark(self, fault: Fault, request: Mmio, what: str) -> None:
        where = self._symbol(fault) or hex(fault.cpu.rip)
        self._journal.remark(
            f"at {where} the guest asks its host for {request.width} bytes at physical "
            f"{request.physical:#x}, {what}"
        )

    def _place(self, fault: Fault) -> _Place:
        rip = fault.spill.frame.rip
        symbol = self._names.lookup(rip, fault.space)
        return _Place(fault.time_ns, fault.vcpu, rip, symbol)

    def _symbol(self, fault: Fault) -> str | None:
        return self._names.lookup(fault.cpu.rip, fault.space)


def _name(event: Tdcall) -> str:
    # The name of a call, with that of what the host is asked.
    call = CALLS.get(event.given.get("r11", 0)) if event.request is not None else None
    return event.name if call is None else f"{event.name}<{call.name}>"


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
