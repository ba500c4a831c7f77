"""Stacks, phases and symbols of a guest whose memory is made here."""

from __future__ import annotations

import struct
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from btf_sample import BtfWriter
from ram import PAGING, Ram

from tracer.access import space
from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.symbols import Symbol, SymbolTable, table_of
from tracer.compiled.diary import STARTED, Errand
from tracer.compiled.stack_copy import StackCopy
from tracer.linux import orc
from tracer.linux.btf import Btf, parse_btf
from tracer.linux.callers import Callers
from tracer.linux.errands import SORTS
from tracer.linux.names import Names
from tracer.linux.stacks import Stacks
from tracer.linux.wrapper import NO_BACKS, Back, Backs
from tracer.trace.record import Mark, StackRecord
from tracer.x86.state import GPR, RBP, RSP, CpuState

BASE = 0xFFFF_FFFF_8100_0000  # linear, at physical 0
READ, PROBE, DRIVER, INITCALL, INIT, IRQ, IDLE, ASYNC, WORK, WORKER, KTHREAD, IRQ_THREAD = (
    BASE + 0x1000 + 0x10 * n for n in range(12)
)
SCHEDULE = BASE + 0x1800
FRAMED, UNFRAMED = bytes.fromhex("554889e5"), bytes.fromhex("41574156")
STATE, STACK = BASE + 0x2000, BASE + 0x3000
DISTANCES, ENTRIES = BASE + 0x4000, BASE + 0x5000
SYMBOLS = {
    "_text": BASE,
    "dev_read": READ,
    "dev_probe": PROBE,
    "dev_driver_init": DRIVER,
    "do_one_initcall": INITCALL,
    "kernel_init": INIT,
    "asm_interrupt": IRQ,
    "idle": IDLE,
    "async_run_entry_fn": ASYNC,
    "process_one_work.llvm.5": WORK,
    "worker_thread": WORKER,
    "kthread": KTHREAD,
    "irq_thread_fn": IRQ_THREAD,
    "schedule": SCHEDULE,
    "system_state": STATE,
    "__start_orc_unwind_ip": DISTANCES,
    "__stop_orc_unwind_ip": DISTANCES + 4 * 12,
    "__start_orc_unwind": ENTRIES,
    "_end": BASE + 0x10_0000,
}
MODULE = BASE + 0x4000_0000
CALL, REGS, END = 0x205, 0x305 | 1 << 11, 0x100  # by RSP; the layout of Linux 6.4


class Kernel:
    """What Names asks of a kernel."""

    def __init__(self, types: Btf | None, symbols: dict[str, int]) -> None:
        self.symbols: SymbolTable = table_of(
            Symbol(address, "T", name) for name, address in symbols.items()
        )
        self._types = types

    def types(self) -> Btf | None:
        return self._types


def types() -> Btf:
    btf = BtfWriter()
    number = btf.integer("unsigned int", 4)
    fields = (("type", number, 3 << 24 | 40), ("signal", number, 1 << 24 | 43))
    btf.structure("orc_entry", 6, *fields, bit_fields=True)
    btf.enum("system_states", SYSTEM_BOOTING=0, SYSTEM_RUNNING=3)
    return parse_btf(btf.blob())


class Guest:
    """One guest, its memory and what was published of it."""

    def __init__(
        self,
        *,
        stacks: bool,
        has_types: bool = True,
        has_orc: bool = True,
        framed: bool = False,
        backs: Backs = NO_BACKS,
    ) -> None:
        ram = Ram()
        for page in range(0, 0x8000, 0x1000):
            ram.map(BASE + page, page)
        self.ram = ram
        self.space = AddressSpace(ram, PAGING, RegionMap((), (), ()))
        functions = range(READ, IRQ_THREAD + 1, 0x10)
        kinds = (CALL, CALL, CALL, CALL, END, REGS, END, CALL, CALL, CALL, END, CALL)
        for index, (start, kind) in enumerate(zip(functions, kinds, strict=True)):
            at = DISTANCES + 4 * index
            ram.write(at - BASE, struct.pack("<i", start - at))
            offset = 0 if kind in (REGS, END) else 8
            ram.write(ENTRIES + 6 * index - BASE, struct.pack("<hhH", offset, 0, kind))
        ram.write(SCHEDULE - BASE, FRAMED if framed else UNFRAMED)
        named = {name: at for name, at in SYMBOLS.items() if has_orc or "orc" not in name}
        names = Names(Kernel(types() if has_types else None, named))
        self.published: list[Mark | StackRecord] = []
        self.callers = Callers(names, self.published.append, stacks=stacks, backs=backs)

    def running(self) -> None:
        self.ram.write(STATE - BASE, struct.pack("<I", 3))

    def remark(self) -> str:
        return self.callers.remark(self.space) or ""

    def access(self, rip: int, *stack: int, cpl: int = 0) -> int | None:
        """An access of the code at ``rip`` with these quadwords on its stack, RBP at the first."""
        self.ram.write(STACK - BASE, struct.pack(f"<{len(stack)}Q", *stack))
        gpr = tuple(STACK if number in (RSP, RBP) else 0 for number in range(16))
        return self.callers.note(CpuState(gpr=gpr, rip=rip, cpl=cpl), self.space, 5)

    def marks(self) -> list[str]:
        return [record.text for record in self.published if isinstance(record, Mark)]

    def stacks(self) -> list[list[str | None]]:
        records = [record for record in self.published if isinstance(record, StackRecord)]
        assert [record.id for record in records] == list(range(len(records)))
        return [[frame.symbol for frame in record.frames] for record in records]


