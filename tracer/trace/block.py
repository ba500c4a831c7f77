"""Blocks of raw records as records of the trace: the one place where compiled accesses become them.

A raw record, a *row* here, is what the guest left behind at a compiled site. Of each row a reader
makes an :class:`Intercept` like any other; its registers are worked out when somebody looks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from struct import Struct
from typing import Literal, NamedTuple

from msgspec.structs import replace

from tracer.compiled.asking import agreed, asked
from tracer.compiled.inputs import Input, given
from tracer.compiled.layout import LARGEST_ADDRESS_BITS, RECORD_FIELDS, SLOT_SIZE
from tracer.compiled.message import Message, message_of, note_message
from tracer.compiled.reading import accesses, state_after, state_before, transfers
from tracer.compiled.ring import Raw, raws
from tracer.errors import TraceError
from tracer.trace.call import Hypercall
from tracer.trace.cause import Causes
from tracer.trace.compiled import BlockRecord, Place, PlacesRecord, SiteRecord
from tracer.trace.configuration import DATA, PORTS, Latch
from tracer.trace.inputs import (
    accesses_made,
    accesses_of,
    configuration_access,
    intercept_of_input,
    interrupt_of,
)
from tracer.trace.record import (
    Intercept,
    Line,
    LostRecord,
    MemoryAccess,
    Record,
    UserRecord,
)
from tracer.trace.registers import Deferred, changed_values, register_values
from tracer.trace.site import Site, site_of
from tracer.x86.bus import Direction
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState

MOST_ROWS = 4096
"""Rows that a writer puts into one block, at most."""

_PLACE_OF = Struct(f"<{RECORD_FIELDS['LINEAR']}xQQI{SLOT_SIZE - RECORD_FIELDS['SITE'] - 4}x")
_MOMENT_OF = Struct(f"<{RECORD_FIELDS['TSC']}xQQQIH{SLOT_SIZE - RECORD_FIELDS['VCPU'] - 2}x")
_RowPlace = tuple[int, int, int]
"""The linear address of a row, which is the port of one that is to a port, its alias, its site."""
_MASK64 = (1 << 64) - 1
_PHYSICAL = 1 << LARGEST_ADDRESS_BITS
_MOST_FOUND = 1 << 16
_REQUEST_MMIO = 48
"""R11 of a TDX guest's hypercall for a device access."""


_Role = Literal["memory", "port", "data", "msr", "irq"]
"""Roles of rows for those that come later: ``data`` is a port that leads to configuration space."""


_EITHER: tuple[tuple[Direction, int, int], ...] = ("read", 0, 0), ("write", 0, 0)


class _Detail(NamedTuple):
    # Says what rows before it tell of a row: the latch of a data port, the cause of an interrupt.
    latch: int | None = None
    cause: str | None = None


_NOTHING = _Detail()


class Seen(NamedTuple):
    """Hold an access of a row, of which no record is made.

    ``like`` is one of the same site to the same place in the same direction, ``access`` its access.
    ``value`` works out what this one read or wrote.
    """

    like: Intercept
    access: MemoryAccess
    seq: int
    time_ns: int
    value: Callable[[], int | None]


