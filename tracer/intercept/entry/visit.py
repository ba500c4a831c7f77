"""A stopped vCPU in the stub for something else than an access: to be asked, or kept busy.

One that stands elsewhere is sent there, and comes back to where it stood.
"""

from __future__ import annotations

from tracer.access.space import AddressSpace
from tracer.access.vcpu import RegisterFile, SetRegister
from tracer.access.want import BreakAlone, MakeChanges, Register, RunAlone, StepAlone, Turn
from tracer.intercept.entry.spill import CONTROL_SIZE, SPILL_SIZE
from tracer.intercept.entry.stub import Stub
from tracer.x86.paging import pages_of
from tracer.x86.state import Flag

_ROOM = 2 * SPILL_SIZE
EVEN_NS = 100_000_000
"""Two runs have different times behind them when they come to :func:`wait`: less than this."""
_ROUND_NS = 4
"""Guest time of a turn at ``waiting``, where instructions are counted."""
_MOST_ROUNDS = 10_000_000
"""Turns without a look at whether somebody wants to end the run: some 40 ms of the host's time."""


def can_enter(registers: RegisterFile, space: AddressSpace) -> bool:
    """Tell whether a vCPU that stands elsewhere can be sent into the stub.

    It can in the kernel, with room for the spill below RSP.
    """
    top = registers["rsp"]
    leaves = [space.leaf(page) for page in pages_of(top - _ROOM, _ROOM)]
    return not registers["cs"] & 3 and all(
        leaf is not None and leaf.writable and not leaf.user and not leaf.poisoned
        for leaf in leaves
    )


async def enter(stub: Stub, registers: RegisterFile) -> int:
    """Take a vCPU that stands elsewhere to ``stop``; return where it spilled."""
    await RunAlone(stub.stop, [_masked(registers), SetRegister("rip", stub.spill)])
    return await Register("rsp")


async def go_back(registers: RegisterFile) -> None:
    """Have the vCPU stand where it stood before :func:`enter`."""
    saved = ("eflags", "rip", "rsp", "rax", "rcx", "rdx")
    await MakeChanges([SetRegister(name, registers[name]) for name in saved])


def _masked(registers: RegisterFile) -> SetRegister:
    # Interrupts are off: one that came in between would come back to another stack.
    return SetRegister("eflags", registers["eflags"] & ~Flag.IF)


async def read_clock(stub: Stub, space: AddressSpace, registers: RegisterFile) -> int:
    """Return the time-stamp counter of the stopped vCPU, which stays where it is."""
    stack = await enter(stub, registers)
    await go_back(registers)
    return int.from_bytes(space.read(stack, 8), "little")


async def wait(stub: Stub, space: AddressSpace, registers: RegisterFile) -> None:
    """Keep the stopped vCPU busy until the guest's time is a multiple of :data:`EVEN_NS`.

    The guest has no several vCPUs, and its time counts instructions. It stays where it is.
    """
    stack = await enter(stub, registers)
    now = int.from_bytes(space.read(stack, 8), "little")
    rounds = -now % EVEN_NS // _ROUND_NS + 1
    await RunAlone(stub.stop, [SetRegister("rip", stub.waiting), SetRegister("rcx", rounds)])
    await go_back(registers)


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
    await go_back(registers)


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