def test_a_copy_of_the_stack_is_unwound_in_its_place() -> None:
    guest, live = Guest(stacks=True), Guest(stacks=True)
    words = (PROBE + 2, *BY_INITCALL)
    assert live.access(READ + 1, *words) == 0
    # The guest's own stack holds something else by now.
    guest.ram.write(STACK - BASE, struct.pack("<4Q", READ, READ, READ, READ))
    guest.running()
    gpr = tuple(STACK if number == RSP else 0 for number in range(16))
    cpu = CpuState(gpr=gpr, rip=READ + 1)
    data = struct.pack(f"<{len(words)}Q", *words)
    assert guest.callers.note(cpu, guest.space, 5, StackCopy(((STACK, data),), 0)) == 0
    assert guest.published == live.published
    short = StackCopy(((STACK, data[:8]),), 0)
    assert guest.callers.note(cpu, guest.space, 5, short) == 1
    (lost,) = [r.lost for r in guest.published if isinstance(r, StackRecord) and r.id == 1]
    assert lost is not None
    # It is user space when the copy says so, as an enum of 4 bytes.
    assert guest.callers.state == STATE
    assert "phase: user space" not in guest.marks()
    guest.callers.note(cpu, guest.space, 5, StackCopy(((STACK, data),), 5 << 32 | 3))
    assert guest.marks()[-1] == "phase: user space"


