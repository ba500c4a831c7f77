"""The gate of vector 14 as the guest writes it: whole, torn, over page ends, in many IDTs."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from playbook import Cancelled, play
from ram import ROOT
from scene import (
    CODE,
    CODE_AT,
    CS,
    HANDLER,
    IDT,
    IDT_AT,
    STATE,
    STUB,
    STUB_AT,
    TABLES,
    Scene,
    registers,
)

from tracer.access.vcpu import DescriptorTable
from tracer.access.want import (
    DeleteBreakpoint,
    VcpuStates,
    WatchReads,
    WatchStores,
    WriteCode,
)
from tracer.errors import InterceptError
from tracer.intercept.blame import whose_doing
from tracer.intercept.entry.gate import PageFaultGate, Written
from tracer.intercept.entry.stub import Fast
from tracer.x86.idt import Gate, pack_gate, unpack_gate
from tracer.x86.paging import NOT_EXECUTABLE, PRESENT

GATE = IDT_AT + 14 * 16
AT = IDT + 14 * 16
OTHER = HANDLER + 0x40


def gate_to(handler: int) -> bytes:
    return pack_gate(Gate(handler, 0x8E << 40 | CS << 16, 0))


def watched(*numbers: int, new: tuple[int, int] = (8, 9)) -> list[Any]:
    """The watches of a gate are set anew, half by half."""
    steps: list[Any] = [(DeleteBreakpoint(number), None) for number in numbers]
    return [*steps, (WatchStores(AT), new[0]), (WatchStores(AT + 8), new[1])]


def behind(scene: Scene, code: str, **values: int) -> Any:
    """Registers of a vCPU behind a store that it has just made."""
    scene.write(HANDLER, bytes.fromhex(code))
    return registers(rip=HANDLER + len(bytes.fromhex(code)), **values)


def test_the_stub_is_in_front_and_the_guests_own_gate_is_known() -> None:
    scene = Scene()
    there = unpack_gate(scene.ram.read(GATE, 16))
    assert there.handler == scene.stub.doors[0] and there.selector == CS
    own = play(scene.gate.own_gate(scene.space, 0, 14))
    assert own.handler == HANDLER
    assert not scene.gate.disturbed()


def test_gdb_knows_another_value_than_what_is_there() -> None:
    scene = Scene()
    seen: list[bytes] = []

    def set_now(wanted: WatchStores) -> int:
        seen.append(scene.ram.read(GATE, 16))
        return 5

    there = scene.ram.read(GATE, 16)
    scene.ram.write(GATE, gate_to(OTHER))
    now = behind(scene, "488906", rax=struct.unpack("<Q", gate_to(OTHER)[:8])[0], rsi=AT)
    found = play(
        scene.gate.written(now, scene.space),
        (WriteCode, scene.write_code), (DeleteBreakpoint(2), None), (DeleteBreakpoint(3), None),
        (WatchStores(AT), set_now), (WatchStores(AT + 8), set_now),
    )  # fmt: skip
    assert found is Written.HANDLER
    assert len(seen) == 2 and there not in seen and gate_to(OTHER) not in seen
    assert unpack_gate(scene.ram.read(GATE, 16)).handler == scene.stub.doors[1]


def test_a_torn_write_means_what_the_guest_has_written_so_far() -> None:
    scene = Scene()
    far = 0xFFFF_FFFF_A100_0040
    new = gate_to(far)
    # The lower half first; the upper one still is the old handler's.
    scene.ram.write(GATE, new[:8])
    low = behind(scene, "488906", rax=int.from_bytes(new[:8], "little"), rsi=AT)
    play(
        scene.gate.written(low, scene.space),
        (WriteCode, scene.write_code), *watched(2, 3),
    )  # fmt: skip
    torn = play(scene.gate.own_gate(scene.space, 0, 14))
    assert torn.handler == far & 0xFFFF_FFFF | HANDLER & ~0xFFFF_FFFF
    assert scene.stub.covers(unpack_gate(scene.ram.read(GATE, 16)).handler)
    scene.ram.write(GATE + 8, new[8:])
    high = behind(scene, "48894608", rax=int.from_bytes(new[8:], "little"), rsi=AT)
    play(scene.gate.written(high, scene.space), *watched(8, 9, new=(10, 11)))
    assert play(scene.gate.own_gate(scene.space, 0, 14)).handler == far


def test_a_gate_zeroed_in_halves_leads_nowhere_and_its_door_is_shut() -> None:
    scene = Scene()
    codes: list[bytes] = []
    scene.ram.write(GATE, bytes(8))
    now = behind(scene, "48c70600000000", rsi=AT)
    found = play(
        scene.gate.written(now, scene.space),
        (WriteCode, lambda wanted: codes.append(wanted.code)), *watched(2, 3),
    )  # fmt: skip
    assert found is Written.GATE
    assert codes[0][:1] == b"\xe9"  # jmp spill
    assert not play(scene.gate.own_gate(scene.space, 0, 14)).usable


def test_a_store_of_what_is_there_already_is_the_guests_own() -> None:
    # It put back what it had read: the door's address stands for its own handler.
    scene = Scene()
    there = scene.ram.read(GATE, 16)
    now = behind(scene, "488906", rax=int.from_bytes(there[:8], "little"), rsi=AT)
    assert play(scene.gate.written(now, scene.space), *watched(2, 3)) is Written.GATE
    assert play(scene.gate.own_gate(scene.space, 0, 14)).handler == HANDLER


def test_a_stop_at_a_watch_without_any_store_changes_nothing() -> None:
    scene = Scene()
    scene.write(HANDLER, b"\x90" * 32)
    now = registers(rip=HANDLER + 16)
    assert play(scene.gate.written(now, scene.space)) is Written.NOTHING


def test_a_gate_changed_in_a_way_that_is_not_watched_is_found() -> None:
    scene = Scene()
    scene.ram.write(GATE, gate_to(OTHER))
    assert scene.gate.disturbed()
    found = play(scene.gate.written(None, scene.space), (WriteCode, scene.write_code))
    assert found is Written.HANDLER and not scene.gate.disturbed()


def test_a_gate_over_a_page_end_is_kept_in_both_pages() -> None:
    scene = Scene()
    base = 0xFFFF_FFFF_8300_0000
    for page, physical in enumerate((0x31_0000, 0x35_0000)):
        scene.ram.map(base + 0x1000 * page, physical)
    table = DescriptorTable(base + 0xFF8 - 14 * 16, 15 * 16 - 1)
    scene.write(base + 0xFF8, gate_to(HANDLER))
    new = play(
        scene.gate.follow(scene.space, table),
        (WatchStores(base + 0xFF8), 20), (WatchStores(base + 0x1000), 21),
    )  # fmt: skip
    assert new and scene.gate.knows(scene.space, table)
    both = scene.ram.read(0x31_0FF8, 8) + scene.ram.read(0x35_0000, 8)
    assert unpack_gate(both).handler == scene.stub.doors[0]
    scene.gate.remove()
    assert scene.ram.read(0x31_0FF8, 8) + scene.ram.read(0x35_0000, 8) == gate_to(HANDLER)


def test_an_idt_loaded_again_is_no_new_one() -> None:
    scene = Scene()
    assert not play(scene.gate.follow(scene.space, TABLES.idt))


def test_one_idt_at_two_addresses_is_watched_at_both() -> None:
    scene = Scene()
    alias = 0xFFFF_FE00_0000_0000
    scene.ram.map(alias, IDT_AT)
    again = play(
        scene.gate.follow(scene.space, DescriptorTable(alias, 0xFFF)),
        (DeleteBreakpoint(2), None), (DeleteBreakpoint(3), None),
        (WatchStores(AT), 4), (WatchStores(AT + 8), 5),
        (WatchStores(alias + 14 * 16), 6), (WatchStores(alias + 14 * 16 + 8), 7),
    )  # fmt: skip
    assert not again and not scene.gate.disturbed()


@pytest.mark.parametrize("limit", [0, 14 * 16, 15 * 16 - 2])
def test_an_idt_without_room_for_the_vector_is_refused(limit: int) -> None:
    scene = Scene()
    with pytest.raises(LookupError):
        play(scene.gate.follow(scene.space, DescriptorTable(IDT, limit)))
    assert not scene.gate.knows(scene.space, DescriptorTable(IDT, limit))


def test_an_idt_that_is_not_mapped_is_refused() -> None:
    scene = Scene()
    with pytest.raises(LookupError):
        play(scene.gate.follow(scene.space, DescriptorTable(IDT + 0x10_0000, 0xFFF)))


def test_more_idts_than_there_are_doors_end_the_tracing() -> None:
    scene = Scene()
    for number in range(12):
        base = 0xFFFF_FFFF_8400_0000 + 0x1000 * number
        scene.ram.map(base, 0x32_0000 + 0x1000 * number)
        scene.write(base + 14 * 16, gate_to(HANDLER + 0x100 * (number + 1)))
        work = scene.gate.follow(scene.space, DescriptorTable(base, 0xFFF))
        if number < 11:
            play(work, (WriteCode, scene.write_code), (WatchStores, 0), (WatchStores, 0))
            continue
        with pytest.raises(InterceptError, match="more than 12 IDTs"):
            play(work)


def test_the_gate_of_another_vector_is_read_from_the_vcpus_idt() -> None:
    scene = Scene()
    scene.ram.write(IDT_AT + 13 * 16, gate_to(OTHER))
    found = play(scene.gate.own_gate(scene.space, 1, 13), (VcpuStates(), (STATE, STATE)))
    assert found.handler == OTHER


def test_lent_gates_come_back_even_if_the_borrower_fails() -> None:
    scene = Scene()
    there = scene.ram.read(GATE, 16)
    with pytest.raises(Cancelled), scene.gate.lent():
        assert scene.ram.read(GATE, 16) == scene.own
        raise Cancelled
    assert scene.ram.read(GATE, 16) == there


def test_without_a_handler_or_padding_there_is_no_stub() -> None:
    scene = Scene()
    scene.ram.write(GATE, bytes(16))
    scene.gate._gates.clear()
    with pytest.raises(InterceptError, match="no page-fault handler"):
        play(scene.gate.place(scene.space, TABLES.idt, STUB, CS))
    scene.ram.write(GATE, gate_to(0xFFFF_FFFF_8FFF_0000))
    with pytest.raises(InterceptError, match="padding"):
        play(scene.gate.place(scene.space, TABLES.idt, None, CS))


def test_where_places_are_free_there_is_no_other() -> None:
    scene = Scene()
    page, code = range(STUB + 0x1000, STUB + 0x2000), range(CODE, CODE + 0x1000)

    def placed(*free: range, found: bool = True) -> int:
        gate = PageFaultGate(scene.ram, spare=0)
        work = gate.place(scene.space, TABLES.idt, STUB, CS, free)
        play(work, *[(WriteCode, None), (WatchReads, 1)] * found)
        return gate.stub.base

    assert placed(code, page) == page.start  # whole pages first
    assert placed(code) in code and placed(range(page.start + 1, page.stop)) > page.start
    for free in ((), (range(page.start, page.start + 64),)):
        with pytest.raises(InterceptError, match=r"name a page of one filler .*--stub-at"):
            placed(*free, found=False)
    scene.ram.map(page.start, STUB_AT + 0x1000, PRESENT | NOT_EXECUTABLE)
    assert placed(page, code) in code
    scene.ram.map(code.start, CODE_AT, PRESENT | NOT_EXECUTABLE)
    with pytest.raises(InterceptError, match="--stub-at"):
        placed(page, code, found=False)


def test_a_page_of_padding_has_room_beside_the_stub() -> None:
    scene = Scene()
    gate = scene.gate
    assert gate.room.start == STUB + len(scene.stub.code) and gate.scratch.start >= gate.room.stop
    assert scene.ram.read(STUB_AT, 8) == scene.stub.code[:8]


# ---- whose doing a triple fault was


def test_a_triple_fault_away_from_poison_is_the_guests_own() -> None:
    scene = Scene()
    told = whose_doing([STATE], lambda state: scene.space, scene.gate, lambda at, space: "idle")
    assert told == "by itself, at idle"
    assert (
        whose_doing([], lambda state: scene.space, scene.gate, lambda at, space: "") == "by itself"
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "could not be delivered"),
        ({"rsp": 0xFFFF_C900_0000_4100}, "its stack"),
    ],
)
def test_a_triple_fault_at_poison_names_the_obstacle(changed: dict[str, int], words: str) -> None:
    scene = Scene()
    state = replace(STATE, cr2=0xFFFF_C900_0000_4010, **changed)
    told = whose_doing([state], lambda s: scene.space, scene.gate, lambda at, space: "driver")
    assert told.startswith("because it is traced: at driver it came upon nvme") and words in told
    assert state.cr3 == ROOT


def test_a_triple_fault_under_an_idt_that_was_not_seen() -> None:
    scene = Scene()
    tables = replace(TABLES, idt=DescriptorTable(0x1000, 0xFFF))
    state = replace(STATE, cr2=0xFFFF_C900_0000_4010, tables=tables)
    told = whose_doing([state], lambda s: scene.space, scene.gate, lambda at, space: "driver")
    assert "could not see it" in told
    scene.unmap(STUB)
    state = replace(STATE, cr2=0xFFFF_C900_0000_4010)
    told = whose_doing([state], lambda s: scene.space, scene.gate, lambda at, space: "driver")
    assert "do not map" in told


# ---- a confidential guest's calls


CALL = b"\x66\x0f\x01\xcc"


class Called(Scene):
    """A scene whose gate of vector 6 is the stub's too."""

    def __init__(self) -> None:
        super().__init__()
        self.ram.write(IDT_AT + 6 * 16, gate_to(OTHER))
        self.ram.write(GATE, self.own)
        self.gate = PageFaultGate(self.ram, spare=0, call=CALL)
        place = self.gate.place(self.space, TABLES.idt, STUB, CS)
        play(place, (WriteCode, self.write_code), (WatchReads, 0))
        self.stub = self.gate.stub
        watched = ((WriteCode, self.write_code), (WatchStores, 0), (WatchStores, 0))
        play(self.gate.follow(self.space, TABLES.idt), *watched, *watched)


