"""One stop at the stub, from fault to record: decode, emulate, carry out, write back.

Follow one access through :meth:`Interceptor.intercept`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from tracer.access.decision import (
    Decision,
    Delay,
    Give,
    Go,
    Inject,
    Pending,
    Postpone,
    Refuse,
    Retry,
    Ruling,
    Skip,
)
from tracer.access.execution import (
    Answers,
    CarryOut,
    Foretold,
    Outcome,
    answered,
    foretell,
    lost_atomicity,
)
from tracer.access.footprint import Encounter, footprint
from tracer.access.inference import inferred
from tracer.access.recorded import memory_access
from tracer.access.space import AddressSpace
from tracer.access.state import complete, needs_registers
from tracer.access.transfer import Meddling, Transfer
from tracer.access.vcpu import Change, SetRegister
from tracer.access.want import (
    AskAnswered,
    AskBefore,
    AskCompleted,
    ReadPhysical,
    Registers,
    StackAndTables,
)
from tracer.errors import (
    DebuggerError,
    EmulationError,
    GuestException,
    InterceptError,
    Misread,
    UnsupportedInstruction,
)
from tracer.intercept import visit
from tracer.intercept.answer import UNANSWERED, Answer, Devices
from tracer.intercept.delivery import Delivery
from tracer.intercept.fault import Fault
from tracer.intercept.gate import PageFaultGate
from tracer.intercept.names import Names
from tracer.intercept.native_step import native_step
from tracer.intercept.port import access_port, sees_code
from tracer.intercept.sites import CompiledSites
from tracer.intercept.spill import SPILL_SIZE, interrupted, unpack_spill
from tracer.intercept.standin import replay_note
from tracer.intercept.system import Callers
from tracer.intercept.view import GuestView
from tracer.trace.call import Hypercall
from tracer.trace.marker import rule_note
from tracer.trace.member import Via
from tracer.trace.record import Intercept
from tracer.trace.registers import changed_values, register_values
from tracer.x86.bus import In, PortAccess
from tracer.x86.decode import decode
from tracer.x86.instruction import Instruction
from tracer.x86.paging import Leaf
from tracer.x86.state import GPR, MAX_INSTRUCTION, PAGE_SIZE, CpuState, Flag, PageFaultCode

MAX_ITERATIONS = 256
"""Iterations of a REP instruction carried out in one stop: the guest stays interruptible."""

_MOST_RINGS = 64
"""Stops that a vCPU makes for one access while another one finishes its own."""

_WITHIN = "an NMI's, within another access of its vCPU: which came first is not known"


@dataclass(frozen=True, slots=True)
class Intercepted:
    """Say what to change before the vCPU goes on.

    ``delivered`` tells that it goes on at a handler of the guest's, for an exception.
    """

    changes: tuple[Change, ...] = ()
    delivered: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """Tell how a guest asked for an access, and whether its instruction makes just that."""

    call: Hypercall
    agrees: bool


class Firmware(Protocol):
    """Take the stops of a confidential guest that are for what is below it."""

    async def take(self, fault: Fault, gate: PageFaultGate) -> Intercepted | None:
        """Take a stop at the stub; return None for one that is vetrace's own business."""
        ...


class Underneath(Firmware, Protocol):
    """Be what a confidential guest has below it, for as long as it runs."""

    def conclude(self) -> None:
        """Tell what was left open at the end. Raises GuestError for a guest that was none."""
        ...

    def settle(self) -> None:
        """Tell what the guest has left open, as it goes no further."""
        ...


class _Restart(Exception):
    # The person at the prompt changed the registers: the instruction starts over.

    def __init__(self, cpu: CpuState) -> None:
        super().__init__()
        self.cpu = cpu


