"""A packed virtqueue: one ring, in which driver and device put descriptors over each other's.

Ref: VIRTIO 1.2, 2.8 (packed virtqueues), 2.8.1 (wrap counters), 2.8.7 (indirect descriptors).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tracer.intercept.queue.virtqueue import (
    INDIRECT,
    MOST_INDIRECT,
    NEXT,
    Chain,
    Descriptor,
    Quiet,
    fault_of_table,
)

LARGEST = 1 << 15
"""Descriptors of a ring, at most."""

AVAILABLE, USED = 1 << 7, 1 << 15
_SIZE = 16
_DESCRIPTOR = struct.Struct("<QIHH")


@dataclass(frozen=True, slots=True)
class Done:
    """Hold what a device has put at ``index`` for a chain that it is done with.

    ``identifier`` is the buffer's, and ``length`` how many bytes were written to it.
    """

    index: int
    place: int
    data: bytes
    identifier: int
    length: int


@dataclass(slots=True)
class PackedRing:
    """Follow one ring; ``wrap`` and ``used_wrap`` are the counters that it begins with.

    ``at`` is where the driver's next chain begins, ``used_at`` where the device tells of the next
    that it is done with, and ``ahead`` how many descriptors lie between. A ``wrap`` of None is not
    known: the next descriptor that is made available tells it.
    """

    at: int = 0
    wrap: bool | None = True
    used_at: int = 0
    used_wrap: bool = True
    ahead: int = 0
    held: dict[int, int] = field(default_factory=dict)
    """How many descriptors each chain has that the device has, by its identifier."""

    def take(
        self, read: Quiet, base: int, size: int, most: int
    ) -> tuple[list[Chain], list[Done], list[str]]:
        """Return what driver and device have put there since, and what is to be said of it.

        ``base`` is the physical address of a ring of ``size`` descriptors. Chains behind ``most``
        descriptors are counted alone.
        """
        self.at, self.used_at = self.at % size, self.used_at % size
        if self.wrap is None and not self._begin(read, base, size):
            return [], [], []
        # The driver's next chains may have the identifiers, and the places, of those done.
        done, said = self._done(read, base, size)
        before = self.at, bool(self.wrap), self.ahead
        chains, more = self._chains(read, base, size, most)
        said += more
        if self.ahead > size:
            self.used_at, self.used_wrap, passed = before
            self.ahead -= passed
            said.append("completions were written over before they were read")
        return chains, done, said

    def done(self, read: Quiet, base: int, size: int) -> tuple[list[Done], list[str]]:
        """Return the chains that the device is done with since, and what is to be said of them.

        Before the driver has told of any chain there are none.
        """
        if self.wrap is None:
            return [], []
        self.used_at %= size
        return self._done(read, base, size)

    def _begin(self, read: Quiet, base: int, size: int) -> bool:
        flags = _flags(read(base + _SIZE * self.at, _SIZE))
        if flags is None or flags[0] == flags[1]:
            return False
        self.wrap = flags[0]
        self.used_wrap = self.wrap if self.used_at <= self.at else not self.wrap
        self.ahead = (self.at - self.used_at) % size
        return True

    def _done(self, read: Quiet, base: int, size: int) -> tuple[list[Done], list[str]]:
        found: list[Done] = []
        seen = 0
        while seen < size:
            place = base + _SIZE * self.used_at
            data = read(place, _SIZE)
            if data is None:
                return found, [f"physical {place:#x} is not RAM"]
            if _flags(data) != (self.used_wrap, self.used_wrap):
                break
            _, length, identifier, _ = _DESCRIPTOR.unpack(data)
            found.append(Done(self.used_at, place, data, identifier, length))
            count = self.held.pop(identifier, 0)
            if not count:
                count = 1 + _tail(read, base, size, self.used_at, self.used_wrap, identifier)
            seen, self.ahead = seen + count, self.ahead - count
            self.used_at, self.used_wrap = _beyond(self.used_at, self.used_wrap, count, size)
        return found, []

    def _chains(
        self, read: Quiet, base: int, size: int, most: int
    ) -> tuple[list[Chain], list[str]]:
        found: list[Chain] = []
        seen = told = missed = 0
        said = []
        wrap = bool(self.wrap)
        while seen < size:
            place = base + _SIZE * self.at
            data = read(place, _SIZE)
            if data is None:
                said.append(f"physical {place:#x} is not RAM")
                break
            flags = _flags(data)
            if flags == (wrap, not wrap):
                chain, count = self._chain(read, base, size, max(0, most - told))
                if told < most:
                    found.append(chain)
                told += len(chain.descriptors) or count
                self.held[chain.head] = count
            elif flags == (wrap, wrap):
                # The device was done with it before any doorbell, and has written over its first.
                identifier = _DESCRIPTOR.unpack(data)[2]
                count = 1 + _tail(read, base, size, self.at, wrap, identifier)
                missed += 1
            else:
                break
            seen, self.ahead = seen + count, self.ahead + count
            self.at, wrap = _beyond(self.at, wrap, count, size)
        self.wrap = wrap
        if told > most:
            said.append(f"{told - most} more entries")
        if missed:
            said.append(f"{missed} chains were done before this doorbell")
        return found, said

    def _chain(self, read: Quiet, base: int, size: int, most: int) -> tuple[Chain, int]:
        # Returns a chain with its first descriptors, and how many of the ring it takes.
        found: list[Descriptor] = []
        at, count, identifier = self.at, 0, 0
        while True:
            place = base + _SIZE * at
            data = read(place, _SIZE)
            if data is None:
                fault = f"descriptor {at} at physical {place:#x} is not in RAM"
                return Chain(identifier, tuple(found), fault), max(count, 1)
            address, length, identifier, flags = _DESCRIPTOR.unpack(data)
            count += 1
            each = Descriptor(at, place, data, address, length, flags, identifier, indirect=False)
            fault = ""
            if len(found) < most:
                found.append(each)
                if flags & INDIRECT:
                    fault = _table(read, address, length, found)
            if fault or not flags & NEXT:
                return Chain(identifier, tuple(found), fault), count
            if count == size:
                return Chain(identifier, tuple(found), "the chain has no end"), count
            at = (at + 1) % size


def _tail(read: Quiet, base: int, size: int, first: int, wrap: bool, identifier: int) -> int:
    # Counts the descriptors behind the first of a chain that was done before it was seen.
    at, wrap = _beyond(first, wrap, 1, size)
    for count in range(size - 1):
        data = read(base + _SIZE * at, _SIZE)
        if data is None:
            return count
        if _DESCRIPTOR.unpack(data)[2] != identifier or _flags(data) != (wrap, not wrap):
            return count
        at, wrap = _beyond(at, wrap, 1, size)
    return size - 1


def _table(read: Quiet, address: int, length: int, found: list[Descriptor]) -> str:
    # Appends the descriptors of a table, which follow each other; returns what is wrong with it.
    fault = fault_of_table(length)
    if fault:
        return fault
    for at in range(min(length // _SIZE, MOST_INDIRECT)):
        place = address + _SIZE * at
        data = read(place, _SIZE)
        if data is None:
            return f"descriptor {at} at physical {place:#x} is not in RAM"
        start, size, identifier, flags = _DESCRIPTOR.unpack(data)
        found.append(Descriptor(at, place, data, start, size, flags, identifier, indirect=True))
        if flags & INDIRECT:
            return "a table has a table"
    return ""


def _flags(data: bytes | None) -> tuple[bool, bool] | None:
    # The two bits that tell whose a descriptor is, AVAIL and USED.
    if data is None:
        return None
    flags = _DESCRIPTOR.unpack(data)[3]
    return bool(flags & AVAILABLE), bool(flags & USED)


def _beyond(at: int, wrap: bool, count: int, size: int) -> tuple[int, bool]:
    # The place so many descriptors on, and the counter there.
    turns, place = divmod(at + count, size)
    return place, wrap if turns % 2 == 0 else not wrap
