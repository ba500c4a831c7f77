"""The site table and the room for thunks: what to write where, so that a guest finds a thunk.

A site is the linear address of an instruction that reached a device. The table is a hash with the
next free place behind; there is always a free one. Thunks are only ever added, as QEMU takes no
notice of what is written over code that has run. The key of an entry is written last.

Write only while every vCPU stands and :func:`is_free` says that none is on the fast way: an access
there may have read a part of its entry.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from tracer.compiled import layout
from tracer.compiled.common import CommonCode
from tracer.compiled.diary import Current
from tracer.compiled.layout import SITE_COUNT, SITE_FIELDS, SITE_SIZE
from tracer.compiled.safety import NotCompiled
from tracer.compiled.thunk import WATCHED, Thunk, compile_thunk
from tracer.x86.instruction import Instruction
from tracer.x86.state import PAGE_SIZE

Write = tuple[int, bytes]
"""An offset in the block, and the bytes to write there."""

_VOID = 1
"""The key of an entry that is being changed; 0 would end a search."""
_MASK64 = (1 << 64) - 1
_MOST = SITE_COUNT * 3 // 4
_ALIGNMENT = 16
_KEY = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Site:
    """Hold an instruction that is compiled, and its thunk. A record names it by ``number``."""

    number: int
    insn: Instruction
    thunk: Thunk


def is_free(head: int) -> bool:
    """Tell by the first word of the control page whether no vCPU is on the fast way."""
    return head < 1 << 63


def watched(insn: Instruction) -> int:
    """Return the linear address of the 8 bytes of code that the guest compares at each access.

    They begin with the instruction, or end with the page of one that would lead beyond it.
    """
    room = PAGE_SIZE - insn.rip % PAGE_SIZE
    return insn.rip if room >= WATCHED or insn.length > room else insn.rip + room - WATCHED


class SiteTable:
    """Allocate sites; ``block`` is the linear address of the block as data.

    ``front`` is the offset of the common code that is in front of each thunk, if any, ``current``
    tells where code finds which thread it runs on.
    """

    def __init__(
        self,
        block: int,
        common: CommonCode,
        front: int | None = None,
        current: Current | None = None,
    ) -> None:
        self._code = block + layout.DISTANCE
        self._common = common
        self._front = front
        self._current_thread = current
        self._next = layout.THUNKS
        self._places: dict[int, int] = {}
        self._taken: set[int] = set()
        self._current: dict[int, Site] = {}
        self._sites: list[Site] = []
        self._held: set[int] = set()

    def __len__(self) -> int:
        return len(self._sites)

    def __getitem__(self, number: int) -> Site:
        """Return the site that a record names."""
        return self._sites[number]

    def follow_threads(self, current: Current) -> None:
        """Have sites tell the thread that is ``current``: those that are entered from here on."""
        self._current_thread = current

    @property
    def used(self) -> int:
        """Return how many bytes the thunks take."""
        return self._next - layout.THUNKS

    def enter(
        self, insn: Instruction, code: bytes, *, held: bool = False
    ) -> tuple[Site, list[Write]]:
        """Compile an instruction that the guest will run again; ``code`` is at :func:`watched`.

        An instruction that is another one than before at its address gets a thunk of its own;
        the old one is left behind. One that is the same gets what its neighbours are now. Raise
        :class:`NotCompiled` where it may not be compiled, or where there is no room. Each access of
        a site that is ``held`` goes the slow way, as :meth:`hold` says.
        """
        current = self._current.get(insn.rip)
        writes: list[Write] = []
        if current is None or current.insn.code != insn.code:
            if current is None and len(self._places) >= _MOST:
                raise NotCompiled(insn, f"the table of {_MOST} sites is full")
            told = self._current_thread
            thread = told.place if told is not None and insn.rip in told.code else None
            thunk = compile_thunk(insn, len(self._sites), self._next, self._common, thread)
            if thunk.start + len(thunk.code) > layout.SITES:
                raise NotCompiled(insn, "the room for thunks is full")
            self._next += len(thunk.code) + -len(thunk.code) % _ALIGNMENT
            writes.append((thunk.start, thunk.code))
            current = Site(len(self._sites), insn, thunk)
            self._sites.append(current)
            if held:
                self._held.add(current.number)
            self._current[insn.rip] = current
        place = self._place(insn.rip)
        entry = self._entry(current, code)
        # In this order: no key leads to half an entry.
        writes.append((place, _KEY.pack(_VOID)))
        writes.append((place + _KEY.size, entry[_KEY.size :]))
        writes.append((place, entry[: _KEY.size]))
        return current, writes

    def forget(self) -> list[Write]:
        """Have each site look up anew where it leads, and whether a stop is wanted there."""
        nowhere = _KEY.pack(layout.NOWHERE)
        return [
            (place + SITE_FIELDS[name], nowhere)
            for place in self._places.values()
            for name in ("FIRST", "BASE")
        ]

    def lead(self, front: int | None) -> list[Write]:
        """Have other common code in front of each thunk, or none, from here on."""
        self._front = front
        return self._led()

    def hold(self, numbers: Iterable[int]) -> list[Write]:
        """Have each access of these sites go the slow way from here on, and those of no other."""
        self._held = set(numbers)
        return self._led()

    def _led(self) -> list[Write]:
        return [
            (place + SITE_FIELDS["THUNK"], _KEY.pack(self._thunk(self._current[rip])))
            for rip, place in self._places.items()
        ]

    def _thunk(self, site: Site) -> int:
        if site.number in self._held:
            return self._code + self._common.stopped
        return self._code + (site.thunk.start if self._front is None else self._front)

    def _place(self, rip: int) -> int:
        place = self._places.get(rip)
        if place is None:
            index = (rip * layout.HASH & (SITE_COUNT - 1) * SITE_SIZE) // SITE_SIZE
            while index in self._taken:
                index = (index + 1) % SITE_COUNT
            self._taken.add(index)
            place = self._places[rip] = layout.SITES + index * SITE_SIZE
        return place

    def _entry(self, site: Site, code: bytes) -> bytes:
        assert len(code) == WATCHED
        thunk = site.thunk
        span = PAGE_SIZE - thunk.width
        words = {
            "RIP": site.insn.rip,
            "THUNK": self._thunk(site),
            "BEHIND": self._code + thunk.start,
            "FIRST": layout.NOWHERE,
            "BASE": layout.NOWHERE,
            "BEFORE": thunk.before & _MASK64,
            "LAST": span - thunk.doubtful,
            "AT": watched(site.insn),
            "CODE": int.from_bytes(code, "little"),
            "ORIGIN": self._code + thunk.origin,
            "SKIP": int(thunk.doubtful),
            "SPAN": span,
            "WRITES": int(thunk.writes),
            # A level that there is not does not forbid anything.
            "E4": (1 << 64) - 1,
        }
        return b"".join(_KEY.pack(words.get(name, 0)) for name in SITE_FIELDS).ljust(
            SITE_SIZE, b"\0"
        )
