"""What Linux does with mappings and the way to its entry: where vetrace stops, what it makes."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from btf_sample import BtfWriter
from playbook import play
from ram import POISON, ROOT
from scene import AT, CODE, DATA, DATA_AT, DEVICE, NVME, STACK, STATE, Scene, registers
from stage import Memory, Stage, loaded, other_idt

from tracer.access.region import Region
from tracer.access.stop import Ran, Stopped
from tracer.access.symbols import Symbol, table_of
from tracer.access.vcpu import SetRegister
from tracer.access.want import (
    DeleteBreakpoint,
    FlushTlb,
    MakeChanges,
    MemoryMap,
    Register,
    Registers,
    Resume,
    RunAlone,
    SetBreakpoint,
    StepAlone,
    VcpuStates,
    WatchStores,
    WriteCode,
    WritePhysical,
)
from tracer.confidential.kind import Kind
from tracer.errors import GuestError, InterceptError, KernelImageError, NoEntries
from tracer.intercept.ring.window import NoWindow, Taken
from tracer.intercept.trap import GoOn
from tracer.linux import kaslr, mm
from tracer.linux.btf import parse_btf
from tracer.linux.entry import follow_kaslr, reach_entry
from tracer.linux.names import Names
from tracer.linux.origin import Booted, Joined
from tracer.linux.readers import hide_poison
from tracer.linux.system import Linux
from tracer.linux.toll import MANY
from tracer.linux.user import UserMappings
from tracer.linux.vendor import Vendor
from tracer.linux.wrapper import NOP, PASS, call
from tracer.trace.record import MapRecord
from tracer.x86.paging import PRESENT, USER, WRITABLE

BASE = 0xFFFF_FFFF_8100_0000
PLACES = {
    "start_kernel": BASE + 0x100, "ioremap_page_range": BASE + 0x200, "set_pte_vaddr": BASE + 0x300,
    "early_ioremap": BASE + 0x400, "remap_pfn_range": BASE + 0x500,
    "kernel_map_pages_in_pgd": BASE + 0x600, mm.CHANGE_RIGHTS: BASE + 0x700,
    mm.FOLLOW_ENTRY: BASE + 0x800, mm.FOLLOW_PAGE: BASE + 0x900, "machine_kexec": BASE + 0xA00,
    "_text": BASE,
}  # fmt: skip
BACK = BASE + 0xF00


def kernel(places: dict[str, int] = PLACES, types: Any = None) -> Any:
    table = table_of([Symbol(at, "T", name) for name, at in places.items()], BASE + 0x1000)
    return SimpleNamespace(
        symbols=table, types=lambda: types, path=Path("vmlinuz"), release="6.1.0-test", sha256="0",
        facts=SimpleNamespace(link_start=BASE, link_end=BASE + 0x1000, entry_physical=0x100_0000),
    )  # fmt: skip


def set_breaks(*names: str) -> list[Any]:
    return [(SetBreakpoint(PLACES[name]), number) for number, name in enumerate(names, 40)]


ALL = (
    "ioremap_page_range", "set_pte_vaddr", "early_ioremap", "remap_pfn_range",
    "kernel_map_pages_in_pgd",
)  # fmt: skip
IOREMAP, SET_PTE, EARLY, REMAP, FIRMWARE = range(40, 45)


class Kernel:
    """A stage with Linux on it, its mapping functions watched."""

    def __init__(self, types: Any = None) -> None:
        self.stage = Stage()
        self.scene = self.stage.scene
        self.scene.write(CODE, b"\x90" * 0x1000)
        self.linux = Linux(kernel(types=types), Booted("nokaslr"))
        stage = self.stage
        watched = self.linux.watch(stage.ground, self.scene.space, late=False)
        self.hooks, self.users = play(watched, *set_breaks(*ALL))
        stage.coverage._others = self.linux.leaves
        self.told: list[str] = []
        stage.journal.progress = self.told.append

    def entered(self, number: int, *more: Any, **values: int) -> None:
        self.scene.write(STACK, struct.pack("<Q", BACK))
        stop = Stopped("breakpoint-hit", 1, BASE, number, "SIGTRAP")
        assert self.hooks.claims(stop)
        assert play(self.hooks.handle(stop), (Registers(), registers(**values)), *more) == GoOn()

    def returned(self, number: int, *more: Any, stack: int = STACK + 8, **values: int) -> None:
        stop = Stopped("breakpoint-hit", 1, BACK, number, "SIGTRAP")
        here = registers(rsp=stack, rip=BACK, **values)
        assert play(self.hooks.handle(stop), (Registers(), here), *more) == GoOn()

    def time(self) -> list[Any]:
        return [(RunAlone, None), (Register("rsp"), STACK - 0x200), (MakeChanges, None)]

    @property
    def maps(self) -> list[MapRecord]:
        return [record for record in self.stage.records if isinstance(record, MapRecord)]


LOOK: Any = (VcpuStates(), (STATE,))
NEW = 0xFFFF_C900_0006_0000


def test_a_mapping_is_poisoned_where_the_function_has_returned() -> None:
    guest = Kernel()
    guest.entered(IOREMAP, LOOK, (SetBreakpoint(BACK), 50), rdi=NEW, rsi=NEW + 0x1000, rdx=DEVICE)
    guest.scene.ram.map(NEW, DEVICE)
    guest.returned(50, (DeleteBreakpoint(50), None), *guest.time())
    assert guest.scene.poisoned(NEW)
    assert [(record.by, record.regions) for record in guest.maps] == [
        ("ioremap_page_range", ["nvme"])
    ]
    assert guest.stage.counts["hooks"] == 2


def test_a_call_within_a_call_is_told_apart_by_its_stack() -> None:
    guest = Kernel()
    guest.entered(IOREMAP, LOOK, (SetBreakpoint(BACK), 50), rdi=NEW, rsi=NEW + 0x1000, rdx=DEVICE)
    guest.scene.write(STACK - 0x80, struct.pack("<Q", BACK))
    stop = Stopped("breakpoint-hit", 1, BASE, IOREMAP, "SIGTRAP")
    inner = registers(rsp=STACK - 0x80, rdi=NEW + 0x1000, rsi=NEW + 0x2000, rdx=DEVICE + 0x1000)
    play(guest.hooks.handle(stop), (Registers(), inner), LOOK)  # it returns to the same place
    for page in range(2):
        guest.scene.ram.map(NEW + 0x1000 * page, DEVICE + 0x1000 * page)
    guest.returned(50, *guest.time(), stack=STACK - 0x78)
    assert guest.scene.poisoned(NEW + 0x1000) and not guest.scene.poisoned(NEW)
    guest.returned(50, (DeleteBreakpoint(50), None), *guest.time())
    assert guest.scene.poisoned(NEW)


def test_a_mapping_that_was_never_made_leaves_nothing_poisoned() -> None:
    guest = Kernel()
    guest.entered(IOREMAP, LOOK, (SetBreakpoint(BACK), 50), rdi=NEW, rsi=NEW + 0x1000, rdx=DEVICE)
    guest.returned(50, (DeleteBreakpoint(50), None), *guest.time())
    assert guest.maps == []


def test_a_mapping_of_ram_is_of_no_concern() -> None:
    guest = Kernel()
    guest.entered(IOREMAP, rdi=NEW, rsi=NEW + 0x1000, rdx=DATA_AT)
    assert guest.stage.counts["ram_hooks"] == 1


def test_a_function_that_chooses_the_address_tells_it_where_it_returns() -> None:
    guest = Kernel()
    guest.entered(EARLY, LOOK, (SetBreakpoint(BACK), 50), rdi=DEVICE, rsi=0x1000)
    guest.scene.ram.map(NEW, DEVICE)
    guest.returned(50, (DeleteBreakpoint(50), None), *guest.time(), rax=NEW)
    assert guest.scene.poisoned(NEW)


def test_tables_of_firmware_are_followed_by_their_own_root() -> None:
    guest = Kernel()
    scene = guest.scene
    root = 0x33_0000
    scene.ram.map(NEW, root)  # where the kernel sees the table
    scene.ram.write(root, scene.ram.read(ROOT, 0x1000))
    pages = {"rdi": NEW, "rsi": DEVICE >> 12, "rdx": AT, "rcx": 1}
    scene.ram.map(AT, DEVICE)
    guest.entered(FIRMWARE, LOOK, (SetBreakpoint(BACK), 50), **pages)
    guest.returned(50, (DeleteBreakpoint(50), None), *guest.time())
    assert scene.poisoned(AT)
    assert any(leaf.poisoned for leaf in guest.linux.leaves(scene.space))


def test_tables_of_firmware_that_are_not_mapped_are_left_alone() -> None:
    guest = Kernel()
    guest.entered(
        FIRMWARE, LOOK, (SetBreakpoint(BACK), 50), rdi=NEW, rsi=DEVICE >> 12, rdx=AT, rcx=1
    )
    guest.returned(50, (DeleteBreakpoint(50), None))
    assert guest.maps == []


def test_an_idt_found_at_a_mapping_has_everything_looked_at() -> None:
    guest = Kernel()
    state = loaded(guest.stage, other_idt(guest.scene))
    guest.entered(
        IOREMAP, (VcpuStates(), (state,)), (WriteCode, guest.scene.write_code), (WatchStores, 8),
        (WatchStores, 9), (FlushTlb(ROOT), None), (SetBreakpoint(BACK), 50),
        rdi=NEW, rsi=NEW + 0x1000, rdx=DEVICE,
    )  # fmt: skip


def test_many_stops_are_told_of() -> None:
    guest = Kernel()
    for _ in range(MANY):
        guest.entered(IOREMAP, rdi=NEW, rsi=NEW + 0x1000, rdx=DATA_AT)
    assert len(guest.told) == 1 and "stops for mappings" in guest.told[0]


def test_a_kernel_without_a_function_that_has_to_be_watched_is_refused() -> None:
    stage = Stage()
    places = {name: at for name, at in PLACES.items() if name != "ioremap_page_range"}
    with pytest.raises(NoEntries, match="no symbol ioremap_page_range"):
        watched = Linux(kernel(places), Booted("nokaslr")).watch
        play(watched(stage.ground, stage.scene.space, late=False))


def test_fred_is_refused_at_a_stop_too() -> None:
    guest = Kernel()
    with pytest.raises(GuestError, match="FRED"):
        guest.entered(IOREMAP, cr4=1 << 32)


class Traceable(Kernel):
    """A kernel whose functions have sites for ftrace: calls of ``__fentry__``."""

    PAGE = BASE + 0x2000  # a page of padding, behind the entry code
    OTHER = BASE + 0xB00  # a function that is not wrapped
    WEAK = BASE + 0xB40  # one in another's place, the first in ftrace's list: it stays a call

    def __init__(self) -> None:
        self.stage = Stage()
        scene = self.scene = self.stage.scene
        fentry = BASE + 0xC00
        places = PLACES | {
            "__entry_text_end": self.PAGE, "__fentry__": fentry,
            "__start_mcount_loc": DATA, "__stop_mcount_loc": DATA + 0x20,
        }  # fmt: skip
        scene.write(CODE, b"\x90" * 0x1000)
        scene.write(self.PAGE, b"\xcc" * 0x1000)
        self.site = PLACES["ioremap_page_range"]
        for site in (self.WEAK, self.OTHER, self.site):
            scene.write(site, call(site, fentry))
        scene.write(PLACES["set_pte_vaddr"], NOP)
        scene.ram.write(DATA_AT, struct.pack("<3Q", self.WEAK, self.OTHER, self.site))
        self.linux = Linux(kernel(places), Booted("nokaslr"))
        write = (WriteCode, scene.write_code)
        watched = self.linux.watch(self.stage.ground, scene.space, late=False)
        self.hooks, self.users = play(
            watched, write, write, write, write,
            *set_breaks("early_ioremap", "remap_pfn_range", "kernel_map_pages_in_pgd"),
        )  # fmt: skip

    @property
    def stop(self) -> int:
        return next(iter(self.scene.gate.ringers))

    def rang(self, *more: Any, **values: int) -> None:
        arguments = (values.pop(name, 0) for name in ("rdi", "rsi", "rdx", "rcx"))
        self.scene.write(STACK, struct.pack("<4Q", *arguments))
        stop = Stopped("read-watchpoint-trigger", 1, self.stop, None, "SIGTRAP")
        assert self.hooks.claims(stop)
        handled = play(self.hooks.handle(stop), (Registers(), registers(**values)), *more)
        behind = self.stop + 2
        assert handled == GoOn([SetRegister("rip", behind)])


def test_a_function_with_a_wrapper_rings_once_where_it_has_returned() -> None:
    guest = Traceable()
    guest.scene.ram.map(NEW, DEVICE)
    guest.rang(LOOK, *guest.time(), rdi=NEW, rsi=NEW + 0x1000, rdx=DEVICE)
    assert guest.scene.poisoned(NEW)
    assert [(record.by, record.regions) for record in guest.maps] == [
        ("ioremap_page_range", ["nvme"])
    ]
    assert guest.stage.counts["hooks"] == 1


def test_a_mapping_of_ram_rings_and_is_of_no_concern() -> None:
    guest = Traceable()
    guest.rang(rdi=NEW, rsi=NEW + 0x1000, rdx=DATA_AT)
    assert guest.stage.counts["ram_hooks"] == 1 and guest.maps == []


def test_arguments_that_cannot_be_read_end_the_run() -> None:
    guest = Traceable()
    stop = Stopped("read-watchpoint-trigger", 1, guest.stop, None, "SIGTRAP")
    with pytest.raises(InterceptError, match="arguments of ioremap_page_range"):
        play(guest.hooks.handle(stop), (Registers(), registers(rsp=0xFFFF_C8FF_0000_0000)))


def written(wanted: Any) -> tuple[int, bytes]:
    """Bytes to write by physical address: the vCPU may have a monitor's page tables."""
    return wanted.physical, wanted.value.to_bytes(wanted.width, "little")


