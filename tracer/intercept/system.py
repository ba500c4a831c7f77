"""The port to the guest's software: what vetrace has to know of it, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stack import Stack
from tracer.compiled.diary import Current, Errand
from tracer.compiled.stack_copy import StackCopy
from tracer.confidential.kind import Kind
from tracer.intercept.ground import Ground
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.ring.window import Taken, Window
from tracer.intercept.trap import Breakpoint, Untraced
from tracer.intercept.view import GuestView
from tracer.trace.record import Mark, StackRecord
from tracer.x86.paging import Leaf, PhysicalMemory
from tracer.x86.state import CpuState


@dataclass(frozen=True, slots=True)
class Learnt:
    """Say what there is to know of software that has just been entered.

    By ``tables``, CR3 and CR4, its own linear addresses are looked up. ``teller`` is the linear
    address of the VMMCALL by which threads tell a monitor on what errands they are, 0 where none
    does, and ``current`` is where code finds its thread then.
    """

    tables: tuple[int, int]
    teller: int = 0
    current: Current | None = None


class Callers(Protocol):
    """Tell who made an access."""

    @property
    def state(self) -> int:
        """Return the linear address of what tells how far the boot has got; 0 for nothing."""
        ...

    @property
    def stack_end(self) -> int:
        """Return the linear address of a page at which a stack ends though memory goes on, or 0."""
        ...

    def note(
        self,
        cpu: CpuState,
        space: AddressSpace,
        time_ns: int,
        copy: StackCopy | None = None,
        before: Callable[[], None] | None = None,
    ) -> int | None:
        """Take the state in which an access was made; return the number of its stack, if any.

        ``copy`` is the stack as it was then, with what was at :attr:`state`. ``before`` is called
        before anything is published.
        """
        ...

    @property
    def started(self) -> bool:
        """Tell whether the guest has come to its last phase."""
        ...

    def note_errand(self, errand: Errand | None, space: AddressSpace, time_ns: int) -> None:
        """Take the errand on which an access was made a moment ago, None for beside all."""
        ...

    def unwind(self, cpu: CpuState, space: AddressSpace) -> Stack:
        """Return the functions under way in this state, outermost last."""
        ...

    def remark(self, space: AddressSpace) -> str | None:
        """Say in words what is worse about the call chains than they might be, or None."""
        ...


class System(Protocol):
    """Know the guest's software. It is asked in the order of these methods, once each at most.

    ``release`` and ``sha256`` are for the trace's header. ``spare`` is the linear address of 2 MiB
    that the guest leaves unused. ``stack_in_device`` tells whether the guest's RSP may lie in a
    device.
    """

    @property
    def kind(self) -> Kind:
        """Return what it is entered as: an ordinary guest, or which kind of a confidential one."""
        ...

    @property
    def title(self) -> str:
        """Return what it is, with its version, for people."""
        ...

    @property
    def release(self) -> str:
        """Return the version of the software, for people."""
        ...

    @property
    def sha256(self) -> str:
        """Return the hash of its image."""
        ...

    @property
    def spare(self) -> int:
        """Return the linear address of 2 MiB that the guest leaves unused."""
        ...

    @property
    def patience(self) -> float | None:
        """Return after how many seconds of the guest's time it must have been entered, if any."""
        ...

    @property
    def awaited(self) -> str:
        """Say what tracing waits for, and what to do where that never comes; nothing if it does."""
        ...

    @property
    def command_line(self) -> str:
        """Return the words that it was started with, as far as it has told them; else nothing."""
        ...

    @property
    def stack_in_device(self) -> bool:
        """Tell whether the guest's RSP may lie in a device."""
        ...

    @property
    def names(self) -> Names:
        """Return the names of the guest's code, which moves with it."""
        ...

    @property
    def begun(self) -> bool:
        """Tell whether it ran before it was traced: its devices are mapped already."""
        ...

    @property
    def homes(self) -> Sequence[int]:
        """Return linear addresses of its code, one of which a vCPU soon comes by.

        There it is in the software's own page tables, on a stack. None where nobody knows.
        """
        ...

    def own_tables(self, space: AddressSpace) -> AddressSpace:
        """Return the software's own page tables for those that a vCPU has."""
        ...

    async def reach_entry(self, memory: PhysicalMemory) -> None:
        """Run firmware and boot loader up to where tracing can begin: an own IDT is loaded."""
        ...

    def ready(self) -> int | None:
        """Return the linear address from which on :meth:`window` can be asked for.

        That is later than the entry of a confidential guest. None where nobody knows.
        """
        ...

    @property
    def lends_at_most(self) -> int | None:
        """Return how many bytes :meth:`window` takes at most, None where nothing limits them."""
        ...

    async def window(self, memory: PhysicalMemory, space: AddressSpace, size: int) -> Window:
        """Take ``size`` bytes of RAM for compiled sites, and map them and all else.

        Raises NoWindow, with nothing changed, where that cannot be.
        """
        ...

    def take(self, memory: PhysicalMemory, space: AddressSpace, size: int) -> Taken:
        """Take ``size`` bytes of RAM for a monitor, below ``REACH`` and within one GiB.

        Raises NoWindow, with nothing changed, where that cannot be.
        """
        ...

    @property
    def free(self) -> Sequence[range] | None:
        """Return the linear addresses of code that nobody uses, for the stub.

        None where it is looked for at :meth:`stub_place`, and near the page-fault handler.
        """
        ...

    def stub_place(self) -> int | None:
        """Return the linear address from where on padding for the stub is best looked for."""
        ...

    async def watch(
        self, ground: Ground, space: AddressSpace, *, late: bool
    ) -> Sequence[Breakpoint]:
        """Set traps where the guest makes mappings. Raises GuestError when some would be missed.

        With ``late`` call chains are looked up after the guest has gone on, so that no code may go
        without a stop.
        """
        ...

    async def follow_errands(self, block: int | None, *, smp: bool) -> None:
        """Have threads tell on what errands they are; once, and later than :meth:`watch`.

        The diary is in the ``block`` at a linear address, where it is wanted.
        """
        ...

    async def tell_errands(self, space: AddressSpace) -> int:
        """Have threads tell on what errands they are by leaving for a monitor, once.

        In place of :meth:`watch` and :meth:`follow_errands`. Return the linear address of the
        VMMCALL by which they leave, 0 where nothing is told.
        """
        ...

    async def expect(
        self, view: GuestView, journal: Journal, learn: Callable[[Learnt], None], *, tells: bool
    ) -> Sequence[Breakpoint]:
        """Set traps at which it shows what the guest has come to run, where that is not known.

        Nested traps are in place. ``learn`` is called once, where the guest stands; if it ``tells``
        threads do on what errands they are.
        """
        ...

    @property
    def secondary(self) -> int | None:
        """Return the linear address at which a further vCPU comes to the software's own code.

        None where nobody knows.
        """
        ...

    @property
    def current(self) -> Current | None:
        """Return where code finds its thread, if threads tell the diary of all their errands."""
        ...

    async def follow_moves(self, block: int) -> None:
        """Have the guest tell where it may have moved a device, if its software can be asked to.

        Its compiled sites' block is at a linear address.
        """
        ...

    @property
    def telling(self) -> Sequence[range]:
        """Return the linear addresses of the code that writes to the block."""
        ...

    def callers(self, publish: Callable[[Mark | StackRecord], None], *, stacks: bool) -> Callers:
        """Return what follows who makes accesses, with call chains if wanted."""
        ...

    def unseen(self, regions: RegionMap) -> Iterator[str]:
        """Yield in words what will not be traced for lack of knowledge of the software."""
        ...

    def leaves(self, space: AddressSpace) -> Iterator[Leaf]:
        """Yield the leaves to watch that the current page tables do not lead to."""
        ...

    @property
    def look_every(self) -> float | None:
        """Return after how many seconds of the host's time to :meth:`look`, and again; if ever."""
        ...

    async def look(self) -> None:
        """Look for mappings that no trap of :meth:`watch` has told of; the guest stands."""
        ...

    async def mapped_by_programs(self, space: AddressSpace) -> None:
        """Take note that programs have mapped traced devices."""
        ...

    def without_idt(self, where: str) -> Untraced:
        """Say in words what is not traced once an IDT without room was loaded at a place."""
        ...

    def taken_back(self) -> str | None:
        """Say in words why the guest is no longer the confidential one that it was entered as.

        None while it is.
        """
        ...

    async def give_back(self) -> None:
        """Give back what :meth:`window` has borrowed, if anything, by a vCPU at a home."""
        ...

    async def remove(self, space: AddressSpace) -> None:
        """Leave code and page tables as the guest would have them without a tracer."""
        ...
