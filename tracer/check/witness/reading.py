"""How QEMU's log tells one access: entry by entry, at the widths in which it was carried out.

An access may be told by entries that are narrower, by one that is wider, by a refusal, and where
it is unaligned by the pieces into which this or that QEMU cuts it. Its value then follows from
theirs as QEMU joins them, with all the bits that a device model answers beyond what it was asked
for.

Ref: QEMU 7.2, accel/tcg/cputlb.c (load_helper: an unaligned load is two aligned ones;
store_helper_unaligned: a store is bytes), softmmu/memory.c (access_with_adjusted_size),
softmmu/physmem.c (subpage_read;
memory_access_size: what the GDB stub asks for), target/i386/tcg/translate.c
(gen_ins: a dummy store comes first); QEMU 10.0, accel/tcg/cputlb.c (int_ld_mmio_beN,
int_st_mmio_leN: aligned pieces).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from tracer.check.comparison import Extent, TracedAccess
from tracer.check.qemu_log import LogEntry
from tracer.x86.bus import Direction

_UNIT = 8
"""Bytes of the widest access that TCG makes at once."""

_OFTEN: dict[Direction, int] = {"read": 16, "write": 1, "unknown": 0}
"""How many entries of one instruction may have a byte in common: a gather reads for each lane, and
the aligned pieces of an unaligned load overlap with those of the next."""

_INS = re.compile(r"(rep\w* )?ins[bwd]\b")

Piece = tuple[int, int]
"""Address and width in bytes of a part of an access."""

_Part = tuple[int, int, int]  # address, width and value of a piece, with bits beyond its width
_Join = Callable[[TracedAccess, Sequence[_Part]], int]


def fit(
    access: TracedAccess, logged: Sequence[LogEntry], at: int = 0, *, more: bool = False
) -> tuple[int, bool]:
    """Return how many log entries from ``at`` on are ``access``, and whether the values agree.

    The count is 0 when direction, address, width or the kind of CPU rule it out. Where ``more``
    entries may follow those given, it is one more than there are when that cannot be told without.
    An access of unknown extent agrees with as many entries as it can have, maybe none.
    """
    if not access.width:
        return _within(access, logged, at), True
    if at < len(logged) and _is_all(logged[at], access):
        return 1, True
    restarts = access.by_vcpu and access.direction == "write" and _INS.match(access.text)
    short = len(logged) - at + 1
    if restarts and more and short < 3:
        return short, False
    readings = [_restarted(access, logged, at)] if restarts else []
    for pieces, join in _pieces(access):
        used, value, known = _told(pieces, join, access, logged, at)
        agrees = access.value is None or (value ^ access.value) & known == 0
        if used < short:
            readings.append((used, used > 0 and agrees))
        elif more:
            return short, False
    # An unaligned access of 0 may look like the first of its own pieces.
    return max(readings, key=lambda reading: (reading[1], reading[0]), default=(0, False))


def _is_all(entry: LogEntry, access: TracedAccess) -> bool:
    return (
        access.address % access.width == 0
        and access.whole is None
        and entry.address == access.address
        and entry.value == access.value
        and entry.width == access.width
        and entry.direction == access.direction
        and not entry.refused
        and (entry.cpu >= 0 or not access.by_vcpu)
    )


# The pieces in which QEMU may carry an access out, and how it joins what it reads.
def _pieces(access: TracedAccess) -> Iterator[tuple[list[Piece], _Join]]:
    address, width = access.address, access.width
    yield [(address, width)], _joined
    if access.whole is not None:
        yield from _parts(access, *access.whole)
    elif address % width == 0:
        return
    units = [*_aligned(address, width, _UNIT)]
    narrow = [piece for unit in units for piece in lowest(*unit)]
    if access.direction == "read":
        wide = [piece for unit in units for piece in covers(*unit)]
        yield from ((wide, _shifted), (wide, _shifted_cut), (narrow, _accumulated))
    else:
        yield [*bytewise(address, width)], _joined
    yield narrow, _joined
    yield [*_aligned(address, width)], _joined


# The same for what lies here of an access that goes on elsewhere.
def _parts(access: TracedAccess, begin: int, width: int) -> Iterator[tuple[list[Piece], _Join]]:
    end = access.address + access.width

    def here(pieces: Iterator[Piece]) -> list[Piece]:
        return [(at, size) for at, size in pieces if at < end and at + size > access.address]

    narrow = here(lowest(begin, width))
    if access.direction == "read":
        wide = here(covers(begin, width))
        yield from ((wide, _shifted), (wide, _shifted_cut), (narrow, _accumulated))
    yield [*bytewise(access.address, access.width)], _joined
    yield narrow, _joined


def covers(address: int, width: int) -> Iterator[Piece]:
    """Yield the aligned pieces that an unaligned load lies in: how QEMU 7.2 makes it."""
    begin = address & -width
    yield begin, width
    if begin != address:
        yield begin + width, width


def bytewise(address: int, width: int) -> Iterator[Piece]:
    """Yield each byte: how QEMU 7.2 makes an unaligned store."""
    yield from ((byte, 1) for byte in range(address, address + width))


def lowest(address: int, width: int) -> Iterator[Piece]:
    """Yield pieces as wide as address and rest are aligned to: how later QEMU makes both."""
    end = address + width
    while address < end:
        bits = address | (end - address) | _UNIT
        yield address, bits & -bits
        address += bits & -bits


# Powers of two, each as wide as can be: by address for the GDB stub, by rest alone for `unit`.
def _aligned(address: int, width: int, unit: int | None = None) -> Iterator[Piece]:
    end = address + width
    while address < end:
        room = min(end - address, unit or address & -address or _UNIT, _UNIT)
        size = 1 << (room.bit_length() - 1)
        yield address, size
        address += size


def _joined(access: TracedAccess, parts: Sequence[_Part]) -> int:
    value = 0
    for address, width, part in parts:
        value |= (part & ((1 << 8 * width) - 1)) << 8 * (address - access.address)
    return value


def _shifted(access: TracedAccess, parts: Sequence[_Part]) -> int:
    value = 0
    for address, _, part in parts:
        shift = 8 * (address - access.address)
        # A device's bits beyond the width of the first piece fall into the second.
        value |= part << shift if shift >= 0 else part >> -shift
    return value


# A region that shares its page with another is read through a buffer, which cuts each piece.
def _shifted_cut(access: TracedAccess, parts: Sequence[_Part]) -> int:
    return _shifted(access, [(a, width, part & ((1 << 8 * width) - 1)) for a, width, part in parts])


def _accumulated(access: TracedAccess, parts: Sequence[_Part]) -> int:
    whole = 0
    for _, width, part in parts:
        if width > 1:  # swapped, and so cut
            cut = part & ((1 << 8 * width) - 1)
            part = int.from_bytes(cut.to_bytes(width, "little"), "big")
        whole = whole << 8 * width | part
    low = whole & ((1 << 8 * access.width) - 1)
    return int.from_bytes(low.to_bytes(access.width, "big"), "little")


# How many entries tell these pieces one by one, what value that makes, and a mask of its bits that
# are told: what was refused to a write is not.
def _told(
    pieces: Sequence[Piece],
    join: _Join,
    access: TracedAccess,
    logged: Sequence[LogEntry],
    at: int,
) -> tuple[int, int, int]:
    known = (1 << 8 * access.width) - 1
    parts: list[_Part] = []
    position = at
    for begin, width in pieces:
        part, cursor, end = 0, begin, begin + width
        while cursor < end:
            if position == len(logged):
                return position + 1 - at, 0, 0  # the entries so far fit
            entry = logged[position]
            last = entry.address + entry.width
            if not _may_be_of(entry, access):
                return 0, 0, 0
            if entry.address == cursor and last <= end:
                if entry.refused and access.direction == "write":
                    known &= ~(((1 << 8 * entry.width) - 1) << 8 * (cursor - access.address))
                part |= entry.value << 8 * (cursor - begin)
                cursor = last
            elif cursor == begin and entry.address <= begin and last >= end and not entry.refused:
                if entry.address < begin and len(pieces) > 1:
                    return 0, 0, 0
                part = entry.value >> 8 * (begin - entry.address)
                cursor = end
            else:
                return 0, 0, 0
            position += 1
        parts.append((begin, width, part))
    return position - at, join(access, parts), known


def _may_be_of(entry: LogEntry, access: TracedAccess) -> bool:
    own = entry.cpu >= 0 or entry.refused or not access.by_vcpu
    return own and entry.direction == access.direction


# INS stores 0 before it reads the port, so that a page fault comes first.
def _restarted(access: TracedAccess, logged: Sequence[LogEntry], at: int) -> tuple[int, bool]:
    if len(logged) - at < 2:
        return 0, False
    dummy, entry = logged[at : at + 2]
    place = access.direction, access.address, access.width
    same = all(
        (one.direction, one.address, one.width) == place and one.cpu >= 0 and not one.refused
        for one in (dummy, entry)
    )
    agrees = same and dummy.value == 0 and access.value in (None, entry.value)
    return 2 * agrees, agrees


# In a row, and as often as an instruction may access each byte.
def _within(access: TracedAccess, logged: Sequence[LogEntry], at: int) -> int:
    times: Counter[tuple[Direction, int]] = Counter()
    position = at
    while position < len(logged):
        entry = logged[position]
        touched = range(entry.address, entry.address + entry.width)
        if (
            (access.by_vcpu and entry.cpu < 0 and not entry.refused)
            or not any(_covers_entry(extent, entry) for extent in access.within)
            or any(times[entry.direction, byte] == _OFTEN[entry.direction] for byte in touched)
        ):
            break
        times.update((entry.direction, byte) for byte in touched)
        position += 1
    return position - at


def _covers_entry(extent: Extent, entry: LogEntry) -> bool:
    if extent.direction not in (entry.direction, "unknown"):
        return False
    begin, end = extent.address, extent.address + extent.size
    if entry.direction == "read":
        begin, end = begin & -_UNIT, end + (-end % _UNIT)
    return begin <= entry.address and entry.address + entry.width <= end