def test_both_gates_of_a_confidential_guest_lead_to_the_stub() -> None:
    scene = Called()
    there = {vector: unpack_gate(scene.ram.read(IDT_AT + 16 * vector, 16)) for vector in (6, 14)}
    assert there[14].handler == scene.stub.doors[0] and there[6].handler == scene.stub.doors[1]
    assert play(scene.gate.own_gate(scene.space, 0, 6)).handler == OTHER
    door = scene.stub.call_door(scene.stub.doors[1], OTHER, CALL)
    assert scene.space.read(scene.stub.doors[1], len(door)) == door


def test_a_handler_that_the_kernel_changes_gets_its_own_door() -> None:
    scene = Called()
    another = OTHER + 0x40
    scene.ram.write(IDT_AT + 6 * 16, gate_to(another))
    found = play(scene.gate.written(None, scene.space), (WriteCode, scene.write_code))
    assert found is Written.GATE  # page tables are looked at for vector 14 alone
    assert unpack_gate(scene.ram.read(IDT_AT + 6 * 16, 16)).handler == scene.stub.doors[2]
    assert play(scene.gate.own_gate(scene.space, 0, 6)).handler == another
    assert play(scene.gate.own_gate(scene.space, 0, 14)).handler == HANDLER


def test_a_gate_of_calls_that_cannot_be_taken_stays_as_it_is() -> None:
    scene = Called()
    scene.ram.write(IDT_AT + 6 * 16, bytes(16))
    play(scene.gate.written(None, scene.space))
    assert scene.ram.read(IDT_AT + 6 * 16, 16) == bytes(16)
    assert not scene.gate.disturbed()


