"""An SEV-ES guest's stops: faults on devices, and its calls of the host.

On hardware each access to a device ends in the hypervisor's nested page tables, and the guest is
told by #VC. Here it comes upon vetrace's own poison. Follow one through
:meth:`EncryptedGuest.take`: the fault becomes a #VC, on the interrupt stack that the guest has for
it; the guest's handler decodes the instruction, puts what it asks for into the GHCB, a page that it
shares with its host, and calls by VMGEXIT. There the access is made, and recorded beside what
vetrace has foretold.

The MSR that tells where the GHCB is, or has a short request and its answer in place of that, is
another one: :mod:`tracer.linux.sev_entry` puts it into the kernel's code, and the stub spills it.

Ref: AMD64 Architecture Programmer's Manual vol. 2, 15.35 (SEV-ES), 15.35.5 (#VC: its error code is
the exit code); AMD SEV-ES Guest-Hypervisor Communication Block Standardization 2.03.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

from tracer.access.decision import Called, Go, Retry, Ruling
from tracer.access.vcpu import Change, SetMemory, SetRegister
from tracer.access.want import AskCalled, VcpuStates
from tracer.confidential import request as host
from tracer.confidential import sev_host
from tracer.confidential.ghcb import VMGEXIT
from tracer.confidential.handler import Profile
from tracer.confidential.request import (
    Cpuid,
    FatalError,
    Mmio,
    Msr,
    PortIo,
    Request,
    describe,
)
from tracer.confidential.sev_state import Answered, SevState, Vmgexit, patched
from tracer.errors import GuestError, InterceptError
from tracer.intercept.below.firmware import Intercepted
from tracer.intercept.below.inquiry import Call, Inquiries, Place
from tracer.intercept.below.waiting import Inquiry
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.entry.spill import cr2_at, error_at, pack_frame
from tracer.intercept.entry.stub import CALLED
from tracer.intercept.fault import Fault
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.ring.monitor import Monitor
from tracer.intercept.view import GuestView
from tracer.trace.call import VmgexitRecord
from tracer.x86.paging import Leaf
from tracer.x86.state import COMMUNICATION_VECTOR, PAGE_SIZE, PageFaultCode
from tracer.x86.tss import stack_offset

NESTED_FAULT = 0x400
"""Its error code for an access that nested page tables end: VMEXIT_NPF (AMD APM vol. 2, app. C)."""

_COUNTED = ("vc", "RAISED"), ("input_calls", "ANSWERED"), ("inputs not asked for", "UNASKED")
"""What is counted of what the monitor counts."""

PROTOCOL = PAGE_SIZE - 1
"""The bits of the MSR that are 0 where it has a GHCB's address."""
_BELOW = 64
"""How far below a spill the frame lies of a #VC that stays on its stack: room for it, aligned."""
_ALIGNMENT = 16
"""Bytes that the CPU aligns RSP to before it pushes a frame (Intel SDM vol. 3A, 6.14.2)."""


