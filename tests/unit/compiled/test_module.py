"""The TDX module as guest code: what it does at a fault and at a TDCALL, and what it leaves."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from itertools import permutations

import common_image
import pytest
from compiled_cpu import BLOCK, DATA, DATA_AT, DEVICE, DEVICE_AT, STACK, TEXT, WINDOW
from module_cpu import IDT, SHARED, Left, ModuleGuest, asking
from ram import POISON
from unicorn import UC_HOOK_CODE, UC_HOOK_INSN, Uc
from unicorn.x86_const import (
    UC_X86_INS_IN,
    UC_X86_INS_OUT,
    UC_X86_REG_EFLAGS,
    UC_X86_REG_IDTR,
    UC_X86_REG_RIP,
)

from tracer.compiled import layout, module_image
from tracer.compiled.inputs import INPUT_FIELDS
from tracer.compiled.layout import CODE_SIZE
from tracer.compiled.module import (
    FAULT_COUNT,
    FAULTS,
    KEYS,
    MMIO_FIELDS,
    TDCALL_ERROR,
    VES,
    Kind,
    ModuleControl,
    counter,
    raising,
)
from tracer.compiled.pending import (
    Waiting,
    pack_information,
)
from tracer.compiled.ring import Raw
from tracer.x86.idt import GATE_SIZE, pack_gate, unpack_gate
from tracer.x86.paging import LARGE, PRESENT, WRITABLE
from tracer.x86.state import RAX, RCX, RDX, RSP, VIRTUALIZATION_VECTOR, CpuState, Flag

RIP = TEXT + 0x100
CODE = bytes.fromhex("8b4710 0f1f8000000000 90909090 55aa")[:CODE_SIZE]
READ, WRITE = 8, 8 | 2
"""Error codes, as QEMU reports them: RSVD, and W."""
FLAGS = 0x246
R8, R9, R10, R11 = range(8, 12)


def state(rsp: int = STACK + 0x1008, rip: int = RIP, rflags: int = FLAGS) -> CpuState:
    """Registers of which each has a value of its own."""
    gpr = [0x1122_3344_5566_0000 + number for number in range(16)]
    gpr[RSP] = rsp
    return CpuState(tuple(gpr), rip, rflags)


def started(**options: int) -> ModuleGuest:
    """Return a guest whose device has a pattern, and whose text an instruction."""
    guest = ModuleGuest(**options)
    guest.device((bytes(range(1, 252)) * 33)[: 4096 * guest.pages])
    guest.cpu.mem_write(RIP, CODE)
    return guest


def frame_of(cpu: CpuState) -> tuple[int, ...]:
    """Return what the CPU pushes, from RIP on."""
    return cpu.rip, 0x10, cpu.rflags, cpu.gpr[RSP], 0x18


def is_as_it_was(left: Left, before: CpuState, error: int) -> bool:
    """Tell whether somebody else is asked, with everything as it was."""
    return (left.gpr, left.frame, left.error) == (before.gpr, frame_of(before), error)


def raised(guest: ModuleGuest, before: CpuState, linear: int, error: int = READ) -> None:
    """Check that a fault is made a #VE: the handler is entered as by the CPU."""
    left = guest.page_fault(before, linear, error)
    assert (left.to, left.gpr, left.frame) == ("handler", before.gpr, frame_of(before))
    assert not guest.touched


def fetched(guest: ModuleGuest, before: CpuState) -> tuple[int, ...]:
    """Fetch the information of a #VE by a TDCALL, from an address and with a stack; return it."""
    before = replace(before, gpr=(3, *before.gpr[1:]))
    left = guest.tdcall(before)
    assert left.to == "iretq"
    assert left.frame == (before.rip + 4, 0x10, before.rflags, before.gpr[RSP], 0x18)
    given = tuple(left.gpr[number] for number in (RCX, RDX, R8, R9, R10))
    unchanged = set(range(16)) - {RAX, RCX, RDX, R8, R9, R10}
    assert left.gpr[RAX] == 0
    assert all(left.gpr[number] == before.gpr[number] for number in unchanged)
    return given


def answered(guest: ModuleGuest, before: CpuState) -> int:
    """Make a hypercall for MMIO that is answered without a stop; return R11."""
    left = guest.tdcall(before)
    assert left.to == "iretq", guest.reasons()
    assert left.frame == (before.rip + 4, 0x10, before.rflags, before.gpr[RSP], 0x18)
    expected = [*before.gpr]
    expected[RAX] = expected[R10] = 0
    expected[R11] = left.gpr[R11]
    assert left.gpr == tuple(expected)
    return left.gpr[R11]