class Blocks:
    """Make records of the lines of a trace as they come: of a block, those of its rows.

    Memory grows with the sites, not with the records.
    """

    def __init__(self) -> None:
        self._sites: dict[int, Site] = {}
        self._memory = self._ports = _Places(())
        # By physical address and direction: region and offset, or nothing that is traced.
        self._found: dict[tuple[int, Direction], tuple[str, int] | None] = {}
        # A record of each kind of row that was gone over without any, and what of it is traced.
        self._like: dict[object, tuple[Intercept, list[tuple[int, MemoryAccess]]] | None] = {}
        # The latch leads to PCI configuration space. What it and causes were before the last block
        # that was gone over is kept with the number of that: a block may be told again.
        self._latch = Latch()
        self._causes = Causes()
        self._begun: tuple[int, int | None, Causes] | None = None

    def copy(self) -> Blocks:
        """Return what makes the same records of the lines behind the last one."""
        made = Blocks()
        made._sites = dict(self._sites)
        made._memory, made._ports = self._memory, self._ports
        made._latch = self.latch
        made._causes = self._causes.copy()
        return made

    def records(self, line: Line) -> Iterator[Record]:
        """Yield the records that a line stands for.

        Raise :exc:`TraceError` at one that nothing can be made of.
        """
        if isinstance(line, BlockRecord):
            return self._intercepts(line)
        if isinstance(line, SiteRecord | PlacesRecord):
            self._learn(line)
            return iter(())
        if isinstance(line, LostRecord):
            self._latch, self._causes = Latch(), Causes()
        if isinstance(line, Intercept):
            return iter((self._follow(line),))
        if isinstance(line, UserRecord):
            self._note(line.vcpu, line.accesses)
        return iter((line,))

    @property
    def latch(self) -> Latch:
        """Return what leads to configuration space behind the last line."""
        return Latch(self._latch.told)

    def _follow(self, record: Intercept) -> Intercept:
        # Takes notice of a record that is no row's, and adds what those before it say of it.
        self._begun = None
        interrupt = interrupt_of(record.accesses)
        if interrupt is not None:
            cause = self._causes.cause(record.vcpu, interrupt.physical)
            return record if record.cause is not None else replace(record, cause=cause)
        first = record.accesses[0] if record.accesses else None
        if first is not None and first.space == "port" and not first.skipped:
            value = first.value if first.device is None else first.device
            self._latch.set(first.physical, first.width, value or 0, first.direction)
        self._note(record.vcpu, record.accesses)
        return record

    def _note(self, vcpu: int, made: Iterable[MemoryAccess]) -> None:
        for access in made:
            value = access.value if access.device is None else access.device
            place = access.offset if access.space == "memory" else access.physical
            told = access.space, place or 0, access.region, access.direction
            if value is not None and not access.skipped and Causes.follows(*told):
                self._causes.note(vcpu, *told, access.width, value)

    def _learn(self, line: SiteRecord | PlacesRecord) -> None:
        if isinstance(line, SiteRecord):
            self._sites[line.number] = site_of(line)
            self._like.clear()
            return
        self._memory = _Places([place for place in line.places if place.space == "memory"])
        self._ports = _Places([place for place in line.places if place.space == "port"])
        self._found.clear()
        self._like.clear()

    @staticmethod
    def places(block: BlockRecord) -> list[_RowPlace]:
        """Return of each row of a block what tells which access it is, but not its value."""
        return list(_PLACE_OF.iter_unpack(block.rows))

    def rows(self, block: BlockRecord, rows: range) -> Iterator[list[Intercept]]:
        """Yield the records that each of some rows of a block stands for, in their order."""
        details = self._details(block)
        for at in rows:
            yield list(self._made(self._one(block, at), details[at : at + 1]))

    def _one(self, block: BlockRecord, at: int) -> BlockRecord:
        # Returns a block of one row.
        row = block.rows[SLOT_SIZE * at : SLOT_SIZE * (at + 1)]
        _, accesses = self.count(row, block.window)
        return replace(block, rows=row, accesses=accesses, stacks=block.stacks[at : at + 1])

    def kinds(self, block: BlockRecord) -> Iterator[tuple[Intercept, int]]:
        """Yield a record of each kind in a block, and how many there are of it.

        Records of one kind have their site and their device accesses' places and directions in
        common; what else they have is that of one of them. Raise :exc:`TraceError` as
        :meth:`records`.
        """
        places = list(_PLACE_OF.iter_unpack(block.rows))
        if any(self._site(number).parts is None for number in {place[2] for place in places}):
            yield from ((record, 1) for record in self._intercepts(block))
            return
        kinds = list(zip(places, self._details(block, places), strict=True))
        # The last row of each kind, in the order in which the kinds came.
        rows = {kind: at for at, kind in enumerate(kinds)}
        times = Counter(kinds)
        left = block.accesses
        for kind, at in rows.items():
            one = self._one(block, at)
            left -= times[kind] * one.accesses
            made = self._made(one, [kind[1]])
            yield from ((record, times[kind]) for record in made)
        if left:
            raise TraceError(f"a block of {block.accesses} accesses has {block.accesses - left}")

    def seen(self, block: BlockRecord) -> Iterator[Seen] | None:
        """Return the device accesses of a block in their order, without a record of each.

        There are none where only a record tells what a row has accessed. Raise :exc:`TraceError`
        as :meth:`records`.
        """
        moments = list(_MOMENT_OF.iter_unpack(block.rows))
        if any(self._site(number).parts is None for number in {each[3] for each in moments}):
            return None
        return self._seen(block, moments)

    def _seen(
        self, block: BlockRecord, moments: Sequence[tuple[int, int, int, int, int]]
    ) -> Iterator[Seen]:
        seq, now, rate = block.seq, block.time_ns, block.rate
        details = self._details(block)
        known = self._like
        if len(known) >= _MOST_FOUND:
            known.clear()
        for at, (tsc, *place, vcpu) in enumerate(moments):
            if rate is not None:
                now = max(now, rate.at(tsc))
            key = *place, vcpu, block.window, details[at]
            if key not in known:
                record = next(self._made(self._one(block, at), details[at : at + 1]), None)
                known[key] = None if record is None else (record, _reached(record))
            found = known[key]
            if found is None:
                continue
            for number, access in found[1]:
                yield Seen(found[0], access, seq, now, partial(self._value, block, at, number))
                seq += 1
        if seq - block.seq != block.accesses:
            raise TraceError(f"a block of {block.accesses} accesses has {seq - block.seq}")

    # An access of a row of known parts tells what it has read or written.
    def _value(self, block: BlockRecord, at: int, number: int) -> int | None:
        (raw,) = raws(block.rows[SLOT_SIZE * at : SLOT_SIZE * (at + 1)])
        site = self._site(raw.site)
        if site.input is not None:
            says = given(raw, site.input)
            if says.manner.raised and not says.manner.write:
                return None
            if site.input is Input.IRQ and not number:
                message = message_of(raw)
                if message is not None:
                    return message.data
            # An access to configuration space comes behind the one to the port that it was made by.
            return says.values[min(number, len(says.values) - 1)]
        direction, start, width = (site.parts or ())[number]
        data = raw.read if direction == "read" else raw.written
        return int.from_bytes(data[start : start + width], "little")

    def _details(
        self, block: BlockRecord, places: Sequence[_RowPlace] | None = None
    ) -> list[_Detail]:
        # Goes over a block and returns what is known of each row by those before it.
        places = self.places(block) if places is None else places
        if self._begun is None or self._begun[0] != block.seq:
            self._begun = block.seq, self._latch.told, self._causes.copy()
        else:
            self._latch.told, self._causes = self._begun[1], self._begun[2].copy()
        found = {place: self._role(place, block.window) for place in set(places)}
        roles = {place: role for place, role in found.items() if role is not None}
        details = [_NOTHING] * len(places)
        if not roles:
            return details
        for at, place in enumerate(places):
            role = roles.get(place)
            if role is not None:
                row = block.rows[SLOT_SIZE * at : SLOT_SIZE * (at + 1)]
                details[at] = self._go_on(role, place, row, block.window)
        return details

    def _role(self, place: _RowPlace, window: int) -> _Role | None:
        linear, alias, number = place
        site = self._site(number)
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
            found = self._find(physical + at, direction)
            if found is not None and Causes.follows("memory", found[1], found[0], direction):
                return True
        return False

    def _go_on(self, role: _Role, place: _RowPlace, row: bytes, window: int) -> _Detail:
        # Takes notice of a row, and returns what is known of it by those before it.
        latch = self._latch.told
        if role == "data" and self._site(place[2]).told.asked != "write":
            return _Detail(latch)
        (raw,) = raws(row)
        if role == "irq":
            return _Detail(cause=self._causes.cause(raw.vcpu, place[0]))
        site = self._site(raw.site)
        if role == "memory":
            self._note(raw.vcpu, self._accesses(site, raw, window))
            return _NOTHING
        assert site.input is not None
        says = given(raw, site.input)
        made = accesses_made(site.input, says, lambda port, direction: None)
        if role == "data":
            self._note(raw.vcpu, [configuration_access(made[0], Latch(latch))])
            return _Detail(latch)
        self._note(raw.vcpu, made)
        if role == "port":
            self._latch.follow(says)
        return _NOTHING

    def with_messages(self, rows: bytes, window: int) -> bytes:
        """Return rows that follow the last line, with the messages that their interrupts came of.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        places = list(_PLACE_OF.iter_unpack(rows))
        roles = {place: self._role(place, window) for place in set(places)}
        if "irq" not in roles.values():
            return rows
        told = bytearray(rows)
        latch, causes = self._latch.told, self._causes
        self._causes = causes.copy()
        try:
            for at, place in enumerate(places):
                role = roles[place]
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

    def skip(self, block: BlockRecord) -> None:
        """Go past a block that no records are made of, but of those behind it.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        self._details(block)

    def count(self, rows: bytes, window: int) -> tuple[int, int]:
        """Return how many rows have device accesses, and how many these are.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        found: Counter[int] = Counter()  # rows by how many accesses they have
        both = set()
        for (linear, alias, number), times in Counter(_PLACE_OF.iter_unpack(rows)).items():
            site = self._site(number)
            if site.input is not None:
                found[accesses_of(site.input, linear, alias)] += times
                continue
            if site.parts is None:
                both.add(number)
                continue
            physical = alias - window & _MASK64
            reached = [self._find(physical + at, direction) for direction, at, _ in site.parts]
            found[len(reached) - reached.count(None)] += times
        if both:
            for raw in raws(rows):
                if raw.site in both:
                    made = self._accesses(self._site(raw.site), raw, window)
                    found[sum(access.region is not None for access in made)] += 1
        del found[0]
        return found.total(), sum(each * times for each, times in found.items())

    def asked_for(self, rows: bytes, window: int) -> int:
        """Return how many device accesses of rows a guest's own kernel has asked for.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        found = 0
        for (_, alias, number), times in Counter(_PLACE_OF.iter_unpack(rows)).items():
            asked = self._site(number).asked
            if asked is not None and self._find(alias - window & _MASK64, asked) is not None:
                found += times
        return found

    def inputs_in(self, rows: bytes) -> int:
        """Return how many accesses of rows are to another space than memory.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        found = 0
        for (linear, alias, number), times in Counter(_PLACE_OF.iter_unpack(rows)).items():
            kind = self._site(number).input
            found += 0 if kind is None else times * accesses_of(kind, linear, alias)
        return found

    def ways(self, rows: bytes, window: int) -> Counter[str]:
        """Return how many accesses of rows were carried out in which :data:`way <Via>`.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        _, accesses = self.count(rows, window)
        asked, inputs = self.asked_for(rows, window), self.inputs_in(rows)
        told = {"guest": asked, "monitor": inputs, "compiled": accesses - asked - inputs}
        return Counter({way: count for way, count in told.items() if count})

    def _intercepts(self, block: BlockRecord) -> Iterator[Intercept]:
        yield from self._made(block, self._details(block))

    def _made(self, block: BlockRecord, details: Sequence[_Detail]) -> Iterator[Intercept]:
        rows, stacks = block.rows, block.stacks
        seq, now, window = block.seq, block.time_ns, block.window
        time_at = block.rate.at if block.rate is not None else lambda counter: now
        for number, raw in enumerate(raws(rows)):
            site = self._site(raw.site)
            told, insn = site.told, site.insn
            time_ns = time_at(raw.tsc)
            if time_ns > now:
                now = time_ns
            if site.input is not None:
                stack = stacks[number] if stacks else None
                latch, cause = details[number]
                record = intercept_of_input(
                    told, site.input, raw, seq, now, self._find_port, insn, stack,
                    latch=Latch(latch), cause=cause,
                )  # fmt: skip
                yield record
                seq += len(record.accesses)
                continue
            made = self._accesses(site, raw, window)
            reached = len(made)
            for access in made:
                reached -= access.region is None
            if not reached:
                continue
            record = Intercept(
                seq=seq,
                time_ns=now,
                vcpu=raw.vcpu,
                cpl=0,
                mode=64,
                rip=told.rip,
                symbol=told.symbol,
                code=told.code,
                text=told.text,
                cr2=raw.linear,
                error_code=raw.error,
                via="compiled",
                accesses=made,
                before=Deferred(_before, insn, raw, told.rip),
                after=Deferred(_after, insn, raw),
                stack=stacks[number] if stacks else None,
                thread=raw.thread or None,
            )
            yield record if site.asked is None else _as_asked(record, insn, raw)
            seq += reached
        if seq - block.seq != block.accesses:
            raise TraceError(f"a block of {block.accesses} accesses has {seq - block.seq}")

    def _site(self, number: int) -> Site:
        site = self._sites.get(number)
        if site is None:
            raise TraceError(f"a record of site {number}, which is not known")
        return site

    def _accesses(self, site: Site, raw: Raw, window: int) -> list[MemoryAccess]:
        made = []
        if site.parts is not None:
            linear, physical = raw.linear, raw.alias - window & _MASK64
            for direction, at, width in site.parts:
                data = raw.read if direction == "read" else raw.written
                value = int.from_bytes(data[at : at + width], "little")
                made.append(self._access(direction, linear + at, physical + at, width, value))
            return made
        assert site.insn is not None
        for whole in accesses(site.insn, raw, window):
            for each in transfers(whole):
                direction = "write" if each.write else "read"
                made.append(
                    self._access(direction, each.linear, each.physical, each.width, each.value)
                )
        return made

    def _access(
        self, direction: Direction, linear: int, physical: int, width: int, value: int
    ) -> MemoryAccess:
        try:
            found = self._found[physical, direction]
        except KeyError:
            found = self._find(physical, direction)
        if found is None:
            return MemoryAccess(
                direction=direction, width=width, linear=linear, physical=physical, value=value
            )
        return MemoryAccess(
            direction=direction, width=width, linear=linear, physical=physical, value=value,
            region=found[0], offset=found[1],
        )  # fmt: skip

    def _find(self, physical: int, direction: Direction) -> tuple[str, int] | None:
        key = physical, direction
        if key not in self._found:
            if not 0 <= physical < _PHYSICAL:
                raise TraceError(f"an access at {physical:#x}")
            if len(self._found) >= _MOST_FOUND:
                self._found.clear()
            self._found[key] = self._memory.find(physical, direction)
        return self._found[key]

    def _find_port(self, port: int, direction: Direction) -> tuple[str, int] | None:
        return self._ports.find(port, direction)


