"""Accesses carried out for the guest: through the stub of QEMU, or by the vCPU itself.

Aligned accesses of up to 4 bytes to one device are made at their physical address, through QEMU's
debugger interface. All others the vCPU makes, in the fault stub, as it would have without a
tracer: how an unaligned or a wide access reaches a device is TCG's to say, and the local APIC is
behind one address another one for each vCPU. The vCPU goes through a spare mapping that is not
poisoned, or through the page itself, healed for that moment with every other vCPU held. In the
same way it carries out a whole instruction that the emulator does not know: a *native step*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from tracer.access.execution import Answers, delivered_alike
from tracer.access.footprint import Encounter
from tracer.access.space import AddressSpace
from tracer.access.transfer import MAX_TRANSFER, Transfer
from tracer.access.vcpu import Change, RegisterFile, SetMemory, SetRegister
from tracer.access.want import (
    BreakAlone,
    FlushTlb,
    MakeChanges,
    ReadPhysical,
    Register,
    Registers,
    RunAlone,
    StepAlone,
    Turn,
    WritePhysical,
)
from tracer.errors import InterceptError
from tracer.intercept.spill import CONTROL_SIZE, SPILL_SIZE, VALUE_OFFSET, pack_request
from tracer.intercept.stub import Stub
from tracer.x86.free_entry import borrow, give_back
from tracer.x86.paging import Leaf, set_poison
from tracer.x86.state import PAGE_SIZE, Flag, PageFaultCode

_FIXED_FLAG = 1 << 1
_ROOM = 2 * SPILL_SIZE
EVEN_NS = 100_000_000
"""Two runs have different times behind them when they come to :func:`wait`: less than this."""
_ROUND_NS = 4
"""Guest time of a turn at ``waiting``, where instructions are counted."""
_MOST_ROUNDS = 10_000_000
"""Turns without a look at whether somebody wants to end the run: some 40 ms of the host's time."""
_MAX_HEALED = 32
"""Pages one instruction can touch: more poisoned ones than this mean something else is wrong."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Say where the stopped vCPU stands in the stub: ``stack`` is the linear address of the spill.

    ``space`` is what it sees from there, ``spare`` the linear address of what is mapped without
    poison.
    """

    stub: Stub
    space: AddressSpace
    stack: int
    spare: int


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
            with _healed(() if spare else _leaves(linear, width, space), space) as user:
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
    data = stand.space.read(stand.stack + VALUE_OFFSET, 8)
    return int.from_bytes(data[:width], "little") if value is None else 0


def departure(transfer: Transfer, stand: Stand) -> list[Change] | None:
    """Return the changes that make the vCPU store a value on its way back to the guest.

    For the only access of an instruction: it spares a stop. None where this cannot be done.
    """
    if transfer.region is None or not transfer.region.vcpu_only:
        return None
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
    loan = borrow(space.memory, space.paging, transfer.physical, transfer.width)
    if loan is None:
        raise InterceptError(
            f"the guest's page tables have no room to reach physical {transfer.physical:#x}"
        )
    try:
        if registers is not None:
            stand = replace(stand, stack=await _enter(stand.stub, registers))
        value = None if transfer.direction == "read" else transfer.value or 0
        got = await _by_vcpu(loan.linear, transfer.width, value, stand, ())
    finally:
        give_back(space.memory, loan)
        if registers is not None:
            await _return(registers)
    return got if value is None else None


async def native_step(
    foretold: Sequence[Transfer],
    stand: Stand,
    admit: Callable[[Encounter], None],
    first: Encounter,
) -> Stepped:
    """Let the vCPU carry out the interrupted instruction on the real devices.

    ``first`` is the fault. The pages of what is ``foretold`` are
    healed from the start: an instruction that faults halfway starts over, and would make an
    access twice. What it comes upon beyond is asked of ``admit``, which may raise. The vCPU
    stands at the stub's ``stop`` before, and afterwards where the instruction left it: behind
    itself, at itself (REP), or at a handler.
    Raises InterceptError when it does not get past its faults.
    """
    stub, space = stand.stub, stand.space
    leaves: dict[int, Leaf] = {}
    encounters = [first]
    try:
        for transfer in foretold:
            _collect(space.leaf(transfer.linear), leaves)
        _collect(space.leaf(first.linear), leaves)
        while True:
            await leave(stub)
            with _healed(leaves.values(), space):
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
        await flush(space)


async def leave(stub: Stub) -> None:
    """Run from ``stop`` to just before the stub's IRETQ, with the interrupted registers."""
    await BreakAlone(stub.leave)


async def settle(stub: Stub) -> bool:
    """Make sure that the vCPU, which a monitor stopped at ``stop``, stands for its bell.

    QEMU may have forgotten that stop but for a trace of it (CPUState.watchpoint_hit) that ends
    in an abort at the next bell. The stop behind a single step takes it away, and the step is
    taken back. Tells whether the vCPU is at ``stop``.
    """
    address = await StepAlone()
    if address == stub.stop_behind:
        stack = await Register("rsp")
        await MakeChanges([SetRegister("rip", stub.stop), SetRegister("rsp", stack - CONTROL_SIZE)])
    return address in (stub.stop, stub.stop_behind)


async def flush(space: AddressSpace) -> None:
    """Empty the TLB of the stopped vCPU."""
    await FlushTlb(space.paging.cr3)


async def read_clock(stub: Stub, space: AddressSpace, registers: RegisterFile) -> int:
    """Return the time-stamp counter of the stopped vCPU, which stays where it is."""
    stack = await _enter(stub, registers)
    await _return(registers)
    return int.from_bytes(space.read(stack, 8), "little")


