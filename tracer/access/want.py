"""The engine wants something of the world: a small value for each effect.

The engine is the code that acts on a stop. It is written as coroutines that await nothing but
wants. Awaiting a want hands it to whoever drives the coroutine and returns what the driver sends:
:mod:`tracer.session.driver` serves wants through GDB and QEMU, a test serves them from a list. An
error is thrown into the coroutine where it waits.

Guest RAM is no want: it is read and written at once, through
:class:`tracer.x86.paging.PhysicalMemory`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tracer.access.decision import Called, Decision, Go, Leeway, Pending, Retry, Ruling
from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Ran, Reason
from tracer.access.vcpu import Change, DescriptorTables, RegisterFile, VcpuState
from tracer.devices.queue import Virtqueue
from tracer.x86.state import CpuState

Answer = TypeVar("Answer")


class Want(Generic[Answer]):
    """Be awaited by the engine, and answered by who drives it."""

    __slots__ = ()

    def __await__(self) -> Generator[Want[Any], Answer, Answer]:
        return (yield self)


# ---- the vCPU that stopped


@dataclass(frozen=True, slots=True)
class Vcpu(Want[int]):
    """Learn which vCPU stopped last, counted from 0."""


@dataclass(frozen=True, slots=True)
class Registers(Want[RegisterFile]):
    """All registers of the vCPU that stopped."""


@dataclass(frozen=True, slots=True)
class Register(Want[int]):
    """One register of the vCPU that stopped."""

    name: str


@dataclass(frozen=True, slots=True)
class StackAndTables(Want[tuple[int, int]]):
    """RSP and CR3 of the vCPU that stopped."""


@dataclass(frozen=True, slots=True)
class MakeChanges(Want[None]):
    """Change the stopped vCPU, and what it sees. Raises InterceptError."""

    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class FlushTlb(Want[None]):
    """Empty the TLB of the stopped vCPU, whose CR3 is given."""

    cr3: int


@dataclass(frozen=True, slots=True)
class FlushAllTlbs(Want[None]):
    """Empty the TLB of every vCPU."""


@dataclass(frozen=True, slots=True)
class SelectVcpu(Want[None]):
    """Have this vCPU, counted from 0, stand for the one that stopped from here on."""

    vcpu: int


# ---- running


@dataclass(frozen=True, slots=True)
class Resume(Want[Ran]):
    """Make changes, let the whole guest go on, and wait for its next stop.

    It stops soon when the run has taken longer than it may, and the stop tells so.
    """

    changes: Sequence[Change] = ()


@dataclass(frozen=True, slots=True)
class Start(Want[None]):
    """Make changes and let the whole guest go on; :class:`Await` its next stop."""

    changes: Sequence[Change] = ()


@dataclass(frozen=True, slots=True)
class Await(Want[Ran | None]):
    """Wait for the next stop of the guest that was started, for so many seconds at most.

    None where it runs on. Its stop tells how long it ran, as with :class:`Resume`.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Pause(Want[None]):
    """Ask the guest that was started to stop; :class:`Await` that, or an earlier stop."""


@dataclass(frozen=True, slots=True)
class RunAlone(Want[None]):
    """Make changes and run the stopped vCPU to a linear address where a stop is sure.

    The others stand meanwhile. Raises InterceptError when the vCPU does not come there.
    """

    linear: int
    changes: Sequence[Change] = ()


@dataclass(frozen=True, slots=True)
class BreakAlone(Want[None]):
    """Do the same with a breakpoint at the linear address for this once.

    RIP is ``rip`` there, where code has a segment with a base.
    """

    linear: int
    changes: Sequence[Change] = ()
    rip: int | None = None


@dataclass(frozen=True, slots=True)
class StepAlone(Want[int]):
    """Run one instruction of the stopped vCPU alone; the linear address it stops at."""


@dataclass(frozen=True, slots=True)
class Detach(Want[None]):
    """Remove every breakpoint and let the guest go on without a debugger."""


# ---- devices and code


@dataclass(frozen=True, slots=True)
class ReadPhysical(Want[int]):
    """Read ``width`` bytes of a device at a physical address, once."""

    physical: int
    width: int


@dataclass(frozen=True, slots=True)
class WritePhysical(Want[None]):
    """Write ``width`` bytes at a physical address, once."""

    physical: int
    width: int
    value: int


@dataclass(frozen=True, slots=True)
class WriteCode(Want[None]):
    """Write guest code at a linear address, so that QEMU notices."""

    linear: int
    code: bytes


# ---- breakpoints: the answer is the number that a stop names


@dataclass(frozen=True, slots=True)
class SetBreakpoint(Want[int]):
    """Break before the instruction at a linear address."""

    linear: int


