"""A bare guest's own page tables, followed without knowing who writes them.

Each table that the roots in use lead to is watched, at every linear address at which it can be
written, so that what the guest enters is poisoned behind the very store. Tables that are not in use
are looked at when the guest loads their root: each load of CR3 that its image has is followed by a
breakpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tracer.access.mapping import NewMapping
from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.vcpu import RegisterFile
from tracer.access.want import (
    DeleteBreakpoint,
    FlushAllTlbs,
    Registers,
    SetBreakpoint,
    WatchStores,
)
from tracer.bare.page_tables import Table, aliases, leads_to, tables
from tracer.errors import NoEntries
from tracer.intercept.ground import Ground
from tracer.intercept.poison import Poisoned, poison_everything, poison_mapping
from tracer.intercept.trap import GoOn, Handled
from tracer.x86.paging import PRESENT, covered, is_leaf, leaves
from tracer.x86.state import PAGE_SIZE

_MOST_WATCHES = 4096
"""Watches that GDB sets in some ten seconds: tables that map 8 GiB by pages of 4 KiB."""
_SET_BY_CPU = 3 << 5  # accessed, dirty
_IGNORED = 1 << 10
"""A bit of an entry that no CPU looks at (Intel SDM vol. 3A, tables 4-15 to 4-20)."""


class TableWatch:
    """Own the watches of one guest's page tables, and the breakpoints behind its loads of CR3.

    With ``stores`` tables are watched; without it somebody else tells of mappings. ``roots`` are
    those that were seen, by physical address.
    """

    def __init__(self, ground: Ground, roots: set[int], *, stores: bool) -> None:
        self._ground = ground
        self._roots = roots
        self._stores = stores
        self._loads: dict[int, int] = {}
        self._tables: dict[int, tuple[Table, AddressSpace]] = {}
        # GDB's number of the watch at each linear address, and the table that is there.
        self._watches: dict[int, tuple[int, int]] = {}

    async def install(self, loads: Iterable[int], space: AddressSpace) -> None:
        """Stop behind each load of CR3, by its linear address, and at stores to the tables."""
        for linear in loads:
            self._loads[await SetBreakpoint(linear)] = linear
        others = await self._others(space, "present when it was joined")
        await self._follow([space, *others], set())

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return next((number for number, at in self._loads.items() if at == linear), None)

    def claims(self, stop: Stopped) -> bool:
        """Tell whether CR3 was loaded, or a table written."""
        return stop.breakpoint in self._loads or bool(self._written(stop))

    async def handle(self, stop: Stopped) -> Handled:
        """Poison what leads to devices from here on."""
        self._ground.journal.counts["hooks"] += 1
        registers = await Registers()
        written = self._written(stop)
        if not written:
            await self._look(registers, "page tables that were loaded", written)
        elif not await self._entered(written):
            await self._look(registers, "a store to a page table", written)
        return GoOn()

    async def look(self) -> None:
        """Poison whatever leads to devices by now, however it was entered."""
        self._ground.journal.counts["hooks"] += 1
        await self._look(await Registers(), "page tables looked at again", set())

    def _written(self, stop: Stopped) -> set[int]:
        # The physical addresses of the tables that a stop tells of.
        told = stop.payload.get("wpt")
        entries = told if isinstance(told, list) else [told]
        numbers = {entry.get("number") for entry in entries if isinstance(entry, dict)}
        return {table for number, table in self._watches.values() if str(number) in numbers}

    async def _entered(self, written: set[int]) -> bool:
        # Poison what was entered; tells whether that is all, as the tables are the same ones. The
        # stores of two vCPUs at one moment may be told one after the other.
        memory, ordered = self._ground.memory, sorted(self._tables)
        for physical, (table, space) in self._tables.items():
            now = memory.read(physical, PAGE_SIZE)
            if now == table.data:
                continue
            fresh = _fresh(table, now, space, ordered)
            if fresh is None:
                return False
            there = replace(space, regions=self._ground.view.regions)
            for mapping in fresh:
                await self._note(await poison_mapping(there, mapping), "a store to a page table")
            self._tables[physical] = replace(table, data=memory.read(physical, PAGE_SIZE)), space
        for linear in [at for at, (_, table) in self._watches.items() if table in written]:
            await self._watch(linear, await self._forget(linear))
        return True

    async def _look(self, registers: RegisterFile, by: str, written: set[int]) -> None:
        space = self._ground.view.space_of(registers)
        await self._ground.coverage.poison(registers, by)
        others = await self._others(space, by)
        await self._follow([space, *others], written)

    async def _others(self, first: AddressSpace, by: str) -> list[AddressSpace]:
        # Poison what the tables of the other vCPUs lead to; returns their roots.
        ground, roots = self._ground, {first.paging.root}
        found: list[AddressSpace] = []
        for state in await ground.view.states() if ground.view.vcpus > 1 else ():
            space = ground.view.space(state.cr3, state.cr4)
            if state.paging and space.paging.root not in roots:
                roots.add(space.paging.root)
                found.append(space)
                await self._note(await poison_everything(space, own=ground.coverage.own), by)
        if ground.view.vcpus > 1:
            await FlushAllTlbs()
        return found

    async def _note(self, poisoned: Poisoned, by: str) -> None:
        if poisoned.leaves:
            await FlushAllTlbs()
        self._ground.coverage.note(poisoned, by)

    async def _follow(self, spaces: Iterable[AddressSpace], written: set[int]) -> None:
        # Have every table of these roots watched, those that were written anew, and no other.
        known: dict[int, tuple[Table, AddressSpace]] = {}
        places: dict[int, int] = {}
        for space in spaces:
            self._roots.add(space.paging.root)
            if not self._stores:
                continue
            found = tables(space.memory, space.paging)
            known |= {physical: (table, space) for physical, table in found.items()}
            seen = aliases(found, leaves(space.memory, space.paging), space.paging)
            places |= {linear: table for table, some in seen.items() for linear in some}
        if len(places) > _MOST_WATCHES:
            raise NoEntries(
                f"the guest's page tables can be written at {len(places):,} places, too many to be "
                "watched: name the functions that map its devices (--mapping), or --trap nested"
            )
        self._tables = known
        for linear, (_, physical) in list(self._watches.items()):
            if places.get(linear) != physical or physical in written:
                await self._forget(linear)
        for linear, physical in places.items():
            if linear not in self._watches:
                await self._watch(linear, physical)

    async def _forget(self, linear: int) -> int:
        number, physical = self._watches.pop(linear)
        await DeleteBreakpoint(number)
        return physical

    async def _watch(self, linear: int, physical: int) -> None:
        # GDB must not know what is there: see WatchStores. An entry of a table that is in use can
        # have this bit changed.
        memory = self._ground.memory
        data = memory.read(physical, 8)
        other = int.from_bytes(data, "little") ^ _IGNORED
        memory.write(physical, other.to_bytes(8, "little"))
        number = await WatchStores(linear, PAGE_SIZE)
        memory.write(physical, data)
        self._watches[linear] = number, physical


def _fresh(
    table: Table, now: bytes, space: AddressSpace, known: Sequence[int]
) -> list[NewMapping] | None:
    # Returns what a table maps anew, None where it leads to another table than before, or to one
    # of the known ones as memory.
    fresh = []
    for linear, before, after in table.changed(now):
        if not (before ^ after) & ~_SET_BY_CPU:
            continue
        if any(entry & PRESENT and not is_leaf(entry, table.level) for entry in (before, after)):
            return None
        if after & PRESENT:
            size = covered(table.level)
            if leads_to(known, space.paging.table(after) & -size, size):
                return None
            fresh.append(NewMapping(linear, 0, size))
    return fresh
