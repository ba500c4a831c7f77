"""Doorbells: the entries of the queue that one rings for, read in the guest's RAM.

The registers that say where queues are are followed as they are accessed. A guest may be hostile:
what it says is never believed further than its RAM goes, and no chain is followed without an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from tracer.access.region import Region
from tracer.devices.entry import Entry
from tracer.devices.map import Named, RegisterMap
from tracer.devices.queue import Queue, Virtqueue
from tracer.intercept.queue.packed import LARGEST, PackedRing
from tracer.intercept.queue.virtqueue import Chain, chain_of, legacy_areas, used_of
from tracer.trace.naming import Naming
from tracer.trace.queue import QueueEntry, QueueRecord
from tracer.trace.record import Intercept, MemoryAccess

MOST_ENTRIES = 64
"""Entries of one doorbell that are told."""

_MOST_COUNT = 1 << 16
_PAGE = 4096  # of a legacy device without a register that says so

Ram = Callable[[int, int], bytes]
"""Returns bytes at a physical address, or raises LookupError when part of them is not RAM."""


@dataclass(slots=True)
class _Ring:
    # A queue of one number: where it is, and how far its doorbell has told.

    base: int | None = None
    count: int | None = None
    last: int | None = 0
    used: int = 0
    packed: PackedRing = field(default_factory=PackedRing)


@dataclass(slots=True)
class _Told:
    # Entries of a queue that were read so far, and what could not be.

    entries: list[QueueEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.entries) >= MOST_ENTRIES


@dataclass(frozen=True, slots=True)
class Rung:
    """Hold what was in a queue when its doorbell was rung."""

    region: str
    queue: str
    number: int
    entries: tuple[QueueEntry, ...]
    note: str | None

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


class Doorbells:
    """Follow the queues of one guest's devices; ``naming`` knows their maps, ``ram`` its RAM.

    ``shared`` is the mask of the bit that physical addresses of a confidential guest may have.
    """

    def __init__(self, naming: Naming, ram: Ram, shared: Callable[[], int] = lambda: 0) -> None:
        self._naming = naming
        self._ram = ram
        self._shared = shared
        self._values: dict[tuple[str, str], int] = {}
        self._rings: dict[tuple[str, str, int], _Ring] = {}
        self._given: set[tuple[str, str]] = set()

    # ---- which registers

    def queues(self, region: str) -> tuple[Queue, ...]:
        """Return the kinds of queue that a region has doorbells of."""
        found = self._naming.map_of(region)
        return () if found is None else found.queues

    def doorbells(self, region: str, size: int) -> Iterator[range]:
        """Yield the offsets of a region of ``size`` bytes at which doorbells are."""
        found = self._naming.map_of(region)
        if found is None:
            return
        for queue in found.queues:
            yield from _places(found, queue, size)

    # ---- what comes in

    def learn(self, access: MemoryAccess, named: Named | None) -> None:
        """Take what was read from, or written to, a register that says where queues are."""
        region = access.region
        if region is None or named is None or access.value is None:
            return
        for part in named.parts:
            mask = (1 << part.bits) - 1 << part.first
            old = self._values.get((region, part.name), 0)
            value = part.value(access.value) << part.first
            self._values[region, part.name] = old & ~mask | value
        if access.direction == "write":
            self._reset(region, named)

    def adopt(self, regions: Iterable[Region], queues: Iterable[Virtqueue]) -> None:
        """Take over virtqueues that were set up before, by those who know where they are."""
        known = [*queues]
        for region in regions:
            for queue in self.queues(region.name):
                if queue.kind == "virtqueue":
                    for each in known:
                        if each.device in region.owners:
                            self._adopt(region.name, queue, each)

    def _adopt(self, region: str, queue: Queue, known: Virtqueue) -> None:
        beside, number = _beside(region, queue), str(known.number)
        areas = zip(queue.areas.values(), (known.descriptors, known.available, known.used),
                    strict=False)  # fmt: skip
        values = {queue.count: known.size, **dict(areas), queue.packed: int(known.packed)}
        if not queue.areas:
            values[queue.pages] = known.descriptors // _PAGE
        for name, value in values.items():
            key = beside, name.replace("{}", number)
            if name and key not in self._values:
                self._values[key] = value
                self._given.add(key)
        place = None if known.taken is None else known.taken % known.size
        self._rings[region, queue.name, known.number] = _Ring(
            last=known.taken, used=known.done,
            packed=PackedRing(place or 0, None, known.done % known.size),
        )  # fmt: skip

    def asked(self, region: Region) -> Iterator[Entry]:
        """Yield the registers that say where the rings of a device are that was set up before."""
        found = self._naming.map_of(region.name)
        for queue in self._begun(region):
            if found is not None:
                yield from found.find(queue.base)
                yield from found.find(queue.count.partition(".")[0])

    def begin(self, region: Region, values: Mapping[str, int]) -> None:
        """Take over the rings of such a device, from the values of its registers.

        Queues that entries have made are known as far as all such entries agree that are still in
        their ring.
        """
        for name, value in values.items():
            self._values.setdefault((region.name, name), value)
        for queue in self._begun(region):
            number = _bare(queue.doorbell)
            self._rings[region.name, queue.name, number] = _Ring(last=None)
            self._recall(region.name, queue, number)

    def _begun(self, region: Region) -> list[Queue]:
        queues = self.queues(region.name)
        return [each for each in queues if each.kind == "ring" and not each.made
                and not each.registers]  # fmt: skip

    def _recall(self, region: str, maker: Queue, number: int) -> None:
        base, count = self._place(region, maker, number)
        if not base or not count or not 1 <= count <= _MOST_COUNT or maker.entry is None:
            return
        made: dict[tuple[str, str, int], set[tuple[int | None, int | None]]] = {}
        for at in range(count):
            data = self._quiet(base + at * maker.entry.size, maker.entry.size)
            if data is None:
                return
            for key, ring in self._makes(region, maker, maker.entry.numbers(data)):
                made.setdefault(key, set()).add((ring.base, ring.count))
        for key, places in made.items():
            if len(places) == 1:
                ((first, entries),) = places
                self._rings[key] = _Ring(first, entries, last=None)

    def _reset(self, region: str, named: Named) -> None:
        told = {part.name for part in named.parts}
        for key in list(self._rings):
            queue = next((each for each in self.queues(key[0]) if each.name == key[1]), None)
            if queue is None or not queue.reset or _beside(key[0], queue) != region:
                continue
            if queue.reset.partition(".")[0] in told and not self._value(region, queue.reset, 0):
                del self._rings[key]
                for given in [each for each in self._given if each[0] == region]:
                    self._given.discard(given)
                    self._values.pop(given, None)

    def rung(
        self, record: Intercept, seq: int, access: MemoryAccess, named: Named | None, *,
        late: bool = False,
    ) -> QueueRecord | None:  # fmt: skip
        """Return what the doorbell told that an access has rung, None where it is none."""
        region, value = access.region, access.value
        if region is None or value is None or access.direction != "write":
            return None
        if access.device is not None:
            value = access.device  # a rule has given the device another one
        found = self.look(region, value, named)
        return None if found is None else found.record(record, seq, late=late)

    def look(self, region: str, value: int, named: Named | None) -> Rung | None:
        """Return what a doorbell tells that is written a value, None where it is none."""
        if named is None:
            return None
        for queue in self.queues(region):
            number = _number(queue, named.parts[0].name)
            if number is None:
                continue
            told = _Told()
            if queue.kind == "virtqueue":
                number = value & 0xFFFF
                self._virtqueue(region, queue, number, told)
            else:
                self._ring(region, queue, number, value, told)
            note = "; ".join(told.notes) or None
            return Rung(region, queue.name, number, tuple(told.entries), note)
        return None

    def ahead(
        self, record: Intercept, seq: int, access: MemoryAccess, named: Named | None
    ) -> QueueRecord | None:
        """Return the same of an access that is about to be made, and remember nothing of it."""
        kept = deepcopy(self._rings)
        try:
            return self.rung(record, seq, access, named)
        finally:
            self._rings = kept

    # ---- a ring

    def _ring(self, region: str, queue: Queue, number: int, value: int, told: _Told) -> None:
        ring = self._rings.get((region, queue.name, number))
        if ring is None:
            ring = self._rings[region, queue.name, number] = _Ring()
        if queue.made is None:
            ring.base, ring.count = self._place(region, queue, number)
        layout, base, count = queue.entry, ring.base, ring.count
        assert layout is not None  # or it is a virtqueue
        if base is None or count is None:
            told.notes.append("where it is was not seen")
            ring.last = None
            return
        if not 1 <= count <= _MOST_COUNT:
            told.notes.append(f"it is to have {count} entries")
            return
        if value >= count:
            told.notes.append(f"index {value} lies outside its {count} entries")
            return
        first = (value - 1) % count if ring.last is None or ring.last >= count else ring.last
        if ring.last is None:
            told.notes.append("entries before this one may be new as well")
        ring.last = value
        total = (value - first) % count
        for index in range(first, first + total):
            if told.full:
                told.notes.append(f"{total - MOST_ENTRIES} more entries")
                break
            at = index % count
            physical = base + at * layout.size & ~self._shared()
            data = self._read(physical, layout.size, told)
            if data is None:
                break
            numbers = layout.numbers(data)
            told.entries.append(QueueEntry(
                kind=layout.name, index=at, physical=physical, data=data, fields=numbers,
                text=layout.text(data) or None,
            ))  # fmt: skip
            self._make(region, queue, numbers)

    def _place(self, region: str, queue: Queue, number: int) -> tuple[int | None, int | None]:
        beside = _beside(region, queue)
        base = self._value(beside, queue.base, number)
        count = self._value(beside, queue.count, number)
        return base, None if count is None else count + queue.less_one

    def _make(self, region: str, maker: Queue, numbers: dict[str, int]) -> None:
        # Takes notice of a queue that an entry makes.
        self._rings.update(self._makes(region, maker, numbers))

    def _makes(
        self, region: str, maker: Queue, numbers: dict[str, int]
    ) -> Iterator[tuple[tuple[str, str, int], _Ring]]:
        for queue in self.queues(region):
            made = queue.made
            if made is None or made.queue != maker.name:
                continue
            if all(numbers[name] == value for name, value in made.when.items()):
                count = numbers[made.count] + queue.less_one
                key = region, queue.name, numbers[made.number]
                yield key, _Ring(numbers[made.base], count)

    # ---- a virtqueue

    def _virtqueue(self, region: str, queue: Queue, number: int, told: _Told) -> None:
        beside = _beside(region, queue)
        size = self._value(beside, queue.count, number)
        places = self._areas(beside, queue, number, size or 0)
        if not size or places is None:
            told.notes.append("where it is was not seen")
            return
        descriptors, available, used = places
        packed = bool(queue.packed and self._value(beside, queue.packed, number))
        if size > LARGEST or (size & size - 1 and not packed):
            told.notes.append(f"it is to have {size} descriptors")
            return
        ring = self._rings.setdefault((region, queue.name, number), _Ring())
        if packed:
            self._packed(ring.packed, descriptors & ~self._shared(), size, told)
            return
        # Chains that are done come before new ones, which may have the same numbers.
        self._tell_used(used & ~self._shared(), size, ring, told)
        ahead = self._word(available + 2, told)
        if ahead is None:
            return
        if ring.last is None:
            told.notes.append("entries before this one may be new as well")
            ring.last = (ahead - 1) % (1 << 16)
        first = ring.last
        new = (ahead - first) % (1 << 16)
        ring.last = ahead
        if new > size:
            told.notes.append(f"{new} new chains are told of in a ring of {size}")
            first, new = (ahead - size) % (1 << 16), size
        for turn in range(first, first + new):
            head = self._word(available + 4 + 2 * (turn % size), told)
            if head is None or told.full:
                break
            chain = chain_of(self._quiet, descriptors & ~self._shared(), size, head)
            self._tell_chain(chain, told)

    def _areas(
        self, beside: str, queue: Queue, number: int, size: int
    ) -> tuple[int, int, int] | None:
        # Returns where descriptors, available and used ring are, None where that was not seen.
        page = self._value(beside, queue.pages, number) if queue.pages else None
        if page:
            unit = self._value(beside, queue.page, number) if queue.page else _PAGE
            align = self._value(beside, queue.align, number) if queue.align else _PAGE
            return None if not unit or not align else legacy_areas(page * unit, size, align)
        found = [self._value(beside, name, number) for name in queue.areas.values()]
        first, second, third = found or (None, None, None)
        if first is None or second is None or third is None:
            return None
        return first, second, third

    def _packed(self, ring: PackedRing, base: int, size: int, told: _Told) -> None:
        chains, done, said = ring.take(self._quiet, base, size, MOST_ENTRIES)
        for each in done:
            if told.full:
                told.notes.append("more entries were used")
                break
            told.entries.append(_used(each.index, each.place, each.data, each.identifier,
                                      each.length))  # fmt: skip
        for chain in chains:
            self._tell_chain(chain, told, "id")
        told.notes.extend(said)

    def _tell_chain(self, chain: Chain, told: _Told, last: str = "next") -> None:
        for each in chain.descriptors[: MOST_ENTRIES - len(told.entries)]:
            told.entries.append(QueueEntry(
                kind="indirect" if each.indirect else "descriptor", index=each.index,
                physical=each.place, data=each.data, chain=chain.head,
                fields={"addr": each.address, "len": each.length, "flags": each.flags,
                        last: each.next},
                text=each.text,
            ))  # fmt: skip
        if chain.fault:
            told.notes.append(f"chain {chain.head}: {chain.fault}")

    def _tell_used(self, used: int, size: int, ring: _Ring, told: _Told) -> None:
        done = self._word(used + 2, told)
        if done is None:
            return
        new = min((done - ring.used) % (1 << 16), size)
        first = (done - new) % (1 << 16)
        ring.used = done
        for turn in range(first, first + new):
            if told.full:
                told.notes.append("more entries were used")
                return
            at = turn % size
            data = self._read(used + 4 + 8 * at, 8, told)
            if data is None:
                return
            head, length = used_of(data)
            told.entries.append(_used(at, used + 4 + 8 * at, data, head, length))

    # ---- values and RAM

    def _value(self, region: str, name: str, number: int) -> int | None:
        # The value of a register, or of a field of it behind its last point.
        text = name.replace("{}", str(number))
        known = self._values.get((region, text))
        if known is not None:
            return known
        register, _, part = text.rpartition(".")
        known = self._values.get((region, register))
        found = self._naming.map_of(region)
        if known is None or found is None:
            return None
        for entry in found.find(register):
            for each in entry.register.fields:
                if each.name == part:
                    return each.of(known)
        return None

    def _word(self, physical: int, told: _Told) -> int | None:
        data = self._read(physical & ~self._shared(), 2, told)
        return None if data is None else int.from_bytes(data, "little")

    def _read(self, physical: int, size: int, told: _Told) -> bytes | None:
        data = self._quiet(physical, size)
        if data is None:
            told.notes.append(f"physical {physical:#x} is not RAM")
        return data

    def _quiet(self, physical: int, size: int) -> bytes | None:
        try:
            return self._ram(physical & ~self._shared(), size)
        except LookupError:
            return None


def _used(index: int, physical: int, data: bytes, chain: int, length: int) -> QueueEntry:
    return QueueEntry(
        kind="used", index=index, physical=physical, data=data,
        fields={"id": chain, "len": length},
        text=f"chain {chain} is done, {length} bytes written",
    )  # fmt: skip


def _beside(region: str, queue: Queue) -> str:
    # The region that has the registers of a queue.
    return f"{region.rpartition('.')[0]}.{queue.registers}" if queue.registers else region


def _number(queue: Queue, register: str) -> int | None:
    # The number of the queue whose doorbell a register is, None where it is none.
    pattern = re.escape(queue.doorbell).replace(r"\{\}", r"(\d+)")
    found = re.fullmatch(pattern, register)
    if found is None:
        return None
    return int(found[1]) if found.groups() else _bare(queue.doorbell)


def _bare(doorbell: str) -> int:
    found = re.search(r"\d+", doorbell)
    return int(found[0]) if found else 0


def _places(found: RegisterMap, queue: Queue, size: int) -> Iterator[range]:
    name = queue.doorbell.replace("{}", "*")
    for entry in found.find(name) or found.find(queue.doorbell):
        end = entry.offset + entry.register.width
        if entry.repeats:
            stride, count = entry.repeats[0]
            end = size if count is None else min(entry.offset + stride * count, size)
        yield range(entry.offset, max(end, entry.offset + 1))