@dataclass(frozen=True, slots=True)
class WatchStores(Want[int]):
    """Stop after the next store to ``size`` bytes from a linear address on: 8, or a page.

    GDB tells nothing of a store that leaves what is watched as it knows it. So the caller has
    something at random there now, and puts what is to be there in its place afterwards, in a way of
    which GDB knows nothing. Once GDB has told of a store it knows the value.
    """

    linear: int
    size: int = 8


@dataclass(frozen=True, slots=True)
class WatchReads(Want[int]):
    """Stop after each read of the byte at a linear address."""

    linear: int


@dataclass(frozen=True, slots=True)
class WatchAccesses(Want[int]):
    """Stop behind each access to data in ``size`` bytes from a linear address on.

    These may be many: what lies elsewhere costs the guest nothing.
    """

    linear: int
    size: int


@dataclass(frozen=True, slots=True)
class DeleteBreakpoint(Want[None]):
    """Remove a breakpoint or watch."""

    number: int


# ---- the machine


@dataclass(frozen=True, slots=True)
class Turn(Want[None]):
    """Let others have their turn in the middle of long work: a signal's handler among them.

    Raises GuestHung once the run has taken longer than it may.
    """


@dataclass(frozen=True, slots=True)
class VcpuStates(Want[tuple[VcpuState, ...]]):
    """Learn what each vCPU is about, in order."""


@dataclass(frozen=True, slots=True)
class Tables(Want[DescriptorTables]):
    """Learn where the first vCPU's GDT and IDT are."""


@dataclass(frozen=True, slots=True)
class Sleeps(Want[bool]):
    """Learn whether a vCPU sleeps in HLT."""

    vcpu: int


@dataclass(frozen=True, slots=True)
class HasMachineCheck(Want[bool]):
    """Learn whether the guest's CPUs have banks of machine-check registers."""


@dataclass(frozen=True, slots=True)
class HasNoExecute(Want[bool]):
    """Learn whether an entry of the guest's page tables may say that its page is not code."""


@dataclass(frozen=True, slots=True)
class HasSvm(Want[bool]):
    """Learn whether the guest's CPUs have AMD's virtualisation."""


@dataclass(frozen=True, slots=True)
class MemoryMap(Want[tuple[list[Region], list[tuple[int, int]]]]):
    """The device regions and the RAM ranges at this moment; RAM is laid out anew by it."""


@dataclass(frozen=True, slots=True)
class PortMap(Want[list[Region]]):
    """The regions of I/O ports at this moment."""


@dataclass(frozen=True, slots=True)
class Virtqueues(Want[list[Virtqueue]]):
    """Learn which virtqueues drivers have set up so far."""


@dataclass(frozen=True, slots=True)
class MapChanged(Want[bool]):
    """Learn whether the memory map may be another than before this was asked last."""


@dataclass(frozen=True, slots=True)
class Woken(Want[int | None]):
    """Learn where in QEMU's log the machine was reset to wake up, if it was since last asked."""


@dataclass(frozen=True, slots=True)
class LogSize(Want[int | None]):
    """How many bytes of QEMU's log there are, None where nobody asked for one."""


@dataclass(frozen=True, slots=True)
class GuestTime(Want[int | None]):
    """The guest's time in nanoseconds, whatever its vCPUs do; None where QEMU does not tell it."""


@dataclass(frozen=True, slots=True)
class LogAccesses(Want[None]):
    """Have QEMU log accesses to devices from here on, if that is asked for."""


# ---- a person, or a script: see tracer.access.decision. Each raises GuestHung once the run has
# taken longer than it may.


@dataclass(frozen=True, slots=True)
class AskBefore(Want[Decision]):
    """Ask what becomes of an access that is about to be made."""

    pending: Pending


@dataclass(frozen=True, slots=True)
class AskWhere(Want[Leeway]):
    """Ask which accesses a guest that goes on may make without anybody being asked.

    That holds until it stops again.
    """

    regions: RegionMap


@dataclass(frozen=True, slots=True)
class AskAnswered(Want[Go | Ruling]):
    """Ask what the guest is to read, and when, once a device has answered."""

    pending: Pending


@dataclass(frozen=True, slots=True)
class AskCalled(Want[Go | Ruling | Retry]):
    """Ask what is said to a call of a confidential guest, or from which state it starts over."""

    called: Called


@dataclass(frozen=True, slots=True)
class AskCompleted(Want[CpuState]):
    """The state to go on from, behind an instruction."""

    cpu: CpuState


@dataclass(frozen=True, slots=True)
class AskHold(Want[bool]):
    """Ask whether to hold the guest at the handler of the exception that was delivered."""


@dataclass(frozen=True, slots=True)
class Hold(Want[None]):
    """Hold the guest where no access waits, for as long as the person wants.

    ``cpu`` is the state it stands in.
    """

    reason: Reason
    vcpu: int
    cpu: CpuState
    space: AddressSpace
