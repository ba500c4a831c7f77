"""One stop at the stub, from fault to record: decode, emulate, carry out, write back.

Follow one access through :meth:`Interceptor.intercept`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tracer.decode import decode, foreign_accesses
from tracer.errors import (
    Diverged,
    EmulationError,
    GuestException,
    InterceptError,
    UnsupportedInstruction,
)
from tracer.gdb.target import Target, assign, assign_xmm, store
from tracer.guest.names import Names
from tracer.instruction import Instruction
from tracer.intercept import (
    AddressSpace,
    Outcome,
    Transfer,
    carry_out,
    changed_values,
    foretell,
    interrupted,
    is_traced,
    lost_atomicity,
    memory_access,
    needs_registers,
    register_values,
)
from tracer.recording import RecordedDevice, Request
from tracer.stub import SPILL_SIZE, Spill, patch_spill, unpack_spill
from tracer.trace import Direction, Intercept
from tracer.trap.callers import Callers
from tracer.trap.carrier import Carrier
from tracer.trap.gate import PageFaultGate
from tracer.trap.view import GuestView
from tracer.x86 import GPR, MAX_INSTRUCTION, PAGE_FAULT_VECTOR, CpuState, Flag, PageFaultCode

MAX_ITERATIONS = 256
"""Iterations of a REP instruction carried out in one stop: the guest stays interruptible."""


@dataclass(slots=True)
class _Fault:
    # One stop at the stub: where it spilled, what it spilled, and the state as it is carried on.
    vcpu: int
    time_ns: int
    stack: int
    spill: Spill
    space: AddressSpace
    cpu: CpuState
    xmm: tuple[int, ...] = ()
    departure: list[str] = field(default_factory=list)
    replayed: list[int] = field(default_factory=list)


class Interceptor:
    """Complete the accesses of one guest.

    Every record goes to ``publish`` before the guest goes on; ``counts`` counts what was done.
    Where ``recorded`` is set it answers for its regions in place of their devices.
    """

    def __init__(
        self,
        target: Target,
        view: GuestView,
        names: Names,
        carrier: Carrier,
        callers: Callers,
        counts: Counter[str],
        publish: Callable[[Intercept], None],
    ) -> None:
        self._target = target
        self._view = view
        self._names = names
        self._carrier = carrier
        self._callers = callers
        self._counts = counts
        self._publish = publish
        self.recorded: RecordedDevice | None = None
        self._sequence = 0
        self._cr4 = 0

    async def intercept(self, vcpu: int, gate: PageFaultGate) -> list[str]:
        """Complete the access that stopped a vCPU; return the changes to make before it goes on.

        Raises InterceptError when that cannot be done, with the guest left stopped.
        """
        fault = await self._read_fault(vcpu)
        before = fault.cpu
        try:
            await self._emulate(fault, gate)
        except GuestException as exception:
            return await self._deliver(fault, gate, exception)
        except EmulationError as error:
            # Of a REP that went part of the way, the rest faults again.
            if fault.cpu.gpr == before.gpr:
                return await self._step(fault, gate, str(error))
        return _write_back(fault)

    async def _read_fault(self, vcpu: int) -> _Fault:
        stack, cr3 = await self._target.stack_and_tables()
        # CR4 says how deep the tables are, which no guest changes in long mode.
        data = self._view.space(cr3, self._cr4).read(stack, SPILL_SIZE)
        if len(data) != SPILL_SIZE or unpack_spill(data).cr3 != cr3:
            self._cr4 = (await self._target.registers())["cr4"]
            data = self._view.space(cr3, self._cr4).read(stack, SPILL_SIZE)
        if len(data) != SPILL_SIZE:
            raise InterceptError(f"the fault frame at linear {stack:#x} cannot be read")
        spill = unpack_spill(data)
        space = self._view.space(spill.cr3, spill.cr4)
        _check_fault(spill, space)
        self._view.tell_time(spill.tsc)
        cpu = interrupted(spill, await self._view.mode(spill.frame.cs, space))
        return _Fault(vcpu, self._view.time_ns, stack, spill, space, cpu)

    async def _emulate(self, fault: _Fault, gate: PageFaultGate) -> None:
        # Executes the instruction, a REP for as long as it stays on traced devices.
        for iteration in range(MAX_ITERATIONS):
            cpu = fault.cpu
            insn = decode(fault.space.read(cpu.rip, MAX_INSTRUCTION), cpu.rip, cpu.mode)
            if iteration == 0 and needs_registers(insn):
                registers = await self._target.registers()
                cpu = fault.cpu = interrupted(fault.spill, cpu.mode, registers.values)
                fault.xmm = cpu.xmm
            foretold = foretell(insn, cpu, fault.space)
            if iteration == 0:
                _check_address(fault.spill, insn, foretold)
            elif not is_traced(foretold):
                return
            # PUSH and CALL write where the fault frame lies; the vCPU does once it is gone. And it
            # is the vCPU that raises #DB after an instruction the guest single-steps.
            if _overwrites(foretold, fault.stack) or cpu.rflags & Flag.TF:
                raise UnsupportedInstruction(insn.code, insn.text)
            alone = len(foretold) == 1 and insn.rep is None
            fault.replayed.clear()
            outcome = await self._perform(insn, fault, gate, alone=alone)
            self._record(fault, insn, outcome, cpu)
            fault.cpu = outcome.cpu
            if outcome.cpu.rip != cpu.rip or insn.rep is None:
                return

    async def _perform(
        self, insn: Instruction, fault: _Fault, gate: PageFaultGate, *, alone: bool
    ) -> Outcome:
        execution = carry_out(insn, fault.cpu, fault.space)
        answer: int | None = None
        while True:
            try:
                transfer = execution.send(answer)
            except StopIteration as stop:
                outcome: Outcome = stop.value
                return outcome
            if self.recorded is not None and _answers(self.recorded, transfer):
                answer = self._replay(self.recorded, transfer, fault)
                continue
            place = (transfer, fault.space, gate.stub, fault.stack)
            if alone and transfer.direction == "write":
                departure = self._carrier.departure(*place)
                if departure is not None:
                    fault.departure = departure
                    answer = None
                    continue
            answer = await self._carrier.perform(*place)

    def _replay(self, recorded: RecordedDevice, transfer: Transfer, fault: _Fault) -> int | None:
        try:
            access = recorded.answer(_request(transfer))
        except Diverged as error:
            rip = fault.cpu.rip
            raise error.at(self._names.lookup(rip, fault.space) or hex(rip)) from None
        fault.replayed.append(access.seq)
        self._counts["replayed"] += 1
        return access.value if transfer.direction == "read" else None

    async def _deliver(
        self, fault: _Fault, gate: PageFaultGate, exception: GuestException
    ) -> list[str]:
        # Same stack, same interrupted code: only error code, CR2 and handler differ from the
        # exception that was taken.
        self._counts["delivered"] += 1
        handler = gate.handler
        if exception.vector != PAGE_FAULT_VECTOR:
            entry = gate.gate(fault.space, exception.vector)
            if entry.stack_switch or not entry.present:
                raise InterceptError(
                    f"exception {exception.vector} of `{exception.code.hex(' ')}` at RIP "
                    f"{fault.cpu.rip:#x} cannot be delivered on the stack of a page fault"
                )
            handler = entry.handler
        await self._target.client.batch(_write_back(fault))
        await self._carrier.leave(gate.stub)
        changes = [assign("rip", handler)]
        if exception.error_code is not None:
            frame = fault.stack + SPILL_SIZE - 6 * 8
            changes.append(store(frame, exception.error_code.to_bytes(8, "little")))
            changes.append(assign("rsp", frame))
        if exception.linear is not None:
            changes.append(assign("cr2", exception.linear))
        return changes

    async def _step(self, fault: _Fault, gate: PageFaultGate, why: str) -> list[str]:
        code = fault.space.read(fault.cpu.rip, MAX_INSTRUCTION)
        try:
            insn: Instruction | None = decode(code, fault.cpu.rip, fault.cpu.mode)
        except EmulationError:
            insn = None
        if self.recorded is not None and _answers(self.recorded, _stepped_transfer(fault, insn)):
            raise InterceptError(
                f"{why} at RIP {fault.cpu.rip:#x}: the vCPU would have to reach the device itself, "
                f"which {self.recorded.name} stands in for; --bypass its region"
            )
        stepped = await self._carrier.native_step(
            fault.cpu.rip, fault.spill.cr2, fault.space, gate.stub
        )
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
        transfer = _stepped_transfer(fault, insn)
        self._record(fault, insn, Outcome(after, (transfer,)), fault.cpu, code, why)
        return []

    def _record(
        self,
        fault: _Fault,
        insn: Instruction | None,
        outcome: Outcome,
        before: CpuState,
        code: bytes = b"",
        note: str | None = None,
    ) -> None:
        transfers = outcome.transfers
        accesses = sum(transfer.traced for transfer in transfers)
        if not accesses:
            self._counts["neighbours"] += 1
            return
        via = "emulated" if note is None else "stepped"
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
                rip=hex(before.rip),
                symbol=self._names.lookup(before.rip, fault.space),
                code=(insn.code if insn is not None else code).hex(),
                text=insn.text if insn is not None else "(bad)",
                cr2=hex(fault.spill.cr2),
                error_code=hex(fault.spill.frame.error_code),
                via="emulated" if note is None else "stepped",
                accesses=[memory_access(transfer) for transfer in transfers],
                before=register_values(before, insn),
                after=changed_values(before, outcome.cpu),
                note=note
                or _replay_note(fault.replayed)
                or (lost_atomicity(insn, transfers) if insn is not None else None),
                stack=stack,
            )
        )
        self._sequence += accesses


def _answers(recorded: RecordedDevice, transfer: Transfer) -> bool:
    region = transfer.region
    return (
        transfer.traced
        and region is not None
        and recorded.replayed.has(region.name, region.device, region.qemu_name)
    )


def _request(transfer: Transfer) -> Request:
    region = transfer.region
    assert region is not None  # or nothing would answer
    return Request(
        region=region.name,
        direction=transfer.direction,
        offset=transfer.physical - region.base,
        width=transfer.width,
        value=transfer.value,
    )


def _replay_note(replayed: Sequence[int]) -> str | None:
    # The numbers that its accesses have in the recording: the device saw none of them.
    if not replayed:
        return None
    return f"replayed: {', '.join(f'#{seq}' for seq in replayed)} of the recording"


def _check_fault(spill: Spill, space: AddressSpace) -> None:
    leaf = space.leaf(spill.cr2)
    if not spill.frame.error_code & PageFaultCode.RSVD or leaf is None or not leaf.poisoned:
        raise InterceptError(
            f"a reserved-bit fault at linear {spill.cr2:#x} that vetrace did not cause "
            f"(RIP {spill.frame.rip:#x}, error code {spill.frame.error_code:#x})"
        )


def _overwrites(foretold: Sequence[Transfer], stack: int) -> bool:
    # Tells whether the fault's own frame is among what an instruction writes.
    return any(
        transfer.direction == "write"
        and transfer.linear < stack + SPILL_SIZE
        and stack < transfer.linear + transfer.width
        for transfer in foretold
    )


def _check_address(spill: Spill, insn: Instruction, foretold: Sequence[Transfer]) -> None:
    # Decode must agree with what the CPU reported, or one of them is wrong about the instruction.
    wanted_write = bool(spill.frame.error_code & PageFaultCode.W)
    for transfer in foretold:
        if transfer.linear <= spill.cr2 < transfer.linear + transfer.width and (
            not wanted_write or any(item.direction == "write" for item in foretold)
        ):
            return
    raise InterceptError(
        f"`{insn.text}` ({insn.code.hex(' ')}) at RIP {spill.frame.rip:#x} does not access linear "
        f"{spill.cr2:#x}, where the CPU says it faulted (error code {spill.frame.error_code:#x})"
    )


def _write_back(fault: _Fault) -> list[str]:
    # What the interrupted code will find changed: its registers on the stack, XMM in place.
    cpu = fault.cpu
    changes: list[str] = []
    patch = patch_spill(fault.spill, cpu.gpr, cpu.rip, cpu.rflags)
    if patch is not None:
        offset, data = patch
        changes.append(store(fault.stack + offset, data))
    for number, value in enumerate(cpu.xmm):
        if fault.xmm and fault.xmm[number] != value:
            changes.append(assign_xmm(number, value))
    return [*changes, *fault.departure]


def _stepped_transfer(fault: _Fault, insn: Instruction | None) -> Transfer:
    leaf = fault.space.leaf(fault.spill.cr2)
    physical = leaf.translate(fault.spill.cr2) if leaf is not None else 0
    direction: Direction = "write" if fault.spill.frame.error_code & PageFaultCode.W else "read"
    return Transfer(
        direction=direction,
        linear=fault.spill.cr2,
        physical=physical,
        width=0 if insn is None else insn.width or dict(foreign_accesses(insn)).get(direction) or 0,
        value=None,
        region=fault.space.regions.find(physical),
        traced=fault.space.regions.is_traced(physical),
        ram=False,
    )
