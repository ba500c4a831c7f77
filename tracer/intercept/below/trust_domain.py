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
from dataclasses import replace

from tracer.access.decision import Called, Go, Refuse, Retry, Ruling
from tracer.access.space import AddressSpace
from tracer.access.vcpu import Change, SetMemory, SetRegister
from tracer.access.want import AskCalled
from tracer.compiled.asking import SharedPage, rip_of, touched
from tracer.compiled.module import Kind
from tracer.compiled.pending import Waiting
from tracer.compiled.ring import Raw
from tracer.confidential import request as host
from tracer.confidential import tdx_module
from tracer.confidential.handler import Profile
from tracer.confidential.request import FatalError, Halt, MapGpa, Mmio
from tracer.confidential.tdx_host import CALLS
from tracer.confidential.tdx_module import Answered, Nested, Strip, Tdcall
from tracer.confidential.tdx_state import TdxState
from tracer.errors import GuestError, InterceptError
from tracer.intercept.below.firmware import Intercepted
from tracer.intercept.below.guest_module import GuestModule
from tracer.intercept.below.inquiry import Call, Inquiries, Place
from tracer.intercept.below.waiting import Inquiry
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.entry.spill import frame_at, pack_return
from tracer.intercept.entry.stub import CALLED
from tracer.intercept.fault import Fault
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.view import GuestView
from tracer.trace.call import SharedRecord, TdcallRecord
from tracer.x86.paging import Leaf
from tracer.x86.state import GPR, RSP, VIRTUALIZATION_VECTOR, Flag, PageFaultCode

CALL = b"\x66\x0f\x01\xcc"
"""TDCALL (Intel TDX Module ABI Reference Specification, "TDCALL Instruction")."""

_COUNTED = (
    ("ve", "FAULTS"), ("ve_info", "FETCHED"), ("ve", "RAISED"), ("input_calls", "ANSWERED"),
    ("not raised", "KEPT"),
)  # fmt: skip
"""What is counted of what the guest code counts; a #VE is of a fault, or of an instruction."""

_VEINFO_GET = "TDG.VP.VEINFO.GET"


