"""The common code: its bytes, the way that an access takes through it, and each way out of it."""

from __future__ import annotations

import itertools
import os
import re
import struct
from dataclasses import replace

import common_image
import pytest
from compiled_cpu import (
    BLOCK,
    DATA,
    DATA_AT,
    DEVICE,
    DEVICE_AT,
    STACK,
    TEXT,
    WINDOW,
    After,
    Compiled,
)
from ram import POISON

from tracer.compiled import image, layout
from tracer.compiled.common import common_code, entry
from tracer.compiled.diary import Current
from tracer.compiled.ring import Raw
from tracer.compiled.stack_copy import StackCopy, stack_copy
from tracer.x86.instruction import Instruction
from tracer.x86.paging import PRESENT, USER, WRITABLE
from tracer.x86.state import RCX, RDI, RSI, RSP, CpuState, Flag

RIP = TEXT + 0x100
CURRENT = Current(0x1201, range(TEXT, TEXT + 0x1000))
LOAD, STORE = "8b4710", "894f10"  # mov eax, [rdi + 16]; mov [rdi + 16], ecx
BY_POISON = tuple(itertools.product((False, True), repeat=2))
"""The variants without a monitor."""
MOST = 100
"""Instructions of guest time that a compiled move may take, the door of the stub included."""
DOOR = 2
"""Instructions of the stub's door: it tests the error code."""


def state(linear: int, insn: Instruction, rflags: int = 0x202, **changes: int) -> CpuState:
    """Registers of which each has a value of its own; RDI leads to a linear address."""
    gpr = [0x1122_3344_5566_0000 + number for number in range(16)]
    gpr[RDI] = linear - 16 & (1 << 64) - 1
    gpr[RSP] = STACK + 0x1008
    return CpuState(tuple(gpr), insn.rip, rflags, **changes)


