"""One stop at the stub: where it spilled, what it spilled, and the state as it is carried on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tracer.access.execution import Foretold, foretell
from tracer.access.footprint import Encounter, footprint
from tracer.access.region import RegionMap, place_of
from tracer.access.space import AddressSpace
from tracer.access.state import complete, needs_registers
from tracer.access.transfer import Meddling, Transfer
from tracer.access.vcpu import Change, SetMemory, SetRegister
from tracer.access.want import ReadPhysical, Registers, StackAndTables
from tracer.compiled.monitor import vmcb_at
from tracer.errors import DebuggerError, EmulationError, GuestError, InterceptError
from tracer.intercept.carrier import Stand
from tracer.intercept.entry.post import Post
from tracer.intercept.entry.spill import SPILL_SIZE, Spill, interrupted, patch_spill, unpack_spill
from tracer.intercept.view import GuestView
from tracer.x86 import vmcb
from tracer.x86.bus import In
from tracer.x86.decode import decode
from tracer.x86.emulate.address import places
from tracer.x86.instruction import Instruction
from tracer.x86.legacy_paging import legacy_leaves
from tracer.x86.paging import Leaf, leaves, pages_of
from tracer.x86.state import (
    MAX_INSTRUCTION,
    PAGE_SIZE,
    CpuState,
    FaultFrame,
    Mode,
    PageFaultCode,
)

_MASK32 = (1 << 32) - 1
_FRAME = 48
"""Bytes that a fault frame with an error code takes."""


@dataclass(slots=True)
class Fault:
    """Follow one intercept from the spill to what is written back.

    ``stack`` is the linear address of the spill. ``cpu`` is the state of the interrupted code,
    ``xmm`` its XMM registers as they were where they had to be read. ``departure`` makes a write
    on the vCPU's way back, ``replayed`` has the numbers of the recorded accesses that answered,
    ``meddled`` how a person or a rule changed the transfers, by their number in the instruction,
    ``ruled`` in words which rules did. ``port`` is what an I/O port gave to the instruction that is
    being carried out. ``silence`` is what came in place of the answer to a write. ``code`` has the
    bytes at RIP when that was last foretold. ``frame`` has the bytes of a frame of the CPU's own
    that it was pushing, and pushes again once the vCPU goes on; 0 where it was an instruction.
    """

    vcpu: int
    time_ns: int
    stack: int
    spill: Spill
    space: AddressSpace
    cpu: CpuState
    xmm: tuple[int, ...] = ()
    departure: list[Change] = field(default_factory=list)
    replayed: list[int] = field(default_factory=list)
    meddled: dict[int, Meddling] = field(default_factory=dict)
    ruled: list[str] = field(default_factory=list)
    port: tuple[In, int] | None = None
    silence: DebuggerError | None = None
    code: bytes = b""
    frame: int = 0
    _poison: Leaf | None = None

    def stand(self, gate: Post) -> Stand:
        """Return where the vCPU stands."""
        return Stand(gate.stub, self.space, self.stack, gate.spare, gate.sight)

    def poison(self) -> Leaf | None:
        """Return the poison that the vCPU came upon; None where there is none, or none any more."""
        spill = self.spill
        if self._poison is None and spill.frame.error_code & PageFaultCode.RSVD:
            leaf = self.space.leaf(spill.cr2)
            self._poison = leaf if leaf is not None and leaf.poisoned else None
        return self._poison

    def check(self) -> Leaf:
        """Return the poison that the vCPU came upon. Raises InterceptError where there is none."""
        poison = self.poison()
        if poison is None:
            spill = self.spill
            raise InterceptError(
                f"a reserved-bit fault at linear {spill.cr2:#x} that vetrace did not cause "
                f"(RIP {spill.frame.rip:#x}, error code {spill.frame.error_code:#x})"
            )
        return poison

    @property
    def fetched(self) -> bool:
        """Tell whether it is the instruction itself that the vCPU came for."""
        return bool(self.spill.frame.error_code & PageFaultCode.I)

    def check_address(self, insn: Instruction, foretold: Sequence[Transfer]) -> None:
        """Raise InterceptError unless the instruction accesses what the CPU says it did.

        They must agree, or one of them is wrong about the instruction.
        """
        if self.fetched:
            return
        cr2, error = self.spill.cr2, self.spill.frame.error_code
        wanted_write = bool(error & PageFaultCode.W)
        for transfer in foretold:
            if transfer.linear <= cr2 < transfer.linear + transfer.width and (
                not wanted_write or any(item.direction == "write" for item in foretold)
            ):
                return
        raise InterceptError(
            f"`{insn.text}` ({insn.code.hex(' ')}) at RIP {self.spill.frame.rip:#x} does not "
            f"access linear {cr2:#x}, where the CPU says it faulted (error code {error:#x})"
        )

    def is_push(self) -> bool:
        """Tell whether it may be a frame of the CPU's own that came upon poison.

        That is a write right below RSP of the kernel's that the instruction there does not make.
        Only with an interrupt stack for vetrace's own frame the CPU gets so far as to tell.
        """
        top = self.spill.frame.rsp & -16
        cr2 = self.spill.cr2
        if self.cpu.cpl or not self.encounter.write or not top - 48 <= cr2 < top:
            return False
        code = self.space.read(self.cpu.rip, MAX_INSTRUCTION)
        try:
            insn = decode(code, self.cpu.rip, self.cpu.mode)
            if insn.form is None:
                return not insn.touches
            operands = places(insn, self.cpu)
        except EmulationError:
            return True
        return not any(
            item.write and item.linear <= cr2 < item.linear + item.width for item in operands
        )

    def is_overwritten(self, foretold: Sequence[Transfer]) -> bool:
        """Tell whether the fault's own frame is among what an instruction writes."""
        return any(
            transfer.direction == "write"
            and transfer.linear < self.stack + SPILL_SIZE
            and self.stack < transfer.linear + transfer.width
            for transfer in foretold
        )

    @property
    def encounter(self) -> Encounter:
        """Return where the CPU came upon poison."""
        write = bool(self.spill.frame.error_code & PageFaultCode.W)
        return Encounter(self.spill.cr2, write, self.fetched)

    def linear_of(self, rip: int) -> int:
        """Return the linear address of RIP, as the CPU has it."""
        cpu = self.cpu
        return rip if cpu.mode is Mode.LONG else rip + cpu.segments.cs_base & _MASK32

    @property
    def displaced(self) -> bool:
        """Tell whether RIP is another number than the linear address that it is at."""
        return self.offset != self.cpu.rip

    @property
    def offset(self) -> int:
        """Return RIP as the CPU has it: in its segment."""
        cpu = self.cpu
        return cpu.rip if cpu.mode is Mode.LONG else cpu.rip - cpu.segments.cs_base & _MASK32

    def write_back(self) -> list[Change]:
        """Return what the interrupted code is to find changed: registers on the stack, and XMM."""
        cpu = self.cpu
        changes: list[Change] = []
        patch = patch_spill(self.spill, cpu.gpr, self.offset, cpu.rflags)
        if patch is not None:
            offset, data = patch
            changes.append(SetMemory(self.stack + offset, data))
        for number, value in enumerate(cpu.xmm):
            if self.xmm and self.xmm[number] != value:
                changes.append(SetRegister(f"xmm{number}", value))
        return [*changes, *self.departure]


