"""The stub in front of the guest's page-fault handler, kept there as the guest changes its IDTs.

The guest has a gate of vector 14 in each of its IDTs, and vetrace one in the same place; in a
confidential guest the same goes for vector 6. What the guest means by what it writes there is
:mod:`tracer.x86.idt`'s to say; it is kept, and its handler is where its own exceptions go.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from tracer.access.space import AddressSpace
from tracer.access.state import stopped
from tracer.access.transfer import cut
from tracer.access.vcpu import DescriptorTable, RegisterFile
from tracer.access.want import (
    DeleteBreakpoint,
    VcpuStates,
    WatchReads,
    WatchStores,
    WriteCode,
)
from tracer.errors import InterceptError, NoEntries
from tracer.intercept.entry.padding import find_page, find_run, is_filler
from tracer.intercept.entry.sight import Sight
from tracer.intercept.entry.stub import Fast, Stub, assemble
from tracer.x86.idt import GATE_SIZE, Gate, guests_view, pack_gate, planted, unpack_gate
from tracer.x86.latest_store import latest_store
from tracer.x86.paging import NOT_EXECUTABLE, PhysicalMemory
from tracer.x86.state import (
    CR4_FRED,
    INVALID_OPCODE_VECTOR,
    PAGE_FAULT_VECTOR,
    PAGE_SIZE,
    Mode,
)

_SCRATCH = 128


class Written(Enum):
    """Say what a vCPU has written."""

    NOTHING = auto()
    GATE = auto()
    HANDLER = auto()  # a gate that leads to another handler now, or in another way


@dataclass(slots=True)
class _Watched:
    # A gate in one IDT: where it is, what the guest means it to be, and what is there. ``pieces``
    # are physical addresses and sizes: two where the gate goes over the end of a page.
    vector: int
    linear: int
    pieces: tuple[tuple[int, int], ...]
    own: bytes
    there: bytes
    # GDB's numbers of the watches, by the linear addresses that the gate is known to have.
    watches: dict[int, list[int]] = field(default_factory=dict)

    @property
    def span(self) -> range:
        return range(self.linear, self.linear + GATE_SIZE)


class PageFaultGate:
    """Own the stub, and vector 14 of one guest's IDTs.

    A confidential guest's ``call``, an instruction of 4 bytes, rings too: vector 6 is owned then.
    The ``msr`` holds what its calls are about, if any does.

    ``stub`` has the addresses to go to, ``fast`` those of compiled sites, where there are any.
    ``ringers`` is other code of vetrace's that reads the stub's bell, and goes back to it from
    where it stops then: its linear addresses, by that one.
    ``scratch`` are linear addresses of quadwords that the guest's kernel can read and that are
    free, where the stub has a page of its own, and ``room`` is what is free beside. ``spare`` is
    the linear address of the mapping without poison. ``stack`` is the interrupt stack (IST) that
    vetrace's own page faults go to, 0 for that of the interrupted code. It is a
    :class:`~tracer.intercept.entry.post.Post`, without a ``sight`` of its own.
    """

    sight: Sight | None = None

    def __init__(
        self,
        memory: PhysicalMemory,
        *,
        spare: int,
        notes: bool = True,
        fast: Fast | None = None,
        call: bytes = b"",
        msr: int | None = None,
    ) -> None:
        self._memory = memory
        self._fast = fast
        self._call = call
        self._msr = msr
        self._vectors = (PAGE_FAULT_VECTOR, *([INVALID_OPCODE_VECTOR] if call else []))
        self._raised = 0
        self.spare = spare
        self._notes = notes
        self.stub: Stub = assemble(0)
        self.scratch = self.room = range(0)
        self.ringers: dict[int, range] = {}
        self.stack = 0
        self._selector = 0
        self._gates: dict[tuple[tuple[int, int], ...], _Watched] = {}
        # The guest's own gates, with their vectors, by the door that leads to each, the one used
        # longest ago first.
        self._doors: dict[int, tuple[int, bytes]] = {}

    # ---- in place

    async def place(
        self,
        space: AddressSpace,
        idt: DescriptorTable,
        place: int | None,
        selector: int,
        free: Sequence[range] | None = None,
    ) -> None:
        """Place the stub in the padding at ``place``, or near the handler, or where it is ``free``.

        These are linear addresses, best first, and there is no other place then. ``selector`` is
        the guest's 64-bit code segment. Raises InterceptError when the guest has no handler yet or
        no padding is found.
        """
        gate = self._gate_in(space, idt, PAGE_FAULT_VECTOR)
        if not gate.usable:
            raise NoEntries("the guest has no page-fault handler to put the stub in front of")
        late = bool(self._call)
        size = len(assemble(gate.handler, fast=self._fast, late=late, msr=self._msr).code)
        starts = (gate.handler,) if place is None else (place, gate.handler)
        near = (find_page(space, start) or find_run(space, start, size) for start in starts)
        found = near if free is None else _found(space, size, free)
        base = next((address for address in found if address is not None), None)
        if base is None and free is not None:
            raise NoEntries(
                f"no {size} bytes that the guest has as code and surely does not use, for the "
                "fault stub: name a page of one filler throughout (--stub-at)"
            )
        if base is None:
            raise NoEntries(
                f"no {size} bytes of padding near the guest's page-fault handler "
                f"at linear {gate.handler:#x} for the fault stub"
            )
        stub = assemble(base, notes=self._notes, fast=self._fast, late=late, msr=self._msr)
        if base % PAGE_SIZE == 0 and is_filler(space.read(base, PAGE_SIZE)):
            self.scratch = range(base + PAGE_SIZE - _SCRATCH, base + PAGE_SIZE, 8)
            self.room = range(base + len(stub.code), self.scratch.start)
        self.stub = stub
        self._selector = selector
        await WriteCode(base, self.stub.code)
        await WatchReads(self.stub.bell)

    async def hasten(self, fast: Fast, call: int) -> None:
        """Have faults and calls of the kernel's go to code in the window first.

        ``call`` is the linear address for a call. The stub has been placed without.
        """
        for way, place in zip(self.stub.ways, (fast.linear, call), strict=True):
            await WriteCode(way, place.to_bytes(8, "little"))
        self.stub = replace(self.stub, fast=fast)

    async def follow(self, space: AddressSpace, idt: DescriptorTable) -> bool:
        """Put the stub in front of the handler in an IDT that a vCPU has loaded.

        Tells whether that was a new one. Raises LookupError when it has no room for vector 14 or
        is not in RAM.
        """
        found = [await self._follow(vector, space, idt) for vector in self._vectors]
        return any(found)

    async def _follow(self, vector: int, space: AddressSpace, idt: DescriptorTable) -> bool:
        linear = idt.base + GATE_SIZE * vector
        leaf = space.leaf(linear)
        data = space.read(linear, GATE_SIZE)
        if not _has_room(idt, vector) or leaf is None or len(data) != GATE_SIZE:
            raise LookupError(f"the IDT at linear {idt.base:#x} has no vector {vector}")
        pieces = _pieces(linear, space)
        gate = self._gates.get(pieces)
        new = gate is None
        if gate is None:
            gate = self._gates[pieces] = _Watched(vector, linear, pieces, data, data)
            await self._plant(gate, data)
        if linear not in gate.watches and (new or leaf.writable):
            gate.watches[linear] = []
            await self._watch(gate)
        return new

    def remove(self) -> None:
        """Give the guest its own gates back; the stub stays for who is in it."""
        for gate in self._gates.values():
            self._write(gate, gate.own)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Let the guest have its own gates for as long as this lasts; no other vCPU may run."""
        self.remove()
        try:
            yield
        finally:
            for gate in self._gates.values():
                self._write(gate, gate.there)

    # ---- what the guest has

    async def own_gate(self, space: AddressSpace, vcpu: int, vector: int) -> Gate:
        """Return the guest's own gate of a vector, in the IDT that a vCPU uses."""
        own = [gate for gate in self._gates.values() if gate.vector == vector]
        if len(own) == 1:
            return unpack_gate(own[0].own)
        return self._gate_in(space, (await VcpuStates())[vcpu].tables.idt, vector)

    async def raising(self, space: AddressSpace, vcpu: int, vector: int) -> int:
        """Return where a vCPU at the stub's ``stop`` goes on into the handler of a vector.

        That is of an exception without an error code, on the stack that the vCPU is on. Raises
        InterceptError when the guest has no such handler.
        """
        if await self.handler_of(space, vcpu, vector):
            raise InterceptError(f"the guest's handler of vector {vector} is on another stack")
        return self.stub.raising

    async def handler_of(self, space: AddressSpace, vcpu: int, vector: int) -> int:
        """Have the stub leave for the guest's handler of a vector; return its interrupt stack.

        That is its number, 0 for none. Raises InterceptError when the guest has no such handler.
        """
        base = {gate.linear - GATE_SIZE * gate.vector for gate in self._gates.values()}
        if len(base) == 1:
            # An IDT that is the only one has all its vectors where the first is.
            gate = self._gate_in(space, DescriptorTable(base.pop(), PAGE_SIZE - 1), vector)
        else:
            gate = await self.own_gate(space, vcpu, vector)
        if not gate.usable:
            raise InterceptError(f"the guest has no handler of its own for vector {vector}")
        if gate.handler != self._raised:
            await WriteCode(self.stub.raised, gate.handler.to_bytes(8, "little"))
            self._raised = gate.handler
        return gate.stack

    def _gate_in(self, space: AddressSpace, idt: DescriptorTable, vector: int) -> Gate:
        linear = idt.base + GATE_SIZE * vector
        data = space.read(linear, GATE_SIZE)
        if len(data) != GATE_SIZE:
            raise InterceptError(f"the guest's IDT at linear {idt.base:#x} cannot be read")
        gate = self._gates.get(_pieces(linear, space))
        return unpack_gate(data if gate is None else gate.own)

    def knows(self, space: AddressSpace, idt: DescriptorTable) -> bool:
        """Tell whether an IDT is one that vetrace has its gate in, and has room for it."""
        return all(
            _has_room(idt, vector) and _pieces(idt.base + GATE_SIZE * vector, space) in self._gates
            for vector in self._vectors
        )

    def disturbed(self) -> bool:
        """Tell whether a gate is no longer what it was made."""
        return any(self._now(gate) != gate.there for gate in self._gates.values())

    # ---- the guest writes

    async def written(self, registers: RegisterFile | None, space: AddressSpace) -> Written:
        """Put the stub in front again after the guest wrote a gate, or wrote it as it was.

        ``registers`` are those of the vCPU behind its store, where it is there that it stopped.
        """
        found = Written.NOTHING
        for gate in self._gates.values():
            store = None
            if registers is not None:
                store = latest_store(stopped(registers.values, Mode.LONG), space.read, gate.span)
            now = self._now(gate)
            if now == gate.there and store is None:
                continue
            before, gate.own = gate.own, self._meant(gate, now, store)
            await self._plant(gate, gate.own)
            if registers is not None:
                await self._watch(gate)
            if found is Written.NOTHING:
                found = Written.GATE
            faults = gate.vector == PAGE_FAULT_VECTOR
            if faults and gate.own != before and unpack_gate(gate.own).usable:
                found = Written.HANDLER
        return found

    def _meant(self, gate: _Watched, now: bytes, store: range | None) -> bytes:
        span = None
        if store is not None:
            first = max(store.start - gate.linear, 0)
            span = range(first, min(store.stop - gate.linear, GATE_SIZE))
        known = {
            door: (own, pack_gate(self._planted(vector, own, door)))
            for door, (vector, own) in self._doors.items()
        }
        return guests_view(gate.own, gate.there, now, span, known)

    # ---- vetrace writes

    async def _plant(self, gate: _Watched, own: bytes) -> None:
        gate.own = gate.there = own
        if gate.vector == PAGE_FAULT_VECTOR or unpack_gate(own).usable:
            door = await self._door(gate.vector, own)
            gate.there = pack_gate(self._planted(gate.vector, own, door))
        self._write(gate, gate.there)

    def _now(self, gate: _Watched) -> bytes:
        pieces = (self._memory.read(physical, size) for physical, size in gate.pieces)
        return b"".join(pieces)

    def _write(self, gate: _Watched, data: bytes) -> None:
        # Behind GDB's back, which has a value of its own for what is watched there.
        for physical, size in gate.pieces:
            self._memory.write(physical, data[:size])
            data = data[size:]

    async def _watch(self, gate: _Watched) -> None:
        # Half by half, as a guest may write one of them alone; anew after each store.
        for linear, numbers in gate.watches.items():
            for number in numbers:
                await DeleteBreakpoint(number)
            self._write(gate, secrets.token_bytes(GATE_SIZE))
            numbers[:] = [
                await WatchStores(half)
                for half in range(linear, linear + GATE_SIZE, GATE_SIZE // 2)
            ]
        self._write(gate, gate.there)

    def _planted(self, vector: int, own: bytes, door: int) -> Gate:
        if vector == PAGE_FAULT_VECTOR:
            return planted(unpack_gate(own), door, self._selector, self.stack)
        return replace(unpack_gate(own), handler=door)

    async def _door(self, vector: int, own: bytes) -> int:
        # The door to the handler of a gate, made if there is none yet.
        wanted = vector, own
        door = next((door for door, known in self._doors.items() if known == wanted), None)
        if door is None:
            used = {(gate.vector, gate.own) for gate in self._gates.values()}
            free = [door for door in self.stub.doors if door not in self._doors]
            free += [door for door, known in self._doors.items() if known not in used]
            if not free:
                raise InterceptError(f"the guest has more than {len(self._doors)} IDTs")
            door = free[0]
            self._doors.pop(door, None)
            await WriteCode(door, self._leading(vector, unpack_gate(own), door))
        else:
            self._doors.pop(door)
        self._doors[door] = wanted
        return door

    def _leading(self, vector: int, own: Gate, door: int) -> bytes:
        # The code of a door.
        if vector != PAGE_FAULT_VECTOR:
            return self.stub.call_door(door, own.handler, self._call)
        return self.stub.door(door, own.handler if own.usable and not self.stack else None)


def _found(space: AddressSpace, size: int, free: Sequence[range]) -> Iterator[int | None]:
    # Yields places for the stub, whole pages first, where a vCPU can run it.
    pages = [find_page(space, span.start, len(span)) for span in free]
    runs = [find_run(space, span.start, size, len(span)) for span in free]
    for place in (*pages, *runs):
        leaf = None if place is None else space.leaf(place)
        if place is not None and leaf is not None and not leaf.entry & NOT_EXECUTABLE:
            yield place


def refuse_fred(cr4: int) -> None:
    """Raise GuestError when a vCPU delivers its exceptions around the IDT."""
    if cr4 & CR4_FRED:
        raise NoEntries(
            "the guest has switched FRED on (CR4 bit 32): page faults go through no gate, and no "
            "access is seen; give it a CPU without: -cpu ...,fred=off, or boot Linux with fred=off"
        )


def _has_room(idt: DescriptorTable, vector: int) -> bool:
    return idt.limit >= GATE_SIZE * (vector + 1) - 1


def _pieces(linear: int, space: AddressSpace) -> tuple[tuple[int, int], ...]:
    # Returns where the bytes of a gate are; nothing where a part of it is not mapped.
    found = []
    for start, size in cut(linear, GATE_SIZE):
        leaf = space.leaf(start)
        if leaf is None:
            return ()
        found.append((leaf.translate(start), size))
    return tuple(found)
