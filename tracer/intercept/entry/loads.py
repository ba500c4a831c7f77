"""Follow what each vCPU loads: its IDT, which needs vetrace's gate, and its TSS.

Each LIDT that the guest's image has is followed by a breakpoint. What code from elsewhere loads is
noticed at the next stop at which somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable

from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.want import Registers, SetBreakpoint
from tracer.intercept.coverage import Coverage
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.entry.interrupt_stack import InterruptStacks
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.trap import GoOn, Handled, LetGo, Untraced
from tracer.intercept.view import GuestView
from tracer.x86.table_load import table_loads


class TableLoads:
    """Own the breakpoints behind a guest's loads of IDT and task register.

    ``stacks`` are vetrace's interrupt stacks, where there are any. ``without_idt`` says what
    is not traced once an IDT without room was loaded at a place.
    """

    def __init__(
        self,
        view: GuestView,
        gate: PageFaultGate,
        stacks: InterruptStacks | None,
        coverage: Coverage,
        journal: Journal,
        names: Names,
        without_idt: Callable[[str], Untraced],
    ) -> None:
        self._view = view
        self._gate = gate
        self._stacks = stacks
        self._coverage = coverage
        self._journal = journal
        self._names = names
        self._without_idt = without_idt
        self._places: dict[int, int] = {}

    async def install(self, space: AddressSpace) -> None:
        """Set the breakpoints in the guest's code."""
        wanted = {"lidt", "ltr"} if self._stacks is not None else {"lidt"}
        for part in self._names.text():
            code = space.read(part.start, len(part))
            for place, name in table_loads(code, part.start, self._names.function_at).items():
                # Code of vetrace's own may be there already: what loads a TSS.
                if name in wanted and place not in self._gate.room:
                    self._places[await SetBreakpoint(place)] = place

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return next((number for number, at in self._places.items() if at == linear), None)

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a vCPU stopped behind a load."""
        return stop.breakpoint in self._places

    async def handle(self, stop: Stopped) -> Handled:
        """Put vetrace's gate into an IDT that is new, and a stack into a TSS."""
        self._journal.counts["hooks"] += 1
        self._view.forget_segments()
        registers = await Registers()
        space = self._view.space_of(registers)
        where = self._names.lookup(registers["rip"], space) or hex(registers["rip"])
        state = (await self._view.states())[stop.vcpu]
        try:
            new = await self._gate.follow(space, state.tables.idt)
        except LookupError:
            untraced = self._without_idt(where)
            self._journal.remark(untraced.text, last=untraced.other)
            return LetGo()
        stacks = self._stacks
        if stacks is not None and not await stacks.equip(stop.vcpu, state, registers, space):
            self._journal.remark(
                f"no interrupt stack for page faults in the TSS loaded at {where}: RSP must not be "
                "in a device"
            )
        elif new:
            await self._coverage.refresh()
            await self._coverage.poison(registers, "another IDT")
        return GoOn()

    async def look(self) -> bool:
        """Look at the IDT of each vCPU; tell whether one is new and has vetrace's gate now."""
        found = False
        for state in await self._view.states():
            if not state.paging:
                continue  # not started yet, and not one of those that access devices
            try:
                space = self._view.space(state.cr3, state.cr4)
                found |= await self._gate.follow(space, state.tables.idt)
            except LookupError:
                continue
        if found:
            self._view.forget_segments()
        return found
