"""The ring of records: what of it is committed, in which order, and what a record holds.

The guest writes a record's number last. The numbers go up by a record's size; the first one is the
ring's size, so that no number is 0 and the place in the ring is the number modulo its size.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from tracer.compiled import layout
from tracer.compiled.layout import RECORD, RECORD_FIELDS, SLOT_SIZE, control_field, ring_size
from tracer.errors import InterceptError

_SEQUENCES = struct.Struct(f"<Q{SLOT_SIZE - 8}x")
_COUNTERS = struct.Struct(f"<{RECORD_FIELDS['TSC']}xQ{SLOT_SIZE - RECORD_FIELDS['TSC'] - 8}x")
_SITES = struct.Struct(f"<{RECORD_FIELDS['SITE']}xI{SLOT_SIZE - RECORD_FIELDS['SITE'] - 4}x")
_THREADS = struct.Struct(
    f"<{RECORD_FIELDS['TSC']}xQ{RECORD_FIELDS['THREAD'] - RECORD_FIELDS['TSC'] - 8}xI"
    f"{SLOT_SIZE - RECORD_FIELDS['THREAD'] - 4}x"
)
_WORD = struct.Struct("<Q")
_BUSY = 1 << 63
_MASK = (1 << 64) - 1
_TOLD = "HEAD", "RING_MASK", "WINDOW", "REACH", "FAR", "FAR_SIZE"
_AHEAD = 64
"""How many records are looked at while the head does not tell how many there are."""


class Raw(NamedTuple):
    """Hold a record as the guest wrote it.

    ``alias`` is where the window has the first byte, ``error`` the error code of the fault,
    ``thread`` the :data:`~tracer.compiled.layout.RECORD_FIELDS` ``THREAD``.
    ``read`` and ``written`` are 32 bytes; the low ones count.
    """

    sequence: int
    tsc: int
    linear: int
    alias: int
    site: int
    vcpu: int
    spare: int
    error: int
    thread: int
    rflags: int
    number: int
    rax: int
    rcx: int
    rdx: int
    rbx: int
    rsp: int
    rbp: int
    rsi: int
    rdi: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    read: bytes
    written: bytes

    @property
    def gpr(self) -> tuple[int, ...]:
        """Return the general-purpose registers before the access, in their order."""
        return self[11:27]


# Raw._make takes five times as long: it is Python.
_raw = partial(tuple.__new__, Raw)


def raws(data: bytes) -> Iterator[Raw]:
    """Yield each record in ``data``."""
    return map(_raw, RECORD.iter_unpack(data))


def counters(data: bytes) -> Iterator[int]:
    """Yield the time-stamp counter of each record in ``data``."""
    return (counter for (counter,) in _COUNTERS.iter_unpack(data))


def threads(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the time-stamp counter and the thread of each record in ``data``; 0 for none."""
    return _THREADS.iter_unpack(data)


def without_threads(data: bytes) -> bytes:
    """Return records that do not tell their threads."""
    left = bytearray(data)
    for at in range(RECORD_FIELDS["THREAD"], len(data), SLOT_SIZE):
        left[at : at + 4] = bytes(4)
    return bytes(left)


def far_seen(data: bytes, window: int, reach: int, far: range) -> bytes:
    """Return records with every device at ``window`` plus its physical address.

    What lies in ``far`` is seen by the guest behind what lies below ``reach``.
    """
    if far.start >= far.stop:
        return data
    moved = bytearray(data)
    for at in range(RECORD_FIELDS["ALIAS"], len(data), SLOT_SIZE):
        (alias,) = _WORD.unpack_from(moved, at)
        if alias - window >= reach:
            _WORD.pack_into(moved, at, alias - reach + far.start & _MASK)
    return bytes(moved)


def sites_of(data: bytes) -> set[int]:
    """Return the numbers of the sites that records in ``data`` are of."""
    return {number for (number,) in _SITES.iter_unpack(data)}


