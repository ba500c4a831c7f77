"""Entries of a queue that a doorbell tells, as read in the guest's RAM, and notes on the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tracer.devices.queue import Layout
from tracer.intercept.queue.packed import Done
from tracer.intercept.queue.virtqueue import Chain, Quiet, used_of
from tracer.trace.queue import QueueEntry, QueueRecord
from tracer.trace.record import Intercept

MOST_ENTRIES = 64
"""Entries of one doorbell that are told."""

_LAPS = 1 << 16
"""Indices of a split virtqueue are counted so far, and then from 0 again (VIRTIO 1.2, 2.7.6)."""


class Told:
    """Gather the entries of a queue, which ``look`` reads, and ``notes`` on what is missing."""

    def __init__(self, look: Quiet) -> None:
        self.entries: list[QueueEntry] = []
        self.notes: list[str] = []
        self.look = look

    @property
    def full(self) -> bool:
        """Tell whether no more entries are told."""
        return len(self.entries) >= MOST_ENTRIES

    def read(self, physical: int, size: int) -> bytes | None:
        """Return bytes at a physical address; None, with a note, where that is not all RAM."""
        data = self.look(physical, size)
        if data is None:
            self.notes.append(f"physical {physical:#x} is not RAM")
        return data

    def word(self, physical: int) -> int | None:
        """Return the 16 bits at a physical address, as :meth:`read` does."""
        data = self.read(physical, 2)
        return None if data is None else int.from_bytes(data, "little")

    def chain(self, chain: Chain, last: str = "next") -> None:
        """Tell the descriptors of a chain; ``last`` names the last member of one."""
        for each in chain.descriptors[: MOST_ENTRIES - len(self.entries)]:
            self.entries.append(QueueEntry(
                kind="indirect" if each.indirect else "descriptor", index=each.index,
                physical=each.place, data=each.data, chain=chain.head,
                fields={"addr": each.address, "len": each.length, "flags": each.flags,
                        last: each.next},
                text=each.text,
            ))  # fmt: skip
        if chain.fault:
            self.notes.append(f"chain {chain.head}: {chain.fault}")

    def entry(self, layout: Layout, index: int, physical: int, data: bytes) -> None:
        """Tell an entry of a ring, by its layout."""
        self.entries.append(QueueEntry(
            kind=layout.name, index=index, physical=physical, data=data,
            fields=layout.numbers(data), text=layout.text(data) or None,
        ))  # fmt: skip

    def all_done(self, done: Iterable[Done]) -> None:
        """Tell chains of a packed virtqueue that the device is done with."""
        for each in done:
            if self.overflows():
                break
            self.done(each.index, each.place, each.data, each.identifier, each.length)

    def done(self, index: int, physical: int, data: bytes, chain: int, length: int) -> None:
        """Tell a chain that the device is done with, by its entry in the ring."""
        self.entries.append(QueueEntry(
            kind="used", index=index, physical=physical, data=data,
            fields={"id": chain, "len": length},
            text=f"chain {chain} is done, {length} bytes written",
        ))  # fmt: skip

    def overflows(self) -> bool:
        """Tell whether there is no room for another used entry, and note that."""
        if self.full:
            self.notes.append("more entries were used")
        return self.full

    def used(self, ring: int, size: int, seen: int) -> int:
        """Tell what is new in a used ring, of which ``seen`` were there; return how many are now.

        ``ring`` is its physical address, ``size`` the number of its entries.
        """
        there = self.word(ring + 2)
        if there is None:
            return seen
        new = min((there - seen) % _LAPS, size)
        first = (there - new) % _LAPS
        for at in (turn % size for turn in range(first, first + new)):
            place = ring + 4 + 8 * at
            data = None if self.overflows() else self.read(place, 8)
            if data is None:
                break
            self.done(at, place, data, *used_of(data))
        return there


@dataclass(frozen=True, slots=True)
class Rung:
    """Hold what was in a queue when its doorbell was rung, or when its device interrupted."""

    region: str
    queue: str
    number: int
    entries: tuple[QueueEntry, ...]
    note: str | None

    @classmethod
    def of(cls, key: tuple[str, str, int], told: Told) -> Rung:
        """Return what was told of the queue of a region, a kind and a number."""
        return cls(*key, tuple(told.entries), "; ".join(told.notes) or None)

    def record(self, record: Intercept, seq: int, *, late: bool = False) -> QueueRecord:
        """Return it as what the access of number ``seq`` was about."""
        return QueueRecord(
            time_ns=record.time_ns,
            seq=seq,
            vcpu=record.vcpu,
            region=self.region,
            queue=self.queue,
            number=self.number,
            entries=list(self.entries),
            late=late,
            note=self.note,
        )