def stops(guest: ModuleGuest, before: CpuState) -> None:
    """Check that a TDCALL goes to the stub, with everything as it was and nothing done."""
    head = guest.word("HEAD")
    left = guest.tdcall(before)
    assert left.to == "slow" and is_as_it_was(left, before, TDCALL_ERROR)
    assert not guest.touched and guest.word("HEAD") == head


def asked(raw: Raw, name: str) -> int:
    """Return what a record has in one of the module's fields."""
    data = raw.read + raw.written
    return int.from_bytes(data[MMIO_FIELDS[name] - 192 :][:8], "little")


def count(guest: ModuleGuest, name: str) -> int:
    return int.from_bytes(guest.read(counter(name), 8), "little")


def test_the_image_is_the_source_assembled() -> None:
    if not common_image.is_possible():
        if "CI" in os.environ:
            pytest.fail("as and objcopy (Debian package binutils) are needed")
        pytest.skip("as and objcopy (Debian package binutils) are not here")
    code, labels = common_image.assemble_module()
    assert (code.hex(), labels) == (module_image.CODE, module_image.LABELS)
    assert len(code) <= layout.THUNKS - layout.MODULE


@pytest.mark.parametrize("la57", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("write", [False, True])
def test_an_access_goes_from_the_fault_to_its_answer_without_a_stop(
    la57: bool, width: int, write: bool
) -> None:
    guest = started(la57=la57)
    before = state()
    offset = 0x1FF8 - width
    error = WRITE if write else READ
    raised(guest, before, DEVICE + offset, error)
    handler = STACK + 0x800
    given = fetched(guest, state(handler))
    assert given == (48, 2 if write else 1, DEVICE + offset, DEVICE_AT + offset | SHARED, 0)
    assert guest.information() is None
    value = 0xF1E2_D3C4_B5A6_9788
    memory = int.from_bytes(guest.device()[offset : offset + width], "little")
    call = asking(handler, DEVICE_AT + offset, width, write, value)
    result = answered(guest, call)
    part = value & (1 << 8 * width) - 1
    assert result == (48 if write else memory)  # R11 has an answer for a read alone
    assert guest.touched == [
        ("write" if write else "read", offset, width, part if write else memory)
    ]
    (raw,) = guest.taken()
    assert (raw.gpr, raw.rflags, raw.error, raw.linear) == (
        before.gpr,
        FLAGS,
        error,
        DEVICE + offset,
    )
    assert (raw.site, raw.vcpu, raw.alias) == (Kind.MMIO, 0, WINDOW + DEVICE_AT + offset)
    assert asked(raw, "RIP") == RIP and raw.read[16:] == CODE
    fields = [asked(raw, name) for name in ("VALUE", "GPA", "WIDTH", "DIRECTION")]
    assert fields == [value, DEVICE_AT + offset | SHARED, width, write | 0xFFCC << 16]
    if not write:
        assert int.from_bytes(raw.read[:8], "little") == memory
    assert not [*guest.faults()]
    assert (count(guest, "FAULTS"), count(guest, "FETCHED")) == (1, 1)


@pytest.mark.parametrize("place", [0, 0x41])
def test_a_record_tells_the_thread_that_was_current(place: int) -> None:
    guest = started()
    guest.write(layout.MODULE_DATA, replace(guest.control, thread=place).pack())
    guest.cpu.mem_write(DATA + 0x41, b"\x78\x56\x34\x12")  # GS has DATA for its base
    raised(guest, state(), DEVICE + 8, READ)
    fetched(guest, state())
    answered(guest, asking(STACK + 0x800, DEVICE_AT + 8))
    (raw,) = guest.taken()
    assert raw.thread == (0x1234_5678 if place else 0) and raw.error == READ


def test_a_write_is_in_the_ring_before_the_device_has_it_and_a_read_after() -> None:
    for write in (False, True):
        guest = started()
        raised(guest, state(), DEVICE + 8, WRITE if write else READ)
        fetched(guest, state())
        seen = []
        first = guest.ring.span(1 << 63)[0]
        guest.on_touch = lambda guest=guest, seen=seen, first=first: seen.append(
            int.from_bytes(guest.read(first, 8), "little")
        )
        answered(guest, asking(STACK + 0x800, DEVICE_AT + 8, 4, write))
        assert seen == [guest.slots * layout.SLOT_SIZE if write else 0]


@pytest.mark.parametrize("level", [2, 3])
def test_a_device_may_lie_in_a_large_leaf(level: int) -> None:
    guest = started()
    size = 1 << 12 + 9 * (level - 1)
    linear = 0xFFFF_A000_0000_0000
    place = DEVICE_AT & -size
    guest.ram.data[:] = guest._ram[:]
    guest.map(linear, place, SHARED | PRESENT | WRITABLE, level)
    guest._ram[:] = bytes(guest.ram.data)
    at = linear + DEVICE_AT - place + 0x123
    raised(guest, state(), at)
    found = guest.information()
    assert found is not None and found[3] == DEVICE_AT + 0x123 | SHARED


@pytest.mark.parametrize("level", [1, 2, 3])
def test_ram_is_reached_without_the_bit_from_the_first_touch_on(level: int) -> None:
    guest = started()
    size = 1 << 12 + 9 * (level - 1)
    linear = 0xFFFF_A000_0000_0000
    guest.ram.data[:] = guest._ram[:]
    flags = SHARED | PRESENT | WRITABLE | 0x60
    place = guest.map(linear, DATA_AT & -size, flags, level)
    entry = guest.ram.entry(place)
    guest._ram[:] = bytes(guest.ram.data)
    at = linear + DATA_AT % size + 0x10
    before = state()
    left = guest.page_fault(before, at, WRITE)
    assert (left.to, left.gpr, left.frame) == ("iretq", before.gpr, frame_of(before))
    now = int.from_bytes(guest.cpu.mem_read(WINDOW + place, 8), "little")
    assert now == entry & ~SHARED and bool(now & LARGE) == (level > 1)
    (raw,) = guest.taken()
    assert (raw.site, raw.linear, raw.alias) == (Kind.TOUCH, at, WINDOW + DATA_AT + 0x10)
    assert (asked(raw, "VALUE"), asked(raw, "WIDTH"), asked(raw, "RIP")) == (entry, size, RIP)
    assert (raw.gpr, raw.error) == (before.gpr, WRITE)
    assert guest.information() is None and not [*guest.faults()]


def test_a_leaf_that_is_not_shared_is_somebody_elses() -> None:
    guest = started()
    (leaf, *_) = guest.leaves.values()
    for entry in (
        DEVICE_AT | POISON | PRESENT | WRITABLE,
        DEVICE_AT | POISON | SHARED | PRESENT,
        DEVICE_AT | PRESENT,
        DEVICE_AT | SHARED,
    ):
        guest.physical(leaf, struct.pack("<Q", entry))
        before = state()
        left = guest.page_fault(before, DEVICE + 8)
        assert left.to == "behind" and is_as_it_was(left, before, READ)
    left = guest.page_fault(before, 0xFFFF_A000_0000_0000)
    assert left.to == "behind" and is_as_it_was(left, before, READ)


def test_what_the_window_does_not_show_takes_a_stop() -> None:
    guest = started()
    (leaf, *_) = guest.leaves.values()
    guest.physical(leaf, struct.pack("<Q", 1 << 36 | SHARED | PRESENT))
    before = state()
    left = guest.page_fault(before, DEVICE + 8)
    assert left.to == "slow" and is_as_it_was(left, before, READ)


def test_a_ring_that_is_full_or_shut_takes_stops() -> None:
    guest = started(slots=2)
    for _ in range(2):
        raised(guest, state(), DEVICE + 8)
        fetched(guest, state())
        answered(guest, asking(STACK + 0x800, DEVICE_AT + 8))
    before = state()
    left = guest.page_fault(before, DEVICE + 8)
    assert left.to == "slow" and is_as_it_was(left, before, READ)
    assert guest.reasons() == {"full": 1}
    assert len(guest.taken()) == 2
    raised(guest, state(), DEVICE + 8)
    fetched(guest, state())
    guest.write(*guest.ring.shut())
    call = asking(STACK + 0x800, DEVICE_AT + 8)
    for each in (
        call,
        asking(STACK + 0x800, 0, r11=12),
        asking(STACK + 0x800, 0, r11=0x10001, r13=4096),
    ):
        stops(guest, each)
    guest.write(*guest.ring.open())
    answered(guest, call)


def test_ram_takes_a_stop_where_the_ring_is_full() -> None:
    guest = started()
    guest.map_late(DATA + 0x10_0000, DATA_AT | SHARED)
    guest.write(*guest.ring.shut())
    before = state()
    left = guest.page_fault(before, DATA + 0x10_0000)
    assert left.to == "slow" and is_as_it_was(left, before, READ)


def test_a_stop_is_wanted_at_a_place_at_the_fault_and_at_the_hypercall() -> None:
    guest = started()
    place = layout.STOPS + (DEVICE_AT + 8) % layout.STOP_PLACES
    before, call = state(), asking(STACK + 0x800, DEVICE_AT + 8)
    raised(guest, before, DEVICE + 8)
    fetched(guest, state())
    guest.write(place, b"\1")
    stops(guest, call)
    left = guest.page_fault(state(STACK + 0x700), DEVICE + 8)
    assert left.to == "slow"
    raised(guest, state(STACK + 0x700), DEVICE + 9)
    fetched(guest, state())
    guest.write(place, b"\0")
    answered(guest, call)
    assert guest.reasons() == {"stopped": 2}


@pytest.mark.parametrize("number", range(layout.WIDE))
def test_a_stop_is_wanted_in_a_range_of_pages(number: int) -> None:
    guest = started()
    words = struct.pack("<2Q", WINDOW + DEVICE_AT + 4096, 4096)
    guest.write(layout.control_field(f"WIDE{number}"), words)
    assert guest.page_fault(state(), DEVICE + 4096).to == "slow"
    raised(guest, state(), DEVICE + 4095)


def test_no_access_is_begun_when_its_time_has_come() -> None:
    guest = started()
    guest.write(layout.control_field("DEADLINE"), struct.pack("<Q", 1))
    assert guest.page_fault(state(), DEVICE).to == "slow"
    guest.write(layout.control_field("DEADLINE"), struct.pack("<Q", (1 << 64) - 1))
    raised(guest, state(), DEVICE)


def test_handlers_nest_and_each_hypercall_finds_its_own_fault() -> None:
    # One register is read by the interrupted code, and by two handlers, one on the same stack.
    guest = started()
    outer, same, other = state(STACK + 0x3008), state(STACK + 0x2008), state(STACK + 0x1008)
    stacks = {outer: STACK + 0x2F00, same: STACK + 0x1F00, other: STACK + 0xF00}
    for number, cpu in enumerate(stacks):
        cpu = replace(cpu, rip=RIP + 16 * number)
        raised(guest, cpu, DEVICE + 8)
        fetched(guest, state(cpu.gpr[RSP] - 0x80))
    for number, stack in reversed([*enumerate(stacks.values())]):
        answered(guest, asking(stack, DEVICE_AT + 8))
        (raw,) = guest.taken()
        assert asked(raw, "RIP") == RIP + 16 * number
    assert not [*guest.faults()]


def test_a_handler_that_has_moved_to_another_stack_is_not_found() -> None:
    guest = started()
    raised(guest, state(), DEVICE + 8)
    fetched(guest, state())
    stops(guest, asking(STACK + 0x2008, DEVICE_AT + 8))  # above its frame
    stops(guest, asking(STACK + 0x800, DEVICE_AT + 12))
    answered(guest, asking(STACK + 0x800, DEVICE_AT + 8))


def test_a_handler_that_never_asked_does_not_take_the_place_of_the_next() -> None:
    guest = started()
    for _ in range(2 * FAULT_COUNT):
        raised(guest, state(), DEVICE + 8)
        fetched(guest, state())
    assert len([*guest.faults()]) == 1


def test_pitfall_83_a_ve_before_the_last_one_was_fetched_takes_a_stop() -> None:
    guest = started()
    raised(guest, state(), DEVICE + 8)
    before = state(STACK + 0x800)
    left = guest.page_fault(before, DEVICE + 8)
    assert left.to == "slow" and is_as_it_was(left, before, READ)
    assert fetched(guest, before)[2] == DEVICE + 8
    stops(guest, replace(before, gpr=(3, *before.gpr[1:])))


@pytest.mark.parametrize("change", ["absent", "a trap gate", "with a stack", "beyond the limit"])
def test_without_a_usable_handler_there_is_a_stop(change: str) -> None:
    guest = started()
    place = IDT + GATE_SIZE * VIRTUALIZATION_VECTOR
    gate = unpack_gate(bytes(guest.cpu.mem_read(place, GATE_SIZE)))
    match change:
        case "absent":
            guest.cpu.mem_write(place, pack_gate(replace(gate, rest=gate.rest & ~(1 << 47))))
        case "a trap gate":
            guest.cpu.mem_write(place, pack_gate(replace(gate, rest=gate.rest | 1 << 40)))
        case "with a stack":
            guest.cpu.mem_write(place, pack_gate(replace(gate, rest=gate.rest | 5 << 32)))
        case _:
            guest.cpu.reg_write(UC_X86_REG_IDTR, (0, IDT, place - IDT + 14, 0))
    left = guest.page_fault(state(), DEVICE + 8)
    assert left.to == "slow" and is_as_it_was(left, state(), READ)
    assert guest.information() is None and not [*guest.faults()]


@pytest.mark.parametrize(
    "changes",
    [
        {"rax": 1}, {"rax": 4}, {"rax": 1 << 32}, {"r10": 1}, {"r11": 30}, {"r11": 0x1_0000_0030},
        {"r12": 0}, {"r12": 3}, {"r12": 16}, {"r12": 1 << 63}, {"r13": 2}, {"r13": 1 << 32},
        {"r14": DEVICE_AT + 8}, {"r14": DATA_AT | SHARED}, {"r14": 1 << 36 | SHARED},
        {"r14": DEVICE_AT + 0xFFE | SHARED}, {"rflags": 0x102}, {"rcx": 0xFFCD}, {"rcx": 0xF800},
        {"rcx": 0x1_0000_FFCC}, {"r11": 12, "r12": 1},
    ],
)  # fmt: skip
def test_any_other_call_takes_a_stop(changes: dict[str, int]) -> None:
    guest = started()
    raised(guest, state(), DEVICE + 8)
    fetched(guest, state())
    stops(guest, asking(STACK + 0x800, DEVICE_AT + 8, **changes))
    answered(guest, asking(STACK + 0x800, DEVICE_AT + 8))


def test_every_call_takes_a_stop_while_the_ring_is_shut() -> None:
    guest = started()
    raised(guest, state(), DEVICE + 8)
    calls = (
        asking(STACK + 0x800, 0, rax=3),
        asking(STACK + 0x800, DEVICE_AT + 8),
        asking(STACK + 0x800, 0, r11=12, r12=0),
        asking(STACK + 0x800, 0, r11=0x10001, r12=0, r13=4096),
    )
    guest.write(*guest.ring.shut())
    for call in calls:
        stops(guest, call)
    guest.write(*guest.ring.open())
    for call in calls:
        assert guest.tdcall(call).to != "slow"


@pytest.mark.parametrize(
    ("start", "size"),
    [(DATA_AT | SHARED, 0x20_0000), (DATA_AT, 0x20_0000), (SHARED - 4096, 4096),
     (2 * SHARED - 4096, 4096), (SHARED, SHARED)],
)  # fmt: skip
def test_what_the_guest_shares_is_told_with_all_registers(start: int, size: int) -> None:
    guest = started()
    call = asking(STACK + 0x800, 0, r11=0x10001, r12=start, r13=size)
    assert answered(guest, call) == 0x10001
    (raw,) = guest.taken()
    assert (raw.site, raw.gpr, raw.error) == (Kind.TDCALL, call.gpr, TDCALL_ERROR)
    assert asked(raw, "RIP") == call.rip and raw.alias == WINDOW


@pytest.mark.parametrize(
    ("start", "size"),
    [(DATA_AT, 0), (DATA_AT + 1, 4096), (DATA_AT, 4097), (SHARED - 4096, 8192),
     (2 * SHARED - 4096, 8192), (2 * SHARED, 4096), (0, 1 << 63), (-4096 % (1 << 64), 8192)],
)  # fmt: skip
def test_what_cannot_be_shared_takes_a_stop(start: int, size: int) -> None:
    guest = started()
    stops(guest, asking(STACK + 0x800, 0, r11=0x10001, r12=start, r13=size))


@pytest.mark.parametrize("rflags", [2, 0x202])
def test_a_vcpu_that_halts_sleeps_with_the_frame_of_its_call(rflags: int) -> None:
    guest = started()
    call = asking(STACK + 0x800, 0, r11=12, r12=0, rflags=rflags)
    left = guest.tdcall(call)
    assert left.to == "halt"
    assert left.frame == (call.rip + 4, 0x10, rflags, STACK + 0x800, 0x18)
    assert left.gpr == (0, *call.gpr[1:])
    (raw,) = guest.taken()
    assert (raw.site, raw.gpr) == (Kind.TDCALL, call.gpr)


@pytest.mark.parametrize("length", [1, 7, 15])
@pytest.mark.parametrize("next_page", ["mapped", "shared", "poisoned", "nothing"])
def test_code_at_the_end_of_a_page_is_read_as_far_as_it_can_be(length: int, next_page: str) -> None:
    guest = started()
    linear, entry = TEXT + 0x2000, guest.ram.map(TEXT + 0x2000, 0, 0)
    marks = {"mapped": 0, "shared": SHARED, "poisoned": POISON, "nothing": -PRESENT}[next_page]
    guest.physical(entry, struct.pack("<Q", (0x30_2000 | PRESENT) + marks))
    code = bytes(range(0x70, 0x80))
    guest.cpu.mem_write(linear - length, code)
    before = state(rip=linear - length)
    raised(guest, before, DEVICE + 8)
    (fault,) = guest.faults()
    assert fault.cpu == before
    known = CODE_SIZE if next_page == "mapped" else length
    assert fault.code == code[:known].ljust(CODE_SIZE, b"\0")


def test_a_ring_in_use_by_the_same_vcpu_takes_a_stop() -> None:
    guest = started()
    raised(guest, state(), DEVICE + 8)
    fetched(guest, state())
    head = guest.read(layout.control_field("HEAD"), 8)
    guest.write(layout.control_field("HEAD"), b"\xff" * 8)
    stops(guest, asking(STACK + 0x800, DEVICE_AT + 8))
    assert guest.reasons() == {"nested": 1}
    guest.write(layout.control_field("HEAD"), head)
    answered(guest, asking(STACK + 0x800, DEVICE_AT + 8))


def test_the_table_is_full() -> None:
    guest = started()
    keys = [STACK + 0x100_0000 * number for number in range(1, FAULT_COUNT + 1)]
    guest.write(KEYS, struct.pack(f"<{FAULT_COUNT}Q", *keys))
    assert guest.page_fault(state(), DEVICE + 8).to == "slow"
    # vetrace makes room: the one that has waited longest goes.
    frame = STACK + 0x1000 - 40
    fault = Waiting(frame, DEVICE + 8, DEVICE_AT + 8 | SHARED, READ, 5, state(), CODE)
    guest.put_all(guest.faults().keep(fault))
    assert fault in [*guest.faults()] and len([*guest.faults()]) == FAULT_COUNT
    answered(guest, asking(STACK + 0x800, DEVICE_AT + 8))
    (raw,) = guest.taken()
    assert (raw.gpr, raw.linear, raw.rflags) == (state().gpr, DEVICE + 8, FLAGS)


def test_a_part_of_the_way_may_go_by_stops() -> None:
    guest = started()
    # The fault by a stop, what follows without.
    found = 48, 1, DEVICE + 8, DEVICE_AT + 8 | SHARED, 0
    guest.put_all([pack_information(0, found)])
    assert guest.information() == found
    frame = STACK + 0x1000 - 40
    fault = Waiting(frame, DEVICE + 8, DEVICE_AT + 8 | SHARED, READ, 5, state(), CODE)
    guest.put_all(guest.faults().keep(fault))
    assert fetched(guest, state()) == (48, 1, DEVICE + 8, DEVICE_AT + 8 | SHARED, 0)
    answered(guest, asking(STACK + 0x800, DEVICE_AT + 8))
    # And the other way round.
    raised(guest, state(), DEVICE + 8)
    found_again = guest.information()
    assert found_again == found
    guest.put_all([pack_information(0, ())])
    assert guest.information() is None
    gpa = DEVICE_AT + 8 | SHARED
    (waiting,) = guest.faults()
    assert waiting == replace(fault, tsc=waiting.tsc)
    assert guest.faults().asked(STACK + 0x800, gpa) == waiting
    assert guest.faults().asked(STACK + 0x800, gpa + 4) is None
    assert guest.faults().asked(STACK + 0x1800, gpa) is None
    guest.put_all(guest.faults().forget(waiting))
    assert not [*guest.faults()]
    stops(guest, asking(STACK + 0x800, DEVICE_AT + 8))


def test_the_nearest_fault_on_the_stack_is_the_one() -> None:
    stacks = (STACK + 0x3008, STACK + 0x1008, STACK + 0x2008)
    for order in permutations(stacks):
        guest = started()
        for stack in order:
            raised(guest, state(stack), DEVICE + 8)
            fetched(guest, state(stack - 0x80))
        found = guest.faults().asked(STACK + 0x1800, DEVICE_AT + 8 | SHARED)
        assert found is not None and found.cpu.gpr[RSP] == STACK + 0x2008
        answered(guest, asking(STACK + 0x1800, DEVICE_AT + 8))
        (raw,) = guest.taken()
        assert raw.rsp == STACK + 0x2008


def test_an_access_that_crosses_a_page_takes_a_stop_though_it_faulted() -> None:
    guest = started()
    raised(guest, state(), DEVICE + 0xFFE)
    fetched(guest, state())
    stops(guest, asking(STACK + 0x800, DEVICE_AT + 0xFFE))
    answered(guest, asking(STACK + 0x800, DEVICE_AT + 0xFFE, 2))


def test_an_access_to_ram_takes_a_stop_whatever_faulted() -> None:
    guest = started()
    frame, gpa = STACK + 0x1000 - 40, DATA_AT | SHARED
    fault = Waiting(frame, DATA, gpa, READ, 5, state(), CODE)
    guest.put_all(guest.faults().keep(fault))
    stops(guest, asking(STACK + 0x800, DATA_AT))


def test_the_flag_that_a_fault_sets_is_clear_behind_a_call() -> None:
    guest = started()
    raised(guest, state(), DEVICE + 8)
    before = state(STACK + 0x800, rflags=FLAGS | Flag.RF)
    left = guest.tdcall(replace(before, gpr=(3, *before.gpr[1:])))
    assert left.to == "iretq" and left.frame[2] == FLAGS


def test_ram_of_too_many_pieces_is_refused() -> None:
    control = ModuleControl(
        shared_bit=SHARED, marks=POISON, levels=4, behind=BLOCK, halt=BLOCK,
        ram=[range(number, number + 1) for number in range(33)],
    )  # fmt: skip
    with pytest.raises(ValueError, match="33 pieces"):
        control.pack()


HANDLER = STACK + 0x800


def raised_instruction(
    guest: ModuleGuest, reason: int, number: int, key: int = STACK + 0x1000 - 40, **entry: int
) -> None:
    """Be the monitor: an instruction has raised #VE, and its entry waits for the hypercall."""
    slot = entry.get("slot", 3)
    data = bytearray(layout.SLOT_SIZE)
    struct.pack_into("<I", data, INPUT_FIELDS["CPL"], entry.get("cpl", 0))
    struct.pack_into("<Q", data, INPUT_FIELDS["CR3"], entry.get("cr3", guest.cr3))
    struct.pack_into("<Q", data, raising()["R_TAG"], reason << 32 | number)
    guest.write(KEYS + 8 * slot, struct.pack("<Q", key))
    guest.write(FAULTS + layout.SLOT_SIZE * slot, bytes(data))


def machine(guest: ModuleGuest, answer: int = 0) -> list[tuple[object, ...]]:
    """Return what is done with ports, each with the entry that the monitor finds it is about."""
    seen: list[tuple[object, ...]] = []

    def about() -> int:
        return int.from_bytes(guest.read(VES + 40, 8), "little")

    def read(_cpu: object, port: int, size: int, _data: object) -> int:
        seen.append(("in", port, size, about()))
        return answer

    def write(_cpu: object, port: int, size: int, value: int, _data: object) -> None:
        seen.append(("out", port, size, value, about()))

    guest.cpu.hook_add(UC_HOOK_INSN, read, None, 1, 0, UC_X86_INS_IN)
    guest.cpu.hook_add(UC_HOOK_INSN, write, None, 1, 0, UC_X86_INS_OUT)
    return seen


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("write", [False, True])
def test_a_port_is_accessed_for_the_instruction_that_raised_ve(width: int, write: bool) -> None:
    guest = started()
    seen = machine(guest, 0xFFFF_FFFF_89AB_CDEF)
    raised_instruction(guest, 30, 0xCFC)
    value, mask = 0x1122_3344_5566_7788, (1 << 8 * width) - 1
    call = asking(HANDLER, 0, r11=30, r12=width, r13=int(write), r14=0xCFC, r15=value)
    result = answered(guest, call)
    if write:
        assert seen == [("out", 0xCFC, width, value & mask, 4)] and result == 30
    else:
        assert seen == [("in", 0xCFC, width, 4)] and result == 0x89AB_CDEF & mask
    assert not [*guest.faults()] and count(guest, "ANSWERED") == 1
    assert not guest.taken()  # the record is the monitor's


def test_msrs_and_leaves_are_answered() -> None:
    guest = started()
    raised_instruction(guest, 32, 0x176)
    call = asking(HANDLER, 0, r11=32, r12=0x176, r13=0xFFFF_8000_1234_5678)
    assert answered(guest, call) == 32
    raised_instruction(guest, 31, 0x176)
    assert answered(guest, asking(HANDLER, 0, r11=31, r12=0x176)) == 0xFFFF_8000_1234_5678
    raised_instruction(guest, 10, 0)
    left = guest.tdcall(asking(HANDLER, 0, r11=10, r12=0, r13=0))
    names = struct.pack("<3I", left.gpr[13], left.gpr[15], left.gpr[14])
    assert left.to == "iretq" and names in (b"AuthenticAMD", b"GenuineIntel")
    assert 0 < left.gpr[12] < 1 << 32 and left.gpr[R10] == 0


@pytest.mark.parametrize(
    ("how", "call"),
    [
        ({"number": 0x3F9}, {}),
        ({"reason": 31}, {}),
        ({"key": STACK + 0x780 - 40}, {}),  # below the frame of the call
        ({"key": STACK + 0x9000}, {}),
        ({"cpl": 3, "key": 0x1234, "cr3": 0x5000}, {}),
        ({"cr3": DEVICE_AT | SHARED}, {}),  # a fault's
        ({}, {"r12": 3}),
        ({}, {"r12": 8}),
        ({}, {"r13": 2}),
        ({}, {"r14": 0x1_03F8}),
        ({}, {"r14": 1 << 32 | 0x3F8}),
        ({}, {"rcx": 0xFFCD}),
        ({}, {"r10": 1}),
        ({}, {"rflags": 0x102}),
    ],
)
def test_an_instruction_that_nobody_knows_of_takes_a_stop(
    how: dict[str, int], call: dict[str, int]
) -> None:
    guest = started()
    seen = machine(guest)
    raised_instruction(guest, **{"reason": 30, "number": 0x3F8, **how})
    usual = {"r11": 30, "r12": 1, "r13": 0, "r14": 0x3F8}
    stops(guest, asking(HANDLER, 0, **usual | call))
    assert not seen


def test_of_two_instructions_the_nearest_above_is_asked_for_and_a_programs_last() -> None:
    guest = started()
    seen = machine(guest)
    raised_instruction(guest, 30, 0x3F8, STACK + 0x2000 - 40, slot=1)
    raised_instruction(guest, 30, 0x3F8, STACK + 0x1000 - 40, slot=9)
    raised_instruction(guest, 30, 0x3F8, 0x1234_5678, slot=20, cpl=3)
    call = asking(HANDLER, 0, r11=30, r12=1, r13=0, r14=0x3F8)
    for _ in range(3):
        answered(guest, call)
    assert [entry for *_, entry in seen] == [10, 2, 21]
    stops(guest, call)


def test_instructions_are_answered_while_the_ring_is_shut() -> None:
    guest = started()
    seen = machine(guest)
    guest.write(*guest.ring.shut())
    guest.write(*pack_information(0, (30, 0x3F8 << 16 | 8, 0, 0, 1)))
    assert fetched(guest, state(HANDLER)) == (30, 0x3F8 << 16 | 8, 0, 0, 1)
    raised_instruction(guest, 30, 0x3F8)
    answered(guest, asking(HANDLER, 0, r11=30, r12=1, r13=0, r14=0x3F8))
    assert len(seen) == 1


@pytest.mark.parametrize("reason", [31, 32])
def test_an_msr_that_the_cpu_faults_at_is_refused(reason: int) -> None:
    guest = started()
    raised_instruction(guest, reason, 0x176)
    start = BLOCK + layout.DISTANCE + layout.MODULE
    code = bytes.fromhex(module_image.CODE)
    place = start + code.index(b"\xf8\x0f" + (b"\x32" if reason == 31 else b"\x30")) + 1

    def faults(cpu: Uc, _at: int, _size: int, _data: object) -> None:
        # The monitor goes on behind it, with CF set.
        cpu.reg_write(UC_X86_REG_RIP, place + 2)
        cpu.reg_write(UC_X86_REG_EFLAGS, 3)

    guest.cpu.hook_add(UC_HOOK_CODE, faults, None, place, place)
    call = asking(HANDLER, 0, r11=reason, r12=0x176)
    left = guest.tdcall(call)
    assert left.to == "iretq" and left.gpr[RAX] == 0
    assert left.gpr[R10] == 1 << 63 and left.gpr[R11] == reason
    assert not [*guest.faults()]
