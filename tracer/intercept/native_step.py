"""Instructions that the vCPU carries out itself, on the real devices: *native steps*.

The pages that they touch are healed for that moment, with every other vCPU held.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from tracer.access.footprint import Encounter
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.access.vcpu import RegisterFile, SetRegister
from tracer.access.want import BreakAlone, FlushTlb, Registers, RunAlone, StepAlone
from tracer.errors import InterceptError
from tracer.intercept.carrier import Stand
from tracer.intercept.entry.stub import Stub
from tracer.intercept.poison import healed
from tracer.x86.paging import Leaf
from tracer.x86.state import PageFaultCode

_MOST_STEPS = 1 << 10
"""Instructions of a monitor's for what the guest leaves for within one instruction."""
_MAX_HEALED = 32
"""Pages one instruction can touch: more poisoned ones than this mean something else is wrong."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """Tell where a native step left the vCPU.

    ``registers`` are those after it. ``faulted`` says that the instruction raised an exception,
    so that RIP is at a handler of the guest. ``encounters`` are the faults on poison that it came
    upon, the first one included.
    """

    registers: RegisterFile
    faulted: bool
    encounters: tuple[Encounter, ...]


async def native_step(
    foretold: Sequence[Transfer],
    stand: Stand,
    admit: Callable[[Encounter], None],
    first: Encounter,
    rip: int,
    meet: Callable[[], Awaitable[Encounter]],
) -> Stepped:
    """Let the vCPU carry out the interrupted instruction on the real devices.

    It is at linear address ``rip``. ``first`` is the fault. The pages of what is ``foretold`` are
    healed from the start: an instruction that faults halfway starts over, and would make an access
    twice. What it comes upon beyond is asked of ``admit``, which may raise; where it stands in a
    monitor ``meet`` tells that. The vCPU stands at the stub's ``stop`` before,
    and afterwards where the instruction left it: behind itself, at itself (REP), or at a handler.
    Raises InterceptError when it does not get past its faults.
    """
    stub, space = stand.stub, stand.space
    leaves: dict[int, Leaf] = {}
    encounters = [first]
    if stand.sight is not None:
        return await _inside(foretold, stand, admit, first, rip, meet)
    try:
        for transfer in foretold:
            _collect(space.leaf(transfer.linear), leaves)
        _collect(space.leaf(first.linear), leaves)
        while True:
            await leave(stub)
            with healed(leaves.values(), space):
                await StepAlone()
                await StepAlone()
            after = await Registers()
            if after["rip"] not in stub.doors:
                return Stepped(after, False, tuple(encounters))
            error = int.from_bytes(space.read(after["rsp"], 8), "little")
            if not error & PageFaultCode.RSVD:
                return Stepped(after, True, tuple(encounters))
            # It touches another poisoned page: start over with all healed.
            await RunAlone(stub.stop, [SetRegister("rip", stub.spill)])
            write, fetch = bool(error & PageFaultCode.W), bool(error & PageFaultCode.I)
            met = Encounter(after["cr2"], write, fetch)
            if not _collect(space.leaf(met.linear), leaves):
                raise InterceptError(f"a native step faults again at linear {met.linear:#x}")
            encounters.append(met)
            admit(met)
    finally:
        await _flush(space)


async def _inside(
    foretold: Sequence[Transfer],
    stand: Stand,
    admit: Callable[[Encounter], None],
    first: Encounter,
    rip: int,
    meet: Callable[[], Awaitable[Encounter]],
) -> Stepped:
    # The same where the vCPU stands in its monitor, and leaves the guest for that again where it
    # comes upon another page.
    stub, space = stand.stub, stand.space
    encounters = [first]
    pages = _behind(space, (*(transfer.linear for transfer in foretold), first.linear))
    assert space.nested is not None
    try:
        while True:
            await leave(stub)
            with space.nested.opened(pages):
                address = await _step_out(stub)
                if address == rip:
                    # QEMU takes VMRUN for an instruction of its own.
                    address = await StepAlone()
                if address in stub.monitor:
                    address = await _step_out(stub)
            if not stub.covers(address):
                return Stepped(await Registers(), False, tuple(encounters))
            # It would go on to compiled sites: all is as at the stub's own entry.
            await RunAlone(stub.stop, [SetRegister("rip", stub.spill)])
            met = await meet()
            more = _behind(space, [met.linear]) - pages
            if not more or len(pages) == _MAX_HEALED:
                raise InterceptError(f"a native step faults again at linear {met.linear:#x}")
            pages |= more
            encounters.append(met)
            admit(met)
    finally:
        await FlushTlb((await Registers())["cr3"])


def _behind(space: AddressSpace, places: Iterable[int]) -> set[int]:
    # The physical addresses of the pages that lie in holes.
    found = (space.leaf(place) for place in places)
    return {leaf.physical for leaf in found if leaf is not None and leaf.poisoned}


async def _step_out(stub: Stub) -> int:
    # Steps until the vCPU is behind the guest's instruction, or at the stub's door; returns where.
    for _ in range(_MOST_STEPS):
        address = await StepAlone()
        if address not in stub.monitor:
            return address
    raise InterceptError("a native step does not come out of the monitor")


async def leave(stub: Stub) -> None:
    """Run from ``stop`` to just before the stub's IRETQ, with the interrupted registers."""
    await BreakAlone(stub.leave)


async def retake(leaves: Iterable[Leaf], stand: Stand) -> RegisterFile:
    """Let the vCPU carry the interrupted instruction out as it will, with some leaves healed.

    It is for an exception that the CPU is to deliver by itself. The vCPU stands at ``stop``
    before; return its registers where it stands then.
    """
    await leave(stand.stub)
    poisoned = list(leaves)
    with healed(poisoned, stand.space):
        await StepAlone()
        await StepAlone()
    registers = await Registers()
    if poisoned:
        await _flush(stand.space)
    return registers


def _collect(leaf: Leaf | None, leaves: dict[int, Leaf]) -> bool:
    # Add a leaf that is to be healed; tells whether it is a new one, and there was still room.
    if leaf is None or not leaf.poisoned or len(leaves) == _MAX_HEALED:
        return False
    known = leaf.entry_address in leaves
    leaves[leaf.entry_address] = leaf
    return not known


async def _flush(space: AddressSpace) -> None:
    # Empties the TLB of the stopped vCPU.
    await FlushTlb(space.paging.cr3)
