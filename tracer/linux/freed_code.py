"""Stops where the kernel gives code away: what ran there must be told before other code is there.

Records without a stop come late, and what their call chains lead through is looked up then. All
there are have been taken before a stop is acted on.

Ref: Linux kernel/module/main.c (do_free_init, free_module), which call ``module_memfree``, and from
commit 12af2b83d0b1 "mm: introduce execmem_alloc() and execmem_free()" (v6.10) on ``execmem_free``.
"""

from __future__ import annotations

from collections import Counter

from tracer.access.stop import Stopped
from tracer.access.symbols import SymbolTable
from tracer.access.want import SetBreakpoint
from tracer.intercept.trap import GoOn, Handled

_FUNCTIONS = ("module_memfree", "execmem_free")


class FreedCode:
    """Own the breakpoint; ``counts`` counts its stops as ``freed``."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._places: dict[int, int] = {}

    async def install(self, symbols: SymbolTable) -> None:
        """Stop from now on where code is given away, as far as the kernel names it."""
        for address in map(symbols.address_of, _FUNCTIONS):
            if address is not None:
                self._places[address] = await SetBreakpoint(address)

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return None if linear is None else self._places.get(linear)

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a stop is at the function."""
        return stop.breakpoint is not None and stop.breakpoint in self._places.values()

    async def handle(self, stop: Stopped) -> Handled:
        """Let the guest go on: all that there was to tell has been told."""
        self._counts["hooks"] += 1
        self._counts["freed"] += 1
        return GoOn()