def test_a_handler_is_entered_in_place_of_the_fault() -> None:
    scene = Called()
    scene.ram.write(IDT_AT + 20 * 16, gate_to(OTHER))
    first = scene.gate.raising(scene.space, 0, 20)
    assert play(first, (WriteCode, scene.write_code)) == scene.stub.raising
    assert scene.space.read(scene.stub.raised, 8) == OTHER.to_bytes(8, "little")
    assert play(scene.gate.raising(scene.space, 0, 20)) == scene.stub.raising
    scene.ram.write(IDT_AT + 20 * 16, bytes(16))
    with pytest.raises(InterceptError, match="no handler of its own for vector 20"):
        play(scene.gate.raising(scene.space, 0, 20))


def test_code_in_the_window_is_asked_first_once_it_is_there() -> None:
    scene = Called()
    fast = Fast(0xFFFF_FF80_0000_1000, range(0xFFFF_FF80_0000_0000, 0xFFFF_FF81_0000_0000))
    assert not scene.stub.covers(fast.linear)
    hastened = scene.gate.hasten(fast, fast.linear + 0x100)
    play(hastened, (WriteCode, scene.write_code), (WriteCode, scene.write_code))
    ways = (int.from_bytes(scene.space.read(way, 8), "little") for way in scene.stub.ways)
    assert [*ways] == [fast.linear, fast.linear + 0x100]
    assert scene.gate.stub.covers(fast.linear) and scene.gate.stub.leads_to_sites(fast.linear)