class Faults:
    """Read the faults of one guest's vCPUs."""

    def __init__(self, view: GuestView) -> None:
        self._view = view
        self._cr4 = 0

    async def read(self, vcpu: int) -> Fault:
        """Read where a vCPU stands at the stub. Raises InterceptError."""
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


class NestedFaults:
    """Read the nested faults of one guest's vCPUs, which stand in its monitor's stub.

    They come as a fault on a poisoned entry would have: CR2 is the linear address.
    """

    def __init__(self, view: GuestView) -> None:
        self._view = view

    async def read(self, vcpu: int) -> Fault:
        """Read where a vCPU stands at the stub.

        Raises GuestError where page tables lie in a device, InterceptError for what cannot be.
        """
        stack, _ = await StackAndTables()
        view = self._view
        try:
            spill = unpack_spill(view.memory.read(stack, SPILL_SIZE))
        except LookupError:
            raise InterceptError(f"the monitor's stack at {stack:#x} cannot be read") from None
        block = view.memory.read(vmcb_at(stack), vmcb.SIZE)
        manner = vmcb.executing(block)
        if vmcb.walked(block):
            raise GuestError(_in_device(spill, view.regions))
        space = view.space(spill.cr3, spill.cr4)
        if manner.paging is not None:
            space = view.legacy_space(manner.paging)
        view.tell_time(spill.tsc)
        cpu = _placed(interrupted(spill, manner.mode), manner)
        frame = vmcb.frame_size(block)
        if frame:
            linear = _linear(spill.cr2, spill.frame, None, cpu, space)
            spill = replace(spill, cr2=linear)
            return Fault(vcpu, view.time_ns, stack, spill, space, cpu, frame=frame)
        insn = decoded(await _code_in(space, cpu.rip), cpu)
        if insn is not None and needs_registers(insn):
            # The monitor has DS and ES of its own.
            cpu = complete(cpu, {**(await Registers()).values, **vmcb.outside(block)})
        linear = _linear(spill.cr2, spill.frame, insn, cpu, space)
        spill = replace(spill, cr2=linear)
        return Fault(vcpu, view.time_ns, stack, spill, space, cpu, cpu.xmm)


