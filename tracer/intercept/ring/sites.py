"""Compiled sites in a guest: what is written for them into its RAM, and the records they leave.

An access that went the slow way has its instruction compiled: from then on the vCPU makes it, and
leaves a record in the ring. :meth:`CompiledSites.drain` publishes what is there, while the guest
runs, and at each stop before anything else is published: so records keep their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from msgspec.structs import replace

from tracer.access import recorded
from tracer.access.decision import Origin
from tracer.access.execution import Foretold
from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.compiled import layout
from tracer.compiled.common import CommonCode
from tracer.compiled.diary import Current
from tracer.compiled.inputs import port_row
from tracer.compiled.layout import (
    LONGEST,
    SLOT_SIZE,
    Control,
    control_field,
)
from tracer.compiled.reading import parts, state_before
from tracer.compiled.ring import Ring, raws
from tracer.compiled.safety import NotCompiled
from tracer.compiled.sites import SiteTable, watched
from tracer.compiled.thunk import WATCHED
from tracer.intercept.answer import UNANSWERED
from tracer.intercept.fault import Fault
from tracer.intercept.journal import Journal
from tracer.intercept.ring.block import Block
from tracer.intercept.ring.rows import Rows, Told
from tracer.intercept.ring.stops import Stops
from tracer.intercept.ring.window import Window
from tracer.intercept.view import GuestView
from tracer.trace.compiled import BlockRecord, PlacesRecord, SiteRecord
from tracer.trace.record import Intercept
from tracer.x86.bus import PortAccess
from tracer.x86.emulate.address import places
from tracer.x86.instruction import Instruction
from tracer.x86.legacy_paging import marks_of
from tracer.x86.state import CpuState, Mode

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
    "moved": "a device may have moved since the last stop",
}
"""Why an access took a stop, by the names of :data:`layout.REASONS`."""

_AT_ONCE = 512
"""Records with stacks that are taken at once: unwinding takes time, and guests wait for room."""


class CompiledSites:
    """Own the block of compiled sites in one guest.

    ``slow`` counts by reason the instructions that were left to a stop.
    """

    def __init__(
        self,
        window: Window,
        common: CommonCode,
        slots: int,
        view: GuestView,
        journal: Journal,
        told: Told,
    ) -> None:
        self.window = window
        self.slow: Counter[str] = Counter()
        self._common = common
        self._slots = slots
        self._view = view
        self._journal = journal
        self._ring = Ring(slots)
        self._told = told
        self._front = common.stacks if told.stacks else None
        current = None if told.stacks else told.current
        self._table = SiteTable(window.block, common, self._front, current)
        self.block = Block(view, window, slots, stacks=told.stacks)
        self.stops = Stops(self.block, self._table)
        self._rows = Rows(self.block, self._table, view, journal, told)
        self._entered = 0
        self._shown: RegionMap | None = None
        self._known: dict[int, tuple[bytes, bytes]] = {}
        self._open = False
        self._left: int | None = None
        self._until: int | None = None
        self._last: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._table)

    @property
    def are_for_inputs(self) -> bool:
        """Tell whether accesses to memory take their stops, and the ring is for inputs alone.

        So it is where the TDX module is code in the guest, which copies no stacks.
        """
        return self._told.stacks and self._told.domain is not None

    # ---- in place

    def begin(self, slow: int, *, done: int = 0, nested: int = 0) -> None:
        """Write what is the same for all sites; ``slow`` is the linear address of the stub's spill.

        No vCPU may be on the way to it yet. In a monitor, ``done`` is where a thunk ends, and
        ``nested`` the physical address of the root of the nested tables.
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
            state=self._told.callers.state if self._told.stacks else 0,
            after=window.code + (self._front or self._common.behind),
            done=done,
            nested=nested,
            stack_end=self._told.callers.stack_end if self._told.stacks else 0,
        )
        self.block.write(0, bytes(self.block.size))
        self.block.write(layout.CONTROL, control.pack())
        self.block.write(layout.ALWAYS, b"\1" * (layout.PAGE + LONGEST))
        self.block.write(layout.CODE, self._common.code)
        self._rows.begin()
        if not self.are_for_inputs:
            self.open()

    def know_callers(self, current: Current | None) -> None:
        """Know who makes accesses from here on, whom nothing was known of; every vCPU stands.

        ``current`` is where code finds its thread, None where no errands are told.
        """
        callers = self._told.callers
        if self._told.stacks:
            words = {"STATE": callers.state, "STACK_END": callers.stack_end}
            for name, word in words.items():
                if word:
                    self.block.write(control_field(name), word.to_bytes(8, "little"))
        elif current is not None:
            self._table.follow_threads(current)
            self._rows.follow_threads()

    def open(self, most: int | None = None, until: int | None = None) -> None:
        """Let the guest make accesses by itself, until ``most`` of its records were taken.

        With ``until`` it makes none when its time-stamp counter is there; every vCPU stands, is not
        on the fast way, and it is known where devices are.
        """
        if until != self._until:
            self.block.write(control_field("DEADLINE"), (until or 0).to_bytes(8, "little"))
            if None in (until, self._until):
                front = self._front if until is None else self._common.deadline
                for offset, data in self._table.lead(front):
                    self.block.write(offset, data)
            self._until = until
        self._open, self._left = True, most
        self.block.write(control_field("SITES"), self.block.sites)  # nothing has moved since
        self.block.write(*self._ring.open(most))

    def shut(self) -> None:
        """Send each access the slow way from here on."""
        self._open = False
        self.block.write(*self._ring.shut())

    def close(self) -> None:
        """Take away the leaves, and what is in the block; no vCPU may be on the way to it.

        The caller flushes every TLB. The guest has the RAM for reserved, as before.
        """
        self._last = self.account()
        self.window.close(self._view.memory)
        self.block.write(0, bytes(self.block.size))

    # ---- a site

    def consider(self, insn: Instruction, cpu: CpuState, space: AddressSpace) -> None:
        """Compile an instruction that has gone the slow way, if it may be; every vCPU stands."""
        if cpu.mode is not Mode.LONG:
            return
        code = space.read(watched(insn), WATCHED)
        known = insn.code, code
        if len(code) != WATCHED or self._known.get(insn.rip) == known:
            return
        if not self.block.idle:
            return  # and the next time, perhaps
        self._known[insn.rip] = known
        if cpu.cpl:
            self.slow["it is a program's, whose page tables may lack the window"] += 1
            return
        origin = Origin(insn, self._told.names.lookup(insn.rip, space))
        try:
            held = self.stops.holds(origin)
            site, writes = self._table.enter(insn, code, held=held)
        except NotCompiled as error:
            self.slow[error.reason] += 1
            return
        for offset, data in writes:
            self.block.write(offset, data)
        if site.number == self._entered:
            self._entered += 1
            self._rows.expect(site.number)
            self.stops.know(origin)
            self._journal.publish(
                SiteRecord(
                    time_ns=self._view.time_ns,
                    number=site.number,
                    rip=insn.rip,
                    symbol=origin.symbol,
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
            told = PlacesRecord(
                time_ns=view.time_ns, places=list(recorded.places(view.regions, view.ports))
            )
            self._journal.publish(told)

    def tell_port(self, access: PortAccess, value: int, foretold: Foretold, fault: Fault) -> None:
        """Publish the port's side of an instruction that was carried out at a stop, if wanted."""
        insn, space, cpu = foretold.insn, fault.space, foretold.cpu
        tables = marks_of(space.paging) if space.legacy else fault.spill.cr3
        row = port_row(access, value, insn, cpu, tables, fault.vcpu, fault.spill.tsc)
        self._rows.publish_made(row, cpu, space)

    def drain(self) -> None:
        """Publish the records that there are, and let the guest make as many again."""
        if self._told.domain is not None:
            self._told.domain.count()
        while self._drained():
            pass

    def _drained(self) -> bool:
        # Tells whether there was anything: there may be more by now.
        taken = self._taken()
        self._rows.publish(taken)
        if not taken:
            return False
        self.block.write(*self._ring.room())
        if self._left is not None:
            self._left = max(self._left - len(taken) // SLOT_SIZE, 0)
        if self._open:
            self.block.write(*self._ring.open(self._left))
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
        if self.block.idle:
            return
        offset, number = self._ring.under_way
        row = self.window.seen(self.block.read(offset, SLOT_SIZE))
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
            seq = self._told.take(reached)
            # Whose errand that was is not followed any more.
            told = replace(record, seq=seq, accesses=cut, note=UNANSWERED, after={}, thread=None)
            self._journal.publish(told)

    def _taken(self) -> bytes:
        offset, size = self._ring.span(self.block.head)
        if self._told.stacks:
            size = min(size, _AT_ONCE * SLOT_SIZE)
        taken = self._ring.take(self.block.read(offset, size)) if size else 0
        return self.window.seen(self.block.read(offset, taken)) if taken else b""

    # ---- what is told at the end

    def account(self) -> dict[str, int]:
        """Return how many sites there are, the bytes they take, and why accesses were slow."""
        if self._last is not None:
            return self._last
        reasons = layout.reasons(self.block.read(layout.CONTROL, layout.PAGE))
        slow = {f"slow: {name}": count for name, count in reasons.items() if count}
        left = {f"not compiled: {reason}": count for reason, count in self.slow.items()}
        return {
            "sites": len(self._table),
            "thunks": self._table.used,
            "block": self.block.size,
            "entries": self.window.entries,
            **slow,
            **left,
        }

    def told(self) -> Iterator[str]:
        """Yield the same in sentences, with the places in the guest."""
        window, size = self.window, self.block.size
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
