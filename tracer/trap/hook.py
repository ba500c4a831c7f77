"""Breakpoints on the functions with which the guest makes and unmakes device mappings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracer import linux
from tracer.btf import Btf
from tracer.gdb.target import RegisterFile, Target
from tracer.intercept import AddressSpace
from tracer.paging import Leaf, Paging, set_poison
from tracer.symbols import SymbolTable
from tracer.trap.mapping import Poisoned, poison_mapping


@dataclass(frozen=True, slots=True)
class _Underway:
    # A mapping function that has been entered: the stack pointer it returns with tells it from
    # others of the same caller.
    name: str
    hook: linux.MappingHook
    mapping: linux.NewMapping
    stack: int


@dataclass(frozen=True, slots=True)
class Mapped:
    """Tell which function made a mapping, and what of it was poisoned."""

    name: str
    poisoned: Poisoned


class MappingHooks:
    """Own the breakpoints of one guest's mapping functions.

    A function is stopped at its entry, where its arguments are, and where it returns to, by when
    the translations exist and nothing has used them. The function in which user mappings go is
    stopped only while there is one to be healed: every process that ends has mappings that go.
    """

    def __init__(self, target: Target, types: Btf | None) -> None:
        self._target = target
        self._types = types
        self._entries: dict[int, tuple[str, linux.MappingHook]] = {}
        self._returns: dict[int, tuple[int, list[_Underway]]] = {}
        self._unmap: int | None = None
        self._unmap_number: int | None = None
        self._numbers: dict[int, int] = {}
        self._user: list[tuple[Paging, Leaf]] = []

    async def install(self, symbols: SymbolTable) -> list[str]:
        """Set the breakpoints; return the required functions that have no symbol."""
        found, missing = linux.find_hooks(symbols)
        if missing:
            return missing
        for address, hook in found.items():
            number = await self._target.set_breakpoint(address)
            self._entries[number] = hook
            self._numbers[address] = number
        self._unmap = symbols.address_of(linux.UNMAP)
        return []

    def owns(self, number: int | None) -> bool:
        """Tell whether a breakpoint is one of these."""
        return number is not None and (
            number in self._entries or number in self._returns or number == self._unmap_number
        )

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        for number, (address, _) in self._returns.items():
            if address == linear:
                return number
        return self._numbers.get(linear) if linear is not None else None

    @property
    def user_leaves(self) -> list[Leaf]:
        """Return the leaves poisoned in the page tables of user programs, gone on or not."""
        return [leaf for _, leaf in self._user]

    def entered(self, number: int, registers: RegisterFile) -> tuple[str, linux.NewMapping] | None:
        """Return the function whose entry a stop is at and the mapping it is about to make."""
        if number not in self._entries:
            return None
        name, hook = self._entries[number]
        return name, hook.arguments(registers.values)

    async def stopped(
        self, number: int, registers: RegisterFile, space: AddressSpace
    ) -> list[Mapped]:
        """Act on a stop at one of the breakpoints; return the mappings that were completed."""
        if number == self._unmap_number:
            self._heal(registers, space)
            await self._watch_unmap()
        elif number in self._returns:
            return await self._finish(number, registers, space)
        else:
            await self._begin(number, registers, space)
        return []

    async def _begin(self, number: int, registers: RegisterFile, space: AddressSpace) -> None:
        name, hook = self._entries[number]
        mapping = hook.arguments(registers.values)
        end = mapping.physical + max(mapping.size, 1) - 1
        if not space.regions.touches_traced(mapping.physical, end):
            return
        stack = registers["rsp"]
        back = int.from_bytes(space.read(stack, 8), "little")
        underway = _Underway(name, hook, mapping, stack + 8)
        for address, waiting in self._returns.values():
            if address == back:
                waiting.append(underway)
                return
        self._returns[await self._target.set_breakpoint(back)] = (back, [underway])

    async def _finish(
        self, number: int, registers: RegisterFile, space: AddressSpace
    ) -> list[Mapped]:
        _, waiting = self._returns[number]
        done = [item for item in waiting if item.stack == registers["rsp"]]
        made = [(item.name, item.hook.made(item.mapping, registers.values)) for item in done]
        mapped = [Mapped(name, poison_mapping(space, mapping)) for name, mapping in made]
        for item in mapped:
            users = (leaf for leaf in item.poisoned.leaves if leaf.user)
            self._user += [(space.paging, leaf) for leaf in users]
        await self._watch_unmap()
        waiting[:] = [item for item in waiting if item not in done]
        if not waiting:
            del self._returns[number]
            await self._target.delete_breakpoint(number)
        return mapped

    async def _watch_unmap(self) -> None:
        # Sets the breakpoint where user mappings go, or removes it, as there are some to be healed.
        if self._unmap is None or bool(self._user) == (self._unmap_number is not None):
            return
        if self._user:
            self._unmap_number = await self._target.set_breakpoint(self._unmap)
            self._numbers[self._unmap] = self._unmap_number
        elif self._unmap_number is not None:
            await self._target.delete_breakpoint(self._unmap_number)
            del self._numbers[self._unmap]
            self._unmap_number = None

    def _heal(self, registers: RegisterFile, space: AddressSpace) -> None:
        # Linux reads the physical address back out of a user mapping's entry when it goes.
        for paging, leaf in list(self._leaving(registers["rdi"], space)):
            set_poison(space.memory, paging, leaf, poisoned=False)
            self._user.remove((paging, leaf))

    def _leaving(self, vma: int, space: AddressSpace) -> Iterator[tuple[Paging, Leaf]]:
        start, end = self._extent(vma, space)
        for paging, leaf in self._user:
            if start <= leaf.linear < end and paging.cr3 == space.paging.cr3:
                yield paging, leaf

    def _extent(self, vma: int, space: AddressSpace) -> tuple[int, int]:
        # The linear range of a vm_area_struct; everything when its layout is not known.
        start = self._types and self._types.member("vm_area_struct", "vm_start")
        end = self._types and self._types.member("vm_area_struct", "vm_end")
        if not start or not end:
            return 0, 1 << 64
        first, last = (
            int.from_bytes(space.read(vma + member.offset, 8), "little") for member in (start, end)
        )
        return first, last
