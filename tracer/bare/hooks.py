"""Stops at the functions of a bare guest that make mappings, as a person has described them."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.access.stop import Stopped
from tracer.access.vcpu import RegisterFile
from tracer.access.want import FlushAllTlbs, Registers
from tracer.bare.function import Called, MappingFunction
from tracer.intercept.call import Calls
from tracer.intercept.entry.gate import refuse_fred
from tracer.intercept.ground import Ground
from tracer.intercept.poison import poison_everything, poison_mapping, tables_of
from tracer.intercept.trap import GoOn, Handled


class FunctionHooks:
    """Own the breakpoints at the entries of mapping functions, and where these return to.

    There the translations exist, and nothing has used them. ``roots`` are those that were seen, by
    physical address.
    """

    def __init__(self, ground: Ground, roots: set[int]) -> None:
        self._ground = ground
        self._roots = roots
        self._calls: Calls[MappingFunction, Called] = Calls()

    async def install(self, places: Sequence[tuple[int, MappingFunction]]) -> None:
        """Stop at each function from now on, by its linear address."""
        for linear, function in places:
            await self._calls.watch(linear, function)

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return self._calls.number_at(linear)

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a stop is at one of the functions, or where one returns to."""
        return self._calls.owns(stop.breakpoint)

    async def handle(self, stop: Stopped) -> Handled:
        """Note a call that may map a device; poison what one has mapped."""
        journal = self._ground.journal
        journal.counts["hooks"] += 1
        registers = await Registers()
        refuse_fred(registers["cr4"])
        assert stop.breakpoint is not None  # or it would not have been claimed
        function = self._calls.entered(stop.breakpoint)
        if function is None:
            for done, call in await self._calls.returned(stop.breakpoint, registers):
                await self._made(done, call, registers)
            return GoOn()
        called = function.entered(registers.values)
        if await self._concerns(called, registers):
            space = self._ground.view.space_of(registers)
            await self._calls.follow(stop.breakpoint, called, registers["rsp"], space)
        return GoOn()

    async def _concerns(self, called: Called, registers: RegisterFile) -> bool:
        # Tells whether a call may map anything that is traced.
        ground = self._ground
        physical = called.physical()
        if physical is not None:
            ram = not physical or ground.memory.holds(physical.start, len(physical))
            ground.journal.counts["ram_hooks"] += ram
            if ram:
                return False
        if await ground.loads.look():
            await ground.coverage.poison(registers, "another IDT")
        return True

    async def _made(self, function: MappingFunction, call: Called, registers: RegisterFile) -> None:
        ground = self._ground
        space = ground.view.space_of(registers)
        mapping = function.made(call, registers.values)
        if mapping is None:
            poisoned = await poison_everything(space, own=ground.coverage.own)
        else:
            there = tables_of(mapping, space)
            if there is None:
                return
            if mapping.tables is not None:
                self._roots.add(there.paging.cr3)
            poisoned = await poison_mapping(there, mapping)
        if poisoned.leaves:
            await FlushAllTlbs()
            await ground.tell_time(registers)
        ground.coverage.note(poisoned, function.name)
