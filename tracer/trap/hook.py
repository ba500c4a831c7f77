"""Breakpoints on the functions with which the guest makes device mappings."""

from __future__ import annotations

from dataclasses import dataclass

from tracer import linux
from tracer.gdb.target import RegisterFile, Target
from tracer.intercept import AddressSpace
from tracer.symbols import SymbolTable
from tracer.trap.call import Calls
from tracer.trap.mapping import Poisoned, poison_mapping


@dataclass(frozen=True, slots=True)
class Mapped:
    """Tell which function made a mapping, and what of it was poisoned."""

    name: str
    mapping: linux.NewMapping
    poisoned: Poisoned


class MappingHooks:
    """Own the breakpoints of one guest's mapping functions.

    A function is stopped at its entry, where its arguments are, and where it returns to, by when
    the translations exist and nothing has used them.
    """

    def __init__(self, target: Target) -> None:
        self._calls: Calls[tuple[str, linux.MappingHook], linux.NewMapping] = Calls(target)

    async def install(self, symbols: SymbolTable) -> list[str]:
        """Set the breakpoints; return the required functions that have no symbol."""
        found, missing = linux.find_hooks(symbols)
        if missing:
            return missing
        for address, hook in found.items():
            await self._calls.watch(address, hook)
        return []

    def owns(self, number: int | None) -> bool:
        """Tell whether a breakpoint is one of these."""
        return self._calls.owns(number)

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return self._calls.number_at(linear)

    def entered(self, number: int, registers: RegisterFile) -> tuple[str, linux.NewMapping] | None:
        """Return the function whose entry a stop is at and the mapping it is about to make."""
        function = self._calls.entered(number)
        if function is None:
            return None
        name, hook = function
        return name, hook.arguments(registers.values)

    async def stopped(
        self, number: int, registers: RegisterFile, space: AddressSpace
    ) -> list[Mapped]:
        """Act on a stop at one of the breakpoints; return the mappings that were completed."""
        entered = self.entered(number, registers)
        if entered is None:
            return await self._finish(number, registers, space)
        _, mapping = entered
        end = mapping.physical + max(mapping.size, 1) - 1
        if not space.regions.is_quiet(mapping.physical, end):
            await self._calls.follow(number, mapping, registers, space)
        return []

    async def _finish(
        self, number: int, registers: RegisterFile, space: AddressSpace
    ) -> list[Mapped]:
        mapped: list[Mapped] = []
        for (name, hook), argument in await self._calls.returned(number, registers):
            mapping = hook.made(argument, registers.values)
            mapped.append(Mapped(name, mapping, poison_mapping(space, mapping)))
        return mapped
