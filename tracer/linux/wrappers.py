"""Wrappers around mapping functions: planted at the kernel's entry, taken out at a detach."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable
from tracer.access.want import WriteCode
from tracer.intercept.padding import find_page
from tracer.linux.mapping import STUB_PLACE
from tracer.linux.wrapper import (
    NOP,
    PASS,
    SITE_SIZE,
    PageArgument,
    PageRange,
    Wrapper,
    assemble,
    call,
    find_site,
)
from tracer.x86.state import PAGE_SIZE

_LIST = ("__start_mcount_loc", "__stop_mcount_loc")
"""Bounds of the list of all sites, which ``ftrace_init`` goes through and checks against their
code. It skips zeros (kernel/trace/ftrace.c, ftrace_process_locs), and makes the rest NOPs."""
_ENTRY = struct.Struct("<Q")
_ENTRY_CODE = 16
_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class _Site:
    # Five bytes of a function at a linear address: what was there, and what is. ``entry`` is the
    # physical address of what the list has for it, None where it has nothing.
    linear: int
    before: bytes
    jump: bytes
    entry: int | None


class Wrappers:
    """Own the wrappers of one guest, which share a page of padding.

    They read the ``bell`` at a linear address. ``ram`` are the pages that pass where one page is
    mapped.
    """

    def __init__(
        self, symbols: SymbolTable, space: AddressSpace, bell: int, ram: list[PageRange]
    ) -> None:
        self._symbols = symbols
        self._space = space
        self._bell = bell
        self._ram = ram
        self._sites: list[_Site] = []
        self._made: list[Wrapper] = []
        place = symbols.address_of(STUB_PLACE)
        self._free = find_page(space, place) if place is not None else None
        self._end = (self._free or 0) + PAGE_SIZE
        start, stop = (symbols.address_of(name) for name in _LIST)
        self._list = start or 0
        self._listed = space.read(start, max(0, stop - start)) if start and stop else b""

    async def plant(self, function: int, argument: PageArgument | None) -> Wrapper | None:
        """Put a wrapper around the function at a linear address, and return it.

        None where it cannot be: the function has no site for ftrace, or there is no room.
        """
        code = self._space.read(function, _ENTRY_CODE)
        offset = find_site(code, function, self._symbols.address_of("__fentry__"))
        if self._free is None or offset is None:
            return None
        linear = function + offset
        try:
            made = assemble(self._free, self._bell, argument, self._ram)
        except ValueError:
            return None
        jump = call(linear, made.base)
        if not jump or made.span.stop > self._end:
            return None
        site = _Site(linear, code[offset : offset + SITE_SIZE], jump, self._entry_of(linear))
        if site.entry is not None:
            self._space.memory.write(site.entry, bytes(_ENTRY.size))
        await WriteCode(made.base, made.code)
        await WriteCode(linear, jump)
        self._sites.append(site)
        self._made.append(made)
        self._free += -(-len(made.code) // _ALIGNMENT) * _ALIGNMENT
        return made

    async def remove(self, space: AddressSpace) -> None:
        """Leave the sites as the guest would have them; the wrappers stay for who is in one.

        ``space`` is what the guest sees now: a function of its beginning may be gone.
        """
        begun = self._has_begun(space)
        for site in self._sites:
            if space.read(site.linear, SITE_SIZE) != site.jump:
                continue
            await WriteCode(site.linear, NOP if begun else site.before)
            if site.entry is not None and not begun:
                space.memory.write(site.entry, _ENTRY.pack(site.linear))
        for made in self._made:
            await WriteCode(made.stop, PASS)
        self._sites.clear()
        self._made.clear()

    def _has_begun(self, space: AddressSpace) -> bool:
        # Tells whether ftrace has gone through its list: it has made NOPs of the calls.
        fentry = self._symbols.address_of("__fentry__")
        planted = {site.linear for site in self._sites}
        for linear in self._entries():
            if linear not in planted and fentry is not None:
                return space.read(linear, SITE_SIZE) != call(linear, fentry)
        return True

    def _entries(self) -> Iterator[int]:
        whole = len(self._listed) // _ENTRY.size * _ENTRY.size
        return (linear for (linear,) in _ENTRY.iter_unpack(self._listed[:whole]))

    def _entry_of(self, site: int) -> int | None:
        entry = _ENTRY.pack(site)
        offset = self._listed.find(entry)
        while offset >= 0 and offset % _ENTRY.size:
            offset = self._listed.find(entry, offset + 1)
        leaf = self._space.leaf(self._list + offset) if offset >= 0 else None
        return None if leaf is None else leaf.translate(self._list + offset)