class Interceptor:
    """Complete the accesses of one guest.

    Every record goes to ``publish`` before the guest goes on; ``counts`` counts what was done.
    The first of the ``answers`` that covers a transfer answers it; with ``asks`` it is asked what
    becomes of each access. Where there are compiled ``sites`` an instruction goes this way once.
    The ``firmware`` of a confidential guest is given each stop first.
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
        self._names = names
        self._callers = callers
        self._counts = counts
        self._publish = publish
        self._delivery = Delivery(counts)
        self.answers: list[Answer] = [Devices()]
        self.asks = False
        self.sites: CompiledSites | None = None
        self.firmware: Firmware | None = None
        self._done: dict[int, tuple[int, int]] = {}
        self._parting: Callable[[], None] | None = None
        self._sequence = 0
        self._waited = 0
        self._cr4 = 0

    async def intercept(self, vcpu: int, gate: PageFaultGate) -> Intercepted:
        """Complete the access that stopped a vCPU.

        Raises InterceptError when that cannot be done, with the guest left stopped.
        """
        fault = await self._read_fault(vcpu)
        moment = fault.stack, fault.spill.tsc
        if self._done.get(vcpu) == moment:
            # QEMU may report one stop twice, and one of another vCPU in between. The second report
            # needs no work.
            self._counts["strays"] += 1
            return Intercepted()
        if self._waits(vcpu):
            return Intercepted((SetRegister("rip", gate.stub.rings),))
        self._done[vcpu] = moment
        if self.firmware is not None:
            taken = await self.firmware.take(fault, gate)
            if taken is not None:
                return taken
        if not fault.spill.frame.error_code & PageFaultCode.RSVD:
            return await self._retake(fault, gate, "the frame of a page fault of the guest's own")
        poison = fault.check()
        if gate.stack and fault.is_push():
            return await self._retake(fault, gate, "the frame of an exception")
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

    def _waits(self, vcpu: int) -> bool:
        # Tells whether to let another vCPU finish first: it is done by the time of the next ring,
        # unless it was reset and never will be.
        sites = self.sites
        if sites is None or not sites.block.is_between(vcpu) or self._waited == _MOST_RINGS:
            self._waited = 0
            return False
        self._waited += 1
        self._counts["midway"] += 1
        return True

    async def look(self, vcpu: int) -> tuple[CpuState, AddressSpace]:
        """Return the interrupted state of a vCPU that stands at the stub, where addresses lead."""
        fault = await self._read_fault(vcpu)
        return fault.cpu, fault.space

    def take(self, accesses: int) -> int:
        """Count accesses that are recorded elsewhere; return the number of the first one."""
        first = self._sequence
        self._sequence += accesses
        return first

    def part(self) -> None:
        """Record the access that was under way when the guest ended, and may be how it did."""
        if self._parting is not None:
            self._parting()

    async def _leave_to_vcpu(self, fault: Fault, gate: PageFaultGate, why: str) -> Intercepted:
        try:
            return Intercepted(tuple(await self._step(fault, gate, why)))
        except _Restart as restart:
            fault.cpu = restart.cpu
        except GuestException as exception:
            return await self.deliver(fault, gate, exception)
        return Intercepted(tuple(fault.write_back()))

    async def _read_fault(self, vcpu: int) -> Fault:
        stack, cr3 = await StackAndTables()
        # CR4 says how deep the tables are, which no guest changes in long mode.
        data = self._view.space(cr3, self._cr4).read(stack, SPILL_SIZE)
        if len(data) != SPILL_SIZE or unpack_spill(data).cr3 != cr3:
            self._cr4 = (await Registers())["cr4"]
            data = self._view.space(cr3, self._cr4).read(stack, SPILL_SIZE)
        if len(data) != SPILL_SIZE:
            raise InterceptError(f"the fault frame at linear {stack:#x} cannot be read")
        spill = unpack_spill(data)
        space = self._view.space(spill.cr3, spill.cr4)
        self._view.tell_time(spill.tsc)
        cpu = interrupted(spill, await self._view.mode(spill.frame.cs, space))
        return Fault(vcpu, self._view.time_ns, stack, spill, space, cpu)

    async def _emulate(self, fault: Fault, gate: PageFaultGate, poison: Leaf) -> None:
        # Executes the instruction, a REP for as long as it stays on poisoned pages. Each iteration
        # is foretold once, and so it is again when a person has changed the registers.
        changed = False
        for iteration in range(MAX_ITERATIONS):
            try:
                foretold = await self.foretell(fault, () if iteration else (poison,))
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
            if fault.is_overwritten(foretold.transfers) or single or sees_code(insn, cpu):
                raise UnsupportedInstruction(insn.code, insn.text)
            fault.replayed.clear()
            fault.meddled.clear()
            fault.ruled.clear()
            try:
                outcome = await self._perform(foretold, fault, gate)
            except _Restart as restart:
                fault.cpu, changed = restart.cpu, True
                continue
            if fault.silence is not None:
                # QEMU's end tells whether it was made.
                self._parting = partial(self._record, fault, insn, outcome, cpu)
                raise fault.silence
            self._record(fault, insn, outcome, cpu)
            if self.sites is not None:
                self.sites.consider(insn, cpu, fault.space)
            fault.port = None
            fault.cpu = await self._completed(outcome.cpu)
            if fault.cpu.rip != cpu.rip or insn.rep is None or await self._view.stale():
                return

    async def foretell(self, fault: Fault, known: Iterable[Leaf]) -> Foretold:
        """Return what the instruction at RIP may do; ``known`` are leaves that were just looked up.

        Raises EmulationError.
        """
        cpu = fault.cpu
        fault.code = await self._code(fault)
        insn = decode(fault.code, cpu.rip, cpu.mode)
        if not cpu.xmm and needs_registers(insn):
            registers = await Registers()
            fault.cpu = complete(cpu, registers.values)
            fault.xmm = fault.cpu.xmm
        return foretell(insn, fault.cpu, fault.space, known)

    async def _code(self, fault: Fault) -> bytes:
        # The bytes at RIP, which may lie in a device's RAM.
        code = fault.space.read(fault.cpu.rip, MAX_INSTRUCTION)
        leaf = None if code else fault.space.leaf(fault.cpu.rip)
        if leaf is None:
            return code
        physical = leaf.translate(fault.cpu.rip)
        if not self._view.regions.is_ram(physical):
            return b""
        size = min(MAX_INSTRUCTION, PAGE_SIZE - physical % PAGE_SIZE)
        size = self._view.regions.room(physical, size)
        value = await ReadPhysical(physical, size)
        return value.to_bytes(size, "little")

    async def _completed(self, cpu: CpuState) -> CpuState:
        return await AskCompleted(cpu) if self.asks else cpu

    async def _perform(self, foretold: Foretold, fault: Fault, gate: PageFaultGate) -> Outcome:
        # Does what was foretold: nothing is looked up again.
        execution = CarryOut(foretold)
        for asked in execution:
            if fault.silence is not None:
                raise fault.silence
            try:
                execution.answers = await self._answers(foretold, asked, execution, fault, gate)
            except DebuggerError:
                # A vCPU may have powered the guest off before, and QEMU have gone on.
                self._parting = partial(self._record_cut, fault, foretold, asked, execution.done)
                raise
        return execution.outcome

    async def _answers(
        self,
        foretold: Foretold,
        asked: tuple[Transfer, ...] | PortAccess,
        execution: CarryOut,
        fault: Fault,
        gate: PageFaultGate,
    ) -> Answers:
        # Returns what one access of the instruction read.
        if isinstance(asked, PortAccess):
            return [await self._access_port(asked, fault, gate)]
        if self.asks:
            return await self._overseen(foretold, asked, execution.done, fault, gate)
        alone = len(foretold.transfers) == 1 and foretold.insn.rep is None
        if alone and self._departs(asked[0], fault, gate):
            return [None]
        return await self.carry(asked, fault, gate)

    def record_asked(
        self, fault: Fault, foretold: Foretold | None, outcome: Outcome, asked: Asked
    ) -> None:
        """Record an access that a guest has asked for, if it is traced.

        Raises DebuggerError where QEMU ended before it answered: then its end tells whether it is.
        """
        insn = None if foretold is None else foretold.insn
        record = partial(self._record, fault, insn, outcome, fault.cpu, fault.code, asked=asked)
        if fault.silence is not None:
            self._parting = record
            raise fault.silence
        record()

    async def carry(
        self, transfers: Sequence[Transfer], fault: Fault, gate: PageFaultGate
    ) -> Answers:
        """Make what is wanted of one access; return what each transfer read."""
        try:
            return await self._made(transfers, fault, gate)
        except DebuggerError as error:
            if any(transfer.direction != "write" for transfer in transfers):
                raise
            # A write that powers the guest off takes QEMU along, often before it has answered. The
            # instruction does not need an answer, and comes to its end without.
            fault.silence = error
            return [None] * len(transfers)

    async def _access_port(
        self, access: PortAccess, fault: Fault, gate: PageFaultGate
    ) -> int | None:
        # A port is read once, however often a person starts the instruction over.
        if isinstance(access, In) and fault.port is not None and fault.port[0] == access:
            return fault.port[1]
        try:
            value = await access_port(access, fault.stand(gate))
        except DebuggerError as error:
            if isinstance(access, In):
                raise
            # It may be what powers the guest off, like any write.
            fault.silence = error
            return None
        if isinstance(access, In) and value is not None:
            fault.port = access, value
        return value

    async def _made(
        self, transfers: Sequence[Transfer], fault: Fault, gate: PageFaultGate
    ) -> Answers:
        found = [self._answer_to(transfer) for transfer in transfers]
        if found and all(answer is found[0] for answer in found):
            return await found[0].carry(transfers, fault, gate)
        answers: list[int | None] = []
        for answer, transfer in zip(found, transfers, strict=True):
            answers += await answer.carry([transfer], fault, gate)
        return answers

    def _answer_to(self, transfer: Transfer) -> Answer:
        return next(answer for answer in self.answers if answer.covers(transfer))

    def _departs(self, transfer: Transfer, fault: Fault, gate: PageFaultGate) -> bool:
        # Tells whether the vCPU makes the access on its way back, which is arranged then.
        departure = self._answer_to(transfer).departure(transfer, fault, gate)
        fault.departure = departure or []
        return departure is not None

    def pending(
        self,
        fault: Fault,
        insn: Instruction | None,
        transfer: Transfer,
        foretold: tuple[Transfer, ...],
        done: tuple[Transfer, ...] = (),
        why: str | None = None,
        asked: Mapping[str, int] | None = None,
    ) -> Pending:
        """Return an access as a person is asked about it.

        ``why`` tells why it is not emulated, ``asked`` by which registers a guest asks for it.
        """
        cpu, space = fault.cpu, fault.space
        return Pending(
            seq=self._sequence + sum(item.traced for item in done),
            time_ns=fault.time_ns,
            vcpu=fault.vcpu,
            symbol=self._names.lookup(cpu.rip, space),
            code=space.read(cpu.rip, MAX_INSTRUCTION) if insn is None else insn.code,
            insn=insn,
            cpu=cpu,
            space=space,
            transfer=transfer,
            done=done,
            foretold=foretold,
            via=self._way(why),
            why=why,
            asked=asked,
        )

    def _way(self, why: str | None) -> Via:
        if why is not None:
            return "stepped"
        return "emulated" if self.firmware is None else "guest"

    async def _overseen(
        self,
        foretold: Foretold,
        transfers: tuple[Transfer, ...],
        done: tuple[Transfer, ...],
        fault: Fault,
        gate: PageFaultGate,
    ) -> Answers:
        # One access: all of its transfers are asked about before any is made.
        insn = foretold.insn
        answers: list[int | None] = [None] * len(transfers)
        wanted: dict[int, Transfer] = {}
        given: dict[int, int] = {}
        for index, transfer in enumerate(transfers):
            wanted[index] = transfer
            if not transfer.traced:
                continue
            number = len(done) + index
            before = (*done, *transfers[:index])
            pending = self.pending(fault, insn, transfer, foretold.transfers, before)
            match _diverted(await AskBefore(pending), pending):
                case Skip(value):
                    fault.meddled[number] = Meddling(skipped=True)
                    answers[index] = value if transfer.direction == "read" else None
                    del wanted[index]
                case Give(value, by) if transfer.direction == "write":
                    fault.meddled[number] = Meddling(device=value)
                    fault.ruled.append(by)
                    wanted[index] = replace(transfer, value=value)
                case Give(value, by):
                    fault.ruled.append(by)
                    given[index] = value
                case Delay() as late:
                    await self.delay(late, fault, gate)
                case Go():
                    pass
        made = await self.carry(tuple(wanted.values()), fault, gate)
        for index, answer in zip(wanted, made, strict=True):
            answers[index] = answer
        for index, transfer in wanted.items():
            if not transfer.traced or transfer.direction == "write":
                continue
            number, answer = len(done) + index, answers[index]
            if index not in given:
                before = (*done, *map(answered, transfers[:index], answers))
                told = answered(transfer, answer)
                pending = self.pending(fault, insn, told, foretold.transfers, before)
                match _carried(await AskAnswered(pending)):
                    case Give(value, by):
                        fault.ruled.append(by)
                        given[index] = value
                    case Delay() as late:
                        await self.delay(late, fault, gate)
                        continue
                    case Go():
                        continue
            fault.meddled[number] = Meddling(device=answer)
            answers[index] = given[index]
        return answers

    async def delay(self, late: Delay, fault: Fault, gate: PageFaultGate) -> None:
        """Let the guest's time pass before it has the answer."""
        fault.ruled.append(f"{late.by}, {late.time_ns / 1e9:.9g} s late")
        await visit.delay(late.time_ns, gate.stub, realtime=self._view.realtime)

    async def deliver(
        self, fault: Fault, gate: PageFaultGate, exception: GuestException
    ) -> Intercepted:
        """Raise an exception in the interrupted instruction's place."""
        changes = await self._delivery.raise_at(fault, gate, exception)
        return Intercepted(tuple(changes), delivered=True)

    async def _retake(self, fault: Fault, gate: PageFaultGate, why: str) -> Intercepted:
        # Leaves an exception to the CPU whose frame may go to a device.
        code = await self._code(fault)
        insn = _decoded(code, fault.cpu)
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
            after = replace(fault.cpu, rip=taken.registers["rip"])
            self._record(fault, insn, Outcome(after, taken.pushed), fault.cpu, code, why)
        return Intercepted(delivered=True)

    async def _step(self, fault: Fault, gate: PageFaultGate, why: str) -> list[Change]:
        code = fault.code
        insn = _decoded(code, fault.cpu)
        ahead = footprint(insn, fault.cpu, fault.space)

        def admit(met: Encounter) -> None:
            for transfer in ahead.seen([met], fault.space):
                self._answer_to(transfer).admit_vcpu(transfer, fault, why)

        admit(fault.encounter)
        foretold = ahead.seen([fault.encounter], fault.space)
        if self.asks:
            await self._oversee_step(fault, gate, insn, foretold, why)
            if insn is not None and fault.meddled:
                return await self._skip(fault, insn, foretold, why)
        try:
            stepped = await native_step(foretold, fault.stand(gate), admit, fault.encounter)
        except DebuggerError:
            # The last that the guest did, if it powered itself off by it.
            last = Outcome(fault.cpu, foretold)
            self._parting = partial(self._record, fault, insn, last, fault.cpu, code, why)
            raise
        if stepped.faulted:
            self._counts["faulted"] += 1
            return []
        registers = stepped.registers
        after = replace(
            fault.cpu,
            gpr=tuple(registers[name] for name in GPR),
            rip=registers["rip"],
            rflags=registers["eflags"],
        )
        if fault.cpu.xmm:
            after = complete(after, registers.values)
        if self.sites is not None and insn is not None:
            self.sites.consider(insn, fault.cpu, fault.space)
        made = ahead.seen(stepped.encounters, fault.space)
        made = inferred(insn, fault.cpu, after, made, fault.space)
        self._record(fault, insn, Outcome(after, made), fault.cpu, code, why)
        return []

    async def _oversee_step(
        self,
        fault: Fault,
        gate: PageFaultGate,
        insn: Instruction | None,
        foretold: tuple[Transfer, ...],
        why: str,
    ) -> None:
        # A step by the vCPU can be left out as a whole, or be late, but not be given another value.
        fault.meddled.clear()
        fault.ruled.clear()
        for number, transfer in enumerate(foretold):
            pending = self.pending(fault, insn, transfer, foretold, why=why)
            pending = replace(pending, seq=pending.seq + number)
            decision = _diverted(await AskBefore(pending), pending)
            if isinstance(decision, Delay):
                await self.delay(decision, fault, gate)
            if isinstance(decision, Skip):
                fault.meddled.update(dict.fromkeys(range(len(foretold)), Meddling(skipped=True)))
                return

    async def _skip(
        self, fault: Fault, insn: Instruction, foretold: tuple[Transfer, ...], why: str
    ) -> list[Change]:
        # Go on behind an instruction that nobody carries out.
        before = fault.cpu
        fault.cpu = replace(before, rip=before.rip + len(insn.code))
        outcome = Outcome(fault.cpu, foretold)
        self._record(fault, insn, outcome, before, note=why)
        fault.cpu = await self._completed(fault.cpu)
        return fault.write_back()

    def _record_cut(
        self,
        fault: Fault,
        foretold: Foretold,
        asked: tuple[Transfer, ...] | PortAccess,
        done: tuple[Transfer, ...],
    ) -> None:
        # Records an instruction that came no further than to an access without an answer.
        cut = () if isinstance(asked, PortAccess) else asked
        hidden = (replace(transfer, width=0, extent=transfer.width) for transfer in cut)
        last = Outcome(foretold.cpu, (*done, *hidden))
        self._record(fault, foretold.insn, last, foretold.cpu, note=UNANSWERED, via="emulated")

    def _record(
        self,
        fault: Fault,
        insn: Instruction | None,
        outcome: Outcome,
        before: CpuState,
        code: bytes = b"",
        note: str | None = None,
        via: Via | None = None,
        asked: Asked | None = None,
    ) -> None:
        transfers = outcome.transfers
        accesses = sum(transfer.traced for transfer in transfers)
        if not accesses:
            self._counts["neighbours"] += 1
            return
        if asked is not None:
            via = "guest"
        via = via or ("emulated" if note is None else "stepped")
        stack = self._callers.note(before, fault.space, fault.time_ns)
        self._counts["accesses"] += accesses
        self._counts[via] += accesses
        self._publish(
            Intercept(
                seq=self._sequence,
                time_ns=fault.time_ns,
                vcpu=fault.vcpu,
                cpl=before.cpl,
                mode=before.mode.value,
                rip=before.rip,
                symbol=self._names.lookup(before.rip, fault.space),
                code=insn.code if insn is not None else code,
                text=insn.text if insn is not None else "(bad)",
                cr2=fault.spill.cr2,
                error_code=fault.spill.frame.error_code,
                via=via,
                accesses=[
                    memory_access(transfer, fault.meddled.get(number))
                    for number, transfer in enumerate(transfers)
                ],
                before=register_values(before, insn),
                after=changed_values(before, outcome.cpu),
                note=_joined(
                    rule_note(fault.ruled),
                    note
                    or replay_note(fault.replayed)
                    or (lost_atomicity(insn, transfers) if insn is not None else None)
                    or (
                        _WITHIN
                        if self.sites is not None and self.sites.block.is_within(fault.vcpu)
                        else None
                    ),
                ),
                stack=stack,
                asked=None if asked is None else asked.call,
                agrees=None if asked is None else asked.agrees,
            )
        )
        self._sequence += accesses


def _decoded(code: bytes, cpu: CpuState) -> Instruction | None:
    try:
        return decode(code, cpu.rip, cpu.mode)
    except EmulationError:
        return None


def _joined(*notes: str | None) -> str | None:
    return "; ".join(filter(None, notes)) or None


def _carried(ruling: Go | Ruling) -> Go | Give | Delay:
    # The guest decodes its accesses itself where it can be told that one cannot be made.
    if isinstance(ruling, Refuse | Postpone):
        raise InterceptError(f"{ruling.by}: a guest that is not confidential cannot be told that")
    return ruling


def _diverted(decision: Decision, pending: Pending) -> Go | Give | Delay | Skip:
    # Raises what ends the execution here, where the decision is such.
    match decision:
        case Inject(vector, error_code, linear):
            raise GuestException(pending.code, vector, error_code, linear, injected=True)
        case Retry(cpu):
            raise _Restart(cpu)
        case Skip():
            return decision
        case _:
            return _carried(decision)