def ready(guest: Compiled, code: str = LOAD, rip: int = RIP) -> Instruction:
    """Compile an instruction in a guest whose device has a pattern."""
    guest.device(bytes(range(256)) * (4096 * guest.pages // 256))
    insn = guest.put(bytes.fromhex(code), rip)
    guest.enter(insn)
    return insn


def is_untouched(guest: Compiled, before: CpuState, after: After) -> bool:
    """Whether a fault went the slow way with everything as it was."""
    left = after.cpu
    same = (left.gpr, left.rip, left.rflags) == (before.gpr, before.rip, before.rflags)
    return after.slow and same and after.error == 8 and not guest.touched and not guest.taken()


def slow(guest: Compiled, insn: Instruction, linear: int, why: str, **changes: int) -> None:
    """Check that a fault goes the slow way, for a reason, and that the ring is free after it."""
    before = state(linear, insn, **changes)
    counts = guest.reasons()
    head = guest.word("HEAD")
    assert is_untouched(guest, before, guest.fault(before, linear))
    counted = {name: n - counts.get(name, 0) for name, n in guest.reasons().items()}
    assert {name for name, n in counted.items() if n} == {why}
    assert guest.word("HEAD") == head


def fast(guest: Compiled, insn: Instruction, linear: int) -> After:
    """Check that a fault is compiled, and touches the device once."""
    after = guest.fault(state(linear, insn), linear)
    assert not after.slow, guest.reasons()
    assert len(guest.touched) == 1
    (raw,) = guest.taken()
    assert raw.linear == linear
    return after


@pytest.mark.parametrize(("smp", "la57", "nested"), common_image.VARIANTS)
def test_the_image_is_the_source_assembled(smp: bool, la57: bool, nested: bool) -> None:
    if not common_image.is_possible():
        if "CI" in os.environ:
            pytest.fail("as and objcopy (Debian package binutils) are needed")
        pytest.skip("as and objcopy (Debian package binutils) are not here")
    code, labels = common_image.assemble(smp, la57, nested)
    assert image.IMAGES[smp, la57, nested] == (code.hex(), labels)
    assert len(code) <= layout.THUNKS - layout.CODE


def test_the_parts_of_the_block_do_not_overlap() -> None:
    diary = layout.DIARY_SLOTS * layout.DIARY_ENTRY.size
    assert layout.ALWAYS + layout.PAGE + layout.LONGEST <= layout.DIARY
    assert layout.DIARY + diary <= layout.STOPS
    parts = (layout.CONTROL, layout.STOPS, layout.CODE, layout.THUNKS, layout.SITES, layout.RING)
    sizes = (4096, layout.STOP_PLACES, 4096, 0x80000, layout.SITE_COUNT * layout.SITE_SIZE)
    assert all(a + n <= b for a, n, b in zip(parts, sizes, parts[1:], strict=False))
    assert len(layout.SITE_FIELDS) * 8 <= layout.SITE_SIZE
    assert layout.block_size(16) == layout.RING + 16 * 256
    # A monitor, whose pages are the CPU's, lies behind the smallest ring as well.
    assert layout.block_size(2) == layout.RING + layout.PAGE
    with pytest.raises(ValueError, match="powers of two"):
        layout.ring_size(24)


def test_the_words_of_the_control_page_do_not_overlap() -> None:
    told = re.findall(r"^\.set ([CN]_\w+|OTHER_SIDE), (\d+)$", layout.constants(), re.MULTILINE)
    places = {name: int(place) for name, place in told}
    other = places.pop("OTHER_SIDE")
    words = [*places.values(), *(layout.diary_word(name) for name in ("HEAD", "LIMIT", "LOCK"))]
    words += [other + place for place in layout.SITE_FIELDS.values()]
    assert len(layout.REASONS) + 30 < len(set(words)) == len(words)
    assert max(words) < layout.PAGE


@pytest.mark.parametrize(("smp", "la57"), BY_POISON)
@pytest.mark.parametrize("code", [LOAD, STORE])
def test_an_access_is_made_and_recorded(smp: bool, la57: bool, code: str) -> None:
    guest = Compiled(smp=smp, la57=la57, current=CURRENT)
    insn = ready(guest, code)
    guest.cpu.mem_write(DATA + CURRENT.place, struct.pack("<I", 0x1234_5678))
    for linear in (DEVICE + 0x20, DEVICE + 0x20, DEVICE + 0x1004, DEVICE, DEVICE, DEVICE + 0xFFC):
        before = state(linear, insn)
        after = guest.fault(before, linear)
        offset = linear - DEVICE
        assert not after.slow, guest.reasons()
        kind = "read" if code == LOAD else "write"
        assert [touch[:3] for touch in guest.touched] == [(kind, offset, 4)]
        (raw,) = guest.taken()
        assert (raw.gpr, raw.rflags, raw.error) == (before.gpr, before.rflags, 8)
        assert (raw.linear, raw.alias, raw.site) == (linear, WINDOW + DEVICE_AT + offset, 0)
        assert raw.thread == 0x1234_5678
        value = int.from_bytes((raw.read if kind == "read" else raw.written)[:4], "little")
        assert value == guest.touched[0][3]
        gpr = list(before.gpr)
        if kind == "read":
            gpr[0] = value
        assert (after.cpu.gpr, after.cpu.rflags) == (tuple(gpr), before.rflags)
        assert after.cpu.rip == RIP + 3


@pytest.mark.parametrize(
    "code",
    ["8b4710", "894f10", "8b07", "8907", "8a4710", "884f10", "668b4710", "66894710", "488b4710",
     "48894710", "8a6710", "0fb64710", "0fb75710", "480fbe4710", "48634710", "8b7710", "8b7f10",
     "8b4f10", "8b5710", "448b4710", "448b7f10", "88 67 10", "88 7f 10", "4088 77 10", "c64710 05",
     "66c74710 0500", "c74710 05000000", "48c74710 05000000", "c787 10000000 05000000",
     "48c787 10000000 05000000", "8b840f 10000000", "8b44cf10", "488b6710", "48896710"],
)  # fmt: skip
def test_a_plain_move_takes_at_most_a_hundred_instructions(code: str) -> None:
    guest = Compiled(current=CURRENT)
    insn = ready(guest, code)
    for place in (0x40, 0):
        linear = DEVICE + place
        before = state(linear, insn)
        gpr = list(before.gpr)
        gpr[RCX] = 0
        memory = next(operand for operand in insn.operands if hasattr(operand, "displacement"))
        gpr[RDI] = linear - memory.displacement
        before = CpuState(tuple(gpr), insn.rip, before.rflags)
        guest.fault(before, linear)  # the tables are walked
        after = guest.fault(before, linear)
        assert not after.slow
        # The instruction itself is the guest's own anyway.
        assert after.count + DOOR - 1 <= MOST, f"{insn.text} at offset {place:#x}"


def test_what_is_not_to_be_compiled_goes_the_slow_way_with_everything_as_it_was() -> None:
    guest = Compiled()
    insn = ready(guest)
    other = guest.put(bytes.fromhex(LOAD), RIP + 0x40)
    slow(guest, other, DEVICE, "absent")
    slow(guest, insn, DEVICE + 8, "traced", rflags=0x202 | Flag.TF)
    slow(guest, insn, DEVICE + 0xFFD, "crossing")
    fast(guest, insn, DEVICE + 8)
    slow(guest, insn, DEVICE + 8, "traced", rflags=0x202 | Flag.TF)
    slow(guest, insn, DEVICE + 0xFFD, "crossing")


@pytest.mark.parametrize("code", [LOAD, STORE, "014710", "870f"])
def test_the_flag_that_a_fault_sets_is_clear_behind_the_instruction(code: str) -> None:
    # RF: a CPU sets it for a fault, and so does a QEMU that came after 7.2.
    guest = Compiled()
    insn = ready(guest, code)
    raised = 0x202 | Flag.RF
    slow(guest, insn, DEVICE + 0xFFD, "crossing", rflags=raised)
    for _ in range(2):
        after = guest.fault(state(DEVICE + 8, insn, rflags=raised), DEVICE + 8)
        assert not after.slow and not after.cpu.rflags & Flag.RF
        (raw,) = guest.taken()
        assert raw.rflags == raised


def test_user_code_does_not_even_come_to_the_common_code() -> None:
    guest = Compiled()
    insn = ready(guest)
    before = state(DEVICE, insn, cpl=3)
    after = guest.fault(before, DEVICE)
    assert is_untouched(guest, before, after)
    assert after.count == 3  # test, jnz, and where it is slow
    assert guest.reasons() == {}


def test_a_stop_is_wanted_at_a_place() -> None:
    guest = Compiled()
    insn = ready(guest)
    fast(guest, insn, DEVICE + 8)
    place = layout.STOPS + (DEVICE_AT + 8) % layout.STOP_PLACES
    guest.write(place, b"\1")
    slow(guest, insn, DEVICE + 8, "stopped")
    slow(guest, insn, DEVICE + 8, "stopped")
    fast(guest, insn, DEVICE + 4)
    guest.write(layout.STOPS + DEVICE_AT % layout.STOP_PLACES, b"\1")
    slow(guest, insn, DEVICE, "stopped")
    guest.write(place, b"\0")
    fast(guest, insn, DEVICE + 8)


@pytest.mark.parametrize("smp", [False, True])
def test_nothing_is_accessed_by_itself_where_a_device_may_have_moved(smp: bool) -> None:
    guest = Compiled(smp=smp)
    insn = ready(guest)
    place, sites = layout.control_field("SITES"), guest.word("SITES")
    guest.write(place, struct.pack("<Q", sites | layout.MOVED))
    slow(guest, insn, DEVICE + 8, "moved")
    guest.write(place, struct.pack("<Q", sites))
    fast(guest, insn, DEVICE + 8)


def test_a_write_where_configuration_is_goes_to_a_stop_and_a_read_does_not() -> None:
    for code, goes in ((LOAD, fast), (STORE, slow)):
        guest = Compiled()
        words = struct.pack("<2Q", WINDOW + DEVICE_AT, 0x1000)
        guest.write(layout.control_field("SETUP"), words)
        guest.write(layout.ALWAYS, b"\1" * (layout.PAGE + layout.LONGEST))
        insn = ready(guest, code)
        goes(guest, insn, DEVICE + 8, *(["stopped"] if goes is slow else []))
        fast(guest, insn, DEVICE + 0x1008)  # behind it


@pytest.mark.parametrize("number", range(layout.WIDE))
@pytest.mark.parametrize("code", [LOAD, "88 4f 10"])  # of which one may begin in the page before
def test_a_stop_is_wanted_in_a_range_of_pages(number: int, code: str) -> None:
    guest = Compiled(pages=4)
    insn = ready(guest, code)

    def want(first: int, pages: int) -> None:
        words = struct.pack("<2Q", WINDOW + DEVICE_AT + 4096 * first, 4096 * pages)
        guest.write(layout.control_field(f"WIDE{number}"), words)
        for offset, data in guest.table.forget():
            guest.write(offset, data)

    guest.write(layout.ALWAYS, b"\1" * (layout.PAGE + layout.LONGEST))
    for first, pages in ((0, 1), (1, 2), (3, 1), (0, 4), (0, 0)):
        want(first, pages)
        for page in range(4):
            for at in (0, 8, 0xFF8):
                linear = DEVICE + 4096 * page + at
                if page in range(first, first + pages):
                    slow(guest, insn, linear, "stopped")
                    slow(guest, insn, linear, "stopped")
                else:
                    fast(guest, insn, linear)
                    fast(guest, insn, linear)


def test_the_ring_is_full_or_shut() -> None:
    guest = Compiled(slots=4)
    insn = ready(guest)
    for _ in range(2):
        for _ in range(4):
            assert not guest.fault(state(DEVICE + 8, insn), DEVICE + 8).slow
        before = state(DEVICE + 8, insn)
        assert guest.fault(before, DEVICE + 8).slow
        assert not guest.touched
        assert len(guest.taken()) == 4
    assert guest.reasons() == {"full": 2}
    guest.write(*guest.ring.shut())
    slow(guest, insn, DEVICE + 8, "full")


def test_code_that_is_another_one_goes_the_slow_way() -> None:
    guest = Compiled()
    insn = ready(guest)
    fast(guest, insn, DEVICE + 8)
    guest.cpu.mem_write(RIP, bytes.fromhex("8b4f10"))
    slow(guest, insn, DEVICE + 8, "changed")
    changed = guest.put(bytes.fromhex("8b4f10"), RIP)
    guest.enter(changed)
    after = fast(guest, changed, DEVICE + 8)
    assert after.cpu.gpr[RCX] == guest.touched[0][3]


def test_the_end_of_a_long_instruction_is_compared_too() -> None:
    for code, at in (("c787 10000000 05000000", 9), ("48c78424 00000000 05000000", 11)):
        guest = Compiled()
        insn = ready(guest, code)
        assert at < insn.length
        linear = DEVICE + 8
        before = state(linear, insn)
        assert not guest.fault(before, linear).slow
        guest.cpu.mem_write(RIP + at, b"\x55")
        assert guest.fault(before, linear).slow


def test_the_tables_are_read_at_each_access() -> None:
    guest = Compiled()
    insn = ready(guest)
    leaf = guest.leaves[DEVICE]
    flags = POISON | PRESENT | WRITABLE

    def enter(entry: int) -> None:
        guest.physical(leaf, struct.pack("<Q", entry))

    fast(guest, insn, DEVICE + 8)
    enter(DEVICE_AT + 0x1000 | flags)
    fast(guest, insn, DEVICE + 8)
    assert guest.touched[0][1] == 0x1008
    for bad in (
        DEVICE_AT | PRESENT | WRITABLE,  # healed
        DEVICE_AT | POISON | WRITABLE,  # not present
        DEVICE_AT | flags | 1 << 45,  # reserved, and not our doing
        DEVICE_AT | flags | 1 << 35,  # beyond the window
    ):
        enter(bad)
        slow(guest, insn, DEVICE + 8, "unmapped")
    enter(DEVICE_AT | PRESENT | POISON)
    fast(guest, insn, DEVICE + 8)  # a read of a page that is read-only
    enter(DEVICE_AT | flags | 1 << 50)  # the poison bit and its lower neighbour
    fast(guest, insn, DEVICE + 8)


def test_a_device_beyond_all_ram_is_seen_behind_the_rest_of_the_window() -> None:
    guest = Compiled()
    far, gib = 1 << 38, 1 << 30
    words = {"FAR": far, "FAR_SIZE": 4 * gib, "FAR_WINDOW": WINDOW + DEVICE_AT}
    for name, value in words.items():
        guest.write(layout.control_field(name), struct.pack("<Q", value))
    insn = ready(guest)
    flags = POISON | PRESENT | WRITABLE
    for offset in (0, 0x1000):
        guest.physical(guest.leaves[DEVICE], struct.pack("<Q", far + offset | flags))
        fast(guest, insn, DEVICE + 8)
        assert guest.touched[0][1] == offset + 8
    for other in (far - 4096, far + 4 * gib):
        guest.physical(guest.leaves[DEVICE], struct.pack("<Q", other | flags))
        slow(guest, insn, DEVICE + 8, "unmapped")
    # RAM that far away is nobody's.
    guest.physical(guest.leaves[DEVICE], struct.pack("<Q", far | flags))
    place = guest.map_late(DATA + 0x6000, DATA_AT)
    insn = ready(guest, "a4")
    gpr = list(state(DEVICE + 8, insn).gpr)
    gpr[RSI], gpr[RDI] = DEVICE + 8, DATA + 0x6000
    before = CpuState(tuple(gpr), insn.rip, 0x202)
    guest.physical(guest.leaves[DEVICE], struct.pack("<Q", DEVICE_AT | flags))
    assert not guest.fault(before, DEVICE + 8, 8).slow
    guest.taken()
    guest.physical(place, struct.pack("<Q", far | PRESENT | WRITABLE))
    assert is_untouched(guest, before, guest.fault(before, DEVICE + 8, 8))
    assert guest.reasons()["refused"]


def test_a_store_needs_a_page_that_is_writable_on_all_levels() -> None:
    guest = Compiled()
    insn = ready(guest, STORE)
    fast(guest, insn, DEVICE + 8)
    table = guest.paging.cr3 + 8 * (DEVICE >> 39 & 511)
    entry = guest.ram.entry(table)
    guest.physical(table, struct.pack("<Q", entry & ~WRITABLE))
    slow(guest, insn, DEVICE + 8, "unmapped")
    guest.physical(table, struct.pack("<Q", entry))
    fast(guest, insn, DEVICE + 8)
    guest.physical(guest.leaves[DEVICE], struct.pack("<Q", DEVICE_AT | PRESENT | POISON))
    slow(guest, insn, DEVICE + 8, "unmapped")


def test_a_page_of_user_space_goes_the_slow_way() -> None:
    guest = Compiled()
    insn = ready(guest)
    entry = DEVICE_AT | PRESENT | WRITABLE | USER | POISON
    guest.physical(guest.leaves[DEVICE], struct.pack("<Q", entry))
    slow(guest, insn, DEVICE + 8, "unmapped")


@pytest.mark.parametrize("la57", [False, True])
@pytest.mark.parametrize("level", [2, 3])
def test_large_pages_are_walked(level: int, la57: bool) -> None:
    guest = Compiled(la57=la57)
    insn = ready(guest)
    linear = 0xFFFF_C980_0000_0000
    flags = PRESENT | WRITABLE | POISON
    size = 1 << 12 + 9 * (level - 1)
    guest.ram.data[:] = guest.cpu.mem_read(WINDOW, len(guest.ram.data))
    leaf = guest.map(linear, DEVICE_AT & -size, flags, level)
    guest.physical(0, bytes(guest.ram.data))
    offset = DEVICE_AT % size + 0x123C
    for _ in range(2):
        before = state(linear + offset, insn)
        after = guest.fault(before, linear + offset)
        assert not after.slow, guest.reasons()
        assert [touch[1:3] for touch in guest.touched] == [(0x123C, 4)]
    guest.physical(leaf, struct.pack("<Q", 0))
    guest.taken()
    slow(guest, insn, linear + offset, "unmapped")


def test_a_tail_on_the_next_page_is_none_of_a_thunks() -> None:
    guest = Compiled()
    for code in (LOAD, STORE, "48874710", "f00fb14f10"):
        insn = ready(guest, code)
        for _ in range(2):
            before = state(DEVICE - 2, insn)
            counts = guest.reasons().get("tail", 0)
            assert is_untouched(guest, before, guest.fault(before, DEVICE))
            assert guest.reasons()["tail"] == counts + 1
            fast_before = state(DEVICE, insn)
            assert not guest.fault(fast_before, DEVICE).slow
            guest.taken()


def test_sites_with_the_same_hash_are_all_found() -> None:
    guest = Compiled()
    distance = layout.SITE_COUNT * layout.SITE_SIZE
    first = ready(guest)
    others = [TEXT + 0x100 + n * distance for n in (1, 2)]
    for rip in others:
        guest.cpu.mem_map(rip & -4096, 4096)
        guest.enter(guest.put(bytes.fromhex(LOAD), rip))
    for rip in (RIP, *others):
        insn = Instruction(rip, first.code, first.mode, first.text)
        assert not guest.fault(state(DEVICE + 8, insn), DEVICE + 8).slow
    numbers = [raw.site for raw in guest.taken()]
    assert numbers == [0, 1, 2]
    slow(guest, Instruction(RIP + 3 * distance, b"", first.mode, ""), DEVICE, "absent")


def test_the_search_goes_on_at_the_start_of_the_table() -> None:
    guest = Compiled()
    inverse = pow(layout.HASH, -1, 1 << 32)
    last = (layout.SITE_COUNT - 1) * layout.SITE_SIZE
    low = next(
        rip
        for value in range(256)
        if (rip := (last + value) * inverse % (1 << 32)) % 4096 < 4000
        and (rip * layout.HASH & last) == last
    )
    places = [(TEXT >> 32 << 32) - (n << 32) + low for n in (0, 1)]
    for rip in places:
        guest.cpu.mem_map(rip & -4096, 4096)
        insn = guest.put(bytes.fromhex(LOAD), rip)
        guest.enter(insn)
        fast(guest, insn, DEVICE + 8)


@pytest.mark.parametrize("smp", [False, True])
@pytest.mark.parametrize("code", [LOAD, STORE])
def test_an_nmi_at_any_moment_finds_the_ring_taken(smp: bool, code: str) -> None:
    guest = Compiled(smp=smp)
    insn = ready(guest, code)
    fast(guest, insn, DEVICE + 8)
    whole = guest.fault(state(DEVICE + 8, insn), DEVICE + 8).count
    guest.taken()
    outcomes = set()
    for moment in range(whole):
        outcomes.add(_interrupted(guest, insn, moment))
    # Before the ring is taken and after it is given back the access is made, in between it is not.
    assert outcomes == {True, False}


def _interrupted(guest: Compiled, insn: Instruction, moment: int) -> bool:
    # Faults with an NMI after some instructions, whose handler makes the same access; tells
    # whether that one was compiled. Both leave what they must.
    before = state(DEVICE + 8, insn)
    left = guest.fault_with_nmi(before, DEVICE + 8, moment, state(DEVICE + 12, insn), DEVICE + 12)
    nested, outer = left
    assert not outer.slow
    assert outer.cpu.rip == insn.next_rip
    assert outer.cpu.gpr[RDI] == before.gpr[RDI]
    records = guest.taken()
    assert len(records) == 2 - nested.slow
    assert {raw.linear for raw in records} == {DEVICE + 8} | ({DEVICE + 12} - (
        {DEVICE + 12} if nested.slow else set()))  # fmt: skip
    if nested.slow:
        assert nested.cpu.gpr == state(DEVICE + 12, insn).gpr
    assert guest.word("HEAD") < 1 << 63
    return not nested.slow


def test_a_vcpu_waits_for_another_one_and_tells_which_it_is() -> None:
    guest = Compiled(smp=True)
    insn = ready(guest)
    assert not guest.fault(state(DEVICE + 8, insn), DEVICE + 8).slow
    own = guest.taken()[0].vcpu
    head = guest.word("HEAD")
    other = ~(own + 1) & (1 << 64) - 1
    guest.write(layout.control_field("HEAD"), struct.pack("<Q", other))
    turns = 0

    def leave(address: int) -> bool:
        nonlocal turns
        if bytes(guest.cpu.mem_read(address, 2)) == b"\xf3\x90":  # pause
            turns += 1
            if turns == 3:
                guest.write(layout.control_field("HEAD"), struct.pack("<Q", head))
        return False

    assert not guest.fault(state(DEVICE + 8, insn), DEVICE + 8, stop=leave).slow
    assert turns == 3
    assert len(guest.taken()) == 1


def test_the_record_is_committed_before_a_store_and_after_a_load() -> None:
    for code, committed in ((LOAD, False), (STORE, True), ("ff4710", False)):
        guest = Compiled()
        insn = ready(guest, code)
        fast_count = guest.fault(state(DEVICE + 8, insn), DEVICE + 8)
        assert not fast_count.slow
        guest.taken()
        seen: list[bool] = []
        guest.on_touch = lambda guest=guest, seen=seen: seen.append(_is_committed(guest))
        guest.fault(state(DEVICE + 8, insn), DEVICE + 8)
        assert seen[0] is committed
        assert seen[-1] is (code != LOAD)


def _is_committed(guest: Compiled) -> bool:
    offset, _ = guest.ring.span(0xFFFF_FFFF_FFFF_FFFF)
    sequence = int.from_bytes(guest.read(offset, 8), "little")
    return sequence == guest.slots * layout.SLOT_SIZE + layout.SLOT_SIZE * guest.ring.taken


def test_the_stub_leads_to_the_common_code() -> None:
    code = entry(0x1000, 0x2000, BLOCK)
    assert code.endswith(struct.pack("<Q", BLOCK))
    assert common_code(smp=False, la57=False).fast == layout.CODE


def test_an_iteration_leaves_the_data_alone() -> None:
    guest = Compiled()
    insn = ready(guest)
    guest.cpu.mem_write(DATA, b"data")
    fast(guest, insn, DEVICE + 8)
    assert bytes(guest.cpu.mem_read(WINDOW + DATA_AT, 4)) == b"data"


# ---- the stack


def copied(guest: Compiled, raw: Raw) -> StackCopy:
    place = layout.stack_place(guest.slots, raw.number)
    return stack_copy(guest.read(place, layout.STACK_SIZE), raw.rsp)


def access_with(guest: Compiled, insn: Instruction, rsp: int) -> Raw:
    """Make an access with another RSP, and return its record."""
    before = state(DEVICE + 8, insn)
    gpr = list(before.gpr)
    gpr[RSP] = rsp
    before = replace(before, gpr=tuple(gpr), rflags=0x202 | Flag.DF)
    after = guest.fault(before, DEVICE + 8)
    assert not after.slow and len(guest.touched) == 1
    # Nothing but the access has happened.
    assert after.cpu.rflags == before.rflags
    assert [*after.cpu.gpr[1:]] == gpr[1:]
    (raw,) = guest.taken()
    return raw


@pytest.mark.parametrize(("smp", "la57"), [(False, False), (True, True)])
def test_the_stack_is_copied_up_to_its_last_page(smp: bool, la57: bool) -> None:
    guest = Compiled(smp, la57, stacks=True, slots=4, state=DATA + 8)
    insn = ready(guest)
    words = os.urandom(0x1000)
    guest.cpu.mem_write(DATA + 8, b"\3\0\0\0\1\2\3\4")
    for _ in range(2 * guest.slots):
        for at in (0x3008, 0x3800, 0x3FF8):
            # The fault's own frame is below.
            guest.cpu.mem_write(STACK + 0x3000, words[:-8] + bytes(8))
            copy = copied(guest, access_with(guest, insn, STACK + at))
            assert copy.read(STACK + at, 0x4000 - at) == words[at - 0x3000 : -8] + bytes(8)
            assert copy.state == 0x0403020100000003
            for linear in (STACK + at - 8, STACK + 0x3FFC):
                with pytest.raises(LookupError, match="not in the stack"):
                    copy.read(linear, 8)
    # The thunk's own way is taken, whatever the stack is.
    for rsp in (STACK + 0x4000, STACK + 0x3804):
        copy = copied(guest, access_with(guest, insn, rsp))
        assert [data for _, data in copy.runs] == [b"", b""]


def test_the_stack_that_an_interrupt_came_from_is_copied_behind_it() -> None:
    guest = Compiled(stacks=True)
    insn = ready(guest)
    before, interrupt = os.urandom(0x2000), os.urandom(0x1000)
    guest.cpu.mem_write(DATA + 0x2000, before)
    back = (DATA + 0x2F00).to_bytes(8, "little")
    guest.cpu.mem_write(STACK + 0x3000, interrupt[:-8] + back)
    raw = access_with(guest, insn, STACK + 0x3F00)
    copy = copied(guest, raw)
    assert copy.read(STACK + 0x3F00, 0xF8) == interrupt[0xF00:-8]
    assert copy.read(DATA + 0x2F00, 0x1100) == before[0xF00:]


def test_a_deep_stack_is_copied_as_far_as_there_is_room() -> None:
    guest = Compiled(stacks=True)
    insn = ready(guest)
    data = os.urandom(0x4000)
    guest.cpu.mem_write(STACK, data)
    beside = guest.read(layout.stack_place(guest.slots, layout.SLOT_SIZE), 64)
    raw = access_with(guest, insn, STACK + 0x808)
    copy = copied(guest, raw)
    size = layout.STACK_SIZE - layout.STACK_FIELDS["DATA"]
    assert copy.runs[0] == (STACK + 0x808, data[0x808 : 0x808 + size])
    assert copy.runs[1][1] == b""
    assert guest.read(layout.stack_place(guest.slots, layout.SLOT_SIZE), 64) == beside


def test_a_device_is_not_read_as_a_stack() -> None:
    guest = Compiled(stacks=True)
    insn = ready(guest)
    guest.cpu.mem_write(STACK + 0x3FF8, struct.pack("<Q", DEVICE + 0x100))
    copy = copied(guest, access_with(guest, insn, STACK + 0x3FF0))
    assert [len(data) for _, data in copy.runs] == [16, 0]


# ---- the time


@pytest.mark.parametrize("stacks", [False, True])
@pytest.mark.parametrize("code", [LOAD, STORE, "0fb64710"])
def test_no_access_is_made_from_a_time_on(stacks: bool, code: str) -> None:
    guest = Compiled(stacks=stacks)
    insn = ready(guest, code)
    fast(guest, insn, DEVICE + 8)

    def lead(front: int | None, deadline: int = 0) -> None:
        guest.write(layout.control_field("DEADLINE"), struct.pack("<Q", deadline))
        for offset, data in guest.table.lead(front):
            guest.write(offset, data)

    latest = (1 << 64) - 1
    lead(guest.common.deadline, latest)
    raw = access_with(guest, insn, STACK + 0x3F00)
    if stacks:
        assert len(copied(guest, raw).runs[0][1]) == 0x100
    for deadline in (0, 1, raw.tsc):
        lead(guest.common.deadline, deadline)
        slow(guest, insn, DEVICE + 8, "stopped")
    # One that is compiled meanwhile has its place there, too.
    other = guest.put(bytes.fromhex(LOAD), RIP + 0x40)
    guest.enter(other)
    slow(guest, other, DEVICE + 8, "stopped")
    lead(guest.common.stacks if stacks else None)
    fast(guest, insn, DEVICE + 8)
    fast(guest, other, DEVICE + 8)
