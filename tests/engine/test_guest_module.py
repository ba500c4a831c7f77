"""A TDX guest whose module is code in it: some of the way goes by stops, the rest without."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from block_sample import WINDOW as BASE
from block_sample import asked_row, row
from calling import ASKING, CALLER, INNER, OUTER
from scene import AT, CODE, DEVICE, READ, ROOT, WRITE, Callers, Names
from trust_domain import RAM, RAM_AT, READS, REG, SHARED, WRITES, Domain

from tracer.access.decision import Give
from tracer.access.want import AskBefore, AskCompleted, ReadPhysical, WriteCode, WritePhysical
from tracer.compiled import layout
from tracer.compiled.common import common_code
from tracer.compiled.inputs import Input
from tracer.compiled.layout import SLOT_SIZE, control_field
from tracer.compiled.module import KEYS, MMIO_FIELDS, TDCALL_ERROR, Kind, counter
from tracer.compiled.pending import Waiting
from tracer.confidential.tdx_state import VeInfo
from tracer.errors import InterceptError
from tracer.intercept.below.guest_module import GuestModule
from tracer.intercept.entry.spill import frame_at
from tracer.intercept.ring import rows
from tracer.intercept.ring.sites import CompiledSites
from tracer.intercept.ring.window import Window
from tracer.trace.call import SharedRecord, TdcallRecord
from tracer.trace.compiled import Place, PlacesRecord, SiteRecord
from tracer.trace.record import Intercept
from tracer.x86.state import GPR, CpuState

SLOTS = 16
BLOCK_AT = 0x40_0000
"""Physical address of the block, behind the RAM that the guest has."""
WINDOW = Window(BLOCK_AT, BASE + (442 << 30) + BLOCK_AT, BASE, 442 << 30, 0, 444, root=ROOT)
PLACES = PlacesRecord(
    time_ns=0, places=[Place(region="nvme", start=DEVICE, end=DEVICE + 0x3FFF, base=DEVICE)]
)


class Inside(Domain):
    """A domain whose guest has the code; what that does is done by :meth:`put`."""

    def __init__(self, inputs: frozenset[Input] = frozenset()) -> None:
        super().__init__()
        self.ram.data.extend(bytes(layout.block_size(SLOTS)))
        self.module = self.domain.module = GuestModule(WINDOW, self.view)
        common = common_code(smp=True, la57=False)
        told = rows.Told(
            Callers(), Names(), lambda: self.space, self.interceptor.ledger.take,  # type: ignore[arg-type]
            domain=rows.Domain(self.domain.told, self.domain.count), inputs=inputs,
            look=lambda place: self.space,
        )  # fmt: skip
        self.sites = CompiledSites(WINDOW, common, SLOTS, self.view, self.journal, told)
        self.sites.begin(0)
        self.module.begin(self.stub, common, self.space.paging, self.view.regions.ram)
        self.journal.publish(PLACES)
        self.next = SLOTS * SLOT_SIZE

    def word(self, offset: int, value: int) -> None:
        self.ram.write(BLOCK_AT + offset, struct.pack("<Q", value))

    def put(self, *rows: bytes) -> None:
        """Leave records in the ring."""
        for data in rows:
            place = layout.RING + self.next % (SLOTS * SLOT_SIZE)
            self.ram.write(BLOCK_AT + place, struct.pack("<Q", self.next) + data[8:])
            self.next += SLOT_SIZE
            self.word(control_field("HEAD"), self.next)

    def takes(self, *rows: bytes) -> None:
        """Leave records in the ring, and take them."""
        self.put(*rows)
        self.sites.drain()

    def raised(self, code: str, linear: int, *, stack: int = OUTER, **registers: int) -> None:
        """Be the code that makes a fault a #VE."""
        gpr = tuple(registers.get(name, 0) for name in GPR)
        self.write(CODE, bytes.fromhex(code))
        gpa = linear - AT + DEVICE | SHARED
        self.module.tell(0, VeInfo(48, 1, linear, gpa))
        cpu = CpuState(gpr, CODE, 0x246)
        self.module.keep(Waiting(frame_at(stack), linear, gpa, READ, 77, cpu, bytes(16)))


def call(registers: dict[str, int], rip: int = CALLER, tsc: int = 50) -> bytes:
    """A record of a hypercall that is none for an access."""
    known = {"rcx": 0xFFCC, **registers}
    return row(Kind.TDCALL, tsc=tsc, error=TDCALL_ERROR, read=rip << 64, **known)


