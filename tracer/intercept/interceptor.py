"""One stop at the stub, from fault to record: decode, emulate, carry out, write back.

Follow one access through :meth:`Interceptor.intercept`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tracer.access.execution import (
    Answers,
    CarryOut,
    Foretold,
    Outcome,
)
from tracer.access.footprint import Encounter, footprint
from tracer.access.inference import inferred
from tracer.access.space import AddressSpace
from tracer.access.state import complete
from tracer.access.transfer import Transfer
from tracer.access.vcpu import Change, SetRegister
from tracer.access.want import (
    AskCompleted,
)
from tracer.errors import (
    DebuggerError,
    EmulationError,
    GuestException,
    InterceptError,
    Misread,
    UnsupportedInstruction,
)
from tracer.intercept.answer import Answer, Answering, Devices
from tracer.intercept.below.firmware import Firmware, Intercepted
from tracer.intercept.delivery import Delivery, Taken
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.entry.post import Post
from tracer.intercept.fault import Fault, Faults, NestedFaults, code_at, decoded, foretell_at
from tracer.intercept.ledger import Entry, Ledger
from tracer.intercept.names import Names
from tracer.intercept.native_step import native_step
from tracer.intercept.oversight import Oversight, Restart
from tracer.intercept.port import access_port, sees_code
from tracer.intercept.ring.sites import CompiledSites
from tracer.intercept.system import Callers
from tracer.intercept.view import GuestView
from tracer.trace.record import Intercept
from tracer.x86.bus import PortAccess
from tracer.x86.instruction import Instruction
from tracer.x86.paging import Leaf
from tracer.x86.state import GPR, CpuState, FaultFrame, Flag, PageFaultCode

MAX_ITERATIONS = 256
"""Iterations of a REP instruction carried out in one stop: the guest stays interruptible."""


class Interceptor:
    """Complete the accesses of one guest.

    Every record goes to ``publish``, by the ``ledger``, before the guest goes on; ``counts`` counts
    what was done. The first of the ``answers`` that covers a transfer answers it; with ``asks`` the
    ``oversight`` asks what becomes of each access. Where there are compiled ``sites`` an
    instruction goes this way once. The ``firmware`` of a confidential guest is given each stop
    first.
    """

    def __init__(
        self,
        view: GuestView,
        names: Names,
        callers: Callers,
        counts: Counter[str],
        publish: Callable[[Intercept], None],
    ) -> None:
        self._view = view
        self._counts = counts
        self._delivery = Delivery(counts)
        self.faults: Faults | NestedFaults = Faults(view)
        self.answers: list[Answer] = [Devices()]
        self.answering = Answering(self.answers)
        self.ledger = Ledger(names, callers, counts, publish, self._is_within)
        self.oversight = Oversight(
            view, names, self.ledger, self.answering, lambda: self.firmware is not None
        )
        self.asks = False
        self.sites: CompiledSites | None = None
        self.firmware: Firmware | None = None
        self._done: dict[int, tuple[int, int]] = {}
        self._over: dict[int, tuple[int, FaultFrame, tuple[int, ...]]] = {}

    async def intercept(self, vcpu: int, gate: Post) -> Intercepted:
        """Complete the access that stopped a vCPU.

        Raises InterceptError when that cannot be done, with the guest left stopped.
        """
        fault = await self.faults.read(vcpu)
        moment = fault.stack, fault.spill.tsc
        if self._done.get(vcpu) == moment:
            # QEMU may report one stop twice, and one of another vCPU in between. The second report
            # needs no work.
            self._counts["strays"] += 1
            return Intercepted()
        if self.sites is not None and self.sites.block.waits(vcpu):
            self._counts["midway"] += 1
            return Intercepted((SetRegister("rip", gate.stub.rings),))
        self._done[vcpu] = moment
        if self._is_over(fault):
            self._counts["healed"] += 1
            return Intercepted()
        if isinstance(gate, PageFaultGate):
            taken = await self._of_others(fault, gate)
            if taken is not None:
                return taken
        elif fault.frame:
            return await self._push(fault, gate)
        poison = fault.check()
        before = fault.cpu
        try:
            await self._emulate(fault, gate, poison)
        except GuestException as exception:
            return await self.deliver(fault, gate, exception)
        except EmulationError as error:
            # The rest of a REP that went part of the way faults again.
            if fault.cpu.gpr == before.gpr:
                return await self._leave_to_vcpu(fault, gate, str(error))
        return Intercepted(tuple(fault.write_back()))

    async def _of_others(self, fault: Fault, gate: PageFaultGate) -> Intercepted | None:
        # Takes what has come to the gate and is no access of the instruction's.
        if self.firmware is not None:
            taken = await self.firmware.take(fault, gate)
            if taken is not None:
                return taken
        if not fault.spill.frame.error_code & PageFaultCode.RSVD:
            return await self._retake(fault, gate, "the frame of a page fault of the guest's own")
        fault.check()
        if gate.stack and fault.is_push():
            return await self._retake(fault, gate, "the frame of an exception")
        return None

    def _is_over(self, fault: Fault) -> bool:
        # Tells whether the poison that a vCPU came upon has been taken away while it was on its way
        # here, as another one's stop allows, or a device that is not traced has come to where it is
        # in nested tables: the instruction starts over then. Should the vCPU come back with the
        # same fault, it was of somebody else's making.
        before = self._over.pop(fault.vcpu, None)
        spill = fault.spill
        alone = self._view.vcpus == 1 and self._view.nested is None
        if alone or not spill.frame.error_code & PageFaultCode.RSVD:
            return False
        came = spill.cr2, spill.frame, spill.gpr
        if fault.poison() is not None or came == before:
            return False
        self._over[fault.vcpu] = came
        return True

    def _is_within(self, vcpu: int) -> bool:
        # Tells whether another access of the vCPU is under way at a compiled site.
        return self.sites is not None and self.sites.block.is_within(vcpu)

    async def look(self, vcpu: int) -> tuple[CpuState, AddressSpace]:
        """Return the interrupted state of a vCPU that stands at the stub, where addresses lead."""
        fault = await self.faults.read(vcpu)
        return fault.cpu, fault.space

    async def _leave_to_vcpu(self, fault: Fault, gate: Post, why: str) -> Intercepted:
        try:
            return Intercepted(tuple(await self._step(fault, gate, why)))
        except Restart as restart:
            fault.cpu = restart.cpu
        except GuestException as exception:
            return await self.deliver(fault, gate, exception)
        return Intercepted(tuple(fault.write_back()))

    async def _emulate(self, fault: Fault, gate: Post, poison: Leaf) -> None:
        # Executes the instruction, a REP for as long as it stays on poisoned pages. Each iteration
        # is foretold once, and so it is again when a person has changed the registers.
        changed = False
        for iteration in range(MAX_ITERATIONS):
            try:
                foretold = await foretell_at(fault, () if iteration else (poison,))
            except GuestException:
                raise
            except EmulationError:
                if not changed:
                    raise
                fault.cpu = await self._completed(fault.cpu)
                return
            insn, cpu = foretold.insn, foretold.cpu
            if iteration == 0:
                try:
                    fault.check_address(insn, foretold.transfers)
                except InterceptError as error:
                    raise Misread(insn.code, str(error)) from None
            elif not foretold.poisoned:
                if changed:
                    fault.cpu = await self._completed(cpu)
                return
            # PUSH and CALL write where the fault frame lies; the vCPU does once it is gone. And it
            # is the vCPU that raises #DB after an instruction the guest single-steps.
            single = bool(cpu.rflags & Flag.TF)
            # A jump leads to an offset in its segment: the CPU adds the base.
            displaced = insn.form is not None and insn.form.size64 == "f64" and fault.displaced
            alone = single or displaced or sees_code(insn, cpu)
            if fault.is_overwritten(foretold.transfers) or alone:
                raise UnsupportedInstruction(insn.code, insn.text)
            fault.replayed.clear()
            fault.meddled.clear()
            fault.ruled.clear()
            try:
                outcome = await self._perform(foretold, fault, gate)
            except Restart as restart:
                fault.cpu, changed = restart.cpu, True
                continue
            if fault.silence is not None:
                # QEMU's end tells whether it was made.
                self.ledger.leave(Entry(fault, insn, outcome, cpu))
                raise fault.silence
            self.ledger.record(Entry(fault, insn, outcome, cpu))
            if self.sites is not None:
                self.sites.consider(insn, cpu, fault.space)
            fault.port = None
            fault.cpu = await self._completed(outcome.cpu)
            if fault.cpu.rip != cpu.rip or insn.rep is None or await self._view.stale():
                return

    async def _completed(self, cpu: CpuState) -> CpuState:
        return await AskCompleted(cpu) if self.asks else cpu

    async def _perform(self, foretold: Foretold, fault: Fault, gate: Post) -> Outcome:
        # Does what was foretold: nothing is looked up again.
        execution = CarryOut(foretold)
        for asked in execution:
            if fault.silence is not None:
                raise fault.silence
            try:
                execution.answers = await self._answers(foretold, asked, execution, fault, gate)
            except DebuggerError:
                # A vCPU may have powered the guest off before, and QEMU have gone on.
                self.ledger.leave_cut(fault, foretold, asked, execution.done)
                raise
        return execution.outcome

    async def _answers(
        self,
        foretold: Foretold,
        asked: tuple[Transfer, ...] | PortAccess,
        execution: CarryOut,
        fault: Fault,
        gate: Post,
    ) -> Answers:
        # Returns what one access of the instruction read.
        if isinstance(asked, PortAccess):
            return [
                await access_port(asked, fault, gate, partial(self._tell_port, foretold, fault))
            ]
        if self.asks:
            return await self.oversight.carry(foretold, asked, execution.done, fault, gate)
        alone = len(foretold.transfers) == 1 and foretold.insn.rep is None
        if alone and self.answering.departs(asked[0], fault, gate):
            return [None]
        return await self.answering.carry(asked, fault, gate)

    def _tell_port(self, foretold: Foretold, fault: Fault, access: PortAccess, value: int) -> None:
        # In its monitor's stub a vCPU leaves for no monitor that would record it.
        if self.sites is not None and self._view.nested is not None:
            self.sites.tell_port(access, value, foretold, fault)

    async def deliver(self, fault: Fault, gate: Post, exception: GuestException) -> Intercepted:
        """Raise an exception in the interrupted instruction's place."""
        changes = await self._delivery.raise_at(fault, gate, exception)
        return Intercepted(tuple(changes), delivered=True)

    async def _retake(self, fault: Fault, gate: PageFaultGate, why: str) -> Intercepted:
        # Leaves an exception to the CPU whose frame may go to a device.
        code = await code_at(fault)
        insn = decoded(code, fault.cpu)
        taken = await self._delivery.retake(fault, gate)
        if taken.completed and fault.spill.frame.error_code & PageFaultCode.RSVD:
            raise InterceptError(
                f"an interrupt came at RIP {fault.cpu.rip:#x} while RSP was in a traced device: "
                f"its frame, at linear {fault.spill.cr2:#x}, is lost; leave the device out with "
                "--bypass"
            )
        if taken.pushed:
            # The frame would have come upon this, had there been no interrupt stack for it.
            frame = replace(fault.spill.frame, error_code=PageFaultCode.RSVD | PageFaultCode.W)
            fault.spill = replace(fault.spill, cr2=taken.pushed[0].linear, frame=frame)
            self._record(fault, insn, code, taken, why)
        return Intercepted(delivered=True)

    async def _push(self, fault: Fault, gate: Post) -> Intercepted:
        # Leaves a frame to the CPU that it was pushing to a device, from within its monitor.
        code = await code_at(fault)

        async def meet() -> Encounter:
            return (await self.faults.read(fault.vcpu)).encounter

        taken = await self._delivery.again(fault, gate, meet)
        if taken.pushed:
            why = "the frame of an exception or an interrupt"
            self._record(fault, decoded(code, fault.cpu), code, taken, why)
        return Intercepted(delivered=True)

    def _record(
        self, fault: Fault, insn: Instruction | None, code: bytes, taken: Taken, why: str
    ) -> None:
        after = replace(fault.cpu, rip=taken.registers["rip"])
        self.ledger.record(Entry(fault, insn, Outcome(after, taken.pushed), fault.cpu, code, why))

    async def _step(self, fault: Fault, gate: Post, why: str) -> list[Change]:
        code = fault.code
        insn = decoded(code, fault.cpu)
        ahead = footprint(insn, fault.cpu, fault.space)

        def admit(met: Encounter) -> None:
            for transfer in ahead.seen([met], fault.space):
                self.answering.to(transfer).admit_vcpu(transfer, fault, why)

        async def meet() -> Encounter:
            return (await self.faults.read(fault.vcpu)).encounter

        admit(fault.encounter)
        foretold = ahead.seen([fault.encounter], fault.space)
        if self.asks:
            await self.oversight.step(fault, gate, insn, foretold, why)
            if insn is not None and fault.meddled:
                return await self._skip(fault, insn, foretold, why)
        try:
            stand = fault.stand(gate)
            stepped = await native_step(foretold, stand, admit, fault.encounter, fault.offset, meet)
        except DebuggerError:
            # The last that the guest did, if it powered itself off by it.
            last = Outcome(fault.cpu, foretold)
            self.ledger.leave(Entry(fault, insn, last, fault.cpu, code, why))
            raise
        if stepped.faulted:
            self._counts["faulted"] += 1
            return []
        registers = stepped.registers
        after = replace(
            fault.cpu,
            gpr=tuple(registers[name] for name in GPR),
            rip=fault.linear_of(registers["rip"]),
            rflags=registers["eflags"],
        )
        if fault.cpu.xmm:
            after = complete(after, registers.values)
        if self.sites is not None and insn is not None:
            self.sites.consider(insn, fault.cpu, fault.space)
        made = ahead.seen(stepped.encounters, fault.space)
        made = inferred(insn, fault.cpu, after, made, fault.space)
        self.ledger.record(Entry(fault, insn, Outcome(after, made), fault.cpu, code, why))
        return []

    async def _skip(
        self, fault: Fault, insn: Instruction, foretold: tuple[Transfer, ...], why: str
    ) -> list[Change]:
        # Go on behind an instruction that nobody carries out.
        before = fault.cpu
        fault.cpu = replace(before, rip=before.rip + len(insn.code))
        outcome = Outcome(fault.cpu, foretold)
        self.ledger.record(Entry(fault, insn, outcome, before, note=why))
        fault.cpu = await self._completed(fault.cpu)
        return fault.write_back()
