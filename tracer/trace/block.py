"""Blocks of raw records as records of the trace: the one place where compiled accesses become them.

A raw record, a *row* here, is what the guest left behind at a compiled site. Of each row a reader
makes an :class:`Intercept` like any other; its registers are worked out when somebody looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from struct import Struct
from typing import NamedTuple

from msgspec.structs import replace

from tracer.compiled.asking import agreed, asked
from tracer.compiled.inputs import Input, given
from tracer.compiled.layout import LARGEST_ADDRESS_BITS, RECORD_FIELDS, SLOT_SIZE
from tracer.compiled.message import Message, message_of
from tracer.compiled.reading import state_after, state_before
from tracer.compiled.ring import Raw, raws
from tracer.errors import TraceError
from tracer.trace.antecedents import Antecedents, Detail, places_of
from tracer.trace.call import Hypercall
from tracer.trace.compiled import BlockRecord, PlacesRecord, SiteRecord
from tracer.trace.configuration import Latch
from tracer.trace.inputs import (
    accesses_of,
    intercept_of_input,
)
from tracer.trace.legend import Legend
from tracer.trace.record import (
    Intercept,
    Line,
    LostRecord,
    MemoryAccess,
    Record,
    UserRecord,
)
from tracer.trace.registers import Deferred, changed_values, register_values
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState

MOST_ROWS = 4096
"""Rows that a writer puts into one block, at most."""

_MOMENT_OF = Struct(f"<{RECORD_FIELDS['TSC']}xQQQIH{SLOT_SIZE - RECORD_FIELDS['VCPU'] - 2}x")
_MASK64 = (1 << 64) - 1
_PHYSICAL = 1 << LARGEST_ADDRESS_BITS
_MOST_FOUND = 1 << 16
_REQUEST_MMIO = 48
"""R11 of a TDX guest's hypercall for a device access."""


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
        self._legend = Legend()
        self._antecedents = Antecedents(self._legend)
        # A record of each kind of row that was gone over without any, and what of it is traced.
        self._like: dict[object, tuple[Intercept, list[tuple[int, MemoryAccess]]] | None] = {}

    def copy(self) -> Blocks:
        """Return what makes the same records of the lines behind the last one."""
        made = Blocks()
        made._legend = self._legend.copy()
        made._antecedents = self._antecedents.copy(made._legend)
        return made

    def records(self, line: Line) -> Iterator[Record]:
        """Yield the records that a line stands for.

        Raise :exc:`TraceError` at one that nothing can be made of.
        """
        if isinstance(line, BlockRecord):
            return self._intercepts(line)
        if isinstance(line, SiteRecord | PlacesRecord):
            self._legend.learn(line)
            self._like.clear()
            return iter(())
        if isinstance(line, LostRecord):
            self._antecedents.forget()
        if isinstance(line, Intercept):
            return iter((self._antecedents.follow(line),))
        if isinstance(line, UserRecord):
            self._antecedents.note(line.vcpu, line.accesses)
        return iter((line,))

    @property
    def latch(self) -> Latch:
        """Return what leads to configuration space behind the last line."""
        return self._antecedents.latch

    def rows(self, block: BlockRecord, rows: range) -> Iterator[list[Intercept]]:
        """Yield the records that each of some rows of a block stands for, in their order."""
        details = self._antecedents.details(block)
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
        places = places_of(block.rows)
        if not self._of_known_parts({place[2] for place in places}):
            yield from ((record, 1) for record in self._intercepts(block))
            return
        kinds = list(zip(places, self._antecedents.details(block, places), strict=True))
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
        if not self._of_known_parts({each[3] for each in moments}):
            return None
        return self._seen(block, moments)

    def _of_known_parts(self, sites: Iterable[int]) -> bool:
        return all(self._legend.site(number).parts is not None for number in sites)

    def _seen(
        self, block: BlockRecord, moments: Sequence[tuple[int, int, int, int, int]]
    ) -> Iterator[Seen]:
        seq, now, rate = block.seq, block.time_ns, block.rate
        details = self._antecedents.details(block)
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
        site = self._legend.site(raw.site)
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

    def with_messages(self, rows: bytes, window: int) -> bytes:
        """Return rows that follow the last line, with the messages that their interrupts came of.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        return self._antecedents.with_messages(rows, window)

    def message(self, vcpu: int, vector: int) -> tuple[str, Message | None]:
        """Return what an interrupt would come of that is next: its cause, and its message."""
        return self._antecedents.message(vcpu, vector)

    def skip(self, block: BlockRecord) -> None:
        """Go past a block that no records are made of, but of those behind it.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        self._antecedents.details(block)

    def count(self, rows: bytes, window: int) -> tuple[int, int]:
        """Return how many rows have device accesses, and how many these are.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        found: Counter[int] = Counter()  # rows by how many accesses they have
        both = set()
        find = self._legend.find
        for (linear, alias, number), times in Counter(places_of(rows)).items():
            site = self._legend.site(number)
            if site.input is not None:
                found[accesses_of(site.input, linear, alias)] += times
                continue
            if site.parts is None:
                both.add(number)
                continue
            physical = alias - window & _MASK64
            reached = [find(physical + at, direction) for direction, at, _ in site.parts]
            found[len(reached) - reached.count(None)] += times
        if both:
            for raw in raws(rows):
                if raw.site in both:
                    made = self._legend.accesses(self._legend.site(raw.site), raw, window)
                    found[sum(access.region is not None for access in made)] += 1
        del found[0]
        return found.total(), sum(each * times for each, times in found.items())

    def asked_for(self, rows: bytes, window: int) -> int:
        """Return how many device accesses of rows a guest's own kernel has asked for.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        found = 0
        find = self._legend.find
        for (_, alias, number), times in Counter(places_of(rows)).items():
            asked = self._legend.site(number).asked
            if asked is not None and find(alias - window & _MASK64, asked) is not None:
                found += times
        return found

    def inputs_in(self, rows: bytes) -> int:
        """Return how many accesses of rows are to another space than memory.

        Raise :exc:`TraceError` as :meth:`records`.
        """
        found = 0
        for (linear, alias, number), times in Counter(places_of(rows)).items():
            kind = self._legend.site(number).input
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
        yield from self._made(block, self._antecedents.details(block))

    def _made(self, block: BlockRecord, details: Sequence[Detail]) -> Iterator[Intercept]:
        rows, stacks = block.rows, block.stacks
        seq, now, window = block.seq, block.time_ns, block.window
        time_at = block.rate.at if block.rate is not None else lambda counter: now
        for number, raw in enumerate(raws(rows)):
            site = self._legend.site(raw.site)
            told, insn = site.told, site.insn
            time_ns = time_at(raw.tsc)
            if time_ns > now:
                now = time_ns
            if site.input is not None:
                stack = stacks[number] if stacks else None
                latch, cause = details[number]
                record = intercept_of_input(
                    told, site.input, raw, seq, now, self._legend.find_port, insn, stack,
                    latch=Latch(latch), cause=cause,
                )  # fmt: skip
                yield record
                seq += len(record.accesses)
                continue
            made = self._legend.accesses(site, raw, window)
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
