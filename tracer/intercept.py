"""One intercepted instruction: from its accesses at linear addresses to transfers on the bus.

Nothing here touches a guest: :func:`carry_out` yields the transfers of each access and is sent what
was read, so the same code runs live and in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tracer import bus
from tracer.emulate import execute, plan
from tracer.errors import GuestException
from tracer.forms import Unit
from tracer.hypercall import WIDTHS, ghcb_exit, tdvmcall
from tracer.instruction import SEGMENTS, File, Instruction, Memory, Register
from tracer.paging import Leaf, Paging, PhysicalMemory, permitted, walk
from tracer.region import Region, RegionMap
from tracer.stub import Spill
from tracer.trace import Direction, MemoryAccess
from tracer.x86 import (
    GPR,
    PAGE_FAULT_VECTOR,
    PAGE_SIZE,
    CpuState,
    Mode,
    PageFaultCode,
    Segments,
)

MAX_TRANSFER = 8
"""Widest device access in bytes: what a processor's load or store unit sends at once here."""


_SEGMENT_FIELDS = ("ds", "es", "fs", "gs", "fs_base", "gs_base")


@dataclass(frozen=True, slots=True)
class Transfer:
    """Hold one access within one page, at most 8 bytes wide.

    ``value`` is what is written, or what was read once that is known. ``region`` is the device
    region, None for RAM and for addresses that nothing answers. ``traced`` accesses are recorded
    as device accesses. Where ``width`` is 0 any number of accesses are made within the ``extent``
    bytes from ``linear`` on: see :class:`tracer.trace.MemoryAccess`.
    """

    direction: Direction
    linear: int
    physical: int
    width: int
    value: int | None
    region: Region | None
    traced: bool
    ram: bool
    extent: int | None = None

    @property
    def span(self) -> int:
        """Return how many bytes from ``linear`` on the transfer may touch."""
        return self.width or self.extent or 1


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """Join what decides where a linear address leads."""

    memory: PhysicalMemory
    paging: Paging
    regions: RegionMap

    def leaf(self, linear: int) -> Leaf | None:
        """Return the translation of a linear address, poisoned or not."""
        return walk(self.memory, self.paging, linear)

    def room(self, linear: int, size: int) -> int:
        """Return how many of ``size`` bytes in one page reach the same device, or all RAM."""
        leaf = self.leaf(linear)
        return size if leaf is None else self.regions.room(leaf.translate(linear), size)

    def read(self, linear: int, size: int) -> bytes:
        """Return up to ``size`` bytes of RAM at a linear address; fewer where RAM ends."""
        data = bytearray()
        while len(data) < size:
            here = linear + len(data)
            leaf = self.leaf(here)
            if leaf is None:
                break
            length = min(size - len(data), PAGE_SIZE - here % PAGE_SIZE)
            try:
                data += self.memory.read(leaf.translate(here), length)
            except LookupError:
                break
        return bytes(data)


def interrupted(spill: Spill, mode: Mode) -> CpuState:
    """Return the state of the interrupted code, as far as the stub spills it.

    Segments and XMM are unknown: :func:`complete` adds them. The x87 stack stays unknown, so that
    its instructions are left to the CPU: GDB cannot write its registers bit by bit.
    """
    frame = spill.frame
    return CpuState(
        gpr=spill.gpr,
        rip=frame.rip,
        rflags=frame.rflags,
        cpl=frame.cpl,
        mode=mode,
        segments=Segments(cs=frame.cs, ss=frame.ss),
        cr0=spill.cr0,
        cr4=spill.cr4,
        fpu_tag=0xFFFF,
    )


def stopped(registers: Mapping[str, int], mode: Mode) -> CpuState:
    """Return the state of code that stopped by itself, from registers by GDB's names."""
    cpu = CpuState(
        gpr=tuple(registers[name] for name in GPR),
        rip=registers["rip"],
        rflags=registers["eflags"],
        cpl=registers["cs"] & 3,
        mode=mode,
        segments=Segments(cs=registers["cs"], ss=registers["ss"]),
        cr0=registers["cr0"],
        cr4=registers["cr4"],
    )
    return complete(cpu, registers)


