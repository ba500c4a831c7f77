"""One intercepted instruction: from its accesses at linear addresses to transfers on the bus.

Nothing here touches a guest. :func:`foretell` looks every operand up, once, and returns what may be
done as a value; a :class:`CarryOut` does just that, access by access, those of I/O ports
in between, so the same code runs live and in tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.transfer import Piece, Transfer, pieces_of
from tracer.errors import GuestException
from tracer.x86.bus import MemoryAccess, Operand, PortAccess, Store
from tracer.x86.emulate import execute, plan
from tracer.x86.instruction import Instruction
from tracer.x86.paging import Leaf, permitted
from tracer.x86.state import (
    PAGE_FAULT_VECTOR,
    CpuState,
    PageFaultCode,
)

Answers = Sequence[int | None]
"""The value that each transfer of one access read, None for a write; one for a port's access."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold what one execution did: its transfers in order, and the state after it."""

    cpu: CpuState
    transfers: tuple[Transfer, ...]


@dataclass(frozen=True, slots=True)
class Foretold:
    """Hold what one execution from the state ``cpu`` may do, and where that leads.

    ``transfers`` are all that may be made, in order, values unknown, none carried out; a
    read-modify-write operand has one for each direction. ``poisoned`` tells whether any of them
    goes through poison. With other registers, or other page tables, it has to be foretold anew.
    """

    insn: Instruction
    cpu: CpuState
    operands: tuple[Operand, ...]
    transfers: tuple[Transfer, ...]
    poisoned: bool
    by_access: Mapping[tuple[bool, int, int], tuple[Transfer, ...]]
    """The transfers of each access: whether it is a store, its linear address and its width."""

    def of(self, access: MemoryAccess) -> tuple[Transfer, ...]:
        """Return the transfers of one access, with what it writes."""
        if not isinstance(access, Store):
            return self.by_access[False, access.linear, access.width]
        return tuple(
            [
                replace(transfer, value=_part(access, transfer))
                for transfer in self.by_access[True, access.linear, access.width]
            ]
        )


def _part(store: Store, transfer: Transfer) -> int:
    return store.value >> 8 * (transfer.linear - store.linear) & ((1 << 8 * transfer.width) - 1)


def foretell(
    insn: Instruction, cpu: CpuState, space: AddressSpace, known: Iterable[Leaf] = ()
) -> Foretold:
    """Look up where every operand of an execution leads; each page table once.

    ``known`` are translations that have just been looked up. Raises UnsupportedInstruction for an
    instruction left to the CPU, and GuestException (#PF) for an operand the guest has not mapped or
    may not touch: no page fault comes once a device has been read.
    """
    operands = plan(insn, cpu)
    glance = space.glance(known)
    by_access: dict[tuple[bool, int, int], tuple[Transfer, ...]] = {}
    foretold: list[Transfer] = []
    poisoned = False
    for operand in operands:
        if not (operand.read or operand.write):
            continue
        pieces = pieces_of(operand.linear, operand.width, glance)
        poisoned = poisoned or any(piece.leaf and piece.leaf.poisoned for piece in pieces)
        for write, made in ((False, operand.read), (True, operand.write)):
            if made:
                transfers = tuple(_transfers(pieces, cpu, space.regions, write, insn.code))
                by_access[write, operand.linear, operand.width] = transfers
                foretold += transfers
    return Foretold(insn, cpu, operands, tuple(foretold), poisoned, by_access)


class CarryOut:
    """Execute an instruction once, just as it was foretold.

    Iterate over its accesses, each as its transfers, and set ``answers`` to what they read before
    the next one is asked for; an I/O port has no transfers, and its access comes as it is.
    ``outcome`` tells the end, ``done`` what was made so far. An access that was handed out has
    happened. Raises what :func:`tracer.x86.emulate.execute` does.
    """

    def __init__(self, foretold: Foretold) -> None:
        self.answers: Answers = ()
        self.done: tuple[Transfer, ...] = ()
        self._foretold = foretold
        self._emulation = execute(foretold.insn, foretold.cpu, foretold.operands)
        self._asked: tuple[Transfer, ...] | PortAccess = ()

    def __iter__(self) -> CarryOut:
        return self

    def __next__(self) -> tuple[Transfer, ...] | PortAccess:
        if self._asked:
            self._emulation.answer = self._answered(self._asked)
        self._asked = ()
        access = next(self._emulation)
        self._asked = access if isinstance(access, PortAccess) else self._foretold.of(access)
        return self._asked

    @property
    def outcome(self) -> Outcome:
        """Return what was done, at the end."""
        return Outcome(self._emulation.after, self.done)

    def _answered(self, asked: tuple[Transfer, ...] | PortAccess) -> int | None:
        # Takes down what the last access moved; returns what it read, None after a write.
        if isinstance(asked, PortAccess):
            (answer,) = self.answers
            return answer
        told = zip(asked, self.answers, strict=True)
        moved = tuple([answered(transfer, answer) for transfer, answer in told])
        self.done += moved
        if moved[0].direction == "write":
            return None
        first = moved[0].linear
        return sum((item.value or 0) << 8 * (item.linear - first) for item in moved)


def answered(transfer: Transfer, answer: int | None) -> Transfer:
    """Return a transfer with what it read: no more bits than were asked for."""
    if transfer.direction == "write":
        return transfer
    return replace(transfer, value=(answer or 0) & ((1 << 8 * transfer.width) - 1))


def _transfers(
    pieces: Sequence[Piece], cpu: CpuState, regions: RegionMap, write: bool, code: bytes
) -> list[Transfer]:
    found: list[Transfer] = []
    for piece in pieces:
        leaf = piece.leaf
        if leaf is None or not permitted(leaf, cpu, write=write):
            raise _page_fault(piece.linear, leaf, cpu, write, code)
        physical = leaf.translate(piece.linear)
        found.append(
            Transfer(
                direction="write" if write else "read",
                linear=piece.linear,
                physical=physical,
                width=piece.width,
                value=None,
                region=regions.find(physical),
                traced=regions.is_recorded(physical, read=not write),
                ram=regions.is_ram(physical),
            )
        )
    return found


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