def behind(scene: Scene, linear: int) -> int:
    leaf = scene.space.leaf(linear)
    assert leaf is not None
    return leaf.translate(linear)


def test_a_detach_before_ftrace_leaves_all_as_it_was() -> None:
    guest = Traceable()
    scene = guest.scene
    # Hidden from ftrace.
    assert [scene.word(DATA + at) for at in (0, 8, 16)] == [guest.WEAK, guest.OTHER, 0]
    before = call(guest.site, BASE + 0xC00)
    assert scene.space.read(guest.site, 5) not in (before, NOP)
    told: list[tuple[int, bytes]] = []
    write = (WritePhysical, lambda wanted: told.append(written(wanted)))
    play(guest.linux.remove(scene.space), write, write, write, write)
    passing = [(stop, PASS) for stop in scene.gate.ringers]
    wanted = [(guest.site, before), (PLACES["set_pte_vaddr"], NOP), *passing]
    assert told == [(behind(scene, linear), code) for linear, code in wanted]
    assert scene.word(DATA + 16) == guest.site


def test_a_detach_after_ftrace_leaves_what_that_would_have() -> None:
    guest = Traceable()
    scene = guest.scene
    scene.write(guest.OTHER, NOP)
    scene.write(PLACES["set_pte_vaddr"], b"\x00" * 5)  # gone, and its memory another's
    told: list[tuple[int, bytes]] = []
    write = (WritePhysical, lambda wanted: told.append(written(wanted)))
    play(guest.linux.remove(scene.space), write, write, write)
    passing = [(stop, PASS) for stop in scene.gate.ringers]
    wanted = [(guest.site, NOP), *passing]
    assert told == [(behind(scene, linear), code) for linear, code in wanted]
    assert scene.word(DATA + 16) == 0


