"""Compiled sites in a guest: what is written for them into its RAM, and the records they leave.

An access that went the slow way has its instruction compiled: from then on the vCPU makes it, and
leaves a record in the ring. :meth:`CompiledSites.drain` publishes what is there, while the guest
runs, and at each stop before anything else is published: so records keep their order.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from msgspec.structs import replace

from tracer.access import recorded
from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.compiled import layout
from tracer.compiled.asking import AskedSite, AskedSites, agreed, kinds
from tracer.compiled.common import CommonCode
from tracer.compiled.diary import Current, Diary, Errand, Errands, entries
from tracer.compiled.layout import (
    LONGEST,
    SLOT_SIZE,
    STACK_SIZE,
    STOP_PLACES,
    WIDE,
    Control,
    block_size,
    control_field,
    stack_place,
)
from tracer.compiled.module import Kind
from tracer.compiled.reading import parts, state_before, verified
from tracer.compiled.ring import Raw, Ring, counters, raws, sites_of, threads
from tracer.compiled.safety import NotCompiled
from tracer.compiled.sites import SiteTable, is_free, watched
from tracer.compiled.stack_copy import stack_copy
from tracer.compiled.thunk import WATCHED
from tracer.errors import InterceptError, TraceError
from tracer.intercept.answer import UNANSWERED
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.system import Callers
from tracer.intercept.view import GuestView
from tracer.intercept.window import Window
from tracer.trace.block import MOST_ROWS, asked_site
from tracer.trace.record import BlockRecord, Intercept, PlacesRecord, SiteRecord
from tracer.x86.emulate.address import places
from tracer.x86.instruction import Instruction
from tracer.x86.paging import PhysicalMemory
from tracer.x86.state import CpuState, Mode

_WORD = (1 << 64) - 1
_FORGED = "which no thunk has left there: the guest has written to it"
_WORDS = {
    "full": "the ring was full, or a person had to be asked of any",
    "nested": "an NMI came while the vCPU was making another one",
    "absent": "their instruction had no compiled site yet",
    "traced": "the guest single-stepped them, or had set RF",
    "changed": "the code had become another one",
    "crossing": "they cross a page",
    "unmapped": "their page is no poisoned one of the kernel's",
    "stopped": "a break or a recording concerns what they reach",
    "tail": "they may have begun in the page before",
    "refused": "they could raise an exception",
}
"""Why an access took a stop, by the names of :data:`layout.REASONS`."""

_VERIFIED = 16
"""Records of each site that are run again through the emulator while the guest runs."""


@dataclass(frozen=True, slots=True)
class Told:
    """Say who is told of the stack or the errand of each access, and where code is looked up.

    ``current`` is where code finds whose errand it is on, None where no errands are told.
    """

    callers: Callers
    space: Callable[[], AddressSpace]
    current: Current | None = None


@dataclass(frozen=True, slots=True)
class Domain:
    """Say who is told of each record that is of no access, and where code is looked up.

    What the guest code counts is counted where records are taken.
    """

    told: Callable[[Raw], None]
    count: Callable[[], None]
    space: Callable[[], AddressSpace]


class CompiledSites:
    """Own the block of compiled sites in one guest.

    ``take`` is called with a number of accesses and returns that of the first one. With ``stacks``
    the stack of each access is copied and unwound; else threads say what errands they are on.
    ``slow`` counts by reason the instructions that were left to a stop. With a ``domain`` the TDX
    module is code in the block.
    """

    def __init__(
        self,
        window: Window,
        common: CommonCode,
        slots: int,
        view: GuestView,
        journal: Journal,
        names: Names,
        take: Callable[[int], int],
        told: Told,
        *,
        stacks: bool = False,
        domain: Domain | None = None,
    ) -> None:
        self.window = window
        self.slow: Counter[str] = Counter()
        self._common = common
        self._slots = slots
        self._view = view
        self._journal = journal
        self._names = names
        self._take = take
        self._memory: PhysicalMemory = view.memory
        self._ring = Ring(slots)
        self._told = told
        self._stacks = stacks
        self._front = common.stacks if stacks else None
        current = None if stacks else told.current
        self._table = SiteTable(window.block, common, self._front, current)
        self._diary = Diary()
        self._errands = None if current is None else Errands()
        self._entered = 0
        self._asked = AskedSites()
        self._asking: dict[int, AskedSite] = {}
        self._domain = domain
        self._unproven: dict[int, int] = {}
        self._shown: RegionMap | None = None
        self._known: dict[int, tuple[bytes, bytes]] = {}
        self._open = False
        self._left: int | None = None
        self._until: int | None = None
        self._stops = bytes(STOP_PLACES)
        self._wides = bytes(16 * WIDE)
        self._last: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._table)

    @property
    def block(self) -> range:
        """Return the physical addresses of the block."""
        start = self.window.physical
        return range(start, start + block_size(self._slots))

    # ---- in place

    def begin(self, slow: int) -> None:
        """Write what is the same for all sites; ``slow`` is the linear address of the stub's spill.

        No vCPU may be on the way to it yet.
        """
        view, window = self._view, self.window
        control = Control(
            block=window.block,
            window=window.base,
            reach=window.reach,
            far=window.far,
            marks=view.poison,
            physical_bits=view.physical_bits,
            slots=self._slots,
            slow=slow,
            state=self._told.callers.state if self._stacks else 0,
            after=window.code + (self._front or self._common.behind),
        )
        self._write(0, bytes(self._size))
        self._write(layout.CONTROL, control.pack())
        self._write(layout.ALWAYS, b"\1" * (layout.PAGE + LONGEST))
        self._write(layout.CODE, self._common.code)
        # Whoever tells is not to wait where nobody reads.
        self._write(*(self._diary.ignore() if self._errands is None else self._diary.open()))
        self.open()

    def open(self, most: int | None = None, until: int | None = None) -> None:
        """Let the guest make accesses by itself, until ``most`` of its records were taken.

        With ``until`` it makes none when its time-stamp counter is there; every vCPU stands, and is
        not on the fast way.
        """
        if until != self._until:
            self._until = until
            front = self._front if until is None else self._common.deadline
            self._write(control_field("DEADLINE"), (until or 0).to_bytes(8, "little"))
            for offset, data in self._table.lead(front):
                self._write(offset, data)
        self._open, self._left = True, most
        self._write(*self._ring.open(most))

    def shut(self) -> None:
        """Send each access the slow way from here on."""
        self._open = False
        self._write(*self._ring.shut())

    def close(self) -> None:
        """Take away the leaves, and what is in the block; no vCPU may be on the way to it.

        The caller flushes every TLB. The guest has the RAM for reserved, as before.
        """
        self._last = self.account()
        self.window.close(self._memory)
        self._write(0, bytes(self._size))

    def stop_at(self, wanted: Iterable[range]) -> bool:
        """Send the accesses to these physical addresses the slow way; tell whether that is done.

        Every vCPU stands; it cannot be done while one is on the fast way. Where a place is wanted,
        so are those at which an access begins that reaches it. The largest ranges take the rest of
        their pages with them, others the addresses that are alike in their low bits.
        """
        parts = sorted(self.window.pieces(wanted), key=len, reverse=True)
        wide = [part for part in parts[:WIDE] if len(part) >= layout.PAGE]
        words = b"".join(map(self._wide, wide)).ljust(16 * WIDE, b"\0")
        if words != self._wides:
            if not self.idle:
                return False
            self._wides = words
            self._write(control_field("WIDE0"), words)
            for offset, data in self._table.forget():
                self._write(offset, data)
        stops = bytearray(STOP_PLACES)
        for part in parts[len(wide) :]:
            first = part.start - (LONGEST - 1)
            size = min(part.stop - first, STOP_PLACES)
            at = first % STOP_PLACES
            head = min(size, STOP_PLACES - at)
            stops[at : at + head] = b"\1" * head
            stops[: size - head] = b"\1" * (size - head)
        if stops != self._stops:
            self._stops = bytes(stops)
            self._write(layout.STOPS, self._stops)
        return True

    def _wide(self, part: range) -> bytes:
        start, end = part.start & -layout.PAGE, part.stop + layout.PAGE - 1 & -layout.PAGE
        return struct.pack("<2Q", self.window.place(start), end - start)

    @property
    def idle(self) -> bool:
        """Tell whether no vCPU is on the fast way; a guest that runs may be a moment later."""
        return is_free(self._head)

    def is_between(self, vcpu: int) -> bool:
        """Tell whether another vCPU than this one is in the middle of an access.

        What its device has seen of that is not known, so what this one does next has no place in
        the order of records. Each vCPU has the number that it has for its APIC.
        """
        head = self._head
        return not is_free(head) and not self._owns(vcpu, head)

    def is_within(self, vcpu: int) -> bool:
        """Tell whether an NMI's handler on this vCPU has come into an access of the vCPU's own.

        Which of the two the device sees first is not known.
        """
        head = self._head
        return not is_free(head) and self._owns(vcpu, head)

    def _owns(self, vcpu: int, head: int) -> bool:
        # Tells whose the access under way is.
        return self._view.vcpus == 1 or ~head & _WORD == vcpu

    # ---- a site

    def consider(self, insn: Instruction, cpu: CpuState, space: AddressSpace) -> None:
        """Compile an instruction that has gone the slow way, if it may be; every vCPU stands."""
        if cpu.mode is not Mode.LONG:
            return
        code = space.read(watched(insn), WATCHED)
        known = insn.code, code
        if len(code) != WATCHED or self._known.get(insn.rip) == known:
            return
        if not self.idle:
            return  # and the next time, perhaps
        self._known[insn.rip] = known
        if cpu.cpl:
            self.slow["it is a program's, whose page tables may lack the window"] += 1
            return
        try:
            site, writes = self._table.enter(insn, code)
        except NotCompiled as error:
            self.slow[error.reason] += 1
            return
        for offset, data in writes:
            self._write(offset, data)
        if site.number == self._entered:
            self._entered += 1
            self._unproven[site.number] = _VERIFIED
            self._journal.publish(
                SiteRecord(
                    time_ns=self._view.time_ns,
                    number=site.number,
                    rip=insn.rip,
                    symbol=self._names.lookup(insn.rip, space),
                    code=insn.code,
                    text=insn.text,
                )
            )

    # ---- records

    def tell_places(self) -> None:
        """Publish where the traced devices are, for the records that are to come."""
        view = self._view
        if view.regions is not self._shown:
            self._shown = view.regions
            told = PlacesRecord(time_ns=view.time_ns, places=list(recorded.places(view.regions)))
            self._journal.publish(told)

    def drain(self) -> None:
        """Publish the records that there are, and let the guest make as many again."""
        if self._domain is not None:
            self._domain.count()
        while self._drained():
            pass

    def _drained(self) -> bool:
        # Tells whether there was anything: there may be more by now.
        taken = self._taken()
        if self._errands is not None:
            self._learn(self._errands)  # behind the rows
        size = MOST_ROWS * SLOT_SIZE
        for at in range(0, len(taken), size):
            self._sort(taken[at : at + size])
        if self._errands is not None:
            self._errands.settle()
            if self._told.callers.started:
                self._errands = None
                self._write(*self._diary.ignore())
        if not taken:
            return False
        if self._left is not None:
            self._left = max(self._left - len(taken) // SLOT_SIZE, 0)
        if self._open:
            self._write(*self._ring.open(self._left))
        return True

    def part(self) -> None:
        """Publish what a vCPU did while QEMU ended, once it has.

        The access that was under way then may have been made. Writes are no part of that, as
        their records are committed before.
        """
        if self._last is not None:
            return
        # QEMU tells GDB of its end first, and stops its vCPUs then.
        self.drain()
        if self.idle:
            return
        offset, number = self._ring.under_way
        row = self.window.seen(self._read(offset, SLOT_SIZE))
        (raw,) = raws(row)
        if raw.number != number or raw.site >= len(self._table):
            return
        insn = self._table[raw.site].insn
        if parts(insn) is None or places(insn, state_before(insn, raw))[0].linear != raw.linear:
            return  # the rest is an older record's
        _, accesses = self._journal.blocks.count(row, self.window.base)
        block = BlockRecord(
            seq=0,
            time_ns=self._view.time_ns,
            accesses=accesses,
            window=self.window.base,
            rows=row,
            rate=self._view.rate,
        )
        for record in self._journal.blocks.records(block):
            if isinstance(record, Intercept):
                self._publish_cut(record)

    def _publish_cut(self, record: Intercept) -> None:
        cut = [
            replace(access, width=0, extent=access.width, value=None)
            for access in record.accesses
            if access.direction == "read"
        ]
        reached = sum(access.region is not None for access in cut)
        if reached:
            self._journal.counts.update(accesses=reached, compiled=reached)
            seq = self._take(reached)
            # Whose errand that was is not followed any more.
            told = replace(record, seq=seq, accesses=cut, note=UNANSWERED, after={}, thread=None)
            self._journal.publish(told)

    def _taken(self) -> bytes:
        offset, size = self._ring.span(self._head)
        taken = self._ring.take(self._read(offset, size)) if size else 0
        return self.window.seen(self._read(offset, taken)) if taken else b""

    def _sort(self, rows: bytes) -> None:
        # Publishes records in their order, those that are of no access one by one.
        if self._domain is None:
            self._tell(rows)
            return
        try:
            of = list(kinds(rows))
            rows, new = self._asked.name(rows)
        except ValueError as error:
            raise InterceptError(f"the ring has a record with {error}, {_FORGED}") from error
        self._journal.counts["mmio_calls"] += of.count(Kind.MMIO)
        for site in new:
            self._announce(site, self._domain.space())
        for are_accesses, some in groupby(of, key=lambda kind: kind in (None, Kind.MMIO)):
            size = SLOT_SIZE * len(list(some))
            if are_accesses:
                self._tell(rows[:size])
            else:
                for raw in raws(rows[:size]):
                    self._domain.told(raw)
            rows = rows[size:]

    def _announce(self, site: AskedSite, space: AddressSpace) -> None:
        self._asking[site.number] = site
        self._unproven[site.number] = _VERIFIED
        symbol = self._names.lookup(site.rip, space)
        self._journal.publish(asked_site(site, self._view.time_ns, symbol))

    def _learn(self, errands: Errands) -> None:
        # Takes what threads have told.
        head = int.from_bytes(self._read(layout.diary_word("HEAD"), 8), "little")
        told = [self._read(*span) for span in self._diary.spans(head)]
        errands.learn(entry for data in told for entry in entries(data))
        if told:
            self._write(*self._diary.open())

    def _tell(self, rows: bytes) -> None:
        # Publishes rows in pieces that have a stack or an errand in common.
        if self._stacks:
            for at in range(0, len(rows), SLOT_SIZE):
                self._publish(rows[at : at + SLOT_SIZE])
            return
        errands = self._errands
        if errands is None or self._told.callers.started:
            self._publish(rows)
            return
        at = 0
        told = (
            (errands.at(thread, counter),) if thread else () for counter, thread in threads(rows)
        )
        for known, some in groupby(told):
            size = SLOT_SIZE * sum(1 for _ in some)
            self._publish(rows[at : at + size], known)
            at += size

    def _publish(self, rows: bytes, errands: Sequence[Errand | None] = ()) -> None:
        # All rows were made on the one of ``errands``, or beside all; empty where nobody knows.
        view, journal = self._view, self._journal
        try:
            records, accesses = journal.blocks.count(rows, self.window.base)
        except TraceError as error:
            if len(rows) == SLOT_SIZE:
                raise InterceptError(f"the ring has {error}, {_FORGED}") from error
            # Those before it are in order.
            for at in range(0, len(rows), SLOT_SIZE):
                self._publish(rows[at : at + SLOT_SIZE], errands)
            return
        self._prove(rows)
        time_ns = view.time_ns
        view.tell_time_at(max(counters(rows)))
        journal.counts["neighbours"] += len(rows) // SLOT_SIZE - records
        if not accesses:
            return
        for errand in errands:
            self._told.callers.note_errand(errand, self._told.space(), time_ns)
        asked = journal.blocks.asked_for(rows, self.window.base) if self._domain else 0
        journal.counts["accesses"] += accesses
        journal.counts["compiled"] += accesses - asked
        journal.counts["guest"] += asked
        block = BlockRecord(
            seq=self._take(accesses),
            time_ns=time_ns,
            accesses=accesses,
            window=self.window.base,
            rows=rows,
            rate=view.rate,
        )
        if self._stacks:
            self._chain(block)
        else:
            journal.publish(block)

    def _chain(self, block: BlockRecord) -> None:
        # Publishes a block of one row with the stack that the guest has copied for it.
        (raw,) = raws(block.rows)
        data = self._read(stack_place(self._slots, raw.number), STACK_SIZE)
        cpu = state_before(self._table[raw.site].insn, raw)
        copy = stack_copy(data, raw.rsp)
        told = self._told
        stack = told.callers.note(cpu, told.space(), self._view.time_ns, copy)
        self._journal.publish(replace(block, stacks=[stack]))

    def _prove(self, rows: bytes) -> None:
        # Runs the first records of each site through the emulator.
        unproven = self._unproven
        if not unproven or unproven.keys().isdisjoint(sites_of(rows)):
            return
        for raw in raws(rows):
            left = unproven.pop(raw.site, 0)
            if not left:
                continue
            if left > 1:
                unproven[raw.site] = left - 1
            if raw.site in self._asking:
                self._compare(raw)
                continue
            found = verified(self._table[raw.site], raw)
            if found is not None:
                self._journal.counts["disagreements"] += 1
                self._journal.remark(f"the emulator disagrees with what the guest did: {found}")

    def _compare(self, raw: Raw) -> None:
        # Looks whether the guest's kernel has asked for what its instruction does.
        site = self._asking[raw.site]
        agrees = site.insn is not None and agreed(site.insn, raw) is not None
        self._journal.counts["agreed" if agrees else "disagreed"] += 1

    # ---- what is told at the end

    def account(self) -> dict[str, int]:
        """Return how many sites there are, the bytes they take, and why accesses were slow."""
        if self._last is not None:
            return self._last
        reasons = layout.reasons(self._read(layout.CONTROL, layout.PAGE))
        slow = {f"slow: {name}": count for name, count in reasons.items() if count}
        left = {f"not compiled: {reason}": count for reason, count in self.slow.items()}
        return {
            "sites": len(self._table),
            "thunks": self._table.used,
            "block": self._size,
            "entries": self.window.entries,
            **slow,
            **left,
        }

    def told(self) -> Iterator[str]:
        """Yield the same in sentences, with the places in the guest."""
        window, size = self.window, self._size
        yield (
            f"{len(self)} compiled sites, of {self._table.used:,} bytes, and a ring of "
            f"{self._slots:,} records; all of it takes {size >> 10:,} KiB of the guest's RAM, from "
            f"physical {window.physical:#x} on"
        )
        yield (
            f"{window.entries} entries of the page table at physical {window.table:#x} lead there "
            f"and to all devices, from linear {window.base:#x} on"
        )
        account = self.account()
        for name, words in _WORDS.items():
            if f"slow: {name}" in account:
                yield f"{account[f'slow: {name}']:,} accesses took a stop: {words}"
        for reason, count in self.slow.items():
            yield f"{count:,} instructions take a stop each time: {reason}"

    @property
    def _size(self) -> int:
        return block_size(self._slots, stacks=self._stacks)

    @property
    def _head(self) -> int:
        return int.from_bytes(self._read(control_field("HEAD"), 8), "little")

    def _read(self, offset: int, size: int) -> bytes:
        return self._memory.read(self.window.physical + offset, size)

    def _write(self, offset: int, data: bytes) -> None:
        self._memory.write(self.window.physical + offset, data)
