"""Whose confidential guest the kernel takes itself for, followed while it boots.

It is told once, in `tdx_early_init`, and goes by its CPU's vendor later: on one of AMD's
`bsp_init_amd` takes it back, and the boot goes on as an ordinary guest's.

Ref: Linux arch/x86/coco/core.c (`cc_vendor`), arch/x86/coco/tdx/tdx.c, arch/x86/kernel/cpu/amd.c.
"""

from __future__ import annotations

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable

_SYMBOL = "cc_vendor"
_SIZE = 4


class Vendor:
    """Follow what the kernel says; one that has no such variable says nothing."""

    def __init__(self, symbols: SymbolTable, space: AddressSpace) -> None:
        self._memory = space.memory
        linear = symbols.address_of(_SYMBOL)
        leaf = None if linear is None else space.leaf(linear)
        self._place = None if leaf is None or linear is None else leaf.translate(linear)
        self._told = 0

    def taken_back(self) -> bool:
        """Tell whether it says another thing than it did first."""
        if self._place is None:
            return False
        now = int.from_bytes(self._memory.read(self._place, _SIZE), "little")
        self._told = self._told or now
        return now != self._told