# ---- programs


USERS = 0x7F00_0020_0000
AREA, FLAGS = DATA + 0x100, 0x20
TABLE = 0xFFFF_C900_0008_0000


def types() -> Any:
    btf = BtfWriter()
    word = btf.integer("unsigned long", 8)
    btf.structure("vm_area_struct", 0x100, ("vm_flags", word, FLAGS), ("vm_mm", word, 0x28))
    btf.structure("mm_struct", 0x100, ("pgd", word, 0x18))
    btf.structure("follow_pfnmap_args", 0x40, ("pfn", word, 0x10))
    return parse_btf(btf.blob())


class Program(Kernel):
    """A kernel one of whose programs has a device mapped."""

    def __init__(self, *, known: bool = True) -> None:
        super().__init__(types() if known else None)
        scene = self.scene
        self.place = scene.ram.map(USERS, DEVICE | POISON, PRESENT | WRITABLE | USER)
        self.watch = [
            (SetBreakpoint(PLACES[name]), number)
            for number, name in enumerate((mm.CHANGE_RIGHTS, mm.FOLLOW_PAGE), 60)
        ]
        scene.write(AREA + FLAGS, struct.pack("<QQ", 1 << 10, DATA + 0x200))
        scene.write(DATA + 0x218, struct.pack("<Q", TABLE))
        scene.ram.map(TABLE, ROOT)  # where the kernel sees the program's tables

    def users_stop(self, number: int, *more: Any, **values: int) -> None:
        self.scene.write(STACK, struct.pack("<Q", BACK))
        stop = Stopped("breakpoint-hit", 1, BASE, number, "SIGTRAP")
        assert self.users.claims(stop)
        assert play(self.users.handle(stop), (Registers(), registers(**values)), *more) == GoOn()

    def entry_now(self) -> int:
        return self.scene.ram.entry(self.place)


