"""Doorbells: the entries of the queue that one rings for, read in the guest's RAM.

What a device is done with is read when it interrupts, or else at the next doorbell.

The registers that say where queues are are followed as they are accessed. A guest may be hostile:
what it says is never believed further than its RAM goes, and no chain is followed without an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy, deepcopy
from dataclasses import dataclass, field
from itertools import islice

from tracer.access.region import Region
from tracer.devices.entry import Entry
from tracer.devices.map import Named
from tracer.devices.queue import Queue, Virtqueue
from tracer.intercept.queue.packed import LARGEST, PackedRing
from tracer.intercept.queue.registers import (
    PAGE,
    QueueRegisters,
    beside,
    number_in,
    number_of,
    places,
)
from tracer.intercept.queue.ring import MOST_COUNT, Ring
from tracer.intercept.queue.told import MOST_ENTRIES, Rung, Told
from tracer.intercept.queue.virtqueue import chain_of
from tracer.trace.naming import Naming
from tracer.trace.queue import QueueRecord
from tracer.trace.record import Intercept, MemoryAccess

_MOST_LOOKED = 256
"""Queues of a device that are looked at for what it is done with."""

Key = tuple[str, str, int]
"""A queue: the name of its region, its own, and its number."""

Ram = Callable[[int, int], bytes]
"""Returns bytes at a physical address, or raises LookupError when part of them is not RAM."""


@dataclass(slots=True)
class _Virtqueue:
    # A virtqueue of one number: how far its doorbell has told, and its device, if it is split.

    last: int | None = 0
    used: int = 0
    packed: PackedRing = field(default_factory=PackedRing)


class Doorbells:
    """Follow the queues of one guest's devices; ``naming`` knows their maps, ``ram`` its RAM.

    ``shared`` is the mask of the bit that physical addresses of a confidential guest may have.
    """

    def __init__(self, naming: Naming, ram: Ram, shared: Callable[[], int] = lambda: 0) -> None:
        self._registers = QueueRegisters(naming)
        self._ram = ram
        self._shared = shared
        self._rings: dict[Key, Ring] = {}
        self._virtqueues: dict[Key, _Virtqueue] = {}
        self._rang: set[str] = set()

    # ---- which registers

    def queues(self, region: str) -> tuple[Queue, ...]:
        """Return the kinds of queue that a region has doorbells of."""
        return self._registers.queues(region)

    def doorbells(self, region: str, size: int) -> Iterator[range]:
        """Yield the offsets of a region of ``size`` bytes at which doorbells are."""
        found = self._registers.map_of(region)
        if found is None:
            return
        for queue in found.queues:
            yield from places(found, queue, size)

    # ---- what comes in

    def learn(self, access: MemoryAccess, named: Named | None) -> None:
        """Take what was read from, or written to, a register that says where queues are."""
        region = access.region
        if region is None or named is None or access.value is None:
            return
        self._registers.learn(region, named, access.value)
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
        where = beside(region, queue)
        areas = zip(queue.areas.values(), (known.descriptors, known.available, known.used),
                    strict=False)  # fmt: skip
        values = {queue.count: known.size, **dict(areas), queue.packed: int(known.packed)}
        if not queue.areas:
            values[queue.pages] = known.descriptors // PAGE
        for name, value in values.items():
            self._registers.give(where, name, known.number, value)
        place = None if known.taken is None else known.taken % known.size
        self._virtqueues[region, queue.name, known.number] = _Virtqueue(
            last=known.taken, used=known.done,
            packed=PackedRing(place or 0, None, known.done % known.size),
        )  # fmt: skip

    def asked(self, region: Region) -> Iterator[Entry]:
        """Yield the registers that say where the rings of a device are that was set up before."""
        found = self._registers.map_of(region.name)
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
            self._registers.suppose(region.name, name, value)
        for queue in self._begun(region):
            number = number_in(queue.doorbell)
            self._rings[region.name, queue.name, number] = Ring(last=None, seen=None)
            self._recall(region.name, queue, number)

    def _begun(self, region: Region) -> list[Queue]:
        queues = self.queues(region.name)
        return [each for each in queues if each.kind == "ring" and not each.made
                and not each.registers]  # fmt: skip

    def _recall(self, region: str, maker: Queue, number: int) -> None:
        base, count = self._registers.place(region, maker, number)
        if not base or not count or not 1 <= count <= MOST_COUNT or maker.entry is None:
            return
        made: dict[Key, set[tuple[int | None, int | None]]] = {}
        for at in range(count):
            data = self._quiet(base + at * maker.entry.size, maker.entry.size)
            if data is None:
                return
            for key, ring in self._makes(region, maker, maker.entry.numbers(data)):
                made.setdefault(key, set()).add((ring.base, ring.count))
        for key, said in made.items():
            if len(said) == 1:
                ((first, entries),) = said
                self._rings[key] = Ring(first, entries, last=None, seen=None)

    def _reset(self, region: str, named: Named) -> None:
        told = {part.name for part in named.parts}
        for key in self._keys():
            queue = next((each for each in self.queues(key[0]) if each.name == key[1]), None)
            if queue is None or not queue.reset or beside(key[0], queue) != region:
                continue
            reset = self._registers.value(region, queue.reset, 0)
            if queue.reset.partition(".")[0] in told and not reset:
                self._rings.pop(key, None)
                self._virtqueues.pop(key, None)
                self._registers.reset(region)

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
        found = self.bell(region, named)
        if found is None:
            return None
        queue, number = found
        told = Told(self._quiet)
        self._rang.add(region)
        if queue.kind == "virtqueue":
            number = value & 0xFFFF
            self._virtqueue(region, queue, number, told)
        else:
            self._ring(region, queue, number, value, told)
        return Rung.of((region, queue.name, number), told)

    def bell(self, region: str, named: Named | None) -> tuple[Queue, int] | None:
        """Return the queue whose doorbell a register is, and the number in its name.

        None where it is none.
        """
        if named is None:
            return None
        for queue in self.queues(region):
            number = number_of(queue, named.parts[0].name)
            if number is not None:
                return queue, number
        return None

    def completed(self, device: str) -> Iterator[Rung]:
        """Yield what a device is done with that nobody has been told, by each queue that has some.

        That is what virtqueues have in their used rings, and rings whose entries have a phase.
        """
        for region in self._rang:
            for queue in self.queues(region):
                if queue.phase and not queue.made and "{}" not in queue.doorbell:
                    key = region, queue.name, number_in(queue.doorbell)
                    self._rings.setdefault(key, Ring())
        keys = (key for key in self._keys() if self._registers.device_of(key[0]) == device)
        for key in islice(keys, _MOST_LOOKED):
            region, name, number = key
            queue = next(each for each in self.queues(region) if each.name == name)
            told = Told(self._quiet)
            if queue.kind == "virtqueue":
                self._used(region, queue, number, told)
            elif queue.phase:
                ring = self._rings[key]
                if queue.made is None:
                    ring.base, ring.count = self._registers.place(region, queue, number)
                if queue.entry is not None:
                    ring.complete(queue, queue.entry, told, ~self._shared())
            if told.entries:
                yield Rung.of(key, told)

    def copy(self) -> Doorbells:
        """Return what knows the same, for a look that nothing is to be remembered of."""
        made = copy(self)
        made._rings = deepcopy(self._rings)
        made._virtqueues = deepcopy(self._virtqueues)
        return made

    def ahead(
        self, record: Intercept, seq: int, access: MemoryAccess, named: Named | None
    ) -> QueueRecord | None:
        """Return the same of an access that is about to be made, and remember nothing of it."""
        return self.copy().rung(record, seq, access, named)

    # ---- a ring

    def _keys(self) -> list[Key]:
        return [*self._rings, *self._virtqueues]

    def _ring(self, region: str, queue: Queue, number: int, value: int, told: Told) -> None:
        ring = self._rings.setdefault((region, queue.name, number), Ring())
        if queue.made is None:
            ring.base, ring.count = self._registers.place(region, queue, number)
        assert queue.entry is not None  # or it is a virtqueue
        for numbers in ring.take(queue, queue.entry, value, told, ~self._shared()):
            self._rings.update(self._makes(region, queue, numbers))

    def _makes(
        self, region: str, maker: Queue, numbers: dict[str, int]
    ) -> Iterator[tuple[Key, Ring]]:
        # Yields the queues that an entry makes.
        for queue in self.queues(region):
            made = queue.made
            if made is None or made.queue != maker.name:
                continue
            if all(numbers[name] == value for name, value in made.when.items()):
                count = numbers[made.count] + queue.less_one
                key = region, queue.name, numbers[made.number]
                yield key, Ring(numbers[made.base], count)

    # ---- a virtqueue

    def _virtqueue(self, region: str, queue: Queue, number: int, told: Told) -> None:
        found = self._areas(region, queue, number, told)
        if found is None:
            return
        size, packed, (descriptors, available, used) = found
        ring = self._virtqueues.setdefault((region, queue.name, number), _Virtqueue())
        if packed:
            self._packed(ring.packed, descriptors, size, told)
            return
        # Chains that are done come before new ones, which may have the same numbers.
        ring.used = told.used(used, size, ring.used)
        ahead = told.word(available + 2)
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
            head = told.word(available + 4 + 2 * (turn % size))
            if head is None or told.full:
                break
            told.chain(chain_of(self._quiet, descriptors, size, head))

    def _areas(
        self, region: str, queue: Queue, number: int, told: Told
    ) -> tuple[int, bool, tuple[int, int, int]] | None:
        # Returns the size of a virtqueue, whether it is packed, and where its areas are.
        where, registers = beside(region, queue), self._registers
        size = registers.value(where, queue.count, number)
        areas = registers.areas(region, queue, number)
        if not size or areas is None:
            told.notes.append("where it is was not seen")
            return None
        packed = bool(queue.packed and registers.value(where, queue.packed, number))
        if size > LARGEST or (size & size - 1 and not packed):
            told.notes.append(f"it is to have {size} descriptors")
            return None
        mask = ~self._shared()
        return size, packed, (areas[0] & mask, areas[1] & mask, areas[2] & mask)

    def _used(self, region: str, queue: Queue, number: int, told: Told) -> None:
        # Tells the chains that the device is done with.
        ring = self._virtqueues[region, queue.name, number]
        found = self._areas(region, queue, number, told)
        if found is None:
            return
        size, packed, (descriptors, _, used) = found
        if not packed:
            ring.used = told.used(used, size, ring.used)
            return
        done, said = ring.packed.done(self._quiet, descriptors, size)
        told.all_done(done)
        told.notes.extend(said)

    def _packed(self, ring: PackedRing, base: int, size: int, told: Told) -> None:
        chains, done, said = ring.take(self._quiet, base, size, MOST_ENTRIES)
        told.all_done(done)
        for chain in chains:
            told.chain(chain, "id")
        told.notes.extend(said)

    def _quiet(self, physical: int, size: int) -> bytes | None:
        try:
            return self._ram(physical & ~self._shared(), size)
        except LookupError:
            return None