def _in_device(spill: Spill, regions: RegionMap) -> str:
    # Says where page tables lie, whose entries the CPU reads by itself.
    where = place_of(spill.cr2, regions.find(spill.cr2), ram=regions.is_ram(spill.cr2))
    return (
        f"the guest has a page table where no RAM is, at physical {spill.cr2:#x} ({where}): what "
        f"the CPU reads there by itself cannot be traced (RIP {spill.frame.rip:#x}, CR3 "
        f"{spill.cr3:#x})"
    )


def _placed(cpu: CpuState, manner: vmcb.Executing) -> CpuState:
    # Outside 64-bit mode code and data are at linear addresses by their segments.
    segments = replace(cpu.segments, **manner.bases)
    rip = cpu.rip
    if manner.mode is not Mode.LONG:
        rip = rip + segments.cs_base & _MASK32
    return replace(cpu, rip=rip, cpl=manner.cpl, segments=segments)


def _linear(
    physical: int,
    frame: FaultFrame,
    insn: Instruction | None,
    cpu: CpuState,
    space: AddressSpace,
) -> int:
    # Returns the linear address by which the instruction has come to a physical one: the CPU tells
    # that alone.
    for span in _reach(frame, insn, cpu, space):
        for page in pages_of(span.start, len(span)):
            leaf = space.leaf(page)
            if leaf is None or leaf.physical != physical & -PAGE_SIZE:
                continue
            linear = page + physical % PAGE_SIZE
            if linear in span:
                return linear
    find = legacy_leaves if space.legacy else leaves
    found = find(space.memory, space.paging)
    there = next((at for at in found if at.physical <= physical < at.physical + at.size), None)
    if there is None:
        raise InterceptError(
            f"RIP {frame.rip:#x} has come to physical {physical:#x}, where nothing of its page "
            "tables leads"
        )
    return there.linear + physical - there.physical


def _reach(
    frame: FaultFrame, insn: Instruction | None, cpu: CpuState, space: AddressSpace
) -> Iterable[range]:
    # Yields the linear addresses that an instruction may access, the likeliest first.
    if frame.error_code & PageFaultCode.I:
        yield range(cpu.rip, cpu.rip + MAX_INSTRUCTION)
    if insn is not None:
        with suppress(EmulationError):
            yield from footprint(insn, cpu, space).reach
    top = frame.rsp & -16
    yield range(top - _FRAME, top)


async def foretell_at(fault: Fault, known: Iterable[Leaf]) -> Foretold:
    """Return what the instruction at RIP may do; ``known`` are leaves that were just looked up.

    Raises EmulationError.
    """
    cpu = fault.cpu
    fault.code = await code_at(fault)
    insn = decode(fault.code, cpu.rip, cpu.mode)
    if not cpu.xmm and needs_registers(insn):
        registers = await Registers()
        fault.cpu = complete(cpu, registers.values)
        fault.xmm = fault.cpu.xmm
    return foretell(insn, fault.cpu, fault.space, known)


async def code_at(fault: Fault) -> bytes:
    """Return the bytes at RIP, which may lie in a device's RAM, or in flash that shows memory."""
    return await _code_in(fault.space, fault.cpu.rip)


async def _code_in(space: AddressSpace, rip: int) -> bytes:
    code = space.read(rip, MAX_INSTRUCTION)
    leaf = None if code else space.leaf(rip)
    if leaf is None:
        return code
    physical, regions = leaf.translate(rip), space.regions
    if not regions.is_ram(physical) and not regions.shows(physical):
        return b""
    size = min(MAX_INSTRUCTION, PAGE_SIZE - physical % PAGE_SIZE)
    size = regions.room(physical, size)
    value = await ReadPhysical(physical, size)
    return value.to_bytes(size, "little")


def decoded(code: bytes, cpu: CpuState) -> Instruction | None:
    """Return the instruction that these bytes are at RIP, None for one that nobody knows."""
    try:
        return decode(code, cpu.rip, cpu.mode)
    except EmulationError:
        return None
