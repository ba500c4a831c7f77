"""The places of a guest's vCPUs, in words, for a reader who wonders why it does not go on."""

from __future__ import annotations

from tracer.access.space import AddressSpace
from tracer.access.state import stopped
from tracer.gdb.target import Target
from tracer.intercept.view import GuestView
from tracer.linux.names import Names
from tracer.linux.stacks import Stacks
from tracer.look.stack import chain
from tracer.x86.state import CpuState


class Whereabouts:
    """Look at one guest where it stands."""

    def __init__(self, target: Target, view: GuestView, names: Names) -> None:
        self._target = target
        self._view = view
        self._names = names
        self._stacks: Stacks | None = None

    async def here(self) -> tuple[CpuState, AddressSpace]:
        """Return the state of the vCPU that is looked at, and where its addresses lead."""
        if not self._view.machine.memory.ranges:
            await self._view.machine.memory_map()  # tells where RAM is
        registers = await self._target.registers()
        space = self._view.space_of(registers)
        return stopped(registers.values, await self._view.mode(registers["cs"], space)), space

    async def all(self, vcpu: int, cpu: CpuState, space: AddressSpace) -> list[str]:
        """Return a line for each vCPU; ``vcpu`` is in this state."""
        lines = []
        for number in range(self._view.vcpus):
            state = cpu, space
            if number != vcpu:
                await self._target.select(number)
                state = await self.here()
            lines.append(f"vcpu{number} is in {self._place(*state)}")
        return lines

    def _place(self, cpu: CpuState, space: AddressSpace) -> str:
        if cpu.cpl == 3:
            return f"a program, at {cpu.rip:#x}"
        self._stacks = self._stacks or Stacks(self._names)
        return chain(self._stacks.unwind(cpu, space), lambda at: self._names.lookup(at, space))