RIGHTS, PAGE = 60, 61


def test_nothing_of_programs_is_watched_before_one_maps_a_device() -> None:
    guest = Program()
    guest.entered(REMAP, LOOK, (SetBreakpoint(BACK), 50), rsi=USERS, rdx=DEVICE >> 12, rcx=0x1000)
    watch = [*guest.watch]
    guest.returned(50, (DeleteBreakpoint(50), None), *guest.time(), *_scratch(guest, watch))
    assert guest.users.number_at(PLACES[mm.CHANGE_RIGHTS]) is not None


def _scratch(guest: Program, watch: list[Any]) -> list[Any]:
    # Where the stub has a page of its own there is room for copies of entries as well.
    return [watch[0], (SetBreakpoint(PLACES[mm.FOLLOW_ENTRY]), 62), watch[1]]


def watching(guest: Program) -> Program:
    play(guest.linux.mapped_by_programs(guest.scene.space), *_scratch(guest, guest.watch))
    return guest


def test_poison_outlasts_a_change_of_rights() -> None:
    guest = watching(Program())
    values = {"rsi": AREA, "rdx": USERS, "rcx": USERS + 0x1000}
    guest.users_stop(RIGHTS, (SetBreakpoint(BACK), 70), **values)
    # The kernel builds the entry anew, and keeps what its mask has: without rights, inverted.
    address = guest.entry_now() & 0x000F_FFFF_FFFF_F000
    guest.scene.ram.write(guest.place, struct.pack("<Q", address | PRESENT | USER))
    guest.users_stop(70, (DeleteBreakpoint(70), None), rsp=STACK + 8)
    assert guest.scene.poisoned(USERS)


