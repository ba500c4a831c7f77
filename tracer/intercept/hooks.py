"""Breakpoints on the functions with which the guest makes device mappings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tracer.access.space import AddressSpace
from tracer.gdb.target import RegisterFile, Target
from tracer.intercept.call import Calls
from tracer.intercept.filter import PageFilters
from tracer.intercept.poison import Poisoned, poison_mapping
from tracer.linux import mapping as linux
from tracer.linux.page_filter import PUSHED, PageRange
from tracer.linux.symbols import SymbolTable
from tracer.x86.paging import Budget, Leaf, leaves

log = logging.getLogger(__name__)


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
    mapping: linux.NewMapping
    poisoned: Poisoned


class MappingHooks:
    """Own the breakpoints of one guest's mapping functions.

    A function is stopped at its entry, where its arguments are, and where it returns to, by when
    the translations exist and nothing has used them. One that is called for RAM again and again
    has a filter in front, and is stopped behind that.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._calls: Calls[_Entry, linux.NewMapping] = Calls(target)
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
        filters = self._filters = PageFilters(self._target, symbols, space, ram)
        for address, (name, hook) in found.items():
            hit = await filters.plant(address, hook.page) if hook.page is not None else None
            if hit is None:
                await self._calls.watch(address, _Entry(name, hook))
            else:
                log.debug("%s has a filter", name)
                await self._calls.watch(hit, _Entry(name, hook, PUSHED))
        return []

    async def remove(self) -> None:
        """Take the filters out of the functions; the breakpoints go with GDB."""
        if self._filters is not None:
            await self._filters.remove()

    def owns(self, number: int | None) -> bool:
        """Tell whether a breakpoint is one of these."""
        return self._calls.owns(number)

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return self._calls.number_at(linear)

    def entered(self, number: int, registers: RegisterFile) -> tuple[str, linux.NewMapping] | None:
        """Return the function whose entry a stop is at and the mapping it is about to make."""
        entry = self._calls.entered(number)
        return None if entry is None else (entry.name, entry.hook.arguments(registers.values))

    async def stopped(
        self, number: int, registers: RegisterFile, space: AddressSpace
    ) -> list[Mapped]:
        """Act on a stop at one of the breakpoints; return the mappings that were completed."""
        entry = self._calls.entered(number)
        if entry is None:
            return await self._finish(number, registers, space)
        mapping = entry.hook.arguments(registers.values)
        end = mapping.physical + max(mapping.size, 1) - 1
        if not space.regions.is_quiet(mapping.physical, end):
            stack = registers["rsp"] + entry.pushed
            await self._calls.follow(number, mapping, stack, space)
        return []

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

    def _tables_of(self, mapping: linux.NewMapping, space: AddressSpace) -> AddressSpace | None:
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