def test_a_fault_by_a_stop_is_known_to_the_code() -> None:
    scene = Inside()
    scene.faults(READS, AT + 0x1C, rcx=AT)
    assert scene.module.information(0) == VeInfo(48, 1, AT + 0x1C, REG | SHARED)
    (waiting,) = scene.module.waiting()
    assert (waiting.stack, waiting.gpa, waiting.cpu.rip) == (frame_at(OUTER), REG | SHARED, CODE)
    # The code answers what follows.
    scene.module.tell(0, None)
    assert scene.module.asked(frame_at(OUTER - ASKING), REG | SHARED) == waiting
    scene.takes(asked_row("8b411c", CODE, physical=REG, linear=AT + 0x1C, rcx=AT, read=5))
    (record,) = scene.of(Intercept)
    assert (record.via, record.agrees, record.seq, record.rip) == ("guest", True, 0, CODE)
    assert record.accesses[0].region == "nvme" and record.after["rax"] == 5
    scene.domain.conclude()
    assert "given_up" not in scene.counts_of_all
    counts = scene.counts_of_all
    assert counts["ve"] == counts["mmio_calls"] == counts["agreed"] == counts["guest"] == 1


def test_a_ve_of_the_code_is_fetched_and_asked_for_by_stops() -> None:
    scene = Inside()
    scene.raised(READS, AT + 0x1C, rcx=AT, rax=0x1111_1111_1111_1111, rsp=OUTER)
    told = scene.fetches()
    assert (told["rcx"], told["r8"], told["r9"]) == (48, AT + 0x1C, REG | SHARED)
    assert scene.module.information(0) is None
    got = scene.asks((ReadPhysical(REG, 4), 0x8001), physical=REG)
    assert got["r11"] == 0x8001
    (record,) = scene.of(Intercept)
    assert (record.via, record.agrees, record.rip, record.cr2) == ("guest", True, CODE, AT + 0x1C)
    assert record.before["rcx"] == AT and record.error_code == READ
    assert record.after == {"rip": CODE + 3, "rax": 0x8001}
    assert not scene.module.waiting()


def test_handlers_nest_across_both_ways() -> None:
    scene = Inside()
    scene.raised(READS, AT + 0x1C, rcx=AT, rsp=OUTER)
    scene.fetches()
    scene.faults(WRITES, AT + 0x14, WRITE, stack=INNER, rip=CODE + 0x40, rcx=AT, rax=7)
    scene.fetches(stack=INNER)
    scene.write(CODE, bytes.fromhex(READS))
    made = (WritePhysical(DEVICE + 0x14, 4, 7), None)
    scene.asks(made, physical=DEVICE + 0x14, write=7, stack=INNER)
    scene.asks((ReadPhysical(REG, 4), 1), physical=REG)
    inner, outer = scene.of(Intercept)
    assert (inner.rip, outer.rip) == (CODE + 0x40, CODE) and inner.agrees and outer.agrees


def test_what_somebody_has_decided_about_is_not_the_codes_to_answer() -> None:
    scene = Inside()
    scene.interceptor.asks = True
    scene.fault(READS, AT + 0x1C, stack=OUTER, tsc=1, rcx=AT)
    scene.play((AskBefore, Give(7)), (WriteCode, scene.write_code), stack=OUTER)
    assert not scene.module.waiting() and scene.module.information(0) is not None
    scene.fetches()
    behind = (AskCompleted, lambda wanted: wanted.cpu)
    got = scene.asks((ReadPhysical(REG, 4), 1), behind, physical=REG)
    assert got["r11"] == 7
    (record,) = scene.of(Intercept)
    assert record.agrees and (record.accesses[0].value, record.accesses[0].device) == (7, 1)


def test_what_nothing_faulted_for_is_found_out_by_the_stack() -> None:
    scene = Inside()
    scene.raised(READS, AT + 0x1C, stack=INNER - 0x800, rcx=AT)
    scene.fetches()
    scene.asks((ReadPhysical(REG, 4), 1), physical=REG)  # above that frame
    (record,) = scene.of(Intercept)
    assert not record.agrees and len(scene.module.waiting()) == 1


def test_calls_and_shared_ram_are_told_in_their_order() -> None:
    scene = Inside()
    size = 0x1000
    touch = row(
        Kind.TOUCH, tsc=60, linear=RAM + 8, physical=RAM_AT + 8, read=CODE << 64,
        written=size << 128,
    )  # fmt: skip
    scene.takes(
        touch,
        call({"r11": 0x10001, "r12": RAM_AT | SHARED, "r13": size}),
        touch,
        asked_row("8b411c", CODE, physical=REG, linear=AT + 0x1C, rcx=AT, read=5),
        call({"r11": 12}, tsc=70),
    )
    kinds = [
        type(each) for each in scene.records if not isinstance(each, PlacesRecord | SiteRecord)
    ]
    assert kinds == [
        SharedRecord,
        TdcallRecord,
        SharedRecord,
        SharedRecord,
        Intercept,
        TdcallRecord,
    ]
    before, mapped, behind = scene.of(SharedRecord)
    assert (before.what, before.converted, before.linear) == ("touch", False, RAM)
    assert (mapped.what, mapped.physical, mapped.size, mapped.shared) == (
        "map", RAM_AT, size, True,
    )  # fmt: skip
    assert (behind.converted, behind.physical, behind.rip) == (True, RAM_AT, CODE)
    asked, slept = scene.of(TdcallRecord)
    assert asked.name == "TDG.VP.VMCALL<MapGPA>" and slept.name.endswith("HLT>")
    assert asked.rip == CALLER and slept.time_ns == 70 and slept.returned == {"rax": 0, "r10": 0}
    assert scene.domain.state.is_shared(RAM_AT)