def test_an_area_that_maps_no_device_is_passed_and_in_the_end_nothing_is_watched() -> None:
    guest = watching(Program())
    guest.scene.write(AREA + FLAGS, struct.pack("<Q", 0))
    for _ in range(7):
        guest.users_stop(RIGHTS, rsi=AREA, rdx=USERS, rcx=USERS + 0x1000)
    guest.users_stop(RIGHTS, rsi=AREA, rdx=USERS, rcx=USERS + 0x1000)  # one is left
    guest.scene.ram.write(guest.place, bytes(8))
    guest.scene.unmap(0x7F00_0000_0000)
    for _ in range(15):
        guest.users_stop(RIGHTS, rsi=AREA, rdx=USERS, rcx=USERS + 0x1000)
    guest.users_stop(
        RIGHTS, (DeleteBreakpoint(60), None), (DeleteBreakpoint(62), None),
        (DeleteBreakpoint(61), None), rsi=AREA, rdx=USERS, rcx=USERS + 0x1000,
    )  # fmt: skip
    assert guest.users.number_at(PLACES[mm.CHANGE_RIGHTS]) is None


def test_a_change_that_is_under_way_is_settled_when_the_guest_is_let_go() -> None:
    guest = watching(Program())
    guest.users_stop(RIGHTS, (SetBreakpoint(BACK), 70), rsi=AREA, rdx=USERS, rcx=USERS + 0x1000)
    guest.scene.ram.write(guest.place, struct.pack("<Q", DEVICE | PRESENT | USER | POISON))
    play(guest.linux.remove(guest.scene.space))
    play(guest.stage.coverage.heal(guest.scene.space))
    assert guest.entry_now() == DEVICE | PRESENT | USER


def test_who_looks_a_page_up_is_given_its_number_without_poison() -> None:
    guest = watching(Program())
    args = DATA + 0x300
    guest.users_stop(PAGE, (SetBreakpoint(BACK), 70), rdi=args)
    guest.scene.write(args + 0x10, struct.pack("<Q", (DEVICE | POISON) >> 12))
    guest.users_stop(70, (DeleteBreakpoint(70), None), rsp=STACK + 8)
    assert guest.scene.word(args + 0x10) == DEVICE >> 12


def test_who_looks_an_entry_up_is_given_a_copy_without_poison() -> None:
    guest = watching(Program())
    scene = guest.scene
    answer, seen = DATA + 0x300, 0xFFFF_C900_0007_0000
    scene.ram.map(seen, guest.place & -0x1000)  # where the kernel sees the table
    entry = seen + guest.place % 0x1000
    guest.users_stop(62, (SetBreakpoint(BACK), 70), rdx=answer)
    scene.write(answer, struct.pack("<Q", entry))
    guest.users_stop(70, (DeleteBreakpoint(70), None), rsp=STACK + 8)
    copy = scene.word(answer)
    assert copy in scene.gate.scratch and scene.word(copy) == guest.entry_now() & ~POISON


def test_a_look_up_that_failed_is_left_alone() -> None:
    guest = watching(Program())
    answer = DATA + 0x300
    guest.users_stop(62, (SetBreakpoint(BACK), 70), rdx=answer)
    guest.users_stop(70, (DeleteBreakpoint(70), None), rsp=STACK + 8, rax=0xFFFF_FFEA)
    assert guest.scene.word(answer) == 0


