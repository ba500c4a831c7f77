"""Earlier accesses, followed for what they say of a row that comes later.

A row of PCI configuration space's data port has its register from the latch that was set before,
and an interrupt its cause, and message, from what the guest has told whoever may send any.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Literal, NamedTuple

from msgspec.structs import replace

from tracer.compiled.inputs import Input, given
from tracer.compiled.layout import RECORD_FIELDS, SLOT_SIZE
from tracer.compiled.message import Message, note_message
from tracer.compiled.ring import raws
from tracer.trace.cause import Causes
from tracer.trace.compiled import BlockRecord
from tracer.trace.configuration import DATA, PORTS, Latch
from tracer.trace.inputs import accesses_made, configuration_access, interrupt_of
from tracer.trace.legend import Legend
from tracer.trace.record import Intercept, MemoryAccess
from tracer.trace.site import Site
from tracer.x86.bus import Direction

_PLACE_OF = Struct(f"<{RECORD_FIELDS['LINEAR']}xQQI{SLOT_SIZE - RECORD_FIELDS['SITE'] - 4}x")
RowPlace = tuple[int, int, int]
"""The linear address of a row, which is the port of one that is to a port, its alias, its site."""
_MASK64 = (1 << 64) - 1

_Role = Literal["memory", "port", "data", "msr", "irq"]
"""Roles of rows for those that come later: ``data`` is a port that leads to configuration space."""

_EITHER: tuple[tuple[Direction, int, int], ...] = ("read", 0, 0), ("write", 0, 0)


class Detail(NamedTuple):
    """Hold what rows before it tell of a row: the latch of a data port, an interrupt's cause."""

    latch: int | None = None
    cause: str | None = None


_NOTHING = Detail()


def places_of(rows: bytes) -> list[RowPlace]:
    """Return of each row what tells which access it is, but not its value."""
    return list(_PLACE_OF.iter_unpack(rows))