def test_inputs_are_told_in_their_order_among_the_rest() -> None:
    scene = Inside(frozenset({Input.PORT}))
    scene.write(CODE, bytes.fromhex("ec"))  # in al, dx
    place = CODE << 128 | (CODE + 1) << 192
    manner = 1 | 64 << 16  # a byte is read by code of 64 bits
    port = row(
        Input.PORT, tsc=60, linear=0x3F8, error=0, read=0x41 | place, written=manner,
        rdx=0x3F8, rax=0x500,
    )  # fmt: skip
    mmio = asked_row("8b411c", CODE, physical=REG, linear=AT + 0x1C, rcx=AT, read=5)
    scene.takes(call({"r11": 12}, tsc=50), port, mmio, row(Input.MSR, error=0, written=8), port)
    told = [
        (each.via, [(access.space, access.value) for access in each.accesses])
        if isinstance(each, Intercept)
        else type(each)
        for each in scene.records
        if isinstance(each, Intercept | TdcallRecord)
    ]
    first = ("monitor", [("port", 0x41)])
    assert told == [TdcallRecord, first, ("guest", [("memory", 5)]), first]
    inputs = [each for each in scene.of(Intercept) if each.via == "monitor"]
    assert {(each.rip, each.text, each.after["rax"]) for each in inputs} == {
        (CODE, "in al, dx", 0x541)
    }
    counts = scene.counts_of_all
    assert (counts["monitor"], counts["guest"], counts["accesses"]) == (2, 1, 3)


def test_what_instructions_raise_is_counted() -> None:
    scene = Inside()
    for name, number in (("FAULTS", 2), ("RAISED", 5), ("FETCHED", 7), ("ANSWERED", 4)):
        scene.word(counter(name), number)
    scene.sites.drain()
    counts = scene.counts_of_all
    assert (counts["ve"], counts["ve_info"], counts["input_calls"]) == (7, 7, 4)
    assert "not raised" not in counts
    scene.word(counter("KEPT"), 1)
    scene.sites.drain()
    assert scene.counts_of_all["not raised"] == 1


def test_what_the_code_counts_is_counted_once() -> None:
    scene = Inside()
    for number in (3, 5):
        scene.word(counter("FAULTS"), number)
        scene.word(counter("FETCHED"), number)
        scene.sites.drain()
        scene.sites.drain()
        counts = scene.counts_of_all
        assert counts["ve"] == counts["ve_info"] == number
    scene.domain.conclude()
    assert scene.counts_of_all["ve"] == 5


def test_a_kernel_that_asks_for_something_else_is_counted_and_recorded() -> None:
    scene = Inside()
    scene.takes(asked_row("8b411c", CODE, physical=REG, linear=AT + 0x1C, rcx=AT, width=2))
    (record,) = scene.of(Intercept)
    assert record.agrees is False and record.after == {}
    assert scene.counts_of_all["disagreed"] == 1


def test_the_first_sixteen_of_a_site_are_compared_while_the_guest_runs() -> None:
    scene = Inside()
    for _ in range(3):
        for _ in range(SLOTS):
            scene.put(asked_row("8b411c", CODE, physical=REG, linear=AT + 0x1C, rcx=AT))
        scene.sites.drain()
    assert scene.counts_of_all["agreed"] == 16 and scene.counts_of_all["guest"] == 48


@pytest.mark.parametrize(
    "bad",
    [{"site": 0xFFFF_FF00}, {"site": Kind.MMIO, "written": 3 << 128}, {"site": 1 << 31}],
)
def test_a_guest_that_writes_to_the_ring_is_told_of(bad: dict[str, Any]) -> None:
    scene = Inside()
    with pytest.raises(InterceptError, match="the guest has written to it"):
        scene.takes(row(**bad))


def test_the_places_are_those_of_the_assembled_code() -> None:
    scene = Inside()
    assert WINDOW.code < scene.module.fault < scene.module.tdcall < WINDOW.code + layout.THUNKS
    assert KEYS < layout.THUNKS and max(MMIO_FIELDS.values()) < SLOT_SIZE
