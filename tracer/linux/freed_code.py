"""Stops where the kernel gives code away: what ran there must be told before other code is there.

Records without a stop come late, and what their call chains lead through is looked up then. All
there are have been taken before a stop is acted on.

Ref: Linux kernel/module/main.c (do_free_init, free_module), which call ``module_memfree``, and from
commit 12af2b83d0b1 "mm: introduce execmem_alloc() and execmem_free()" (v6.10) on ``execmem_free``.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

from tracer.access.stop import Stopped
from tracer.access.symbols import SymbolTable
from tracer.access.vcpu import SetRegister
from tracer.access.want import SetBreakpoint
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.trap import GoOn, Handled
from tracer.linux.wrapper import announce
from tracer.linux.wrappers import Wrappers

_FUNCTIONS = ("module_memfree", "execmem_free")


class FreedCode:
    """Own the stops; ``counts`` counts them as ``freed``.

    The function has code in front that reads the stub's bell; where there can be none it has a
    breakpoint, at which QEMU throws away all translated code.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._places: dict[int, int] = {}
        self._behind: dict[int, int] = {}

    async def install(self, symbols: SymbolTable, wrappers: Wrappers, gate: PageFaultGate) -> None:
        """Stop from now on where code is given away, as far as the kernel names it."""
        make = partial(announce, bell=gate.stub.bell)
        for address in map(symbols.address_of, _FUNCTIONS):
            if address is None:
                continue
            wrapper = await wrappers.plant(address, make)
            if wrapper is None:
                self._places[address] = await SetBreakpoint(address)
            else:
                self._behind[wrapper.stop] = wrapper.behind
                gate.ringers[wrapper.stop] = wrapper.span

    def number_at(self, linear: int | None) -> int | None:
        """Return the number of the breakpoint at a linear address, if there is one."""
        return None if linear is None else self._places.get(linear)

    def claims(self, stop: Stopped) -> bool:
        """Tell whether a stop is at the function."""
        if stop.address in self._behind:
            return True
        return stop.breakpoint is not None and stop.breakpoint in self._places.values()

    async def handle(self, stop: Stopped) -> Handled:
        """Let the guest go on: all that there was to tell has been told."""
        self._counts["hooks"] += 1
        self._counts["freed"] += 1
        behind = self._behind.get(stop.address or 0)
        return GoOn() if behind is None else GoOn([SetRegister("rip", behind)])
