"""Filters in front of mapping functions: planted at the kernel's entry, taken out at a detach."""

from __future__ import annotations

import struct

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable
from tracer.access.want import WriteCode
from tracer.intercept.padding import find_page
from tracer.linux.mapping import STUB_PLACE
from tracer.linux.page_filter import NOP, PageArgument, PageRange, assemble, call, find_site
from tracer.x86.state import PAGE_SIZE

_SITES = ("__start_mcount_loc", "__stop_mcount_loc")
"""Bounds of the list of all sites, which ``ftrace_init`` goes through and checks against their
code. It skips zeros (kernel/trace/ftrace.c, ftrace_process_locs)."""
_ENTRY_CODE = 16
_ALIGNMENT = 16


class PageFilters:
    """Own the filters of one guest, which share a page.

    ``ram`` are the pages that pass.
    """

    def __init__(self, symbols: SymbolTable, space: AddressSpace, ram: list[PageRange]) -> None:
        self._symbols = symbols
        self._space = space
        self._ram = ram
        self._sites: list[int] = []
        place = symbols.address_of(STUB_PLACE)
        self._free = find_page(space, place) if place is not None else None
        self._end = (self._free or 0) + PAGE_SIZE

    async def plant(self, function: int, argument: PageArgument) -> int | None:
        """Put a filter in front of the function at a linear address; return that of its hit.

        None where it cannot be: the function has no site for ftrace, or there is no room.
        """
        code = self._space.read(function, _ENTRY_CODE)
        offset = find_site(code, function, self._symbols.address_of("__fentry__"))
        if self._free is None or offset is None:
            return None
        site = function + offset
        try:
            made = assemble(argument, self._ram)
        except ValueError:
            return None
        jump = call(site, self._free)
        if not jump or self._free + len(made.code) > self._end:
            return None
        self._hide_site(site)
        await WriteCode(self._free, made.code)
        await WriteCode(site, jump)
        self._sites.append(site)
        hit = self._free + made.hit
        self._free += -(-len(made.code) // _ALIGNMENT) * _ALIGNMENT
        return hit

    async def remove(self) -> None:
        """Leave NOPs at the sites, as ftrace does; the filters stay for who is in one."""
        for site in self._sites:
            await WriteCode(site, NOP)
        self._sites.clear()

    def _hide_site(self, site: int) -> None:
        # From ftrace, which would find code that is not its own there.
        start, stop = (self._symbols.address_of(name) for name in _SITES)
        if start is None or stop is None:
            return
        listed = self._space.read(start, max(0, stop - start))
        entry = struct.pack("<Q", site)
        offset = listed.find(entry)
        while offset >= 0 and offset % len(entry):
            offset = listed.find(entry, offset + 1)
        leaf = self._space.leaf(start + offset) if offset >= 0 else None
        if leaf is not None:
            self._space.memory.write(leaf.translate(start + offset), bytes(len(entry)))
