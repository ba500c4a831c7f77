"""The one loop that joins guest, debugger, traps, trace and subscribers.

Follow one access from :meth:`Session.run` through ``_intercept``: the stop, the fault frame,
decode, emulate, the transfers, the write-back, the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tracer import linux, mi
from tracer.decode import decode
from tracer.errors import (
    DebuggerError,
    EmulationError,
    GuestCrashed,
    GuestError,
    GuestException,
    InterceptError,
    QemuError,
    TargetGone,
    TracerError,
)
from tracer.gdb.client import GdbClient
from tracer.gdb.target import RegisterFile, Target, assign, assign_xmm, store
from tracer.guest.kernel import Kernel
from tracer.guest.machine import Ending, Machine
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
    memory_access,
    needs_registers,
    register_values,
)
from tracer.paging import paging_of, poison_bit
from tracer.process import exit_words
from tracer.region import Choice, Region, RegionMap, traced_ranges, unmatched
from tracer.stub import SPILL_SIZE, Spill, patch_spill, unpack_spill
from tracer.trace import End, Intercept, MapRecord, Mark, Record, RegionInfo, RegionRecord
from tracer.trap.carrier import Carrier
from tracer.trap.entry import follow_kaslr, reach_entry
from tracer.trap.gate import PageFaultGate
from tracer.trap.mapping import Poisoned, poison_everything, poison_mapping
from tracer.x86 import GPR, MAX_INSTRUCTION, PAGE_FAULT_VECTOR, CpuState, Mode, PageFaultCode

log = logging.getLogger(__name__)

MAX_ITERATIONS = 256
"""Iterations of a REP instruction carried out in one stop: the guest stays interruptible."""

Subscriber = Callable[[Record], None]


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


@dataclass(frozen=True, slots=True)
class _Pending:
    # A mapping function on its way: where it returns to, with which stack pointer.
    name: str
    mapping: linux.NewMapping
    stack: int


class Session:
    """Run one guest to its end, intercepting what was chosen.

    ``counts`` counts stops by what they were for; every record goes to the subscribers in order,
    the first time it is known.
    """

    def __init__(
        self,
        machine: Machine,
        client: GdbClient,
        kernel: Kernel,
        choice: Choice,
        subscribers: Sequence[Subscriber] = (),
    ) -> None:
        self.machine = machine
        self.kernel = kernel
        self.choice = choice
        self.vcpus = 1
        self.subscribers = list(subscribers)
        self.counts: Counter[str] = Counter()
        self.warnings: list[str] = []
        self._client = client
        self._target = Target(client)
        self._names = Names(kernel)
        self._regions = RegionMap((), (), ())
        self._announced: dict[str, RegionInfo] = {}
        self._poison = 0
        self._last_space = AddressSpace(machine.memory, paging_of(0, 0, 0), self._regions)
        self._carrier = Carrier(self._target, 1)
        self._gate: PageFaultGate | None = None
        self._hooks: dict[int, tuple[str, linux.MappingHook]] = {}
        self._hook_breakpoints: dict[int, int] = {}
        self._pending: dict[int, tuple[int, list[_Pending]]] = {}
        self._modes: dict[int, Mode] = {}
        self._sequence = 0
        self._time_ns = 0
        self._run_since = 0.0
        self._ran = 0.0
        self._interrupted = asyncio.Event()

    @property
    def gdb_version(self) -> str:
        """Return the version of GDB, such as ``13.1``."""
        return self._client.version

    # ---- lifetime

    async def attach(self) -> None:
        """Connect GDB to the machine, which stands before its first instruction."""
        self.machine.on_exit = lambda: self._client.fail(TargetGone())
        await self._target.attach(self.machine.gdb_socket)
        await self.machine.forget_socket()
        self.vcpus = await self.machine.vcpus()
        self._carrier = Carrier(self._target, self.vcpus)
        bits = await self.machine.physical_bits()
        try:
            self._poison = poison_bit(bits)
        except ValueError as error:
            raise QemuError(
                f"{error}; give the guest a CPU with fewer: -cpu ...,phys-bits=40"
            ) from error

    async def reach_entry(self) -> None:
        """Run firmware and boot loader up to the kernel's first own function."""
        try:
            target = self._target
            moved = await follow_kaslr(target, self.machine, self.kernel, self._resume)
            self._names.move(moved)
            await reach_entry(target, self.kernel, moved, self._resume)
        except DebuggerError as error:
            raise await self._explain(error, "before the kernel was entered") from error

    async def refresh_regions(self) -> RegionMap:
        """Ask QEMU where its devices are now, and announce what is new or has moved."""
        regions, ram = await self.machine.memory_map()
        traced = traced_ranges(regions, self.choice)
        self._regions = RegionMap(regions, traced, ram)
        pieces: Counter[str] = Counter()
        for region in self._regions.regions:
            info = _region_info(region, self._regions.is_traced_region(region))
            pieces[region.name] += 1
            key = f"{region.name} {pieces[region.name]}"
            if self._announced.get(key) != info:
                self._announced[key] = info
                self._publish(RegionRecord(time_ns=self._time_ns, region=info))
        return self._regions

    def unmatched(self) -> list[str]:
        """Return what was asked for on the command line and is not in the memory map."""
        return unmatched(self._regions.regions, self.choice)

    async def run(self) -> Ending:
        """Trace from where :meth:`trap` left off to the end of the guest; return how QEMU ended.

        Raises GuestCrashed, QemuError, DebuggerError or InterceptError for any end but the
        guest's own power-off.
        """
        try:
            stop = await self._resume(())
            while not stop.reason.startswith("exited"):
                self.counts["stops"] += 1
                stop = await self._resume(await self._handle(stop))
        except TargetGone:
            pass
        except DebuggerError as error:
            raise await self._explain(error, "while it was traced") from error
        return await self._verdict()

    async def run_untraced(self) -> Ending:
        """Let the guest run to its end without any trap."""
        await self._target.client.command("-break-delete")
        try:
            stop = await self._resume(())
            if not stop.reason.startswith("exited"):
                raise InterceptError(f"the guest stopped without a trap: {stop.reason}")
        except TargetGone:
            pass
        except DebuggerError as error:
            raise await self._explain(error, "while it ran") from error
        return await self._verdict()

    def end(self, outcome: str) -> End:
        """Publish and return the closing record."""
        record = End(time_ns=self._time_ns, outcome=outcome, counts=dict(self.counts))
        self._publish(record)
        return record

    def _publish(self, record: Record) -> None:
        for subscriber in self.subscribers:
            subscriber(record)

    def mark(self, text: str, qemu_log_offset: int | None = None) -> None:
        """Publish a mark at this moment of the run."""
        self._publish(Mark(time_ns=self._time_ns, text=text, qemu_log_offset=qemu_log_offset))

    # ---- how it ended

    async def _verdict(self) -> Ending:
        ending = await self.machine.ended()
        panic = next((line for line in reversed(ending.console) if "Kernel panic" in line), None)
        if ending.triple_fault:
            raise GuestCrashed("the guest triple-faulted; its last words are above")
        if panic is not None:
            raise GuestCrashed(f"the guest panicked: {panic.partition('] ')[2] or panic}")
        if ending.cause not in ("guest-shutdown", "guest-reset") or ending.status != 0:
            raise QemuError(f"QEMU ended by itself: {_why(ending)}")
        return ending

    async def _explain(self, error: DebuggerError, when: str) -> TracerError:
        # GDB fails when QEMU goes: the cause is QEMU's, unless QEMU still runs.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 if self._client.alive else 0.2):
                ending = await self.machine.ended()
                if ending.status == 0 and ending.cause:
                    try:
                        await self._verdict()
                    except TracerError as verdict:
                        return verdict
                return QemuError(f"QEMU died {when}: {_why(ending)}")
        return error

    # ---- the loop

    async def _resume(self, changes: Sequence[str]) -> mi.Stopped:
        self._run_since = time.monotonic()
        stop = await self._target.resume(changes)
        self._ran += time.monotonic() - self._run_since
        return stop

    async def _handle(self, stop: mi.Stopped) -> list[str]:
        gate = self._gate
        assert gate is not None  # trap() comes before run()
        number = stop.breakpoint
        if stop.address == gate.stub.stop:
            self.counts["intercepts"] += 1
            return await self._intercept(stop, gate)
        if number in self._hook_breakpoints:
            self.counts["hooks"] += 1
            await self._mapping_begins(self._hook_breakpoints[number])
            return []
        if number in self._pending:
            self.counts["hooks"] += 1
            await self._mapping_ends(number)
            return []
        if stop.reason.startswith("watchpoint"):
            self.counts["hooks"] += 1
            await self._gate_written(gate)
            return []
        if stop.stray and self.vcpus > 1:
            self.counts["strays"] += 1
            return []
        raise InterceptError(f"the guest stopped and nobody knows why: {stop.payload}")

    # ---- trapping

    async def trap(self) -> None:
        """Put every trap in place; the guest stands at its kernel's entry."""
        await self.refresh_regions()
        self._hooks, missing = linux.find_hooks(self._names.kernel)
        if missing:
            raise GuestError(
                f"{self.kernel.path} has no symbol {', '.join(missing)}: mappings would be missed; "
                "give better symbols with --symbols"
            )
        for address in self._hooks:
            self._hook_breakpoints[await self._target.set_breakpoint(address)] = address
        _, idt = await self.machine.descriptor_tables()
        registers = await self._target.registers()
        space = self._last_space = self._space(registers)
        self._gate = PageFaultGate(self._target, idt)
        await self._gate.install(space, self._names.kernel.address_of(linux.STUB_PLACE))
        self._note_poisoned(poison_everything(space), "present at kernel entry")
        await self._carrier.flush(space)

    async def _gate_written(self, gate: PageFaultGate) -> None:
        registers = await self._target.registers()
        space = self._space(registers)
        if await gate.refresh(space):
            # The kernel changes its handler when its own page tables have been made.
            await self.refresh_regions()
            space = self._space(registers)
            self._note_poisoned(poison_everything(space), "page tables made by the kernel")
            await self._carrier.flush(space)

    async def _mapping_begins(self, address: int) -> None:
        registers = await self._target.registers()
        name, hook = self._hooks[address]
        mapping = hook.arguments(registers.values)
        end = mapping.physical + max(mapping.size, 1) - 1
        regions = await self.refresh_regions()
        if not regions.touches_traced(mapping.physical, end):
            return
        stack = registers["rsp"]
        back = int.from_bytes(self._space(registers).read(stack, 8), "little")
        waiting = _Pending(name, mapping, stack + 8)
        for address_back, pending in self._pending.values():
            if address_back == back:
                pending.append(waiting)
                return
        self._pending[await self._target.set_breakpoint(back)] = (back, [waiting])

    async def _mapping_ends(self, number: int) -> None:
        registers = await self._target.registers()
        _, waiting = self._pending[number]
        space = self._space(registers)
        for pending in [item for item in waiting if item.stack == registers["rsp"]]:
            waiting.remove(pending)
            await self._tick(registers, space)
            self._note_poisoned(poison_mapping(space, pending.mapping), pending.name)
        if not waiting:
            del self._pending[number]
            await self._target.delete_breakpoint(number)

    def _note_poisoned(self, poisoned: Poisoned, by: str) -> None:
        for leaf in poisoned.leaves:
            end = leaf.physical + leaf.size - 1
            names = sorted(
                {
                    region.name
                    for region in self._regions.regions
                    if region.start <= end
                    and leaf.physical <= region.end
                    and self._regions.is_traced_region(region)
                }
            )
            self._publish(
                MapRecord(
                    time_ns=self._time_ns,
                    linear=hex(leaf.linear),
                    physical=hex(leaf.physical),
                    size=leaf.size,
                    regions=names,
                    by=by,
                )
            )
        for leaf in poisoned.refused:
            self.counts["refused"] += 1
            text = (
                f"not traced: linear {leaf.linear:#x}, a page of {leaf.size} bytes "
                f"over a traced device and RAM at physical {leaf.physical:#x}"
            )
            self.warnings.append(text)
            self.mark(text)

    # ---- one intercept

    async def _intercept(self, stop: mi.Stopped, gate: PageFaultGate) -> list[str]:
        fault = await self._read_fault((stop.thread or 1) - 1)
        before = fault.cpu
        try:
            await self._emulate(fault, gate)
        except GuestException as exception:
            return await self._deliver(fault, gate, exception)
        except EmulationError as error:
            # Of a REP that went part of the way, the rest faults again.
            if fault.cpu is before:
                return await self._step(fault, gate, str(error))
        return _write_back(fault)

    async def _read_fault(self, vcpu: int) -> _Fault:
        stack = await self._target.register("rsp")
        # The spill lies on the handler's stack, which the tables of this moment map.
        data = self._last_space.read(stack, SPILL_SIZE)
        if len(data) != SPILL_SIZE:
            self._last_space = self._space(await self._target.registers())
            data = self._last_space.read(stack, SPILL_SIZE)
        if len(data) != SPILL_SIZE:
            raise InterceptError(f"the fault frame at linear {stack:#x} cannot be read")
        spill = unpack_spill(data)
        space = AddressSpace(
            self.machine.memory, paging_of(spill.cr3, spill.cr4, self._poison), self._regions
        )
        self._last_space = space
        self._time_ns = int(self._ran * 1e9) if self.machine.config.realtime else spill.tsc
        _check_fault(spill, space)
        cpu = interrupted(spill, await self._mode(spill.frame.cs, space))
        return _Fault(vcpu, self._time_ns, stack, spill, space, cpu)

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
            outcome = await self._perform(insn, fault, gate)
            self._record(fault, insn, outcome, cpu)
            fault.cpu = outcome.cpu
            if outcome.cpu.rip != cpu.rip or insn.rep is None:
                return

    async def _perform(self, insn: Instruction, fault: _Fault, gate: PageFaultGate) -> Outcome:
        execution = carry_out(insn, fault.cpu, fault.space)
        answer: int | None = None
        while True:
            try:
                transfer = execution.send(answer)
            except StopIteration as stop:
                outcome: Outcome = stop.value
                return outcome
            answer = await self._carrier.perform(transfer, fault.space, gate.stub, fault.stack)

    async def _deliver(
        self, fault: _Fault, gate: PageFaultGate, exception: GuestException
    ) -> list[str]:
        # Same stack, same interrupted code: only error code, CR2 and handler differ from the
        # exception that was taken.
        self.counts["delivered"] += 1
        handler = gate.handler
        if exception.vector != PAGE_FAULT_VECTOR:
            entry = gate.gate(fault.space, exception.vector)
            if entry.stack_switch or not entry.present:
                raise InterceptError(
                    f"exception {exception.vector} of `{exception.code.hex(' ')}` at RIP "
                    f"{fault.cpu.rip:#x} cannot be delivered on the stack of a page fault"
                )
            handler = entry.handler
        await self._client.batch(_write_back(fault))
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
        stepped = await self._carrier.native_step(
            fault.cpu.rip, fault.spill.cr2, fault.space, gate.stub
        )
        if stepped.faulted:
            self.counts["faulted"] += 1
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
            self.counts["neighbours"] += 1
            return
        via = "emulated" if note is None else "stepped"
        self.counts["accesses"] += accesses
        self.counts[via] += accesses
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
                before=register_values(before),
                after=changed_values(before, outcome.cpu),
                note=note,
            )
        )
        self._sequence += accesses

    # ---- what the guest is like at this moment

    def _space(self, registers: RegisterFile) -> AddressSpace:
        paging = paging_of(registers["cr3"], registers["cr4"], self._poison)
        return AddressSpace(self.machine.memory, paging, self._regions)

    async def _mode(self, selector: int, space: AddressSpace) -> Mode:
        # L is bit 53 and D bit 54 of a code-segment descriptor (Intel SDM vol. 3A, 3.4.5).
        mode = self._modes.get(selector)
        if mode is None:
            gdt, _ = await self.machine.descriptor_tables()
            descriptor = int.from_bytes(space.read(gdt + (selector & 0xFFF8), 8), "little")
            small = Mode.COMPAT32 if descriptor >> 54 & 1 else Mode.COMPAT16
            mode = Mode.LONG if descriptor >> 53 & 1 else small
            self._modes[selector] = mode
        return mode

    async def _tick(self, registers: RegisterFile, space: AddressSpace) -> None:
        # The guest's time at a stop that is not at the stub.
        if self.machine.config.realtime:
            self._time_ns = int(self._ran * 1e9)
        elif self._gate is not None:
            self._time_ns = await self._carrier.read_clock(self._gate.stub, space, registers)


