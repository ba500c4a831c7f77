"""The registers that say where a device's queues are, and which of them are doorbells."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tracer.devices.map import Named, RegisterMap
from tracer.devices.queue import Queue
from tracer.devices.tree import Field
from tracer.intercept.queue.virtqueue import legacy_areas
from tracer.trace.naming import Naming

PAGE = 4096
"""Bytes of a page of a legacy device that has no register to say so."""


class QueueRegisters:
    """Follow the registers of one guest's devices, by the maps that ``naming`` knows.

    A name may have ``{}`` in it, for the number of the queue that the register is of.
    """

    def __init__(self, naming: Naming) -> None:
        self._naming = naming
        self._values: dict[tuple[str, str], int] = {}
        self._given: set[tuple[str, str]] = set()
        # By region and name, with the map that has the field: a region's may become another one.
        self._fields: dict[tuple[str, str], tuple[RegisterMap, Field | None]] = {}

    def map_of(self, region: str) -> RegisterMap | None:
        """Return the map of a region's registers."""
        return self._naming.map_of(region)

    def queues(self, region: str) -> tuple[Queue, ...]:
        """Return the kinds of queue that a region has doorbells of."""
        found = self.map_of(region)
        return () if found is None else found.queues

    def device_of(self, region: str) -> str:
        """Return the name of the device that a region belongs to."""
        return self._naming.device_of(region)

    # ---- what comes in

    def learn(self, region: str, named: Named, value: int) -> None:
        """Take a value that was read from a register, or written to it."""
        for part in named.parts:
            mask = (1 << part.bits) - 1 << part.first
            old = self._values.get((region, part.name), 0)
            self._values[region, part.name] = old & ~mask | part.value(value) << part.first

    def give(self, region: str, name: str, number: int, value: int) -> None:
        """Take a value from who knows it otherwise, unless it was learned; a reset ends it."""
        key = region, _numbered(name, number)
        if name and key not in self._values:
            self._values[key] = value
            self._given.add(key)

    def suppose(self, region: str, name: str, value: int) -> None:
        """Take a value that was read before anybody followed the register."""
        self._values.setdefault((region, name), value)

    def reset(self, region: str) -> None:
        """Forget the values that were given of a region."""
        for key in [each for each in self._given if each[0] == region]:
            self._given.discard(key)
            self._values.pop(key, None)

    # ---- what they say

    def value(self, region: str, name: str, number: int) -> int | None:
        """Return the value of a register, or of a field of it behind its last point."""
        text = _numbered(name, number)
        known = self._values.get((region, text))
        if known is not None:
            return known
        known = self._values.get((region, text.rpartition(".")[0]))
        field = None if known is None else self._field(region, text)
        return None if known is None or field is None else field.of(known)

    def _field(self, region: str, text: str) -> Field | None:
        found = self.map_of(region)
        if found is None:
            return None
        held, field = self._fields.get((region, text), (None, None))
        if held is not found:
            register, _, part = text.rpartition(".")
            fields = (each for entry in found.find(register) for each in entry.register.fields)
            field = next((each for each in fields if each.name == part), None)
            self._fields[region, text] = found, field
        return field

    def place(self, region: str, queue: Queue, number: int) -> tuple[int | None, int | None]:
        """Return the physical address of a ring and how many entries it has, as far as known."""
        where = beside(region, queue)
        count = self.value(where, queue.count, number)
        base = self.value(where, queue.base, number)
        return base, None if count is None else count + queue.less_one

    def areas(self, region: str, queue: Queue, number: int) -> tuple[int, int, int] | None:
        """Return where descriptors, available and used ring are, None where that was not seen."""
        where = beside(region, queue)
        page = self.value(where, queue.pages, number) if queue.pages else None
        if page:
            size = self.value(where, queue.count, number) or 0
            unit = self.value(where, queue.page, number) if queue.page else PAGE
            align = self.value(where, queue.align, number) if queue.align else PAGE
            return None if not unit or not align else legacy_areas(page * unit, size, align)
        found = [self.value(where, name, number) for name in queue.areas.values()]
        first, second, third = found or (None, None, None)
        if first is None or second is None or third is None:
            return None
        return first, second, third


def beside(region: str, queue: Queue) -> str:
    """Return the region that has the registers of a queue, whose doorbell is in ``region``."""
    return f"{region.rpartition('.')[0]}.{queue.registers}" if queue.registers else region


def number_of(queue: Queue, register: str) -> int | None:
    """Return the number of the queue whose doorbell a register is, None where it is none."""
    pattern = re.escape(queue.doorbell).replace(r"\{\}", r"(\d+)")
    found = re.fullmatch(pattern, register)
    if found is None:
        return None
    return int(found[1]) if found.groups() else number_in(queue.doorbell)


def number_in(name: str) -> int:
    """Return the number in the name of a register that is the doorbell of one queue."""
    found = re.search(r"\d+", name)
    return int(found[0]) if found else 0


def places(found: RegisterMap, queue: Queue, size: int) -> Iterator[range]:
    """Yield the offsets of a region of ``size`` bytes at which doorbells of a queue are."""
    name = queue.doorbell.replace("{}", "*")
    for entry in found.find(name) or found.find(queue.doorbell):
        end = entry.offset + entry.register.width
        if entry.repeats:
            stride, count = entry.repeats[0]
            end = size if count is None else min(entry.offset + stride * count, size)
        yield range(entry.offset, max(end, entry.offset + 1))


def _numbered(name: str, number: int) -> str:
    return name.replace("{}", str(number))