def test_poison_is_taken_out_of_the_kernels_mask_where_it_has_one() -> None:
    stage = Stage()
    scene = stage.scene
    scene.write(DATA, struct.pack("<Q", (1 << 52) - 1))
    names = Names(kernel({**PLACES, mm.PHYSICAL_MASK: DATA}))
    assert hide_poison(scene.space, names) and scene.word(DATA) == (1 << 51) - 1
    assert hide_poison(scene.space, names)
    scene.write(DATA, struct.pack("<Q", 0x1234))
    assert not hide_poison(scene.space, names)
    users = UserMappings(names, scene.view, stage.journal, hides=True, scratch=range(0))
    play(users.watch(scene.space), (SetBreakpoint(PLACES[mm.CHANGE_RIGHTS]), 60))


# ---- what is known of the guest besides


def test_flash_without_the_function_that_maps_it_is_told_of() -> None:
    places = {name: at for name, at in PLACES.items() if name != "kernel_map_pages_in_pgd"}
    flash = Region("flash", 0xFFC0_0000, 0xFFFF_FFFF, 0xFFC0_0000, "f", "f", shows_memory=True)
    regions = type(Scene().view.regions)([flash, NVME], [(flash.start, flash.end)], [(0, 1)])
    assert "flash" in next(iter(Linux(kernel(places), Booted("")).unseen(regions)))
    assert not list(Linux(kernel(), Booted("")).unseen(regions))


def test_another_kernel_is_named_where_the_idt_goes_away() -> None:
    linux = Linux(kernel(), Booted(""))
    kexec, own = map(linux.without_idt, ("machine_kexec+0x20", "driver+0x4"))
    assert kexec.other and "kexec" in kexec.text
    assert not own.other and "driver+0x4" in own.text
    assert (linux.title, linux.release, linux.sha256) == ("Linux 6.1.0-test", "6.1.0-test", "0")
    assert linux.stub_place() is None and not linux.stack_in_device
    assert linux.callers(lambda record: None, stacks=False)
    assert not list(linux.leaves(Scene().space))
    play(linux.mapped_by_programs(Scene().space))
    play(linux.remove(Scene().space))


# ---- the way to the entry


def hit(number: int | None) -> Ran:
    return Ran(Stopped("breakpoint-hit", 1, 0, number, "SIGTRAP"))


def test_a_kernel_that_does_not_move_is_run_to_its_entry() -> None:
    play(
        Linux(kernel(), Booted("quiet nokaslr")).reach_entry(Memory(Scene())),  # type: ignore[arg-type]
        (SetBreakpoint(PLACES["start_kernel"]), 1), (Resume(()), hit(1)),
        (DeleteBreakpoint(1), None),
    )  # fmt: skip


def test_a_guest_that_stops_elsewhere_has_not_reached_its_kernel() -> None:
    with pytest.raises(GuestError, match="before its kernel"):
        play(reach_entry(kernel(), 0), (SetBreakpoint, 1), (Resume, Ran(Stopped(signal="SIGQUIT"))))
    with pytest.raises(GuestError, match="is it Linux"):
        play(reach_entry(kernel({"_text": BASE}), 0))


def image(tmp_path: Path) -> Any:
    """A bzImage with the two jumps of its decompressor."""
    data = bytearray(0x4000)
    data[0x1F1] = 1
    start = 2 * 512
    code = b"\x48\x8d\x83" + (0x1000).to_bytes(4, "little") + b"\xff\xe0"
    data[start + 0x300 : start + 0x300 + len(code)] = code
    data[start + 0x1040 : start + 0x1042] = b"\xff\xe0"
    path = tmp_path / "vmlinuz"
    path.write_bytes(data)
    found = kernel(PLACES | {kaslr.POINTER: BASE + 0xB00, kaslr.POINTEE: BASE + 0xC00})
    found.path = path
    return found


def test_a_kernel_that_moves_is_followed(tmp_path: Path) -> None:
    memory = Memory(Scene())
    copy, entry, moved = 0x20_0000, 0x10_0000, 32 << 21
    where = kaslr.pointer_physical(entry, 0x100_0000, BASE + 0xB00)
    memory.write(where, struct.pack("<Q", BASE + 0xC00 + moved))
    jump = kaslr.LOAD_PHYSICAL + 0x307
    found = play(
        follow_kaslr(image(tmp_path), "quiet", memory),  # type: ignore[arg-type]
        # Something else runs at that address first.
        (SetBreakpoint(jump), 1), (Resume(()), hit(1)), (DeleteBreakpoint(1), None),
        (Register("rbx"), 5), (Register("rax"), 7),
        (SetBreakpoint(jump), 2), (Resume(()), hit(2)), (DeleteBreakpoint(2), None),
        (Register("rbx"), copy), (Register("rax"), copy + 0x1000),
        (SetBreakpoint(copy + 0x1040), 3), (Resume(()), hit(3)), (DeleteBreakpoint(3), None),
        (Register("rax"), entry), (MemoryMap(), ([], [])),
    )  # fmt: skip
    assert found == kaslr.Moved(moved, entry - 0x100_0000)


