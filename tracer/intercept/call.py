"""Calls of the guest's functions, from the breakpoint at the entry to the one where it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from tracer.access.space import AddressSpace
from tracer.access.vcpu import RegisterFile
from tracer.access.want import DeleteBreakpoint, SetBreakpoint

Function = TypeVar("Function")
Argument = TypeVar("Argument")


@dataclass(frozen=True, slots=True)
class _Underway(Generic[Function, Argument]):
    # A call that has been entered: the stack pointer it returns with tells it from others of the
    # same caller.
    function: Function
    argument: Argument
    stack: int


class Calls(Generic[Function, Argument]):
    """Own the breakpoints of some functions.

    A function is known by whatever the owner calls it, a call under way by what it noted at the
    entry.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[int, Function]] = {}
        self._returns: dict[int, tuple[int, list[_Underway[Function, Argument]]]] = {}

    async def watch(self, linear: int, function: Function) -> None:
        """Stop from now on at the entry of a function."""
        self._entries[await SetBreakpoint(linear)] = linear, function

    async def forget(self) -> None:
        """Stop at no entry any more; calls that were awaited still stop where they return."""
        for number in list(self._entries):
            del self._entries[number]
            await DeleteBreakpoint(number)

    @property
    def watched(self) -> bool:
        """Tell whether there is an entry to stop at."""
        return bool(self._entries)

    @property
    def underway(self) -> list[tuple[Function, Argument]]:
        """Return the calls that have been entered and not come back."""
        waiting = (item for _, items in self._returns.values() for item in items)
        return [(item.function, item.argument) for item in waiting]

    def owns(self, number: int | None) -> bool:
        """Tell whether a breakpoint is one of these."""
        return number is not None and (number in self._entries or number in self._returns)

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        for places in (self._returns, self._entries):
            for number, (address, _) in places.items():
                if address == linear:
                    return number
        return None

    def entered(self, number: int) -> Function | None:
        """Return the function at whose entry a breakpoint stands."""
        found = self._entries.get(number)
        return None if found is None else found[1]

    async def follow(
        self, number: int, argument: Argument, stack: int, space: AddressSpace
    ) -> None:
        """Stop once where a function, at whose entry the vCPU stands, returns to.

        ``stack`` is the linear address of its return address.
        """
        back = int.from_bytes(space.read(stack, 8), "little")
        underway = _Underway(self._entries[number][1], argument, stack + 8)
        for address, waiting in self._returns.values():
            if address == back:
                waiting.append(underway)
                return
        self._returns[await SetBreakpoint(back)] = back, [underway]

    async def returned(
        self, number: int, registers: RegisterFile
    ) -> list[tuple[Function, Argument]]:
        """Return the calls that have come back where the vCPU stands."""
        _, waiting = self._returns[number]
        done = [item for item in waiting if item.stack == registers["rsp"]]
        waiting[:] = [item for item in waiting if item not in done]
        if not waiting:
            del self._returns[number]
            await DeleteBreakpoint(number)
        return [(item.function, item.argument) for item in done]
