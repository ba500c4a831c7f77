"""The ground that the traps of one guest stand on: they share it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tracer.access.vcpu import RegisterFile
from tracer.intercept.coverage import Coverage
from tracer.intercept.entry import visit
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.entry.loads import TableLoads
from tracer.intercept.journal import Journal
from tracer.intercept.view import GuestView
from tracer.x86.paging import PhysicalMemory


class Memory(PhysicalMemory, Protocol):
    """Guest RAM, and where there is any."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Return the first and last physical address of each piece of RAM."""
        ...

    def holds(self, physical: int, size: int) -> bool:
        """Tell whether ``size`` bytes at a physical address are RAM, every one of them."""
        ...


@dataclass(frozen=True, slots=True)
class Ground:
    """Hold what is there of one traced guest."""

    memory: Memory
    view: GuestView
    journal: Journal
    coverage: Coverage
    gate: PageFaultGate
    loads: TableLoads

    async def tell_time(self, registers: RegisterFile) -> None:
        """Note the guest's time at a stop that is not at the stub."""
        counter = 0
        if not self.view.realtime:
            space = self.view.space_of(registers)
            counter = await visit.read_clock(self.gate.stub, space, registers)
        self.view.tell_time(counter)
