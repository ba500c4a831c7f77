"""Where a Linux guest comes from: booted by vetrace, or joined while it runs.

A guest that is joined may be anywhere: in a program, whose page tables lack the kernel under PTI,
or asleep. It is let go on to where the kernel has just been entered, with its own page tables and a
stack: at a system call, an exception or an interrupt, one of which is never far away.

Ref: Linux arch/x86/entry/common.c (do_syscall_64), arch/x86/mm/fault.c (exc_page_fault),
kernel/softirq.c (irq_enter_rcu); arch/x86/entry/calling.h (PTI_USER_PGTABLE_BIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable
from tracer.access.want import DeleteBreakpoint, MemoryMap, Resume, SetBreakpoint
from tracer.confidential.kind import Kind
from tracer.errors import GuestError
from tracer.linux.entry import follow_kaslr, reach_entry, reach_tdx_entry
from tracer.linux.kaslr import Moved
from tracer.linux.kernel import Kernel
from tracer.linux.sev_entry import reach_sev_entry
from tracer.x86.paging import PhysicalMemory

HOMES = ("do_syscall_64", "exc_page_fault", "irq_enter_rcu", "do_page_fault", "irq_enter")
"""Functions that are come by soon; the last two are those of kernels before 5.8."""

HANDLERS = ("asm_exc_page_fault", "page_fault")
"""The kernel's handler of page faults, now and before 5.8."""

_USER_HALF = 1 << 12
"""The bit of CR3 in which a program's page tables differ from the kernel's under PTI."""


class Origin(Protocol):
    """Know where a guest comes from.

    ``begun`` tells that it ran before it was traced: devices are mapped, and code is as the kernel
    has it while it runs.
    """

    @property
    def begun(self) -> bool:
        """Tell whether the guest ran before it was traced."""
        ...

    async def reach(self, kernel: Kernel, memory: PhysicalMemory) -> Moved:
        """Run the guest to where tracing can begin; return how far its kernel has moved."""
        ...


@dataclass(frozen=True, slots=True)
class Booted:
    """A machine that stands before its first instruction, with a kernel for this command line.

    ``kind`` is what the kernel is to take itself for.
    """

    command_line: str
    kind: Kind = Kind.PLAIN
    begun = False

    async def reach(self, kernel: Kernel, memory: PhysicalMemory) -> Moved:
        """Run to the kernel's first own function, wherever KASLR moved it."""
        moved = await follow_kaslr(kernel, self.command_line, memory)
        match self.kind:
            case Kind.TDX:
                await reach_tdx_entry(kernel, moved.linear, memory)
            case Kind.SEV_ES:
                await reach_sev_entry(kernel, moved, memory)
            case Kind.PLAIN:
                await reach_entry(kernel, moved.linear)
        return moved


@dataclass(frozen=True, slots=True)
class Joined:
    """A machine whose kernel runs already, and has ``moved``."""

    moved: Moved
    begun = True

    async def reach(self, kernel: Kernel, memory: PhysicalMemory) -> Moved:
        """Run to where the kernel has just been entered."""
        await MemoryMap()  # tells where RAM is
        places = homes(kernel.symbols.moved(self.moved.linear))
        if not places:
            raise GuestError(f"{kernel.path} has none of the functions {', '.join(HOMES)}")
        numbers = [await SetBreakpoint(place) for place in places]
        stop = (await Resume()).in_time()
        for number in numbers:
            await DeleteBreakpoint(number)
        if stop.breakpoint not in numbers:
            raise GuestError(f"the guest stopped elsewhere ({stop.reason or stop.payload})")
        return self.moved


def homes(symbols: SymbolTable) -> Sequence[int]:
    """Return the linear addresses at which the kernel has just been entered."""
    found = (symbols.address_of(name) for name in HOMES)
    return [address for address in found if address is not None]


def own_tables(space: AddressSpace, place: int) -> AddressSpace:
    """Return the kernel's own tables for those of a vCPU: they map a ``place`` in its code."""
    if space.leaf(place) is not None:
        return space
    return replace(space, paging=replace(space.paging, cr3=space.paging.root & ~_USER_HALF))