def test_a_chain_that_a_copy_has_told_is_not_unwound_again(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(stacks=True)
    unwound = Counter[int]()

    def unwind(rip: int, *told: Any) -> Any:
        unwound[rip] += 1
        return real(rip, *told)

    real = orc.unwind
    monkeypatch.setattr("tracer.linux.stacks.orc.unwind", unwind)

    def note(*words: int, **registers: int) -> int | None:
        gpr = [registers.get(name, 0) for name in GPR]
        gpr[RSP] = STACK
        copy = StackCopy(((STACK, struct.pack(f"<{len(words)}Q", *words)),), 0)
        cpu = CpuState(gpr=tuple(gpr), rip=READ + 1)
        return guest.callers.note(cpu, guest.space, 5, copy)

    assert note(*BY_INITCALL, 7) == note(*BY_INITCALL, 8, rbp=9, rax=1) == 0
    assert unwound == {READ + 1: 1}
    # A phase of another one has come between.
    assert note(PROBE + 2, *BY_INITCALL[1:], 7) == 1
    assert note(*BY_INITCALL, 9) == 0
    assert unwound == {READ + 1: 2}
    assert guest.marks() == [f"phase: initcall dev_{name}" for name in TASKS]
    assert len(guest.stacks()) == 2


TASKS = ("driver_init", "probe", "driver_init")
BY_INITCALL = (DRIVER + 4, INITCALL + 5, INIT + 6)


def interrupted(rip: int, *stack: int) -> tuple[int, ...]:
    """A struct pt_regs of kernel code whose own stack comes behind it."""
    return (*[0] * 16, rip, 0x10, 2, STACK + 0x300, 0x18, *[0] * 74, *stack)


def test_each_stack_is_published_once_and_before_its_first_access() -> None:
    guest = Guest(stacks=True)
    assert guest.access(READ + 1, *BY_INITCALL) == 0
    assert guest.access(READ + 1, *BY_INITCALL) == 0
    assert guest.access(READ + 1, PROBE + 2, *BY_INITCALL) == 1
    first = ["dev_read+0x1", "dev_driver_init+0x4", "do_one_initcall+0x5", "kernel_init+0x6"]
    assert guest.stacks() == [first, [first[0], "dev_probe+0x2", *first[1:]]]
    assert all(r.lost is None for r in guest.published if isinstance(r, StackRecord))


def test_a_call_at_a_functions_end_has_its_name() -> None:
    guest = Guest(stacks=True)
    guest.access(READ, DRIVER, *BY_INITCALL)
    assert guest.stacks()[0][:3] == ["dev_read+0x0", "dev_probe+0x10", "dev_driver_init+0x4"]


def test_an_initcall_is_a_phase_from_its_first_access_on() -> None:
    guest = Guest(stacks=False)
    assert guest.access(READ, IDLE + 1) is None
    assert guest.marks() == []
    guest.access(READ, *BY_INITCALL)
    guest.access(READ, PROBE + 1, *BY_INITCALL)
    assert guest.marks() == ["phase: initcall dev_driver_init"]
    guest.access(PROBE, INITCALL + 5, INIT + 6)
    assert guest.marks()[1:] == ["phase: initcall dev_probe"]
    assert guest.stacks() == []


@pytest.mark.parametrize(
    ("stack", "phase"),
    [
        ((WORK + 1, WORKER + 1, KTHREAD + 1), "work dev_probe"),
        ((WORKER + 1, KTHREAD + 1), "work dev_probe"),
        ((ASYNC + 1, WORK + 1, WORKER + 1, KTHREAD + 1), "async dev_probe"),
        ((IRQ_THREAD + 1, KTHREAD + 1), "irq thread dev_probe"),
        ((KTHREAD + 1,), "thread dev_probe"),
    ],
)
def test_what_a_thread_does_beside_the_initcalls_has_a_phase_of_its_own(
    stack: tuple[int, ...], phase: str
) -> None:
    guest = Guest(stacks=False)
    guest.access(READ, PROBE + 1, *stack)
    guest.access(READ, IDLE + 1)
    assert guest.marks() == [f"phase: {phase}", "phase: kernel"]
    guest.access(READ, *BY_INITCALL)
    guest.access(READ, PROBE + 1, *stack)
    guest.access(READ, IRQ + 1, *interrupted(PROBE + 1, *stack))
    guest.access(READ, IDLE + 1)
    guest.access(READ, *BY_INITCALL)
    initcall = "phase: initcall dev_driver_init"
    assert guest.marks()[2:] == [initcall, f"phase: {phase}", initcall]


def test_another_threads_access_is_in_the_phase_that_the_boot_is_in() -> None:
    guest = Guest(stacks=True)
    nobody = (PROBE + 1, IDLE + 1)
    guest.access(READ, *nobody)
    assert guest.marks() == []
    guest.access(READ, *BY_INITCALL)
    guest.access(READ, *nobody)
    assert guest.marks() == ["phase: initcall dev_driver_init"]
    assert guest.stacks()[0] == ["dev_read+0x0", "dev_probe+0x1", "idle+0x1"]


def test_an_interrupt_of_an_initcall_tells_the_phase_but_has_its_own_stack() -> None:
    guest = Guest(stacks=True)
    guest.access(READ, IRQ + 1, *interrupted(PROBE, *BY_INITCALL))
    guest.access(READ, IRQ + 1, *interrupted(PROBE + 1, *BY_INITCALL))
    assert guest.marks() == ["phase: initcall dev_driver_init"]
    assert guest.stacks() == [["dev_read+0x0", "asm_interrupt+0x1"]]


@pytest.mark.parametrize("by", ["state", "privilege"])
def test_user_space_is_the_last_phase(by: str) -> None:
    guest = Guest(stacks=False)
    guest.access(READ, *BY_INITCALL)
    if by == "state":
        guest.running()
        guest.access(READ, IDLE + 1)
    else:
        assert guest.access(0x40_1000, cpl=3) is None
    guest.access(READ, *BY_INITCALL)  # that of a module
    assert guest.marks() == ["phase: initcall dev_driver_init", "phase: user space"]


BACK = BASE + 0x1F10
BACKS = {BACK: Back(BACK, returns=8, errand=0)}


@pytest.mark.parametrize("by", ["tables", "frames"])
def test_code_around_functions_is_no_frame_from_when_it_is_planted(by: str) -> None:
    backs: dict[int, Back] = {}
    guest = Guest(stacks=True, has_orc=by == "tables", framed=by == "frames", backs=backs)
    within = BACK + 0x40
    # One function has code around it, and its caller another: two arguments are kept, and none.
    kept = [within, 1, 2, BACK, INITCALL + 5, INIT + 6]
    if by == "tables":
        stack = [PROBE + 4, *kept]
    else:
        stack = [STACK + 16, PROBE + 4, STACK + 64, *kept[:-1], STACK + 96, INIT + 6, 0, 0, 0]
    guest.access(READ, *stack)
    backs |= {within: Back(within, returns=16), BACK: Back(BACK, returns=0)}
    guest.access(READ, *stack)
    cut, whole = guest.stacks()
    chain = ["dev_read+0x0", "dev_probe+0x4", "do_one_initcall+0x5", "kernel_init+0x6"]
    assert cut[:2] == chain[:2] and cut[2:] != chain[2:]
    assert whole[:4] == chain


@pytest.mark.parametrize("by", ["tables", "frames"])
@pytest.mark.parametrize("stacks", [False, True])
def test_the_errand_on_the_stack_is_the_phase_and_no_frame(by: str, stacks: bool) -> None:
    guest = Guest(stacks=stacks, has_orc=by == "tables", framed=by == "frames", backs=BACKS)
    # The initcall has jumped to another function at its end.
    if by == "tables":
        guest.access(READ, PROBE + 4, INITCALL + 5, BACK, DRIVER, INIT + 6)
    else:
        frames = [STACK + 16, PROBE + 4, STACK + 32, INITCALL + 5]
        frames += [STACK + 64, BACK, DRIVER, INIT + 6, 0, IDLE + 1]
        guest.access(READ, *frames)
    assert guest.marks() == ["phase: initcall dev_driver_init"]
    chain = ["dev_read+0x0", "dev_probe+0x4", "do_one_initcall+0x5", "kernel_init+0x6"]
    if stacks:
        assert guest.stacks()[0][:4] == chain


def test_errands_are_phases_as_stacks_tell_them() -> None:
    guest = Guest(stacks=False)
    told = [
        None,  # no phase has begun
        Errand(SORTS.index("work"), PROBE), None, Errand(0, DRIVER), Errand(0, DRIVER),
        Errand(SORTS.index("async"), READ), None, Errand(99, DRIVER), Errand(0, 0x1234),
        Errand(SORTS.index("irq thread"), READ), STARTED, Errand(0, DRIVER),
    ]  # fmt: skip
    for errand in told:
        assert not guest.callers.started or errand == told[-1]
        guest.callers.note_errand(errand, guest.space, 7)
    initcall = "phase: initcall dev_driver_init"
    assert guest.marks() == [
        "phase: work dev_probe", "phase: kernel", initcall, "phase: async dev_read", initcall,
        "phase: irq thread dev_read", "phase: user space",
    ]  # fmt: skip
    assert guest.callers.started


def test_stacks_go_on_in_user_space() -> None:
    guest = Guest(stacks=True)
    guest.running()
    assert guest.access(READ, *BY_INITCALL) == 0
    assert guest.access(0x40_1000, cpl=3) is None


def test_a_stack_that_is_lost_says_so() -> None:
    guest = Guest(stacks=True)
    guest.access(READ, 0x1234)
    (record,) = (r for r in guest.published if isinstance(r, StackRecord))
    assert record.lost == "no ORC entry for 0x1233"
    assert [frame.rip for frame in record.frames] == [READ, 0x1234]


def test_a_kernel_without_tables_says_what_is_missing() -> None:
    assert Guest(stacks=True).remark() == ""
    assert "CONFIG_DEBUG_INFO_BTF" in Guest(stacks=True, has_types=False).remark()
    guest = Guest(stacks=True, has_orc=False)
    assert guest.remark() == (
        "no stacks are recorded: the kernel has no ORC tables (CONFIG_UNWINDER_ORC), and it keeps "
        "no frame pointers"
    )
    assert guest.access(READ, *BY_INITCALL) is None
    guest.running()
    guest.access(READ, *BY_INITCALL)
    assert guest.published == [Mark(time_ns=5, text="phase: user space")]


def test_a_stack_without_orc_tables_is_unwound_by_frame_pointers() -> None:
    names = Names(Kernel(None, {"_text": BASE, "schedule": SCHEDULE, "_end": BASE + 0x10_0000}))
    gpr = tuple(STACK if number == RBP else 0 for number in range(16))
    cpu = CpuState(gpr=gpr, rip=READ)
    for framed, frames in ((False, [READ]), (True, [READ, DRIVER + 4])):
        guest = Guest(stacks=True, framed=framed)
        guest.ram.write(STACK - BASE, struct.pack("<2Q", 0, DRIVER + 4))
        stack = Stacks(names).unwind(cpu, guest.space)
        assert [frame.rip for frame in stack.frames] == frames
        assert (stack.lost or "").endswith("" if framed else "and it keeps no frame pointers")
        assert (stack.lost is None) is framed


@pytest.mark.parametrize("missing", ["has_types", "has_orc"])
def test_stacks_and_phases_by_frame_pointers_say_so(missing: str) -> None:
    guest = Guest(stacks=True, framed=True, **{missing: False})
    assert guest.remark().startswith("stacks are by frame pointers, and may lack a caller: ")
    frames = (STACK + 16, DRIVER + 4, STACK + 32, INITCALL + 5, 0, INIT + 6)
    assert guest.access(READ + 1, *frames) == 0
    assert guest.marks() == ["phase: initcall dev_driver_init"]
    assert guest.stacks() == [
        ["dev_read+0x1", "dev_driver_init+0x4", "do_one_initcall+0x5", "kernel_init+0x6"]
    ]
    guest.access(READ + 1, 0x1234, DRIVER + 4)
    first, second = (r for r in guest.published if isinstance(r, StackRecord))
    assert first.by == second.by == "by frame pointers"
    assert first.lost is None
    assert second.lost == "by frame pointers, and RBP 0x1234 is no address of the kernel"


def test_frame_pointers_are_looked_for_until_a_function_is_in_ram() -> None:
    guest = Guest(stacks=True, framed=True)
    stacks = Stacks(Names(Kernel(None, {"_text": BASE, "schedule": SCHEDULE, "_end": STACK})))
    nothing = AddressSpace(Ram(), PAGING, RegionMap((), (), ()))
    assert stacks.missing(nothing) is not None
    assert stacks.missing(guest.space) is None


def test_a_stack_through_orc_tables_has_no_remark() -> None:
    guest = Guest(stacks=True)
    guest.access(READ + 1, *BY_INITCALL)
    assert [r.by for r in guest.published if isinstance(r, StackRecord)] == [None]


def test_code_outside_the_kernel_is_not_unwound() -> None:
    guest = Guest(stacks=True)
    names = Names(Kernel(types(), SYMBOLS))
    for cpu in (CpuState(rip=0x401000, cpl=3), CpuState(rip=0x401000)):
        stack = Stacks(names).unwind(cpu, guest.space)
        assert len(stack.frames) == 1 and stack.lost == "code outside the kernel is not unwound"


def test_how_code_of_a_module_is_unwound_is_found_anew_with_other_modules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guest = Guest(stacks=True)
    names = guest.callers._stacks._names
    changes = 0
    monkeypatch.setattr(names, "follow", lambda space: changes)
    monkeypatch.setattr(names, "module_at", lambda place, space, late: table)
    table: object = None
    guest.access(MODULE + 4, *BY_INITCALL)
    lost = guest.stacks()[-1]
    # Another module is where none was, with a table of its own: the kernel's, for the test.
    changes = 1
    guest.ram.map(MODULE, 0x6000)
    distance = MODULE + 0x100
    guest.ram.write(0x6100, struct.pack("<i", MODULE - distance))
    guest.ram.write(0x6200, struct.pack("<hhH", 8, 0, CALL))
    table = SimpleNamespace(orc=orc.Table(distance, MODULE + 0x200, 1))
    guest.access(MODULE + 4, *BY_INITCALL)
    assert len(lost) == 1 < len(guest.stacks()[-1])


def test_a_stack_is_unwound_with_one_walk_to_each_page(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(stacks=True)
    guest.access(READ + 4, PROBE + 5, *BY_INITCALL)
    guest.callers._stacks._entries.clear()
    walks: Counter[int] = Counter()
    walk = space.walk

    def walked(memory: Any, paging: Any, linear: int) -> Any:
        walks[linear & -0x1000] += 1
        return walk(memory, paging, linear)

    monkeypatch.setattr(space, "walk", walked)
    gpr = tuple(STACK if number == RSP else 0 for number in range(16))
    found = guest.callers.unwind(CpuState(gpr=gpr, rip=READ + 4), guest.space)
    assert len(found.frames) > 3
    assert walks == {STACK: 1, DISTANCES: 1, ENTRIES: 1}
