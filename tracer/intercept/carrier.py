"""Accesses carried out for the guest: through the stub of QEMU, or by the vCPU itself.

Aligned accesses of up to 4 bytes to one device are made at their physical address, through QEMU's
debugger interface. All others the vCPU makes, in the fault stub, as it would have without a
tracer: how an unaligned or a wide access reaches a device is TCG's to say, and the local APIC is
behind one address another one for each vCPU. The vCPU goes through a spare mapping that is not
poisoned, or through the page itself, healed for that moment with every other vCPU held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from tracer.access.execution import Answers, delivered_alike
from tracer.access.space import AddressSpace
from tracer.access.transfer import MAX_TRANSFER, Transfer
from tracer.access.vcpu import Change, RegisterFile, SetMemory, SetRegister
from tracer.access.want import (
    ReadPhysical,
    RunAlone,
    WritePhysical,
)
from tracer.errors import InterceptError
from tracer.intercept.entry import visit
from tracer.intercept.entry.sight import Sight
from tracer.intercept.entry.spill import VALUE_OFFSET, pack_request
from tracer.intercept.entry.stub import Stub
from tracer.intercept.poison import healed
from tracer.x86.free_entry import borrow, give_back
from tracer.x86.paging import Leaf, pages_of
from tracer.x86.state import Flag

_FIXED_FLAG = 1 << 1


@dataclass(frozen=True, slots=True)
class Stand:
    """Say where the stopped vCPU stands in the stub: ``stack`` is the linear address of the spill.

    ``space`` is where the interrupted code's addresses lead, ``spare`` the linear address of what
    is mapped without poison. In a monitor the stub has its own ``sight`` of all that there is, and
    its stack lies at its physical address.
    """

    stub: Stub
    space: AddressSpace
    stack: int
    spare: int
    sight: Sight | None = None

    def own(self, linear: int, size: int) -> bytes:
        """Return bytes of the stack that the stub is on."""
        if self.sight is None:
            return self.space.read(linear, size)
        return self.space.memory.read(linear, size)


async def perform(transfers: Sequence[Transfer], stand: Stand) -> Answers:
    """Carry out one access, or what is wanted of its transfers; return what each read."""
    if not transfers:
        return ()
    space = stand.space
    if delivered_alike(transfers, space.regions):
        return [await _by_debugger(transfer, space) for transfer in transfers]
    read = transfers[0].direction == "read"
    answers: list[int | None] = []
    for run in _runs(transfers):
        whole = 0
        for linear, width in _units(run):
            shift = 8 * (linear - run[0].linear)
            value = _joined(run) >> shift & ((1 << 8 * width) - 1)
            spare = _spare_linear(run, linear, stand)
            with healed(() if spare else _leaves(linear, width, space), space) as user:
                # The stub is a supervisor: SMAP would stop it short of a user page without AC.
                flags = [SetRegister("eflags", _FIXED_FLAG | Flag.AC)] if user else []
                got = await _by_vcpu(spare or linear, width, None if read else value,
                                          stand, flags)  # fmt: skip
            whole |= got << shift
        for transfer in run:
            answers.append(whole >> 8 * (transfer.linear - run[0].linear) if read else None)
    return answers


async def _by_debugger(transfer: Transfer, space: AddressSpace) -> int | None:
    if transfer.direction == "write":
        value = transfer.value or 0
        # RAM too: QEMU notices when the bytes are code it has translated.
        await WritePhysical(transfer.physical, transfer.width, value)
        return None
    if transfer.ram:
        # Memory that belongs to a device is not shared with us.
        with suppress(LookupError):
            data = space.memory.read(transfer.physical, transfer.width)
            return int.from_bytes(data, "little")
    return await ReadPhysical(transfer.physical, transfer.width)


async def _by_vcpu(
    linear: int, width: int, value: int | None, stand: Stand, changes: Sequence[Change]
) -> int:
    # A load without a ``value``, or a store of it, at an address that the vCPU can reach.
    stub = stand.stub
    routine = (stub.loads if value is None else stub.stores)[width]
    request = SetMemory(stand.stack, pack_request(linear, value or 0))
    await RunAlone(stub.done, [request, SetRegister("rip", routine), *changes])
    data = stand.own(stand.stack + VALUE_OFFSET, 8)
    return int.from_bytes(data[:width], "little") if value is None else 0


def departure(transfer: Transfer, stand: Stand, through: int | None) -> list[Change] | None:
    """Return the changes that make the vCPU store a value on its way back to the guest.

    For the only access of an instruction: it spares a stop. ``through`` is the linear address at
    which the vCPU may do so, where the caller knows one. None where this cannot be done.
    """
    if transfer.region is None:
        return None
    linear = through
    if through is None and transfer.region.vcpu_only:
        linear = _spare_linear([transfer], transfer.linear, stand)
    if linear is None or transfer.value is None or transfer.width not in stand.stub.departures:
        return None
    return [
        SetMemory(stand.stack, pack_request(linear, transfer.value)),
        SetRegister("rip", stand.stub.departures[transfer.width]),
    ]


async def reach(transfer: Transfer, stand: Stand, registers: RegisterFile | None) -> int | None:
    """Carry out one access at a physical address alone, which the guest need not have mapped.

    ``registers`` are those of a vCPU that stands elsewhere than in the stub, in the kernel.
    Raises InterceptError where the page tables have no room.
    """
    space = stand.space
    if delivered_alike([transfer], space.regions):
        return await _by_debugger(transfer, space)
    value = None if transfer.direction == "read" else transfer.value or 0
    if stand.sight is not None:
        got = await _by_vcpu(stand.sight.linear([transfer]), transfer.width, value, stand, ())
        return got if value is None else None
    loan = borrow(space.memory, space.paging, transfer.physical, transfer.width)
    if loan is None:
        raise InterceptError(
            f"the guest's page tables have no room to reach physical {transfer.physical:#x}"
        )
    try:
        if registers is not None:
            stand = replace(stand, stack=await visit.enter(stand.stub, registers))
        got = await _by_vcpu(loan.linear, transfer.width, value, stand, ())
    finally:
        give_back(space.memory, loan)
        if registers is not None:
            await visit.go_back(registers)
    return got if value is None else None


def _runs(transfers: Sequence[Transfer]) -> list[list[Transfer]]:
    # The transfers by runs without a gap: a person may have left one out.
    runs: list[list[Transfer]] = []
    for transfer in transfers:
        if runs and runs[-1][-1].linear + runs[-1][-1].width == transfer.linear:
            runs[-1].append(transfer)
        else:
            runs.append([transfer])
    return runs


def _units(run: Sequence[Transfer]) -> Iterator[tuple[int, int]]:
    # Yields what the vCPU's instructions load or store at once, as linear address and width in
    # bytes.
    linear, end = run[0].linear, run[-1].linear + run[-1].width
    while linear < end:
        width = 1 << (min(end - linear, MAX_TRANSFER).bit_length() - 1)
        yield linear, width
        linear += width


def _joined(run: Sequence[Transfer]) -> int:
    return sum((item.value or 0) << 8 * (item.linear - run[0].linear) for item in run)


def _leaves(linear: int, width: int, space: AddressSpace) -> list[Leaf]:
    # Returns the leaves that map the bytes from ``linear`` on.
    found: list[Leaf] = []
    for page in pages_of(linear, width):
        leaf = space.leaf(page)
        if leaf is None:
            raise InterceptError(f"linear {page:#x} lost its translation")
        found.append(leaf)
    return found


def _spare_linear(run: Sequence[Transfer], linear: int, stand: Stand) -> int | None:
    # Returns where a linear address of the transfers is mapped without poison, if it is.
    first, last = run[0], run[-1]
    if stand.sight is not None:
        return stand.sight.linear(run) + linear - first.linear
    leaf = stand.space.leaf(stand.spare)
    if leaf is None or leaf.poisoned or leaf.physical != first.physical & -leaf.size:
        return None
    end = last.physical + last.width - 1
    if end - first.physical != last.linear + last.width - 1 - first.linear:
        return None
    if end & -leaf.size != leaf.physical:
        return None
    return leaf.linear + first.physical - leaf.physical + linear - first.linear