class EncryptedGuest:
    """Play the host of one SEV-ES guest.

    ``state`` is what the host remembers, ``memory`` the guest's. The ``interceptor`` makes and
    records the accesses that are asked for; ``own`` is the profile of the guest's handler. Inside a
    ``monitor`` instructions raise #VC as well: most calls about them are answered there, and what
    comes here is what that leaves.
    """

    def __init__(
        self,
        interceptor: Interceptor,
        view: GuestView,
        names: Names,
        journal: Journal,
        own: Profile,
    ) -> None:
        self.state = SevState(poison=view.marks)
        self._interceptor = interceptor
        self.memory = view.memory
        self._journal = journal
        self._counts: Counter[str] = journal.counts
        self._inquiries = Inquiries(interceptor, view, names, journal, "#VC", own)
        self.monitor: Monitor | None = None

    async def take(self, fault: Fault, gate: PageFaultGate) -> Intercepted | None:
        """Take a stop at the stub; return None for a fault that is not on vetrace's poison."""
        error = fault.spill.frame.error_code
        if error == CALLED:
            return await self._called(fault, gate)
        if not error & PageFaultCode.RSVD:
            return None
        return await self._faulted(fault, fault.check(), gate)

    def conclude(self) -> None:
        """Tell what was left open at the end. Raises GuestError where there was not one #VC."""
        self.settle()
        self._count()
        if not self._counts["vc"]:
            raise GuestError(
                "the guest ended without one #VC: its kernel did not take itself for an SEV-ES "
                "guest, and no access was traced as one's"
            )

    @property
    def owes(self) -> bool:
        """Tell whether there is an access that the guest has not asked for yet."""
        return bool(self._inquiries.waiting)

    def settle(self) -> None:
        """Tell of each #VC about which the guest has not asked."""
        self._inquiries.settle()

    def _count(self) -> None:
        # Counts what the monitor has done: told once, at the end.
        if self.monitor is None:
            return
        for name, done in _COUNTED:
            self._counts[name] += self.monitor.count(done)

    # ---- faults

    async def _faulted(self, fault: Fault, leaf: Leaf, gate: PageFaultGate) -> Intercepted:
        physical = leaf.translate(fault.spill.cr2)
        inquiries = self._inquiries
        inquiries.forget(fault.stack)
        inquiry = await inquiries.foretell(fault, leaf, physical)
        if self._interceptor.asks:
            elsewhere = await inquiries.decided(inquiry, gate)
            if elsewhere is not None:
                return elsewhere
        self._counts["vc"] += 1
        for outer in inquiries.waiting:
            # A handler moves a string by reading and writing it, which it does not ask for.
            within = outer.fault.stack > fault.stack and outer.may_be(fault.stack)
            if outer.physical == physical and within:
                outer.passed_on = True
        inquiries.add(inquiry)
        return Intercepted(await self.raised(fault, gate))

    async def raised(self, fault: Fault, gate: PageFaultGate) -> tuple[Change, ...]:
        """Return how a vCPU at the stub's ``stop`` goes on into the guest's handler of #VC."""
        stack = await gate.handler_of(fault.space, fault.vcpu, COMMUNICATION_VECTOR)
        frame = pack_frame(replace(fault.spill.frame, error_code=NESTED_FAULT))
        place = await self._top(stack, fault)
        return (
            SetMemory(place, frame),
            SetMemory(error_at(fault.stack), place.to_bytes(8, "little")),
            SetRegister("rip", gate.stub.switching),
        )

    async def _top(self, stack: int, fault: Fault) -> int:
        # Returns where the CPU would have put the frame: on an interrupt stack, or below the spill,
        # which goes with the vCPU's leaving.
        if not stack:
            return fault.stack - _BELOW
        task = (await VcpuStates())[fault.vcpu].task
        top = fault.space.word(task + stack_offset(stack))
        if top is None:
            raise InterceptError(
                f"the guest's TSS at linear {task:#x} cannot be read, where its interrupt stack "
                f"{stack} for #VC is"
            )
        return (top & -_ALIGNMENT) - len(pack_frame(fault.spill.frame))

    # ---- calls

    def protocol(self, value: int, at: Place) -> int:
        """Return what the MSR is to hold for a request of the MSR protocol.

        Raises GuestError where the guest asks for its end.
        """
        done = sev_host.msr(self.state, at.vcpu, value)
        event = done.event
        if isinstance(event.request, FatalError):
            self._end(event, event.request, at)
        if event.request is not None:
            said = sev_host.usual(self.state, event.request) or host.Refuse()
            done = sev_host.reply(self.state, event, said)
        self.state = done.state
        self._told(done.event, at)
        return done.changes["msr"]

    def _end(self, event: Vmgexit, request: FatalError, at: Place) -> NoReturn:
        self._inquiries.settle()  # its handler may have given up on one
        self._told(event, at)
        raise GuestError(f"the guest told its host that it cannot go on: {request.text}")

    async def _called(self, fault: Fault, gate: PageFaultGate) -> Intercepted:
        self._inquiries.forget(fault.stack)
        value = fault.spill.cr2  # what the MSR holds
        before = fault.cpu
        fault.cpu = replace(before, rip=before.rip + len(VMGEXIT))
        if value & PROTOCOL:
            done = sev_host.msr(self.state, fault.vcpu, value)
        else:
            page = self.page(value)
            done = sev_host.exit(self.state, fault.vcpu, value, page)
        self.state = done.state
        event = done.event
        match event.request:
            case FatalError() as request:
                self._end(event, request, self._inquiries.place(fault))
            case Mmio() as request if event.waits:
                done = await self._access(event, request, fault, gate)
            case request if request is not None and event.waits:
                if self.monitor is not None and isinstance(request, PortIo | Msr | Cpuid):
                    self._differs(request, fault)
                ruling: Go | Ruling = Go()
                if self._interceptor.asks:
                    asked = await AskCalled(self._call(event, replace(fault, cpu=before)))
                    if isinstance(asked, Retry):
                        fault.cpu = asked.cpu
                        return Intercepted(tuple(fault.write_back()))
                    ruling = asked
                usual = sev_host.usual(self.state, request)
                said = await self._inquiries.answer(request, ruling, usual, fault, gate)
                done = self._replied(event, said)
                self._told(done.event, self._inquiries.place(fault))
            case _:
                self._told(event, self._inquiries.place(fault))
        self.state = done.state
        changes = fault.write_back()
        if not value & PROTOCOL:
            self.memory.write(value, patched(self.page(value), done))
        elif done.changes["msr"] != value:
            assert gate.stub.telling is not None  # it is a stub of a guest with such calls
            answer = done.changes["msr"].to_bytes(8, "little")
            changes += [
                SetMemory(cr2_at(fault.stack), answer), SetRegister("rip", gate.stub.telling)
            ]  # fmt: skip
        return Intercepted(tuple(changes))

    def _differs(self, request: Request, fault: Fault) -> None:
        # The monitor answers what the innermost instruction does, from its registers.
        self._counts["disagreed"] += 1
        at = self._inquiries.place(fault)
        self._journal.remark(
            f"at {at.symbol or hex(at.rip)} the guest asks its host for {describe(request)}, which "
            "no instruction of its does that has raised #VC"
        )

    def _call(self, event: Vmgexit, fault: Fault) -> Called:
        # A call as who is asked about it sees it.
        return Called(
            time_ns=fault.time_ns,
            vcpu=fault.vcpu,
            symbol=self._inquiries.place(fault).symbol,
            leaf=None,
            name=event.name,
            given=event.given,
            request=event.request,
            cpu=fault.cpu,
            space=fault.space,
        )

    def page(self, address: int) -> bytes:
        """Return the GHCB at a physical address. Raises GuestError where no RAM is."""
        try:
            return self.memory.read(address, PAGE_SIZE)
        except LookupError:
            raise GuestError(
                f"the guest calls its host with a GHCB at physical {address:#x}, where no RAM is"
            ) from None

    async def _access(
        self, event: Vmgexit, request: Mmio, fault: Fault, gate: PageFaultGate
    ) -> Answered:
        self._counts["mmio_calls"] += 1
        given = self._given(event, request)
        call = Call(request, VMGEXIT, given, sev_host.usual(self.state, request))
        inquiry: Inquiry | None = None
        if call.possible:
            inquiry = self._inquiries.matched(request.physical, fault)
        made = await self._inquiries.asked(call, inquiry, fault, gate)
        done = self._replied(event, made.reply)
        returned = dict(done.event.returned)
        if done.data:
            returned["shared_buffer"] = int.from_bytes(done.data, "little")
        await self._inquiries.record(made, returned)
        return done

    def _replied(self, event: Vmgexit, said: host.Reply) -> Answered:
        if isinstance(said, host.Retry):
            raise InterceptError(
                "an SEV-ES guest cannot be told to ask again (retry): its host grants what it asks "
                "for, or refuses it"
            )
        return sev_host.reply(self.state, event, said)

    def _given(self, event: Vmgexit, request: Mmio) -> Mapping[str, int]:
        # Returns the fields as the guest would have filled them in without vetrace's poison.
        given = dict(event.given)
        given["sw_exit_info_1"] &= ~self.state.poison
        if request.value is not None:
            given["shared_buffer"] = request.value
        return given

    def _told(self, event: Vmgexit, at: Place) -> None:
        # Publish a call that is no device access.
        self._counts["vmgexits"] += 1
        self._journal.publish(
            VmgexitRecord(
                time_ns=at.time_ns,
                vcpu=at.vcpu,
                rip=at.rip,
                symbol=at.symbol,
                protocol=event.protocol,
                code=event.code,
                name=event.name,
                given=event.given,
                returned=event.returned,
                note=event.note or None,
            )
        )