class Antecedents:
    """Follow the accesses of a guest for what they say of later ones."""

    def __init__(self, legend: Legend) -> None:
        self._legend = legend
        # The latch leads to PCI configuration space. What it and causes were before the last block
        # that was gone over is kept with the number of that: a block may be told again.
        self._latch = Latch()
        self._causes = Causes()
        self._begun: tuple[int, int | None, Causes] | None = None

    def copy(self, legend: Legend) -> Antecedents:
        """Return what follows the same from here on, by a legend of its own."""
        made = Antecedents(legend)
        made._latch = self.latch
        made._causes = self._causes.copy()
        return made

    def forget(self) -> None:
        """Know nothing any more, as accesses were lost."""
        self._latch, self._causes = Latch(), Causes()

    @property
    def latch(self) -> Latch:
        """Return what leads to configuration space behind the last line."""
        return Latch(self._latch.told)

    def follow(self, record: Intercept) -> Intercept:
        """Take notice of a record that is no row's; return it with what those before say of it."""
        self._begun = None
        interrupt = interrupt_of(record.accesses)
        if interrupt is not None:
            cause = self._causes.cause(record.vcpu, interrupt.physical)
            return record if record.cause is not None else replace(record, cause=cause)
        first = record.accesses[0] if record.accesses else None
        if first is not None and first.space == "port" and not first.skipped:
            value = first.value if first.device is None else first.device
            self._latch.set(first.physical, first.width, value or 0, first.direction)
        self.note(record.vcpu, record.accesses)
        return record

    def note(self, vcpu: int, made: Iterable[MemoryAccess]) -> None:
        """Take notice of accesses of a vCPU."""
        for access in made:
            value = access.value if access.device is None else access.device
            place = access.offset if access.space == "memory" else access.physical
            told = access.space, place or 0, access.region, access.direction
            if value is not None and not access.skipped and Causes.follows(*told):
                self._causes.note(vcpu, *told, access.width, value)

    def details(self, block: BlockRecord, places: Sequence[RowPlace] | None = None) -> list[Detail]:
        """Go over a block, and return what is known of each row by those before it.

        ``places`` are those of the rows, where the caller has them.
        """
        places = places_of(block.rows) if places is None else places
        if self._begun is None or self._begun[0] != block.seq:
            self._begun = block.seq, self._latch.told, self._causes.copy()
        else:
            self._latch.told, self._causes = self._begun[1], self._begun[2].copy()
        roles = self._roles(places, block.window)
        details = [_NOTHING] * len(places)
        if not roles:
            return details
        for at, place in enumerate(places):
            role = roles.get(place)
            if role is not None:
                row = block.rows[SLOT_SIZE * at : SLOT_SIZE * (at + 1)]
                details[at] = self._go_on(role, place, row, block.window)
        return details

    def _roles(self, places: Sequence[RowPlace], window: int) -> dict[RowPlace, _Role]:
        # Tells of each place whether its rows say anything of later ones.
        found = ((place, self._role(place, window)) for place in set(places))
        return {place: role for place, role in found if role is not None}

    def _role(self, place: RowPlace, window: int) -> _Role | None:
        linear, alias, number = place
        site = self._legend.site(number)
        direction: Direction = "write" if site.told.asked == "write" else "read"
        match site.input:
            case Input.PORT:
                if linear in DATA:
                    return "data"
                is_followed = linear in PORTS or Causes.follows("port", linear, None, direction)
                return "port" if is_followed else None
            case Input.MSR:
                return "msr" if Causes.follows("msr", linear, None, direction) else None
            case Input.IRQ:
                return "irq"
            case None:
                return "memory" if self._may_tell(site, alias - window & _MASK64) else None
            case _:
                return None

    # An instruction of unknown parts may do either, at any of its bytes.
    def _may_tell(self, site: Site, physical: int) -> bool:
        parts = site.parts or _EITHER
        for direction, at, _ in parts:
            found = self._legend.find(physical + at, direction)
            if found is not None and Causes.follows("memory", found[1], found[0], direction):
                return True
        return False

    def _go_on(self, role: _Role, place: RowPlace, row: bytes, window: int) -> Detail:
        # Takes notice of a row, and returns what is known of it by those before it.
        latch = self._latch.told
        if role == "data" and self._legend.site(place[2]).told.asked != "write":
            return Detail(latch)
        (raw,) = raws(row)
        if role == "irq":
            return Detail(cause=self._causes.cause(raw.vcpu, place[0]))
        site = self._legend.site(raw.site)
        if role == "memory":
            self.note(raw.vcpu, self._legend.accesses(site, raw, window))
            return _NOTHING
        assert site.input is not None
        says = given(raw, site.input)
        made = accesses_made(site.input, says, lambda port, direction: None)
        if role == "data":
            self.note(raw.vcpu, [configuration_access(made[0], Latch(latch))])
            return Detail(latch)
        self.note(raw.vcpu, made)
        if role == "port":
            self._latch.follow(says)
        return _NOTHING

    def with_messages(self, rows: bytes, window: int) -> bytes:
        """Return rows that follow the last line, with the messages that their interrupts came of.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        places = places_of(rows)
        roles = self._roles(places, window)
        if "irq" not in roles.values():
            return rows
        told = bytearray(rows)
        latch, causes = self._latch.told, self._causes
        self._causes = causes.copy()
        try:
            for at, place in enumerate(places):
                role = roles.get(place)
                if role is None:
                    continue
                row = rows[SLOT_SIZE * at : SLOT_SIZE * (at + 1)]
                if role == "irq":
                    (raw,) = raws(row)
                    _, message = self._causes.expected(raw.vcpu, raw.linear)
                    note_message(told, SLOT_SIZE * at, message)
                self._go_on(role, place, row, window)
        finally:
            self._latch.told, self._causes = latch, causes
        return bytes(told)

    def message(self, vcpu: int, vector: int) -> tuple[str, Message | None]:
        """Return what an interrupt would come of that is next: its cause, and its message."""
        return self._causes.expected(vcpu, vector)
