"""RAM that a running kernel lends: a vCPU is sent through its page allocator, and back.

A vCPU that stands at the entry of one of the kernel's functions calls another there, with that very
address to return to. Interrupts are as they were, no page is waited for, and no reserve is touched:
GFP flags without any way to reclaim. Others that come by the same address have another stack.

Ref: Linux include/linux/gfp_types.h (___GFP_NOWARN); mm/page_alloc.c (__get_free_pages, up to 6.9,
get_free_pages_noprof since; free_pages); x86-64 psABI 3.2 for registers and the stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable
from tracer.access.vcpu import RegisterFile, SetMemory, SetRegister
from tracer.access.want import (
    DeleteBreakpoint,
    MakeChanges,
    Registers,
    Resume,
    SetBreakpoint,
)
from tracer.errors import GuestError
from tracer.intercept.ring.window import NoWindow
from tracer.x86.state import GPR, PAGE_SIZE

_ALLOCATES = ("get_free_pages_noprof", "__get_free_pages")
_FREES = "free_pages"
_NO_WARNING = 0x2000
_MOST_ORDER = 10
MOST = PAGE_SIZE << _MOST_ORDER
"""Bytes that a kernel lends in one piece at most: 4 MiB, in all since 2.6."""
_RED_ZONE = 256
"""Bytes below RSP that are left alone, more than any code of a kernel has there."""


@dataclass(frozen=True, slots=True)
class Loan:
    """Hold what was lent: ``size`` bytes at a physical address, and the kernel's linear one."""

    physical: int
    linear: int
    order: int

    @property
    def size(self) -> int:
        """Return how many bytes there are."""
        return PAGE_SIZE << self.order


async def borrow(symbols: SymbolTable, size: int, space: AddressSpace) -> Loan:
    """Borrow ``size`` bytes of RAM, in one piece that is aligned to its size.

    The vCPU stands at the entry of a function, which it comes back to. ``space`` are the kernel's
    own page tables. Raises NoWindow where the kernel has none to lend.
    """
    order = max(0, (-(-size // PAGE_SIZE) - 1).bit_length())
    function = next((at for at in map(symbols.address_of, _ALLOCATES) if at is not None), None)
    if function is None or symbols.address_of(_FREES) is None:
        raise NoWindow("the kernel has no symbol of its page allocator")
    if order > _MOST_ORDER:
        raise NoWindow(
            f"a kernel that runs lends {MOST >> 20} MiB in one piece, and "
            f"{-(-size >> 20)} MiB are needed"
        )
    linear = await _call(function, (_NO_WARNING, order))
    leaf = space.leaf(linear) if linear else None
    if leaf is None:
        raise NoWindow(f"the kernel has no {PAGE_SIZE << order >> 20} MiB of RAM in one piece free")
    return Loan(leaf.translate(linear), linear, order)


async def give_back(symbols: SymbolTable, loan: Loan) -> None:
    """Give the kernel its RAM back; the vCPU stands as for :func:`borrow`."""
    function = symbols.address_of(_FREES)
    assert function is not None  # or nothing was lent
    await _call(function, (loan.linear, loan.order))


async def _call(function: int, arguments: Sequence[int]) -> int:
    # Returns what the function does; every register is as before.
    before = await Registers()
    place, stack = before["rip"], before["rsp"]
    number = await SetBreakpoint(place)
    top = (stack - _RED_ZONE & -16) - 8
    await MakeChanges(
        [
            SetMemory(top, place.to_bytes(8, "little")),
            *(
                SetRegister(name, value)
                for name, value in zip(("rdi", "rsi"), arguments, strict=False)
            ),
            SetRegister("rsp", top),
            SetRegister("rip", function),
        ]
    )
    registers = await _came_back(number, top + 8)
    await DeleteBreakpoint(number)
    await MakeChanges([SetRegister(name, before[name]) for name in (*GPR, "eflags")])
    return registers["rax"]


async def _came_back(number: int, stack: int) -> RegisterFile:
    while True:
        stop = (await Resume()).in_time()
        if stop.ended:
            raise GuestError("the guest ended while its kernel lent RAM")
        registers = await Registers()
        if stop.breakpoint == number and registers["rsp"] == stack:
            return registers
