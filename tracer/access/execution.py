"""One intercepted instruction: from its accesses at linear addresses to transfers on the bus.

Nothing here touches a guest: :func:`carry_out` yields the transfers of each access, or the access
of an I/O port, and is sent what was read, so the same code runs live and in tests.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer, pieces_of
from tracer.errors import GuestException
from tracer.x86 import bus
from tracer.x86.emulate import execute, plan
from tracer.x86.instruction import Instruction
from tracer.x86.paging import Leaf, permitted
from tracer.x86.state import (
    PAGE_FAULT_VECTOR,
    CpuState,
    PageFaultCode,
)


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
"""What each transfer of one access read, None for a write; of a port's access one answer."""


def carry_out(
    insn: Instruction, cpu: CpuState, space: AddressSpace
) -> Generator[tuple[Transfer, ...] | bus.PortAccess, Answers | None, Outcome]:
    """Execute an instruction once, yielding its accesses in order, each as its transfers.

    An I/O port has no transfers, and its access is yielded as it is. The consumer sends the
    answers. Raises what :func:`tracer.x86.emulate.execute` raises. An access that was yielded has
    happened: call :func:`foretell` first, so that no page fault comes after a device was read.
    """
    done: list[Transfer] = []
    execution = execute(insn, cpu)
    answer: int | None = None
    while True:
        try:
            access = execution.send(answer)
        except StopIteration as stop:
            return Outcome(stop.value, tuple(done))
        if isinstance(access, bus.PortAccess):
            (answer,) = (yield access) or (None,)
        else:
            answer = yield from _carry_access(access, cpu, space, insn.code, done)


def _carry_access(
    access: bus.MemoryAccess, cpu: CpuState, space: AddressSpace, code: bytes, done: list[Transfer]
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
    for start, size, leaf in pieces_of(linear, width, space):
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