def complete(cpu: CpuState, registers: Mapping[str, int]) -> CpuState:
    """Return the state with what the stub does not spill, from registers by GDB's names.

    It is needed only where :func:`needs_registers` says so.
    """
    others = {name: registers.get(name, 0) for name in _SEGMENT_FIELDS}
    return replace(
        cpu,
        segments=replace(cpu.segments, **others),
        xmm=tuple(registers.get(f"xmm{number}", 0) for number in range(16)),
        fpu_control=registers.get("fctrl", 0x37F),
        fpu_status=registers.get("fstat", 0),
        fpu_tag=registers.get("ftag", 0xFFFF),
        mxcsr=registers.get("mxcsr", 0x1F80),
    )


def needs_registers(insn: Instruction) -> bool:
    """Tell whether an instruction sees more than the general-purpose registers.

    Of one that is left to the CPU, whether its addresses do.
    """
    if insn.form is None:
        return insn.mode is not Mode.LONG or any(
            touch.lanes is not None
            or (touch.memory is not None and touch.memory.segment in ("fs", "gs"))
            for touch in insn.touches
        )
    for operand in insn.operands:
        if isinstance(operand, Memory):
            if operand.segment in ("fs", "gs"):
                return True
        elif isinstance(operand, Register) and operand.file is not File.GPR:
            return True
    return insn.form.unit is not Unit.INTEGER or insn.mode is not Mode.LONG


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold what one execution did: its transfers in order, and the state after it."""

    cpu: CpuState
    transfers: tuple[Transfer, ...]


def foretell(insn: Instruction, cpu: CpuState, space: AddressSpace) -> tuple[Transfer, ...]:
    """Return the transfers that an execution may make, values unknown, none carried out.

    A read-modify-write operand appears once for each direction. Raises UnsupportedInstruction for
    an instruction left to the CPU, and GuestException (#PF) for an operand the guest has not
    mapped or may not touch.
    """
    foretold: list[Transfer] = []
    for operand in plan(insn, cpu):
        if operand.read:
            foretold += _transfers(operand.linear, operand.width, None, cpu, space, insn.code)
        if operand.write:
            foretold += _transfers(operand.linear, operand.width, 0, cpu, space, insn.code)
    return tuple(foretold)


Answers = Sequence[int | None]
"""What each transfer of one access read, None for a write."""


def carry_out(
    insn: Instruction, cpu: CpuState, space: AddressSpace
) -> Generator[tuple[Transfer, ...], Answers | None, Outcome]:
    """Execute an instruction once, yielding its accesses in order, each as its transfers.

    The consumer sends their answers. Raises what :func:`tracer.emulate.execute` raises. An access
    that was yielded has happened: call :func:`foretell` first, so that no page fault comes after
    a device was read.
    """
    done: list[Transfer] = []
    execution = execute(insn, cpu)
    answer: int | None = None
    while True:
        try:
            access = execution.send(answer)
        except StopIteration as stop:
            return Outcome(stop.value, tuple(done))
        answer = yield from _carry_access(access, cpu, space, insn.code, done)


def _carry_access(
    access: bus.Access, cpu: CpuState, space: AddressSpace, code: bytes, done: list[Transfer]
) -> Generator[tuple[Transfer, ...], Answers | None, int | None]:
    value = access.value if isinstance(access, bus.Store) else None
    whole = 0
    transfers = tuple(_transfers(access.linear, access.width, value, cpu, space, code))
    answers = yield transfers
    for transfer, answer in zip(transfers, answers or (), strict=True):
        if transfer.direction == "read":
            # A device cannot answer with more bits than were asked for.
            answer = (answer or 0) & ((1 << 8 * transfer.width) - 1)
            whole |= answer << 8 * (transfer.linear - access.linear)
            transfer = replace(transfer, value=answer)
        done.append(transfer)
    return whole if value is None else None


def _transfers(
    linear: int, width: int, value: int | None, cpu: CpuState, space: AddressSpace, code: bytes
) -> list[Transfer]:
    write = value is not None
    pieces: list[Transfer] = []
    for start, size in cut(linear, width, space.room):
        leaf = space.leaf(start)
        if leaf is None or not permitted(leaf, cpu, write=write):
            raise _page_fault(start, leaf, cpu, write, code)
        physical = leaf.translate(start)
        part = None if value is None else value >> 8 * (start - linear) & ((1 << 8 * size) - 1)
        pieces.append(
            Transfer(
                direction="write" if write else "read",
                linear=start,
                physical=physical,
                width=size,
                value=part,
                region=space.regions.find(physical),
                traced=space.regions.is_recorded(physical, read=not write),
                ram=space.regions.is_ram(physical),
            )
        )
    return pieces


def delivered_alike(transfers: Sequence[Transfer], regions: RegionMap) -> bool:
    """Tell whether QEMU's debugger interface delivers an access as a vCPU's own is.

    RAM takes any access. To a device the debugger interface sends aligned powers of two, as wide
    as the device says that it takes (softmmu/physmem.c, memory_access_size), and a vCPU sends what
    its instruction has, cut in a way that changes from version to version (accel/tcg/cputlb.c).
    Both are the same where 1, 2 or 4 aligned bytes lie within one region: there is no device for
    x86 behind an address in memory that says it takes less than 4. One that takes 4 refuses 8
    bytes of a vCPU and gets two times 4 of the debugger. Where nothing answers they differ, too.
    """
    first, last = transfers[0], transfers[-1]
    end = last.physical + last.width - 1
    if all(transfer.ram and transfer.region is None for transfer in transfers):
        return regions.is_ram(end) and regions.find(end) is None
    region = first.region
    return (
        len(transfers) == 1
        and region is not None
        and not region.vcpu_only
        and first.width in (1, 2, 4)
        and first.physical % first.width == 0
        and end <= region.end
    )


def cut(
    linear: int, width: int, alike: Callable[[int, int], int] = lambda linear, size: size
) -> Iterator[tuple[int, int]]:
    """Yield the transfers of an access as linear address and width in bytes, lowest first.

    An access within a page and up to 8 bytes goes whole, aligned or not. Others are cut at page
    ends and into powers of two, and where one device ends and another one, or RAM, begins:
    ``alike`` tells how many of ``size`` bytes from a linear address on belong together.
    """
    end = linear + width
    while linear < end:
        room = min(end - linear, PAGE_SIZE - linear % PAGE_SIZE, MAX_TRANSFER)
        room = alike(linear, room)
        size = 1 << (room.bit_length() - 1)
        yield linear, size
        linear += size


def _page_fault(
    linear: int, leaf: Leaf | None, cpu: CpuState, write: bool, code: bytes
) -> GuestException:
    error = PageFaultCode(0)
    if leaf is not None:
        error |= PageFaultCode.P
    if write:
        error |= PageFaultCode.W
    if cpu.cpl == 3:
        error |= PageFaultCode.U
    return GuestException(code, PAGE_FAULT_VECTOR, int(error), linear)


@dataclass(frozen=True, slots=True)
class Meddling:
    """Tell how a person changed one transfer.

    ``device`` is what the device gave or got, None where it was the instruction's own value;
    ``skipped`` tells that nothing reached the device.
    """

    device: int | None = None
    skipped: bool = False


def located(transfer: Transfer) -> tuple[str, int]:
    """Return the name of the region that a transfer goes to, and the offset in it in bytes.

    What nothing answers is ``unassigned``, with the physical address as the offset.
    """
    region = transfer.region
    if region is None:
        return "unassigned", transfer.physical
    return region.name, transfer.physical - region.base


def memory_access(transfer: Transfer, meddling: Meddling | None = None) -> MemoryAccess:
    """Return a transfer as it is recorded."""
    place = (transfer.direction, transfer.width, transfer.physical, transfer.value)
    device = None if meddling is None else meddling.device
    asked = transfer.traced and transfer.width in WIDTHS and transfer.direction != "unknown"
    name, offset = located(transfer)
    return MemoryAccess(
        direction=transfer.direction,
        width=transfer.width,
        linear=hex(transfer.linear),
        physical=hex(transfer.physical),
        value=None if transfer.value is None else hex(transfer.value),
        region=name if transfer.traced else None,
        offset=hex(offset) if transfer.traced else None,
        tdvmcall=tdvmcall(*place) if asked else None,
        ghcb=ghcb_exit(*place) if asked else None,
        device=None if device is None else hex(device),
        skipped=meddling is not None and meddling.skipped,
        extent=transfer.extent,
    )


def register_values(cpu: CpuState, insn: Instruction | None = None) -> dict[str, str]:
    """Return RFLAGS, the general-purpose registers, and what else ``insn`` sees, as recorded.

    That is the base of FS or GS where a memory operand adds it, and each segment or XMM register
    that is an operand.
    """
    values = {"rflags": hex(cpu.rflags)}
    values.update((name, hex(value)) for name, value in zip(GPR, cpu.gpr, strict=True))
    for name in other_registers(insn) if insn is not None else ():
        if not name.startswith("xmm"):
            values[name] = hex(getattr(cpu.segments, name))
        elif cpu.xmm:
            values[name] = hex(cpu.xmm[int(name[3:])])
    return values


def other_registers(insn: Instruction) -> tuple[str, ...]:
    """Return what ``insn`` sees beyond RFLAGS and the general-purpose registers, by name."""
    names: list[str] = []
    for operand in insn.operands:
        if isinstance(operand, Memory) and operand.segment in ("fs", "gs"):
            names.append(f"{operand.segment}_base")
        elif isinstance(operand, Register) and operand.file is File.SEGMENT:
            names.append(SEGMENTS[operand.number])
        elif isinstance(operand, Register) and operand.file is File.XMM:
            names.append(f"xmm{operand.number}")
    return tuple(names)


def changed_values(before: CpuState, after: CpuState) -> dict[str, str]:
    """Return what an execution changed, RIP included: of a vector register as much as changed."""
    changed = {} if before.rip == after.rip else {"rip": hex(after.rip)}
    if before.rflags != after.rflags:
        changed["rflags"] = hex(after.rflags)
    for name, old, new in zip(GPR, before.gpr, after.gpr, strict=True):
        if old != new:
            changed[name] = hex(new)
    for number, (old, new) in enumerate(zip(before.xmm, after.xmm, strict=True)):
        if old != new:
            changed[f"xmm{number}"] = hex(new)
    for number, (old, new) in enumerate(zip(before.ymm, after.ymm, strict=True)):
        if old != new:
            changed.pop(f"xmm{number}", None)
            changed[f"ymm{number}"] = hex(after.xmm[number] | new << 128)
    return changed


def lost_atomicity(insn: Instruction, transfers: tuple[Transfer, ...]) -> str | None:
    """Return in words that a locked instruction was not atomic, or None where nothing was lost.

    A CPU keeps the bus between the read and the write (Intel SDM vol. 3A, 9.1.2); a device behind
    a debugger sees two accesses.
    """
    locked = insn.lock or (insn.form is not None and insn.form.lock == "always")
    if locked and {transfer.direction for transfer in transfers if transfer.traced} == _BOTH:
        return "atomicity not kept: the device saw a read, then a write"
    return None


_BOTH = {"read", "write"}
