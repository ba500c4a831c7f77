"""The rows that a guest's compiled sites leave in the ring, published in their order.

A row becomes part of a block of the trace, with the call chain or the errand that it was made
under; the first ones of each site go through the emulator as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from tracer.access.space import AddressSpace
from tracer.compiled import layout
from tracer.compiled.asking import AskedSite, AskedSites, agreed, decoded, kinds
from tracer.compiled.diary import Current, Diary, Errand, Errands, entries
from tracer.compiled.inputs import FIRST, Input, InputPlace, InputSites, of_kinds, rip_of_input
from tracer.compiled.layout import SLOT_SIZE
from tracer.compiled.module import Kind
from tracer.compiled.reading import state_before, verified
from tracer.compiled.ring import Raw, counters, raws, sites_of, threads
from tracer.compiled.sites import SiteTable
from tracer.compiled.stack_copy import stack_copy
from tracer.errors import InterceptError, TraceError
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.ring.block import Block
from tracer.intercept.system import Callers
from tracer.intercept.view import GuestView
from tracer.trace.block import MOST_ROWS
from tracer.trace.compiled import BlockRecord
from tracer.trace.inputs import input_site
from tracer.trace.site import asked_site
from tracer.x86.instruction import Instruction
from tracer.x86.state import MAX_INSTRUCTION, CpuState

_FORGED = "which no thunk has left there: the guest has written to it"

_PROGRAM = 3
"""The privilege level of code of whose stack there is no copy."""
_VERIFIED = 16
"""Records of each site that are run again through the emulator while the guest runs."""


@dataclass(frozen=True, slots=True)
class Domain:
    """Say who is told of each record that is of no access, with where code is looked up.

    What the guest code counts is counted where records are taken.
    """

    told: Callable[[Raw, AddressSpace], None]
    count: Callable[[], None]


def _nowhere(place: InputPlace) -> AddressSpace:
    raise InterceptError(f"nobody knows where linear {place.rip:#x} leads")


@dataclass(frozen=True, slots=True)
class Told:
    """Say who is told of accesses that take no stop, and where code is looked up.

    ``take`` is called with a number of accesses and returns that of the first one. With ``stacks``
    the stack of each access is copied and unwound; else threads say what errands they are on, and
    ``current`` is where code finds its thread, None where no errands are told. With a ``domain``
    the TDX module is code in the guest. ``inputs`` are the kinds that a monitor records; ``look``
    returns where linear addresses lead for code of these. With ``nested`` traps there is a monitor
    even if none is wanted.
    """

    callers: Callers
    names: Names
    space: Callable[[], AddressSpace]
    take: Callable[[int], int]
    current: Current | None = None
    stacks: bool = False
    domain: Domain | None = None
    inputs: frozenset[Input] = frozenset()
    look: Callable[[InputPlace], AddressSpace] = _nowhere
    nested: bool = False


class Rows:
    """Publish what one guest's ring has had, as it is taken."""

    def __init__(
        self, block: Block, table: SiteTable, view: GuestView, journal: Journal, told: Told
    ) -> None:
        self._block = block
        self._table = table
        self._view = view
        self._journal = journal
        self._told = told
        self._diary = Diary()
        self._errands = None if told.stacks or told.current is None else Errands()
        self._asked = AskedSites()
        self._asking: dict[int, AskedSite] = {}
        inside = told.inputs or told.nested
        self._inputs = InputSites(self._instruction) if inside else None
        self._unproven: dict[int, int] = {}

    def begin(self) -> None:
        """Open the diary where it is read."""
        # Whoever tells is not to wait where nobody reads.
        opened = self._diary.ignore() if self._errands is None else self._diary.open()
        self._block.write(*opened)

    def follow_threads(self) -> None:
        """Read the diary from here on; every vCPU stands."""
        self._errands = Errands()
        self.begin()

    def expect(self, site: int) -> None:
        """Run the first rows of a site, by its number, through the emulator."""
        self._unproven[site] = _VERIFIED

    def publish(self, taken: bytes) -> None:
        """Publish rows, all that the ring had when they were taken."""
        if self._errands is not None:
            self._learn(self._errands)  # behind the rows
        size = MOST_ROWS * SLOT_SIZE
        for at in range(0, len(taken), size):
            self._sort(taken[at : at + size])
        if self._errands is not None:
            self._errands.settle()
            if self._told.callers.started:
                self._errands = None
                self._block.write(*self._diary.ignore())

    def publish_made(self, row: bytes, cpu: CpuState, space: AddressSpace) -> None:
        """Publish the row of an input that was made at a stop, by code in a state, if wanted."""
        rows = b"" if self._inputs is None else self._named(self._inputs, row)
        if rows:
            stack = self._told.callers.note(cpu, space, self._view.time_ns)
            self._publish(rows, stacks=[stack] if self._told.stacks else ())

    def _sort(self, rows: bytes) -> None:
        # Publishes records in their order, those that are of no access one by one.
        domain = self._told.domain
        if self._inputs is not None:
            rows = self._named(self._inputs, rows)
        if not rows:
            return
        if domain is None:
            self._tell(rows)
            return
        try:
            of = list(kinds(rows))
            rows, new = self._asked.name(rows)
        except ValueError as error:
            raise InterceptError(f"the ring has a record with {error}, {_FORGED}") from error
        self._journal.counts["mmio_calls"] += of.count(Kind.MMIO)
        for site in new:
            self._announce(site)
        for are_accesses, some in groupby(of, key=lambda kind: kind in (None, Kind.MMIO)):
            size = SLOT_SIZE * len(list(some))
            if are_accesses:
                self._tell(rows[:size])
            else:
                for raw in raws(rows[:size]):
                    domain.told(raw, self._told.space())
            rows = rows[size:]

    def _named(self, inputs: InputSites, rows: bytes) -> bytes:
        # Gives inputs their sites; those of a kind that is not wanted are left out.
        rows = of_kinds(rows, self._told.inputs)
        try:
            rows, new = inputs.name(rows)
        except ValueError as error:
            raise InterceptError(f"the ring has {error}, {_FORGED}") from error
        for site in new:
            space = self._told.look(site.place)
            symbol = self._told.names.lookup(site.place.rip, space)
            self._journal.publish(input_site(site, self._view.time_ns, symbol))
        return rows

    def _instruction(self, place: InputPlace) -> Instruction | None:
        # A program's code as it ran, or the code at a place of the guest's, as it is by now.
        code = place.code or self._told.look(place).read(place.rip, MAX_INSTRUCTION)
        return decoded(code, place.rip, place.mode)

    def _announce(self, site: AskedSite) -> None:
        self._asking[site.number] = site
        self.expect(site.number)
        symbol = self._told.names.lookup(site.rip, self._told.space())
        self._journal.publish(asked_site(site, self._view.time_ns, symbol))

    def _learn(self, errands: Errands) -> None:
        # Takes what threads have told.
        head = int.from_bytes(self._block.read(layout.diary_word("HEAD"), 8), "little")
        told = [self._block.read(*span) for span in self._diary.spans(head)]
        errands.learn(entry for data in told for entry in entries(data))
        if told:
            self._block.write(*self._diary.open())

    def _tell(self, rows: bytes) -> None:
        # Publishes rows in pieces that have a stack or an errand in common.
        if self._told.stacks:
            self._chain(rows)
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

    def _publish(
        self,
        rows: bytes,
        errands: Sequence[Errand | None] = (),
        stacks: Sequence[int | None] = (),
    ) -> None:
        # All rows were made on the one of ``errands``, or beside all; empty where nobody knows.
        # ``stacks`` are the call chain of each, where they are told.
        view, journal = self._view, self._journal
        try:
            if Input.IRQ in self._told.inputs:
                rows = journal.with_messages(rows, self._block.window.base)
            records, accesses = journal.blocks.count(rows, self._block.window.base)
        except TraceError as error:
            if len(rows) == SLOT_SIZE:
                raise InterceptError(f"the ring has {error}, {_FORGED}") from error
            # Those before it are in order.
            for at in range(len(rows) // SLOT_SIZE):
                self._publish(_row(rows, at), errands, stacks[at : at + 1])
            return
        self._prove(rows)
        time_ns = view.time_ns
        view.tell_time_at(max(counters(rows)))
        journal.counts["neighbours"] += len(rows) // SLOT_SIZE - records
        if not accesses:
            return
        for errand in errands:
            self._told.callers.note_errand(errand, self._told.space(), time_ns)
        asked = journal.blocks.asked_for(rows, self._block.window.base) if self._told.domain else 0
        inputs = journal.blocks.inputs_in(rows) if self._inputs is not None else 0
        journal.counts["accesses"] += accesses
        journal.counts["compiled"] += accesses - asked - inputs
        journal.counts["monitor"] += inputs
        journal.counts["guest"] += asked
        block = BlockRecord(
            seq=self._told.take(accesses),
            time_ns=time_ns,
            accesses=accesses,
            window=self._block.window.base,
            rows=rows,
            rate=view.rate,
            stacks=list(stacks),
        )
        journal.publish(block)

    def _chain(self, rows: bytes) -> None:
        # Publishes rows with the stacks that the guest has copied for them. A piece of them ends
        # where a chain or a phase is told for the first time.
        view, told = self._view, self._told
        space, first, stacks = told.space(), 0, list[int | None]()

        def settle() -> None:
            nonlocal first
            if stacks:
                upto = first + len(stacks)
                self._publish(rows[SLOT_SIZE * first : SLOT_SIZE * upto], stacks=stacks)
                first = upto
                stacks.clear()

        try:
            sure = self._are_told(rows)
        except TraceError:
            sure = False
        rate = view.rate
        for at, raw in enumerate(raws(rows)):
            stack = None
            try:
                if sure or self._are_told(_row(rows, at)):
                    cpu = self._state(raw)
                    if cpu is not None:
                        copy = stack_copy(self._block.stack(raw.number), raw.rsp)
                        now = view.time_ns if rate is None else max(view.time_ns, rate.at(raw.tsc))
                        stack = told.callers.note(cpu, space, now, copy, settle)
            except TraceError:
                settle()
                self._publish(_row(rows, at))  # which says what is wrong with it
            stacks.append(stack)
        settle()

    def _are_told(self, rows: bytes) -> bool:
        # Tells whether each of the rows is an access to what is traced.
        told, _ = self._journal.blocks.count(rows, self._block.window.base)
        return told == len(rows) // SLOT_SIZE

    def _state(self, raw: Raw) -> CpuState | None:
        # The state of the kernel's code in which an access was made, None for a program's.
        if raw.site < FIRST:
            return state_before(self._table[raw.site].insn, raw)
        return None if raw.error == _PROGRAM else CpuState(raw.gpr, rip_of_input(raw), raw.rflags)

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


def _row(rows: bytes, number: int) -> bytes:
    return rows[SLOT_SIZE * number : SLOT_SIZE * (number + 1)]