def test_a_kernel_without_the_symbols_to_follow_is_refused(tmp_path: Path) -> None:
    found = image(tmp_path)
    found.symbols = kernel().symbols
    with pytest.raises(KernelImageError, match="without the symbols"):
        play(follow_kaslr(found, "", None))  # type: ignore[arg-type]
    found.path.write_bytes(b"\x7fELF" + bytes(64))
    assert play(follow_kaslr(found, "", None)) == kaslr.Moved()  # type: ignore[arg-type]


# ---- the way to a TDX guest's entry


ASKS = BASE + 0x900
"""A TDX kernel asks its CPU in its first page, 0x900 bytes from its start."""


def asking(steps: int) -> tuple[Any, Scene, list[Any]]:
    """A kernel that asks after some instructions of `tdx_early_init`; what is wanted on the way."""
    scene = Scene()
    scene.ram.map(BASE, 0x30_0000)
    scene.write(ASKS + steps, b"\x0f\xa2")
    found = kernel(PLACES | {"tdx_early_init": ASKS})
    wanted: list[Any] = [
        (SetBreakpoint(ASKS), 1), (Resume(()), hit(1)), (DeleteBreakpoint(1), None),
        (MemoryMap(), ([], [])), (Registers(), registers(rip=ASKS, rax=1)),
    ]  # fmt: skip
    for step in range(1, steps + 1):
        wanted += [(StepAlone(), ASKS + step)]
        wanted += [(Registers(), registers(rip=ASKS + step, rax=0xFFFF_0000_0000_0021))]
    return found, scene, wanted


def test_a_kernel_that_asks_is_told_that_it_is_a_tdx_guest() -> None:
    found, scene, wanted = asking(3)
    told = [
        SetRegister("rax", 0), SetRegister("rbx", int.from_bytes(b"Inte", "little")),
        SetRegister("rdx", int.from_bytes(b"lTDX", "little")),
        SetRegister("rcx", int.from_bytes(b"    ", "little")),
    ]  # fmt: skip
    wanted += [(StepAlone(), ASKS + 5), (MakeChanges(told), None)]
    linux = Linux(found, Booted("quiet nokaslr", Kind.TDX), Kind.TDX)
    play(linux.reach_entry(scene.ram), *wanted)


def test_a_kernel_that_does_not_ask_is_refused() -> None:
    with pytest.raises(GuestError, match="CONFIG_INTEL_TDX_GUEST"):
        play(Linux(kernel(), Booted("nokaslr", Kind.TDX), Kind.TDX).reach_entry(Scene().ram))
    found, scene, wanted = asking(1)
    scene.write(ASKS + 1, b"\x90\x90")
    wanted = wanted[:5] + [
        step for _ in range(400) for step in ((StepAlone(), ASKS), (Registers(), registers()))
    ]
    with pytest.raises(GuestError, match="does not ask"):
        play(Linux(found, Booted("nokaslr", Kind.TDX), Kind.TDX).reach_entry(scene.ram), *wanted)


def test_a_kernel_that_takes_it_back_says_so() -> None:
    scene = Scene()
    scene.ram.map(BASE, 0x30_0000)
    linux = Linux(
        kernel(PLACES | {"cc_vendor": BASE + 0xB00}), Booted("nokaslr", Kind.TDX), Kind.TDX
    )
    assert linux.taken_back() is None
    linux._vendor = Vendor(linux.kernel.symbols, scene.space)
    scene.write(BASE + 0xB00, b"\2\0\0\0")
    assert linux.taken_back() is None
    scene.write(BASE + 0xB00, b"\1\0\0\0")
    assert "no longer takes itself for a TDX guest" in str(linux.taken_back())


# ---- room


HOME, ALLOCATES, FREES = BASE + 0x40, BASE + 0x50, BASE + 0x60
LENT = {
    "do_syscall_64": HOME, "__get_free_pages": ALLOCATES, "free_pages": FREES,
    "start_secondary": BASE + 0x70, "secondary_startup_64_no_verify": BASE + 0x80,
}  # fmt: skip
BOOT = BASE + 0x3000
OTHER_ROOT = 0x38_0000


def joined(banner: str = "Linux version 6.1.0") -> tuple[Linux, Scene]:
    """A kernel that ran before it was traced."""
    found = kernel(PLACES | LENT)
    found.facts.banner = banner
    return Linux(found, Joined(kaslr.Moved())), Scene()