class TrustDomain:
    """Play the TDX module, and the host behind it, for one guest.

    ``state`` is the module's. The ``interceptor`` makes and records the accesses that are asked
    for. Where the ``module`` is code in the guest too, what comes here is what that leaves to it:
    both know of the same #VE, in the guest's memory.
    """

    def __init__(
        self,
        interceptor: Interceptor,
        view: GuestView,
        names: Names,
        journal: Journal,
        profile: Profile,
    ) -> None:
        self.state = TdxState(pending=(None,) * view.vcpus)
        self._interceptor = interceptor
        self._view = view
        self._names = names
        self._journal = journal
        self._counts: Counter[str] = journal.counts
        self._inquiries = Inquiries(interceptor, view, names, journal, "#VE", profile)
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
        frames = {fault.stack for fault in self.module.waiting()}
        waiting = self._inquiries.waiting
        waiting[:] = [it for it in waiting if not it.known or it.frame in frames]

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
        self._inquiries.settle()

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
                self._touched(page, self._inquiries.place(fault))
                return Intercepted()
            case Nested(pending):
                raise InterceptError(
                    f"a #VE at RIP {fault.cpu.rip:#x} (linear {fault.spill.cr2:#x}) before the "
                    f"guest has fetched what the last one is about (linear {pending.gla:#x}): "
                    "on hardware a double fault"
                )
        self._inquiries.forget(fault.stack)
        inquiry = await self._inquiries.foretell(fault, leaf, physical)
        if self._interceptor.asks:
            elsewhere = await self._inquiries.decided(inquiry, gate)
            if elsewhere is not None:
                return elsewhere
        self.state = state
        self._counts["ve"] += 1
        self._inquiries.add(inquiry)
        if self.module is not None and not self._interceptor.asks:
            inquiry.known = True
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
        place = await gate.raising(fault.space, fault.vcpu, VIRTUALIZATION_VECTOR)
        return Intercepted((SetRegister("rip", place),))

    def _touched(self, shared: SharedPage, at: Place) -> None:
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

    # ---- calls

    async def _called(self, fault: Fault, gate: PageFaultGate) -> Intercepted:
        registers = dict(zip(GPR, fault.spill.gpr, strict=True))
        done = tdx_module.answer(self.state, fault.vcpu, registers)
        self._inquiries.forget(fault.stack)
        before = fault.cpu
        ruling: Go | Ruling = Go()
        if self._interceptor.asks:
            said = await AskCalled(self._call(done, fault))
            if isinstance(said, Retry):
                fault.cpu = said.cpu
                return Intercepted(tuple(fault.write_back()))
            ruling = said
        self.state = done.state
        fault.cpu = replace(before, rip=before.rip + len(CALL))
        changes: list[Change] = []
        match done.event.request:
            case Mmio() as request if done.event.waits:
                done = await self._access(done.event, request, fault, gate, ruling)
            case Halt() as request if done.event.waits and not isinstance(ruling, Refuse):
                done = tdx_module.reply(self.state, done.event, host.Give())
                changes = self._sleep(fault, request, gate)
            case FatalError(_, text):
                self._told(done.event, self._inquiries.place(fault))
                raise GuestError(f"the guest told its host that it cannot go on: {text}")
            case request if request is not None and done.event.waits:
                usual = tdx_module.usual(self.state, request)
                reply = await self._inquiries.answer(request, ruling, usual, fault, gate)
                done = tdx_module.reply(self.state, done.event, reply)
        self.state = done.state
        self._told(done.event, self._inquiries.place(fault))
        cpu = fault.cpu
        gpr = tuple(done.changes.get(name, value) for name, value in zip(GPR, cpu.gpr, strict=True))
        fault.cpu = replace(cpu, gpr=gpr)
        return Intercepted((*fault.write_back(), *changes))

    def _call(self, done: Answered, fault: Fault) -> Called:
        # A call as who is asked about it sees it.
        event, access, answer = done.event, None, done.changes
        usual = None if event.request is None else tdx_module.usual(self.state, event.request)
        if event.waits and usual is not None:
            answer = tdx_module.reply(self.state, event, usual).changes
        if isinstance(event.request, Mmio):
            inquiry = self._inquiries.nearest(event.request.physical, fault)
            access = None if inquiry is None else inquiry.expected
        return Called(
            time_ns=fault.time_ns,
            vcpu=fault.vcpu,
            symbol=self._inquiries.place(fault).symbol,
            leaf=event.leaf,
            name=_name(event),
            given=event.given,
            request=event.request if event.waits else None,
            cpu=fault.cpu,
            space=fault.space,
            access=access,
            usual=answer or None,
        )

    def _sleep(self, fault: Fault, request: Halt, gate: PageFaultGate) -> list[Change]:
        # The vCPU goes to sleep in the stub, and on from there to behind its call.
        cpu = fault.cpu
        lets_in = not cpu.rflags & Flag.IF and not request.blocked
        asleep = SetMemory(fault.stack, pack_return(fault.spill, cpu.rip))
        gpr = list(cpu.gpr)
        gpr[RSP] = fault.stack
        fault.cpu = replace(cpu, gpr=tuple(gpr), rip=gate.stub.halts[lets_in])
        return [asleep]

    def _told(self, event: Tdcall, at: Place) -> None:
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
        for name, done in _COUNTED:
            now = self.module.count(done)
            if now != self._seen[done]:
                self._counts[name] += now - self._seen[done]
                self._seen[done] = now

    def told(self, raw: Raw, space: AddressSpace) -> None:
        """Take a record of the guest code's that is of no access."""
        assert self.module is not None
        rip = rip_of(raw)
        self._view.tell_time_at(raw.tsc)
        at = Place(self._view.time_ns, raw.vcpu, rip, self._names.lookup(rip, space))
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
        self,
        event: Tdcall,
        request: Mmio,
        fault: Fault,
        gate: PageFaultGate,
        ruling: Go | Ruling,
    ) -> Answered:
        self._counts["mmio_calls"] += 1
        usual = tdx_module.usual(self.state, request)
        call = Call(request, CALL, dict(event.given), usual)
        inquiry = await self._asked(request, fault) if call.possible else None
        made = await self._inquiries.asked(call, inquiry, fault, gate, ruling)
        done = tdx_module.reply(self.state, event, made.reply)
        await self._inquiries.record(made, done.event.returned)
        return done

    async def _asked(self, request: Mmio, fault: Fault) -> Inquiry | None:
        # The fault that a hypercall is for, which waits no longer.
        waiting, physical = self._inquiries.waiting, request.physical
        if self.module is None:
            return self._inquiries.matched(physical, fault)
        mine = [it for it in waiting if not it.known and it.physical == physical]
        if any(it.may_be(fault.stack) for it in mine):
            return self._inquiries.matched(physical, fault)  # somebody has decided about it
        gpa = physical | self.state.shared_bit
        found = self.module.asked(frame_at(fault.stack), gpa)
        if found is None:
            return None
        same = next((it for it in waiting if it.frame == found.stack), None)
        if same is not None:
            waiting.remove(same)
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
            return Inquiry(begun, physical)
        return await self._inquiries.foretell(begun, leaf, physical)


def _name(event: Tdcall) -> str:
    # The name of a call, with that of what the host is asked.
    call = CALLS.get(event.given.get("r11", 0)) if event.request is not None else None
    return event.name if call is None else f"{event.name}<{call.name}>"