def sequence_of(data: bytes) -> int:
    """Return the number that the last record in ``data`` has in the ring."""
    return int.from_bytes(data[-SLOT_SIZE : 8 - SLOT_SIZE], "little")


def left_behind(block: bytes, last: int | None) -> tuple[int, bytes]:
    """Return what is in the ring of a guest that is gone: its window's base, and the records.

    ``block`` is the guest's block of compiled sites, ``last`` the number of the last record that
    was taken, None where none was. Raise InterceptError where it is no such block.
    """
    if len(block) <= layout.RING:
        raise InterceptError(f"{len(block)} bytes are no ring")
    words = (_WORD.unpack_from(block, control_field(name))[0] for name in _TOLD)
    head, mask, window, reach, first, extent = words
    size = len(block) - layout.RING
    try:
        ring = Ring(size // SLOT_SIZE, last)
    except ValueError as error:
        raise InterceptError(str(error)) from error
    if mask + 1 != size:
        raise InterceptError(f"a ring of {mask + 1} bytes, and {size} are there")
    found: list[bytes] = []
    while True:
        offset, some = ring.span(head)
        taken = ring.take(block[offset : offset + some])
        if not taken:
            far = range(first, first + extent)
            return window, far_seen(b"".join(found), window, reach, far)
        found.append(block[offset : offset + taken])


class Ring:
    """Follow the guest through its ring of a number of records; the caller reads and writes.

    ``last`` is the number of the last record that was taken, None where none was.
    """

    def __init__(self, slots: int, last: int | None = None) -> None:
        self._size = ring_size(slots)
        self._next = self._size if last is None else last + SLOT_SIZE

    @property
    def taken(self) -> int:
        """Return how many records were taken so far."""
        return (self._next - self._size) // SLOT_SIZE

    @property
    def under_way(self) -> tuple[int, int]:
        """Return offset in the block and number of the record that is made next, or is being."""
        return layout.RING + self._next % self._size, self._next

    def open(self, most: int | None = None) -> tuple[int, bytes]:
        """Return what to write, at which offset in the block, so that the guest can go on.

        It makes ``most`` records at most, and no more than there is room for. To be written when
        records were taken, and at the start.
        """
        room = self._size if most is None else min(most * SLOT_SIZE, self._size)
        return control_field("LIMIT"), _WORD.pack(self._next + room)

    def room(self) -> tuple[int, bytes]:
        """Return what to write so that a monitor knows how many records there is room for."""
        return control_field("ROOM"), _WORD.pack(self._next + self._size)

    def shut(self) -> tuple[int, bytes]:
        """Return what to write so that each access goes the slow way from now on."""
        return control_field("LIMIT"), _WORD.pack(0)

    def span(self, head: int) -> tuple[int, int]:
        """Return offset in the block and size of what to read: records that may be committed.

        ``head`` is the first word of the control page. The ring may go on at its start: ask again
        until the size is 0, or less is taken.
        """
        start = self._next % self._size
        most = min(_AHEAD * SLOT_SIZE, self._size) if head >= _BUSY else head - self._next
        if not 0 <= most <= self._size or most % SLOT_SIZE:
            raise InterceptError(
                f"the ring's head is {head:#x}, {self._next:#x} were taken: records were lost"
            )
        return layout.RING + start, min(most, self._size - start)

    def take(self, data: bytes) -> int:
        """Return the size of the committed records among those read, and count them as taken.

        They are to be read now, once more: a copy is made in no certain order, so that of a record
        whose number came last it may have the rest from before. A record that is not committed
        ends them. Raise InterceptError where there is one that nobody can have left there.
        """
        number = self._next
        for (sequence,) in _SEQUENCES.iter_unpack(data):
            if sequence != number:
                if sequence not in (0, number - self._size):
                    raise InterceptError(
                        f"record {number:#x} of the ring has the number {sequence:#x}: records "
                        "were lost"
                    )
                break
            number += SLOT_SIZE
        taken = number - self._next
        self._next = number
        return taken