def _check_fault(spill: Spill, space: AddressSpace) -> None:
    leaf = space.leaf(spill.cr2)
    if not spill.frame.error_code & PageFaultCode.RSVD or leaf is None or not leaf.poisoned:
        raise InterceptError(
            f"a reserved-bit fault at linear {spill.cr2:#x} that vetrace did not cause "
            f"(RIP {spill.frame.rip:#x}, error code {spill.frame.error_code:#x})"
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
    return changes


def _stepped_transfer(fault: _Fault, insn: Instruction | None) -> Transfer:
    leaf = fault.space.leaf(fault.spill.cr2)
    physical = leaf.translate(fault.spill.cr2) if leaf is not None else 0
    return Transfer(
        direction="write" if fault.spill.frame.error_code & PageFaultCode.W else "read",
        linear=fault.spill.cr2,
        physical=physical,
        width=insn.width if insn is not None else 0,
        value=None,
        region=fault.space.regions.find(physical),
        traced=fault.space.regions.is_traced(physical),
        ram=False,
    )


def _region_info(region: Region, traced: bool) -> RegionInfo:
    return RegionInfo(
        name=region.name,
        start=hex(region.start),
        end=hex(region.end),
        qemu_name=region.qemu_name,
        device=region.device,
        traced=traced,
    )


def _why(ending: Ending) -> str:
    if ending.status >= 0 and ending.errors:
        return ending.errors.splitlines()[-1]
    return exit_words(ending.status)
