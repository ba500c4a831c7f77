"""A guest without a known system: its image, and where tracing of it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from bare_sample import CODE, LOW, NOTE, elf
from playbook import play
from ram import PAGING, ROOT, Ram

from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Ran, Stopped
from tracer.access.vcpu import DescriptorTable, DescriptorTables, VcpuState
from tracer.access.want import (
    Await,
    DeleteBreakpoint,
    GuestTime,
    MemoryMap,
    Pause,
    Resume,
    SetBreakpoint,
    Start,
    Vcpu,
    VcpuStates,
)
from tracer.bare.guidance import guidance
from tracer.bare.image import Image, Segment, is_bare, parse
from tracer.bare.open import open_bare
from tracer.bare.system import Bare
from tracer.errors import GuestError, KernelImageError, UsageError
from tracer.intercept.ring.window import NoWindow, Taken
from tracer.x86.idt import Gate, pack_gate
from tracer.x86.paging import Paging
from tracer.x86.state import CpuState


def test_an_image_is_read() -> None:
    image = parse(elf(CODE))
    assert image.segments == (Segment(LOW, len(CODE) + 16, CODE, True),)
    assert image.symbols.lookup(LOW + 3) == "start+0x3"
    assert image.symbols.address_of("start") == LOW


def test_symbols_may_be_of_another_file() -> None:
    image = parse(elf(CODE), b"0000000000100001 T other\n0000000000100002 T more\n")
    assert image.symbols.lookup(LOW + 1) == "other+0x0"


def test_linux_and_files_of_other_kinds_are_none() -> None:
    assert is_bare(elf(CODE))
    assert not is_bare(elf(CODE + b"Linux version 6.1.0"))
    assert not is_bare(elf(CODE).replace(NOTE, bytes(len(NOTE))))
    assert not is_bare(b"MZ" + bytes(64))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (elf(CODE)[:80], "damaged"),
        (elf(CODE, machine=183), "not for x86-64"),
        (elf(CODE, flags=4), "without any code"),
        (elf(CODE)[:-100], "damaged"),
    ],
)
def test_a_damaged_image_is_refused(image: bytes, why: str) -> None:
    with pytest.raises(KernelImageError, match=why):
        parse(image)


def test_a_file_is_opened_and_named_in_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "guest.elf"
    path.write_bytes(elf(CODE))
    guest = open_bare(path)
    assert guest is not None and guest.release == "guest.elf" and "guest.elf" in guest.title
    path.write_bytes(elf(CODE, machine=183))
    with pytest.raises(KernelImageError, match=r"guest\.elf"):
        open_bare(path)
    assert open_bare(tmp_path / "nowhere") is None and open_bare(tmp_path) is None


# ---- where tracing begins


def guest(code: bytes = CODE) -> Bare:
    return Bare(parse(elf(code)), "guest.elf", "")


def memory(*, usable: bool = True) -> Ram:
    ram = Ram()
    ram.map(LOW, 0x20_0000)
    gate = pack_gate(Gate(LOW, (0x8E << 40 if usable else 0) | 8 << 16, 0))
    ram.write(0x20_0800 + 14 * 16, gate)
    return ram


def state(*, paging: bool = True, limit: int = 0xFFF) -> VcpuState:
    table = DescriptorTable(LOW + 0x800, limit)
    return VcpuState(LOW, LOW, 0, ROOT, 0x20, DescriptorTables(table, table), 0, 0, 0, paging)


FIRST, SECOND = LOW + 8, LOW + 16
BROKEN = [(SetBreakpoint(FIRST), 4), (SetBreakpoint(SECOND), 5)]


def at(number: int) -> tuple[Resume, Ran]:
    return Resume(), Ran(Stopped("breakpoint-hit", 1, LOW, number, "SIGTRAP"))


def looked(found: VcpuState) -> list[tuple[object, object]]:
    return [(VcpuStates(), (found,)), (Vcpu(), 0)]


def test_tracing_begins_behind_the_first_idt_with_a_handler() -> None:
    play(
        guest().reach_entry(memory()),
        *BROKEN, at(4), *looked(state(paging=False)), at(5), *looked(state()),
        (MemoryMap(), ([], [])), (DeleteBreakpoint(4), None), (DeleteBreakpoint(5), None),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "ram"), [(state(limit=100), memory()), (state(), memory(usable=False))]
)
def test_an_idt_without_a_handler_is_passed(found: VcpuState, ram: Ram) -> None:
    looks = [*looked(found), (MemoryMap(), ([], []))]
    with pytest.raises(GuestError, match="without a page-fault"):
        play(guest().reach_entry(ram), *BROKEN, *64 * [at(4), *looks])


def test_a_guest_that_ends_before_it_has_an_idt_is_told_of() -> None:
    with pytest.raises(GuestError, match="stopped before"):
        play(guest().reach_entry(memory()), *BROKEN, (Resume(), Ran(Stopped(signal="SIGQUIT"))))


def test_a_guest_without_any_lidt_cannot_be_traced() -> None:
    with pytest.raises(GuestError, match="no LIDT"):
        play(guest(b"\x90\xf4").reach_entry(memory()))


def test_tracing_begins_at_the_moment_that_is_named() -> None:
    named = Bare(parse(elf(CODE)), "guest.elf", "", guidance("start"))
    assert named.begun and not guest().begun
    play(
        named.reach_entry(memory()),
        (SetBreakpoint(LOW), 4), at(4), *looked(state()), (MemoryMap(), ([], [])),
        (DeleteBreakpoint(4), None),
    )  # fmt: skip
    with pytest.raises(UsageError, match="no symbol 'stop'"):
        Bare(parse(elf(CODE)), "guest.elf", "", guidance("stop"))


def test_a_time_at_which_there_is_no_idt_yet_is_waited_on_from() -> None:
    timed = Bare(parse(elf(CODE)), "guest.elf", "", guidance("1ms"))
    play(
        timed.reach_entry(memory()),
        (Start(), None), (Await, None), (GuestTime(), 1_000_000), (Pause(), None),
        (Await, Ran(Stopped(signal="SIGINT"))), *looked(state(paging=False)),
        *BROKEN, at(4), *looked(state()), (MemoryMap(), ([], [])),
        (DeleteBreakpoint(4), None), (DeleteBreakpoint(5), None),
    )  # fmt: skip


# ---- what is known of it


def test_there_is_no_room_for_compiled_sites() -> None:
    ram = memory()
    before = bytes(ram.data)
    with pytest.raises(NoWindow, match="no symbol vetrace_room"):
        play(guest().window(ram, AddressSpace(ram, PAGING, RegionMap((), (), ())), 4 << 20))
    assert ram.data == before


def test_a_monitor_lies_where_the_guest_is_not_told_of_ram() -> None:
    bare, ram = guest(), memory()
    space = AddressSpace(ram, PAGING, RegionMap((), (), ()))
    with pytest.raises(NoWindow, match="no symbol vetrace_room"):
        bare.take(ram, space, 4 << 20)
    bare.hidden = range(5 << 30, (5 << 30) + (64 << 20))
    assert bare.take(ram, space, 4 << 20) == Taken(5 << 30, 0)
    with pytest.raises(NoWindow, match="67,108,864 are there"):
        bare.take(ram, space, 65 << 20)


def test_what_was_poisoned_in_other_tables_is_known_and_nothing_else_of_them() -> None:
    bare, ram, other = guest(), memory(), Paging(0x30_0000, 4, 1 << 51)
    device = Region("edu", 0xFEB0_0000, 0xFEB0_1FFF, 0xFEB0_0000, "edu", "edu")
    regions = RegionMap([device], [(device.start, device.end)], [(0, 0x3F_FFFF)])
    for page, physical in enumerate((device.start, device.start | 1 << 51, 0x20_0000 | 1 << 51)):
        ram.map(0x4000_0000 + 0x1000 * page, physical, paging=other)
    bare._roots |= {ROOT, other.cr3}
    found = list(bare.leaves(AddressSpace(ram, PAGING, regions)))
    assert [leaf.linear for leaf in found] == [0x4000_1000]
    assert not list(bare.leaves(AddressSpace(ram, other, regions)))


def test_what_is_waited_for_is_told() -> None:
    assert "first LIDT of the image" in guest().awaited
    named = Bare(parse(elf(CODE)), "guest.elf", "", guidance("start"))
    assert named.awaited == "tracing waits for --attach-at start"


def test_nothing_but_names_is_known() -> None:
    bare = guest()
    space = AddressSpace(memory(), Paging(ROOT, 4, 1 << 51), RegionMap((), (), ()))
    names = bare.names
    assert names.lookup(LOW + 1, space) == "start+0x1" and names.function_at(LOW + 1) == LOW
    assert names.functions() == {"start"} and names.modules() == []
    assert names.text() == [range(LOW, LOW + len(CODE))]
    assert names.function_at(LOW - 1) is None
    callers = bare.callers(lambda record: None, stacks=True)
    stack = callers.unwind(CpuState(rip=LOW + 1), space)
    assert len(stack.frames) == 1 and stack.lost
    assert callers.note(CpuState(), space, 0) is None and "no stacks" in str(callers.remark(space))
    assert not list(bare.leaves(space)) and not list(bare.unseen(space.regions))
    assert bare.stub_place() is None and "start+0x1" in bare.without_idt("start+0x1").text
    play(bare.mapped_by_programs(space))
    play(bare.remove(space))
    assert isinstance(parse(elf(CODE)), Image)
