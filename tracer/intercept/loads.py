"""Follow what each vCPU loads: its IDT, which needs vetrace's gate, and its TSS.

Each LIDT that the guest's image has is followed by a breakpoint. What code from elsewhere loads is
noticed at the next stop at which somebody looks.
"""

from __future__ import annotations

from enum import Enum, auto

from tracer.access.space import AddressSpace
from tracer.gdb.target import RegisterFile, Target
from tracer.intercept.gate import PageFaultGate
from tracer.intercept.interrupt_stack import InterruptStacks
from tracer.intercept.view import GuestView
from tracer.linux.names import Names
from tracer.qemu.machine import Machine
from tracer.x86.table_load import table_loads


class Loaded(Enum):
    """Say what a vCPU has loaded."""

    KNOWN = auto()
    NEW = auto()  # an IDT that the guest had not used before
    NOTHING = auto()  # one without room for vector 14
    NO_STACK = auto()  # a TSS in which there is no stack for vetrace


class TableLoads:
    """Own the breakpoints behind a guest's loads of IDT and task register."""

    def __init__(
        self,
        target: Target,
        view: GuestView,
        gate: PageFaultGate,
        stacks: InterruptStacks | None,
    ) -> None:
        self._target = target
        self._machine: Machine = view.machine
        self._view = view
        self._gate = gate
        self._stacks = stacks
        self._places: dict[int, int] = {}

    async def install(self, space: AddressSpace, names: Names) -> None:
        """Set the breakpoints in the guest's code."""
        wanted = {"lidt", "ltr"} if self._stacks is not None else {"lidt"}
        for part in names.text():
            code = space.read(part.start, len(part))
            for place, name in table_loads(code, part.start, names.function_at).items():
                if name in wanted:
                    self._places[await self._target.set_breakpoint(place)] = place

    def owns(self, number: int | None) -> bool:
        """Tell whether a breakpoint is one of these."""
        return number in self._places

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return next((number for number, at in self._places.items() if at == linear), None)

    async def stopped(self, vcpu: int, registers: RegisterFile, space: AddressSpace) -> Loaded:
        """Act on a stop of a vCPU behind a load."""
        state = (await self._machine.vcpu_states())[vcpu]
        try:
            new = await self._gate.follow(space, state.tables.idt)
        except LookupError:
            return Loaded.NOTHING
        stacks = self._stacks
        if stacks is not None and not await stacks.equip(vcpu, state, registers, space):
            return Loaded.NO_STACK
        return Loaded.NEW if new else Loaded.KNOWN

    async def look(self) -> bool:
        """Look at the IDT of each vCPU; tell whether one is new and has vetrace's gate now."""
        found = False
        for state in await self._machine.vcpu_states():
            if not state.paging:
                continue  # not started yet, and not one of those that access devices
            try:
                space = self._view.space(state.cr3, state.cr4)
                found |= await self._gate.follow(space, state.tables.idt)
            except LookupError:
                continue
        return found
