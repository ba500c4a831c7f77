"""The registers of PCI functions lie at base addresses that the guest has written.

Ref: PCI Local Bus 3.0, 6.2.5.1 (base address registers).
"""

from __future__ import annotations

from collections.abc import Iterator

from tracer.trace.configuration import REGION
from tracer.trace.record import MemoryAccess

_ECAM = "ecam"
_FIRST, _COUNT = 0x10, 6
_PORTS, _WIDE = 1, 4
"""Bits of a base address: it is of I/O ports; the next one has its upper half."""


class Bars:
    """Follow what a guest writes to the base address registers of its PCI functions."""

    def __init__(self) -> None:
        self._words: dict[tuple[int, int], int] = {}

    def note(self, access: MemoryAccess) -> None:
        """Take notice of an access, which may be a write of such a register."""
        if access.region not in (REGION, _ECAM) or access.direction != "write":
            return
        function, at = divmod(access.offset or 0, 1 << 12)
        number, part = divmod(at - _FIRST, 4)
        if number in range(_COUNT) and not part and access.width == 4 and access.value is not None:
            self._words[function, number] = access.value

    def memory(self, function: int) -> Iterator[int]:
        """Yield the physical addresses that a function's registers begin at.

        ``function`` has its bus, device and function from bits 8, 3 and 0 on.
        """
        number = 0
        while number < _COUNT:
            word = self._words.get((function, number), 0)
            is_wide = word & (_PORTS | _WIDE) == _WIDE
            upper = self._words.get((function, number + 1), 0) if is_wide else 0
            # All bits are written to ask for the size; one of them is that of ports.
            if word and not word & _PORTS:
                yield upper << 32 | word & ~0xF
            number += 1 + is_wide