async def wait(stub: Stub, space: AddressSpace, registers: RegisterFile) -> None:
    """Keep the stopped vCPU busy until the guest's time is a multiple of :data:`EVEN_NS`.

    The guest has no several vCPUs, and its time counts instructions. It stays where it is.
    """
    stack = await _enter(stub, registers)
    now = int.from_bytes(space.read(stack, 8), "little")
    rounds = -now % EVEN_NS // _ROUND_NS + 1
    await RunAlone(stub.stop, [SetRegister("rip", stub.waiting), SetRegister("rcx", rounds)])
    await _return(registers)


async def delay(time_ns: int, stub: Stub, *, realtime: bool) -> None:
    """Keep the vCPU that stands at ``stop`` busy for so much of the guest's time.

    Other vCPUs stand meanwhile, and the guest's clocks go on; they would not if the guest stood. In
    real time a turn takes a nanosecond or two, so the time is that or somewhat more.
    """
    rounds = time_ns if realtime else -(-time_ns // _ROUND_NS)
    while rounds > 0:
        some = min(rounds, _MOST_ROUNDS)
        await RunAlone(stub.stop, [SetRegister("rip", stub.waiting), SetRegister("rcx", some)])
        await Turn()
        rounds -= some


async def note(stub: Stub, registers: RegisterFile) -> None:
    """Let the stopped vCPU note its CR2, as at a page fault of the guest's own.

    The vCPU stays where it is.
    """
    await BreakAlone(stub.noted, [_masked(registers), SetRegister("rip", stub.noting)])
    await _return(registers)


async def retake(leaves: Iterable[Leaf], stand: Stand) -> RegisterFile:
    """Let the vCPU carry the interrupted instruction out as it will, with some leaves healed.

    It is for an exception that the CPU is to deliver by itself. The vCPU stands at ``stop``
    before; return its registers where it stands then.
    """
    await leave(stand.stub)
    poisoned = list(leaves)
    with _healed(poisoned, stand.space):
        await StepAlone()
        await StepAlone()
    registers = await Registers()
    if poisoned:
        await flush(stand.space)
    return registers


async def _enter(stub: Stub, registers: RegisterFile) -> int:
    # Take a vCPU that stands elsewhere to ``stop``; return where it spilled.
    await RunAlone(stub.stop, [_masked(registers), SetRegister("rip", stub.spill)])
    return await Register("rsp")


async def _return(registers: RegisterFile) -> None:
    saved = ("eflags", "rip", "rsp", "rax", "rcx", "rdx")
    await MakeChanges([SetRegister(name, registers[name]) for name in saved])


def _collect(leaf: Leaf | None, leaves: dict[int, Leaf]) -> bool:
    # Add a leaf that is to be healed; tells whether it is a new one, and there was still room.
    if leaf is None or not leaf.poisoned or len(leaves) == _MAX_HEALED:
        return False
    known = leaf.entry_address in leaves
    leaves[leaf.entry_address] = leaf
    return not known


def can_enter(registers: RegisterFile, space: AddressSpace) -> bool:
    """Tell whether a vCPU that stands elsewhere can be sent into the stub.

    It can in the kernel, with room for the spill below RSP.
    """
    top = registers["rsp"]
    leaves = [space.leaf(page) for page in _pages(top - _ROOM, _ROOM)]
    return not registers["cs"] & 3 and all(
        leaf is not None and leaf.writable and not leaf.user and not leaf.poisoned
        for leaf in leaves
    )


def _masked(registers: RegisterFile) -> SetRegister:
    # With interrupts off: one that came in between would come back to another stack.
    return SetRegister("eflags", registers["eflags"] & ~Flag.IF)


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


def _pages(linear: int, size: int) -> range:
    # The linear addresses of the pages that ``size`` bytes lie in.
    return range(linear & -PAGE_SIZE, linear + size, PAGE_SIZE)


def _leaves(linear: int, width: int, space: AddressSpace) -> list[Leaf]:
    # Returns the leaves that map the bytes from ``linear`` on.
    found: list[Leaf] = []
    for page in _pages(linear, width):
        leaf = space.leaf(page)
        if leaf is None:
            raise InterceptError(f"linear {page:#x} lost its translation")
        found.append(leaf)
    return found


@contextmanager
def _healed(leaves: Iterable[Leaf], space: AddressSpace) -> Iterator[bool]:
    # Take the poison off some leaves for this long; tells whether one is of user space. No
    # translation of them is in the TLB before, and whoever uses them leaves none behind.
    healed = [leaf for leaf in leaves if leaf.poisoned]
    for leaf in healed:
        set_poison(space.memory, space.paging, leaf, poisoned=False)
    try:
        yield any(leaf.user for leaf in leaves)
    finally:
        for leaf in healed:
            set_poison(space.memory, space.paging, leaf, poisoned=True)


def _spare_linear(run: Sequence[Transfer], linear: int, stand: Stand) -> int | None:
    # Returns where a linear address of the transfers is mapped without poison, if it is.
    first, last = run[0], run[-1]
    leaf = stand.space.leaf(stand.spare)
    if leaf is None or leaf.poisoned or leaf.physical != first.physical & -leaf.size:
        return None
    end = last.physical + last.width - 1
    if end - first.physical != last.linear + last.width - 1 - first.linear:
        return None
    if end & -leaf.size != leaf.physical:
        return None
    return leaf.linear + first.physical - leaf.physical + linear - first.linear
