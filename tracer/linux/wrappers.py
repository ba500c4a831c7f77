"""Code around functions of the kernel: planted at its entry, taken out at a detach."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable
from tracer.access.want import WriteCode, WritePhysical
from tracer.intercept.entry.padding import find_page
from tracer.linux.mapping import STUB_PLACE
from tracer.linux.wrapper import NOP, SITE_SIZE, Back, call, find_site
from tracer.x86.state import PAGE_SIZE

_LIST = ("__start_mcount_loc", "__stop_mcount_loc")
"""Bounds of the list of all sites, which ``ftrace_init`` goes through and checks against their
code. It skips zeros (kernel/trace/ftrace.c, ftrace_process_locs), and makes the rest NOPs."""
_ENTRY = struct.Struct("<Q")
_SAMPLE = 64
"""Sites of the list that are looked at, at most twice as many, to tell whether it was begun."""
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


class Wrapping(Protocol):
    """Hold code for linear address ``base``; ``disarm`` is what leaves it without effect."""

    @property
    def code(self) -> bytes:
        """Return the bytes."""
        ...

    @property
    def base(self) -> int:
        """Return the linear address."""
        ...

    @property
    def disarm(self) -> tuple[int, bytes] | None:
        """Return a linear address, and bytes to write there, if there is any need."""
        ...

    @property
    def back(self) -> Back | None:
        """Return where a function that it calls comes back to, None where it calls none."""
        ...


_Made = TypeVar("_Made", bound=Wrapping)


class Wrappers:
    """Own the wrappers of one guest, which share a page of padding.

    A kernel that has ``begun`` has given the list of its sites back. ``backs`` is where they add
    the places that functions return to in them.
    """

    def __init__(
        self,
        symbols: SymbolTable,
        space: AddressSpace,
        backs: dict[int, Back] | None = None,
        *,
        begun: bool = False,
    ) -> None:
        self.backs = {} if backs is None else backs
        self._symbols = symbols
        self._space = space
        self._sites: list[_Site] = []
        self._made: list[Wrapping] = []
        place = symbols.address_of(STUB_PLACE)
        self._free = find_page(space, place) if place is not None else None
        self._end = (self._free or 0) + PAGE_SIZE
        start, stop = (None if begun else symbols.address_of(name) for name in _LIST)
        self._list = start or 0
        self._listed = space.read(start, max(0, stop - start)) if start and stop else b""

    def has_site(self, function: int) -> bool:
        """Tell whether there can be a wrapper around the function at a linear address."""
        return self._free is not None and self._site_of(function) is not None

    async def plant(self, function: int, make: Callable[[int], _Made]) -> _Made | None:
        """Put a wrapper around the function at a linear address, and return it.

        ``make`` makes it for a linear address, or raises ValueError. None where it cannot be: the
        function has no site for ftrace, or there is no room.
        """
        offset = self._site_of(function)
        made = None if offset is None else self._fitting(make)
        if offset is None or made is None:
            return None
        linear = function + offset
        jump = call(linear, made.base)
        if not jump:
            return None
        before = self._space.read(linear, SITE_SIZE)
        site = _Site(linear, before, jump, self._entry_of(linear))
        if site.entry is not None:
            self._space.memory.write(site.entry, bytes(_ENTRY.size))
        await self._write(made)
        await WriteCode(linear, jump)
        self._sites.append(site)
        return made

    async def put(self, make: Callable[[int], _Made]) -> _Made | None:
        """Put code that wrappers share into their page, likewise."""
        made = self._fitting(make)
        if made is not None:
            await self._write(made)
        return made

    def _site_of(self, function: int) -> int | None:
        code = self._space.read(function, _ENTRY_CODE)
        return find_site(code, function, self._symbols.address_of("__fentry__"))

    def _fitting(self, make: Callable[[int], _Made]) -> _Made | None:
        if self._free is None:
            return None
        try:
            made = make(self._free)
        except ValueError:
            return None
        return made if made.base + len(made.code) <= self._end else None

    async def _write(self, made: Wrapping) -> None:
        await WriteCode(made.base, made.code)
        if made.back is not None:
            self.backs[made.back.linear] = made.back
        self._made.append(made)
        self._free = made.base + -(-len(made.code) // _ALIGNMENT) * _ALIGNMENT

    async def remove(self, space: AddressSpace) -> None:
        """Leave the sites as the guest would have them; the wrappers stay for who is in one.

        ``space`` is what the guest sees now: a function of its beginning may be gone.
        """
        begun = self._has_begun(space)
        for site in self._sites:
            if space.read(site.linear, SITE_SIZE) != site.jump:
                continue
            await _write_back(site.linear, NOP if begun else site.before, space)
            if site.entry is not None and not begun:
                space.memory.write(site.entry, _ENTRY.pack(site.linear))
        for made in self._made:
            if made.disarm is not None:
                await _write_back(*made.disarm, space)
        self._sites.clear()
        self._made.clear()

    def _has_begun(self, space: AddressSpace) -> bool:
        # Tells whether ftrace has gone through its list: it has made NOPs of the calls. Those of
        # weak functions that another one has taken the place of stay calls.
        planted = {site.linear for site in self._sites}
        listed = [linear for linear in self._entries() if linear not in planted]
        some = listed[:: len(listed) // _SAMPLE + 1]
        return not some or any(space.read(linear, SITE_SIZE) == NOP for linear in some)

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


async def _write_back(linear: int, code: bytes, space: AddressSpace) -> None:
    # Writes code of the guest's, whose vCPU may stand in a monitor, with page tables of that. What
    # is not mapped there stays, and does no harm.
    for physical, piece in space.behind(linear, code):
        await WritePhysical(physical, len(piece), int.from_bytes(piece, "little"))
