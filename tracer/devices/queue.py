"""The queues of a device in RAM: where they are, and what their entries mean.

docs/registers.md has the file that says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tracer.devices.tree import Field

QueueKind = Literal["ring", "virtqueue"]
"""A ring of entries, whose doorbell is written an index; a virtqueue (VIRTIO 1.2, 2.7, 2.8)."""


@dataclass(frozen=True, slots=True)
class Form:
    """Say what bytes of an entry mean where each field in ``when`` has one of those values."""

    when: Mapping[str, Collection[int]]
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Say what the ``size`` bytes of an entry mean: always, and in the ``forms`` that it has."""

    name: str
    size: int
    fields: tuple[Field, ...] = ()
    forms: tuple[Form, ...] = ()

    @property
    def all_fields(self) -> tuple[Field, ...]:
        """Return the fields of every form, each of another name."""
        return (*self.fields, *(each for form in self.forms for each in form.fields))

    def numbers(self, data: bytes) -> dict[str, int]:
        """Return the fields of an entry by their names, those of every form."""
        value = int.from_bytes(data, "little")
        return {field.name: field.of(value) for field in self.all_fields}

    def text(self, data: bytes) -> str:
        """Return in words the fields of an entry that are not 0, and those with a named value.

        Of the forms those count that the entry has.
        """
        value = int.from_bytes(data, "little")
        told = []
        for each in self._meant(value):
            number = each.of(value)
            name = each.values.get(number)
            if number or name:
                shown = name or (str(number) if number < 10 else hex(number))
                told.append(f"{each.name}={shown}")
        return " ".join(told)

    def _meant(self, value: int) -> list[Field]:
        # The fields that an entry has, in their order.
        always = {each.name: each for each in self.fields}
        found = [*self.fields]
        for form in self.forms:
            if all(always[name].of(value) in numbers for name, numbers in form.when.items()):
                found += form.fields
        return sorted(found, key=lambda each: each.low)


@dataclass(frozen=True, slots=True)
class Made:
    """Say which entries of another queue make queues: those whose fields are ``when``.

    ``number``, ``base`` and ``count`` are fields of that entry.
    """

    queue: str
    when: Mapping[str, int]
    number: str
    base: str
    count: str


@dataclass(frozen=True, slots=True)
class Queue:
    """Describe a kind of queue: the ``doorbell`` that tells of its entries, and where they are.

    ``doorbell``, ``base``, ``count`` and those of ``areas`` are names of registers, with a field
    behind a point, and ``{}`` for the queue's number; they are in the region of the device that
    ``registers`` names, or in the doorbell's own. With ``less_one`` counts are one less than the
    entries. ``phase`` is a field of an entry that the device writes: 1 in the first lap of the
    ring, 0 in the second, and so on. ``reset`` is what ends all queues where it is written 0, and
    ``packed`` what is not 0 where virtqueues are packed ones. ``pages`` says of a legacy virtqueue
    in which page it is, of as many bytes as ``page`` says; its used ring is aligned to ``align``,
    both 4096 without one.
    """

    name: str
    doorbell: str
    kind: QueueKind = "ring"
    entry: Layout | None = None
    base: str = ""
    count: str = ""
    less_one: bool = False
    made: Made | None = None
    phase: str = ""
    registers: str = ""
    areas: Mapping[str, str] = field(default_factory=dict)
    reset: str = ""
    packed: str = ""
    pages: str = ""
    page: str = ""
    align: str = ""


@dataclass(frozen=True, slots=True)
class Virtqueue:
    """Hold where a virtqueue of a ``device`` is that was set up before, and how far it has come.

    ``descriptors``, ``available`` and ``used`` are physical addresses, ``size`` is in descriptors.
    ``taken`` is the index of the next chain that the device takes, None where that is not known,
    ``done`` that of the next one that it is done with.
    """

    device: str
    number: int
    size: int
    descriptors: int
    available: int
    used: int
    packed: bool
    taken: int | None
    done: int
