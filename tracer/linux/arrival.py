"""A Linux that a guest comes to run which is traced already: firmware or a boot loader enters it.

It is known from its first access to its own data on, as one that is installed on a disk is: see
:mod:`tracer.linux.installed`. Its threads are sent on errands from its first own function on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.want import DeleteBreakpoint, Registers, WatchAccesses
from tracer.errors import KernelImageError
from tracer.intercept.journal import Journal
from tracer.intercept.system import Learnt
from tracer.intercept.trap import Breakpoint, GoOn, Handled, OnePlace
from tracer.intercept.view import GuestView
from tracer.linux import mapping
from tracer.linux.callers import Callers
from tracer.linux.installed import PLACES, entered_by, kernel_of, moved_in
from tracer.linux.kernel import Kernel
from tracer.linux.names import Names
from tracer.linux.origin import Booted
from tracer.linux.resident import find_kernel
from tracer.linux.system import Linux
from tracer.linux.window import root_of
from tracer.trace.record import Mark, StackRecord


class ComingLinux:
    """Know the Linux that a guest comes to run: a :class:`tracer.bare.reset.Coming`.

    ``kernel`` is what it is expected to be, None where nobody knows: it is read in the guest's RAM
    then, and comes from ``source``.
    """

    def __init__(self, kernel: Kernel | None, source: Path) -> None:
        self._expected = kernel
        self._source = source
        self._linux = Linux(kernel, Booted(""))

    @property
    def names(self) -> Names:
        """Return the names of its code: those of the kernel that is expected, until it is there."""
        return self._linux.names

    @property
    def telling(self) -> Sequence[range]:
        """Return the linear addresses of the code that writes to the block."""
        return self._linux.telling

    async def expect(
        self, view: GuestView, journal: Journal, learn: Callable[[Learnt], None], *, tells: bool
    ) -> Sequence[Breakpoint]:
        """Set traps at the kernel's first access to its own data, and at its first own function."""

        async def entered() -> None:
            registers = await Registers()
            space = view.space_of(registers)
            symbols = self.names.kernel
            teller = await self._linux.tell_errands(space) if tells else 0
            tables = root_of(space, symbols), registers["cr4"]
            learn(Learnt(tables, teller, self._linux.current if teller else None))

        entry = _Entry(entered, journal)

        async def arrived(space: AddressSpace) -> None:
            try:
                self._meet(space, journal)
            except KernelImageError as error:
                journal.remark(f"nothing is known of what the guest runs: {error}")
                return
            place = self.names.kernel.address_of(mapping.ENTRY)
            if place is not None:
                await entry.install(place)

        arrival = _Arrival(arrived, view, journal)
        await arrival.install()
        return arrival, entry

    def _meet(self, space: AddressSpace, journal: Journal) -> None:
        moved = None if self._expected is None else moved_in(self._expected, space)
        if moved is not None:
            self.names.move(moved)
        else:
            self._linux.meet(kernel_of(self._source, find_kernel(space.memory, space.paging)))
        journal.mark(f"Linux {self._linux.release} has been entered")

    def callers(self, publish: Callable[[Mark | StackRecord], None], *, stacks: bool) -> Callers:
        """Return what unwinds the kernel's stacks."""
        return self._linux.callers(publish, stacks=stacks)

    async def remove(self, space: AddressSpace) -> None:
        """Take the code off the kernel's functions."""
        await self._linux.remove(space)


class _Arrival:
    # Take the stop at the first access to data where a kernel's image is.

    def __init__(
        self, arrived: Callable[[AddressSpace], Awaitable[None]], view: GuestView, journal: Journal
    ) -> None:
        self._arrived = arrived
        self._view = view
        self._journal = journal
        self._number: int | None = None

    async def install(self) -> None:
        self._number = await WatchAccesses(PLACES.start, len(PLACES))

    def number_at(self, linear: int | None) -> int | None:
        return None  # it is at no place of code

    def claims(self, stop: Stopped) -> bool:
        return stop.watched

    async def handle(self, stop: Stopped) -> Handled:
        if self._number is None:
            return GoOn()  # a late stop
        self._journal.counts["hooks"] += 1
        registers = await Registers()
        await DeleteBreakpoint(self._number)
        self._number = None
        if entered_by(registers):
            await self._arrived(self._view.space_of(registers))
        return GoOn()


class _Entry(OnePlace):
    # Take the stop at the kernel's first own function.

    def __init__(self, entered: Callable[[], Awaitable[None]], journal: Journal) -> None:
        super().__init__()
        self._entered = entered
        self._journal = journal

    async def handle(self, stop: Stopped) -> Handled:
        assert self._number is not None  # or it would not claim the stop
        self._journal.counts["hooks"] += 1
        await DeleteBreakpoint(self._number)
        self._linear = self._number = None
        await self._entered()
        return GoOn()