def called(function: int, result: int) -> list[Any]:
    """The steps of a call of one of the kernel's functions, at its entry of a system call."""
    top = (STACK - 256 & -16) - 8

    def sent(wanted: MakeChanges) -> None:
        assert wanted.changes[-1] == SetRegister("rip", function)

    return [
        (Registers(), registers(rip=HOME)), (SetBreakpoint(HOME), 7), (MakeChanges, sent),
        (Resume(()), hit(7)), (Registers(), registers(rip=HOME, rsp=top + 8, rax=result)),
        (DeleteBreakpoint(7), None), (MakeChanges, None),
    ]  # fmt: skip


def test_a_kernel_that_runs_lends_ram_and_has_it_back_once() -> None:
    linux, scene = joined()
    assert linux.lends_at_most == 4 << 20
    work = linux.window(scene.ram, scene.space, 4096)
    window = play(work, *called(ALLOCATES, DATA))
    assert (window.physical, window.root) == (DATA_AT, ROOT)
    leaf = scene.space.leaf(window.block)
    assert leaf is not None and leaf.translate(window.block) == DATA_AT
    play(linux.give_back(), *called(FREES, 0))
    play(linux.give_back())


def test_ram_that_lies_too_far_away_is_given_back_at_once() -> None:
    linux, scene = joined()
    scene.ram.map(DATA, 1 << 45)
    work = linux.window(scene.ram, scene.space, 4096)
    with pytest.raises(NoWindow, match="far away, at physical 0x200000000000"):
        play(work, *called(ALLOCATES, DATA), *called(FREES, 0))
    play(linux.give_back())


def test_ram_that_vetrace_could_not_read_or_a_real_time_kernel_would_lend_is_not_asked_for() -> (
    None
):
    linux, scene = joined()
    linux.lends = False
    with pytest.raises(NoWindow, match="reached by packets"):
        play(linux.window(scene.ram, scene.space, 4096))
    linux, scene = joined("Linux version 6.1.0 #1 SMP PREEMPT_RT")
    with pytest.raises(NoWindow, match="for real time lends no RAM"):
        play(linux.window(scene.ram, scene.space, 4096))


def roomy(kind: Kind = Kind.PLAIN) -> tuple[Linux, Scene]:
    """A kernel at its entry whose map of RAM has 64 MiB."""
    scene = Scene()
    scene.ram.map(BOOT, 0x30_0000)
    scene.ram.write(0x30_01E8, b"\1")
    scene.ram.write(0x30_02D0, struct.pack("<QQI", 0, 64 << 20, 1))
    places = PLACES | LENT | {"boot_params": BOOT, "_end": BASE + 0x1000}
    return Linux(kernel(places), Booted("nokaslr", kind), kind), scene


def test_a_kernel_that_has_not_begun_is_taken_ram_from() -> None:
    linux, scene = roomy()
    assert linux.lends_at_most is None
    window = play(linux.window(scene.ram, scene.space, 4 << 20))
    assert (window.physical, window.root) == (60 << 20, ROOT)
    linux, scene = roomy()
    before = scene.ram.data[:0x30_0000]
    assert linux.take(scene.ram, scene.space, 4 << 20) == Taken(60 << 20, ROOT)
    assert scene.ram.data[:0x30_0000] == before, "nothing is mapped"
    assert scene.ram.read(0x30_01E8, 1) == b"\2"
    with pytest.raises(NoWindow, match="no 128 MiB"):
        linux.take(scene.ram, scene.space, 128 << 20)


@pytest.mark.parametrize(
    ("kind", "place"),
    [(Kind.PLAIN, BASE + 0x70), (Kind.TDX, BASE + 0x70), (Kind.SEV_ES, BASE + 0x80)],
)
def test_further_vcpus_are_met_in_code_of_the_kernels_own(kind: Kind, place: int) -> None:
    linux, _ = roomy(kind)
    assert linux.secondary == place and linux.ready() == PLACES["start_kernel"]


def test_a_program_under_pti_is_looked_at_by_the_kernels_own_tables() -> None:
    linux, scene = joined()
    linux.names.move(0)
    kernels = scene.space
    assert linux.own_tables(kernels) is kernels
    scene.ram.write(OTHER_ROOT, scene.ram.read(ROOT, 0x1000))
    scene.ram.write(OTHER_ROOT + 0x1000, bytes(0x1000))  # of a program: no kernel is in it
    programs = replace(kernels, paging=replace(kernels.paging, cr3=OTHER_ROOT | 0x1000))
    assert programs.leaf(HOME) is None
    assert linux.own_tables(programs).leaf(HOME) == kernels.leaf(HOME) is not None