class _Places:
    # Regions of one space, by address.

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._starts = [place.start for place in places]

    def find(self, address: int, direction: Direction) -> tuple[str, int] | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        place = self._places[index]
        if address > place.end or not (place.reads or direction == "write"):
            return None
        return place.region, address - place.base


def _reached(record: Intercept) -> list[tuple[int, MemoryAccess]]:
    return [each for each in enumerate(record.accesses) if each[1].region is not None]


def require_whole(block: BlockRecord) -> None:
    """Raise :exc:`TraceError` where a block has no rows, part of one, or stacks of other rows."""
    size, stacks = len(block.rows), len(block.stacks)
    if not size or size % SLOT_SIZE or (stacks and stacks != size // SLOT_SIZE):
        raise TraceError(f"a block of {size} bytes and {stacks} stacks")


def _as_asked(record: Intercept, insn: Instruction | None, raw: Raw) -> Intercept:
    # An access that the guest's kernel has decoded, and asked its host for.
    call = asked(raw)
    given = {
        "rax": 0, "rcx": call.mask, "r10": 0, "r11": _REQUEST_MMIO, "r12": call.width,
        "r13": int(call.write), "r14": call.gpa, "r15": call.value,
    }  # fmt: skip
    returned = {"rax": 0, "r10": 0} | ({} if call.write else {"r11": call.answer})
    return replace(
        record,
        via="guest",
        asked=Hypercall(given=given, returned=returned),
        agrees=insn is not None and agreed(insn, raw) is not None,
        after=Deferred(_after_asked, insn, raw),
    )


def _before(insn: Instruction | None, raw: Raw, rip: int) -> dict[str, int]:
    cpu = CpuState(raw.gpr, rip, raw.rflags) if insn is None else state_before(insn, raw)
    return register_values(cpu, insn)


# The emulator's word, and nothing where it would have to know more registers.
def _after(insn: Instruction, raw: Raw) -> dict[str, int]:
    after = state_after(insn, raw)
    return {} if after is None else changed_values(state_before(insn, raw), after)


# The same for an instruction that is carried out as the kernel has decoded it.
def _after_asked(insn: Instruction | None, raw: Raw) -> dict[str, int]:
    after = None if insn is None else agreed(insn, raw)
    if insn is None or after is None:
        return {}
    return changed_values(state_before(insn, raw), after)
