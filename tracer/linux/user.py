"""Device mappings of the guest's programs: known as long as they are there, and kept poisoned.

The guest's kernel copies such a mapping at a fork, moves it, changes its access rights and reads
addresses back out of its entries; see :mod:`tracer.linux.readers`. A breakpoint is paid for at
each call, so there is none before a program maps a traced device, and none once the last such
mapping has gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tracer.access.mapping import NewMapping
from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.want import Registers
from tracer.intercept.call import Calls
from tracer.intercept.journal import Journal
from tracer.intercept.trap import GoOn, Handled
from tracer.intercept.view import GuestView
from tracer.linux.names import Names
from tracer.linux.processes import FIRST, root_tables
from tracer.linux.readers import Argument, EntryLookup, PageLookup, Reader, Rights
from tracer.x86.paging import USER_SLOTS, Budget, Leaf, leaves

_USER_END = 1 << 63
_PATIENCE = 8
"""Calls that have nothing to do with a traced device before it is looked whether any mapping is
left; twice as many each time one is."""


class UserMappings:
    """Follow the device mappings of one guest's programs.

    ``hides`` tells whether the kernel's own mask leaves the poison out; ``scratch`` are linear
    addresses of quadwords for what it is shown where it does not.
    """

    def __init__(
        self, names: Names, view: GuestView, journal: Journal, *, hides: bool, scratch: range
    ) -> None:
        self._names = names
        self._view = view
        self._journal = journal
        self._calls: Calls[Reader, Argument] = Calls()
        self._rights = Rights(names, hides=hides)
        self._readers: list[Reader] = [self._rights]
        if not hides:
            self._readers += [EntryLookup(scratch)] if scratch else []
            self._readers += [PageLookup(names.types())]
        self._roots: set[int] = set()
        self._idle, self._patience = 0, _PATIENCE

    async def note(self, mapping: NewMapping, space: AddressSpace) -> None:
        """Take note of a new mapping of a traced device."""
        if mapping.linear < _USER_END:
            await self.watch(space)

    async def watch(self, space: AddressSpace) -> None:
        """Stop from now on where the kernel works with device mappings of programs."""
        self._roots.add(space.paging.cr3)
        self._idle, self._patience = 0, _PATIENCE
        if not self._calls.watched:
            for reader in self._readers:
                address = self._names.kernel.address_of(reader.name)
                if address is not None:
                    await self._calls.watch(address, reader)

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return self._calls.number_at(linear)

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a stop is at one of the functions, or where one returns to."""
        return self._calls.owns(stop.breakpoint)

    async def handle(self, stop: Stopped) -> Handled:
        """Correct what the function is about to make, or has made, of poisoned entries."""
        number = stop.breakpoint
        assert number is not None  # or it would not have been claimed
        self._journal.counts["hooks"] += 1
        registers = await Registers()
        space = self._view.space_of(registers)
        reader = self._calls.entered(number)
        if reader is None:
            for function, noted in await self._calls.returned(number, registers):
                function.returned(noted, registers, space)
            return GoOn()
        argument = reader.entered(registers, space)
        if argument is not None:
            self._idle = 0
            await self._calls.follow(number, argument, registers["rsp"], space)
        elif self._wasted() and not any(leaf.poisoned for leaf in self.leaves(space)):
            await self._calls.forget()
        return GoOn()

    def _wasted(self) -> bool:
        # After so many calls of no concern it is time to look.
        self._idle += 1
        if self._idle < self._patience:
            return False
        self._idle, self._patience = 0, 2 * self._patience
        return True

    def settle(self, space: AddressSpace) -> None:
        """Leave all entries as they are to be when the kernel is in none of the functions."""
        for reader, argument in self._calls.underway:
            if reader is self._rights:
                self._rights.settle(argument, space)

    def leaves(self, space: AddressSpace) -> Iterator[Leaf]:
        """Yield the leaves of every program that lead to a device.

        Where the kernel does not describe its processes only those programs are known that mapped
        a device themselves, and not their children.
        """
        regions = space.regions
        budget = Budget()
        for root in self._tables(space):
            paging = replace(space.paging, cr3=root)
            for leaf in leaves(space.memory, paging, USER_SLOTS, budget):
                if leaf.poisoned or not regions.is_quiet(
                    leaf.physical, leaf.physical + leaf.size - 1
                ):
                    yield leaf

    def _tables(self, space: AddressSpace) -> Sequence[int]:
        # Physical addresses of the topmost page tables.
        types = self._names.types()
        first = self._names.kernel.address_of(FIRST)
        if types is None or first is None:
            return tuple(self._roots)

        def read(linear: int, size: int) -> bytes:
            data = space.read(linear, size)
            if len(data) != size:
                raise LookupError(f"linear {linear:#x} is not mapped to RAM")
            return data

        found = []
        try:
            for table in root_tables(read, types, first):
                leaf = space.leaf(table)
                if leaf is not None:
                    found.append(leaf.translate(table))
        except LookupError:
            found += self._roots  # not every process was found
        return found
