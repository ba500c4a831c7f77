"""Stops at the functions with which the guest makes device mappings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tracer.access.mapping import NewMapping
from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.symbols import SymbolTable
from tracer.access.vcpu import RegisterFile, SetRegister
from tracer.access.want import Registers
from tracer.errors import InterceptError
from tracer.intercept.call import Calls
from tracer.intercept.entry.gate import refuse_fred
from tracer.intercept.ground import Ground
from tracer.intercept.poison import Poisoned, poison_mapping, tables_of
from tracer.intercept.trap import GoOn, Handled
from tracer.linux import mapping as linux
from tracer.linux.toll import Toll
from tracer.linux.user import UserMappings
from tracer.linux.wrapper import ARGUMENTS_SIZE, PageRange, Wrapper, assemble, unpack_arguments
from tracer.linux.wrappers import Wrappers
from tracer.x86.paging import Budget, Leaf, leaves


@dataclass(frozen=True, slots=True)
class _Entry:
    # A mapping function.
    name: str
    hook: linux.MappingHook


@dataclass(frozen=True, slots=True)
class Mapped:
    """Tell which function made a mapping, and what of it was poisoned."""

    name: str
    mapping: NewMapping
    poisoned: Poisoned


class MappingHooks:
    """Own the stops at one guest's mapping functions.

    A function has a wrapper that rings where it has returned, by when the translations exist and
    nothing has used them. One around which there can be none has breakpoints, at its entry, where
    its arguments are, and where it returns to. Mappings of programs are noted in ``users``.
    """

    def __init__(self, ground: Ground, users: UserMappings) -> None:
        self._ground = ground
        self._users = users
        self._toll = Toll()
        self._calls: Calls[_Entry, NewMapping] = Calls()
        self._wrapped: dict[int, tuple[_Entry, Wrapper]] = {}
        self._roots: set[int] = set()

    async def install(
        self, symbols: SymbolTable, wrappers: Wrappers, ram: list[PageRange]
    ) -> list[str]:
        """Wrap the functions; return the required ones that have no symbol.

        ``ram`` are the pages that no device will ever be at.
        """
        found, missing = linux.find_hooks(symbols)
        if missing:
            return missing
        gate = self._ground.gate
        for address, (name, hook) in found.items():
            entry = _Entry(name, hook)
            make = partial(assemble, bell=gate.stub.bell, argument=hook.page, ram=ram)
            wrapper = await wrappers.plant(address, make)
            if wrapper is None:
                await self._calls.watch(address, entry)
            else:
                self._wrapped[wrapper.stop] = entry, wrapper
                gate.ringers[wrapper.stop] = wrapper.span
        return []

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return self._calls.number_at(linear)

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a stop is at one of the functions, or where one returns to."""
        return stop.address in self._wrapped or self._calls.owns(stop.breakpoint)

    async def handle(self, stop: Stopped) -> Handled:
        """Note a mapping that is about to be made; poison one that has been made."""
        self._ground.journal.counts["hooks"] += 1
        registers = await Registers()
        refuse_fred(registers["cr4"])
        wrapped = self._wrapped.get(stop.address or 0)
        if wrapped is not None:
            entry, wrapper = wrapped
            await self._rung(entry, registers)
            return GoOn([SetRegister("rip", wrapper.behind)])
        assert stop.breakpoint is not None  # or it would not have been claimed
        found = self._calls.entered(stop.breakpoint)
        if found is None:
            await self._returned(stop.breakpoint, registers)
        else:
            await self._entered(stop.breakpoint, found, registers)
        return GoOn()

    async def _rung(self, entry: _Entry, registers: RegisterFile) -> None:
        space = self._ground.view.space_of(registers)
        stack = space.read(registers["rsp"], ARGUMENTS_SIZE)
        if len(stack) != ARGUMENTS_SIZE:
            raise InterceptError(f"the arguments of {entry.name} cannot be read from its stack")
        mapping = entry.hook.arguments(unpack_arguments(stack))
        if await self._concerns(entry, mapping, registers):
            await self._made([(entry, mapping)], registers)

    async def _entered(self, number: int, entry: _Entry, registers: RegisterFile) -> None:
        mapping = entry.hook.arguments(registers.values)
        if await self._concerns(entry, mapping, registers):
            space = self._ground.view.space_of(registers)
            await self._calls.follow(number, mapping, registers["rsp"], space)

    async def _returned(self, number: int, registers: RegisterFile) -> None:
        await self._made(await self._calls.returned(number, registers), registers)

    async def _concerns(self, entry: _Entry, mapping: NewMapping, registers: RegisterFile) -> bool:
        # Tells whether a mapping leads to anything that is traced.
        ground = self._ground
        ram = ground.memory.holds(mapping.physical, mapping.size)
        ground.journal.counts["ram_hooks"] += ram
        remark = self._toll.add(entry.name, ram=ram)
        if remark is not None:
            ground.journal.progress(remark)
        if ram:
            return False
        if await ground.loads.look():
            await ground.coverage.poison(registers, "another IDT")
        space = ground.view.space_of(registers)
        end = mapping.physical + max(mapping.size, 1) - 1
        return not space.regions.is_quiet(mapping.physical, end)

    async def _made(
        self, calls: Sequence[tuple[_Entry, NewMapping]], registers: RegisterFile
    ) -> None:
        ground = self._ground
        space = ground.view.space_of(registers)
        mapped = await self._poisoned(calls, registers, space)
        if mapped:
            await ground.tell_time(registers)
        for item in mapped:
            if item.mapping.tables is None:
                await self._users.note(item.mapping, space)
            ground.coverage.note(item.poisoned, item.name)

    async def _poisoned(
        self,
        calls: Sequence[tuple[_Entry, NewMapping]],
        registers: RegisterFile,
        space: AddressSpace,
    ) -> list[Mapped]:
        mapped: list[Mapped] = []
        for entry, argument in calls:
            mapping = entry.hook.made(argument, registers.values)
            there = tables_of(mapping, space)
            if there is not None:
                if mapping.tables is not None:
                    self._roots.add(there.paging.cr3)
                mapped.append(Mapped(entry.name, mapping, await poison_mapping(there, mapping)))
        return mapped

    def leaves(self, space: AddressSpace) -> Iterator[Leaf]:
        """Yield the leaves of page tables that are neither the kernel's own nor a program's."""
        budget = Budget()
        for root in self._roots:
            paging = replace(space.paging, cr3=root)
            yield from leaves(space.memory, paging, budget=budget)
