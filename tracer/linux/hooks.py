"""Breakpoints on the functions with which the guest makes device mappings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tracer.access.mapping import NewMapping
from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.symbols import SymbolTable
from tracer.access.vcpu import RegisterFile
from tracer.access.want import Registers
from tracer.intercept.call import Calls
from tracer.intercept.gate import refuse_fred
from tracer.intercept.ground import Ground
from tracer.intercept.poison import Poisoned, poison_mapping
from tracer.intercept.trap import GoOn, Handled
from tracer.linux import mapping as linux
from tracer.linux.filter import PageFilters
from tracer.linux.page_filter import PUSHED, PageRange
from tracer.linux.toll import Toll
from tracer.linux.user import UserMappings
from tracer.x86.paging import Budget, Leaf, leaves


@dataclass(frozen=True, slots=True)
class _Entry:
    # The place where a mapping function stops: `pushed` bytes are on its stack by then.
    name: str
    hook: linux.MappingHook
    pushed: int = 0


@dataclass(frozen=True, slots=True)
class Mapped:
    """Tell which function made a mapping, and what of it was poisoned."""

    name: str
    mapping: NewMapping
    poisoned: Poisoned


class MappingHooks:
    """Own the breakpoints of one guest's mapping functions.

    A function is stopped at its entry, where its arguments are, and where it returns to, by when
    the translations exist and nothing has used them. One that is called for RAM again and again
    has a filter in front, and is stopped behind that. Mappings of programs are noted in ``users``.
    """

    def __init__(self, ground: Ground, users: UserMappings) -> None:
        self._ground = ground
        self._users = users
        self._toll = Toll()
        self._calls: Calls[_Entry, NewMapping] = Calls()
        self._filters: PageFilters | None = None
        self._roots: set[int] = set()

    async def install(
        self, symbols: SymbolTable, space: AddressSpace, ram: list[PageRange]
    ) -> list[str]:
        """Set the breakpoints; return the required functions that have no symbol.

        ``ram`` are the pages that no device will ever be at.
        """
        found, missing = linux.find_hooks(symbols)
        if missing:
            return missing
        filters = self._filters = PageFilters(symbols, space, ram)
        for address, (name, hook) in found.items():
            hit = await filters.plant(address, hook.page) if hook.page is not None else None
            if hit is None:
                await self._calls.watch(address, _Entry(name, hook))
            else:
                await self._calls.watch(hit, _Entry(name, hook, PUSHED))
        return []

    async def remove(self) -> None:
        """Take the filters out of the functions; the breakpoints go with GDB."""
        if self._filters is not None:
            await self._filters.remove()

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return self._calls.number_at(linear)

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a stop is at one of the functions, or where one returns to."""
        return self._calls.owns(stop.breakpoint)

    async def handle(self, stop: Stopped) -> Handled:
        """Note a mapping that is about to be made; poison one that has been made."""
        assert stop.breakpoint is not None  # or it would not have been claimed
        self._ground.journal.counts["hooks"] += 1
        registers = await Registers()
        refuse_fred(registers["cr4"])
        entry = self._calls.entered(stop.breakpoint)
        if entry is None:
            await self._returned(stop.breakpoint, registers)
        else:
            await self._entered(stop.breakpoint, entry, registers)
        return GoOn()

    async def _entered(self, number: int, entry: _Entry, registers: RegisterFile) -> None:
        ground = self._ground
        mapping = entry.hook.arguments(registers.values)
        ram = ground.memory.holds(mapping.physical, mapping.size)
        ground.journal.counts["ram_hooks"] += ram
        remark = self._toll.add(entry.name, ram=ram)
        if remark is not None:
            ground.journal.progress(remark)
        if ram:
            return
        if await ground.loads.look():
            await ground.coverage.poison(registers, "another IDT")
        space = ground.view.space_of(registers)
        end = mapping.physical + max(mapping.size, 1) - 1
        if not space.regions.is_quiet(mapping.physical, end):
            await self._calls.follow(number, mapping, registers["rsp"] + entry.pushed, space)

    async def _returned(self, number: int, registers: RegisterFile) -> None:
        ground = self._ground
        space = ground.view.space_of(registers)
        mapped = await self._finish(number, registers, space)
        if mapped:
            await ground.tell_time(registers)
        for item in mapped:
            if item.mapping.tables is None:
                await self._users.note(item.mapping, space)
            ground.coverage.note(item.poisoned, item.name)

    async def _finish(
        self, number: int, registers: RegisterFile, space: AddressSpace
    ) -> list[Mapped]:
        mapped: list[Mapped] = []
        for entry, argument in await self._calls.returned(number, registers):
            mapping = entry.hook.made(argument, registers.values)
            there = self._tables_of(mapping, space)
            if there is not None:
                mapped.append(Mapped(entry.name, mapping, await poison_mapping(there, mapping)))
        return mapped

    def _tables_of(self, mapping: NewMapping, space: AddressSpace) -> AddressSpace | None:
        # The address space that a mapping is in; None where its tables are not to be found.
        if mapping.tables is None:
            return space
        leaf = space.leaf(mapping.tables)
        if leaf is None:
            return None
        root = leaf.translate(mapping.tables)
        self._roots.add(root)
        return replace(space, paging=replace(space.paging, cr3=root))

    def leaves(self, space: AddressSpace) -> Iterator[Leaf]:
        """Yield the leaves of page tables that are neither the kernel's own nor a program's."""
        budget = Budget()
        for root in self._roots:
            paging = replace(space.paging, cr3=root)
            yield from leaves(space.memory, paging, budget=budget)
