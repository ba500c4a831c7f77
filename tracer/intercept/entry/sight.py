"""A monitor sees all of the guest's memory, by physical addresses."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tracer.access.transfer import Transfer
from tracer.compiled.monitor import PAIR
from tracer.intercept.ring.window import Window
from tracer.x86.paging import PRESENT, WRITABLE, PhysicalMemory
from tracer.x86.state import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Sight:
    """Find linear addresses of the monitor's own for what the guest accesses.

    ``pair`` is the physical address of the entries of two pages which it sees beside each other.
    """

    memory: PhysicalMemory
    window: Window
    pair: int

    def linear(self, run: Sequence[Transfer]) -> int:
        """Return the linear address at which the monitor has the first of some transfers.

        They follow each other in the guest's linear addresses, in two pages at most. It is good
        until the next one is asked for.
        """
        first, last = run[0], run[-1]
        far = last.physical + last.width - first.physical
        if far == last.linear + last.width - first.linear:
            return self.window.place(first.physical)
        pages = [item.physical & -PAGE_SIZE | PRESENT | WRITABLE for item in (first, last)]
        self.memory.write(self.pair, struct.pack("<2Q", *pages))
        return PAIR + first.linear % PAGE_SIZE
