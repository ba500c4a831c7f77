"""A guest with nested traps: its physical addresses fault, and nothing of its own is changed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from monitored import BLOCK_AT, GONE, NXE, SECONDARY, SLOTS, SVME, THERE, Roomy
from playbook import play
from ram import ROOT
from scene import (
    AT,
    CODE,
    CODE_AT,
    DATA_AT,
    DEVICE,
    HANDLER,
    NVME,
    READ,
    STACK,
    STUB,
    WRITE,
    Scene,
    registers,
    spill,
)
from stage import Memory

from tracer.access.region import Choice
from tracer.access.space import AddressSpace
from tracer.access.stop import Ran, Stopped
from tracer.access.vcpu import SetMemory
from tracer.access.want import (
    Await,
    BreakAlone,
    Detach,
    FlushAllTlbs,
    FlushTlb,
    HasNoExecute,
    HasSvm,
    MakeChanges,
    MapChanged,
    MemoryMap,
    ReadPhysical,
    Registers,
    RunAlone,
    SetBreakpoint,
    StackAndTables,
    Start,
    StepAlone,
    Vcpu,
    VcpuStates,
    WatchReads,
    Woken,
    WritePhysical,
)
from tracer.compiled import layout, monitor
from tracer.compiled.diary import Current, Diary
from tracer.errors import GuestError, InterceptError
from tracer.intercept.entry.spill import SPILL_SIZE, VALUE_OFFSET
from tracer.intercept.fault import NestedFaults
from tracer.intercept.ring.window import NoWindow, Taken
from tracer.intercept.system import Learnt
from tracer.intercept.trap import GoOn
from tracer.session.loop import Loop
from tracer.trace.record import Intercept
from tracer.x86 import vmcb
from tracer.x86.paging import LARGE, PRESENT, Paging, walk
from tracer.x86.vmcb import REGISTERS

LMA = 1 << 10
SIZE = layout.block_size(SLOTS) + monitor.monitor_size(2, nested=True)
REGIONS: Any = (MemoryMap(), ([NVME], [(0, 0x3F_FFFF)]))
TELLER = CODE + 0x900
WINDOW_CODE = monitor.WINDOW_BASE + (511 << 30) + BLOCK_AT
"""The linear address of the block as code, in the monitor's window."""
WRITTEN = 2
"""The error code of a page fault of a write in the kernel to nowhere."""


class Below(Roomy):
    """Software that gives its RAM away for a monitor, and may be known later only."""

    learn: Callable[[Learnt], None]

    def take(self, memory: Any, space: AddressSpace, size: int) -> Taken:
        assert size == SIZE
        return Taken(BLOCK_AT, ROOT)

    async def tell_errands(self, space: AddressSpace) -> int:
        return TELLER

    async def expect(
        self, view: Any, journal: Any, learn: Callable[[Learnt], None], *, tells: bool
    ) -> Any:
        self.learn = learn
        return self.breakpoints


class Run:
    """A guest whose first vCPU is inside a monitor with nested traps."""

    def __init__(self, software: Below | None = None, *, lacks: type | None = None) -> None:
        scene = self.scene = Scene()
        scene.gate.remove()
        scene.write(STUB, b"\xcc" * 0x1000)
        for page in range(2):
            scene.heal(AT + 0x1000 * page)
        self.before = bytes(scene.ram.data)
        scene.ram.data.extend(bytes(SIZE))
        self.software = software or Below()
        one = self.loop = Loop(scene.view, Memory(scene), self.software, Choice())  # type: ignore[arg-type]
        self.records: list[Any] = []
        one.journal.subscribers.append(self.records.append)
        before = registers(efer=NXE | LMA)
        entering: list[Any] = [
            (WatchReads, 1), (SetBreakpoint(SECONDARY), 7), (WatchReads, 2),
            (WatchReads, self._watch), (FlushAllTlbs(), None),
            (Registers(), before), (Vcpu(), 0), (VcpuStates(), (THERE, THERE)), (FlushTlb, None),
            (BreakAlone, None), (Registers(), registers(efer=NXE | LMA | SVME)),
        ]  # fmt: skip
        features: list[Any] = [(HasSvm(), lacks is not HasSvm)]
        if lacks is not HasSvm:
            features.append((HasNoExecute(), lacks is not HasNoExecute))
        whole = lacks is None and not isinstance(self.software, Small)
        play(
            one.trap(ring=SLOTS, nested=True),
            REGIONS, (Registers(), before), *features, *(entering if whole else []),
        )  # fmt: skip

    def _watch(self, wanted: WatchReads) -> int:
        self.watched = wanted.linear
        return 3

    @property
    def monitor(self) -> Any:
        return self.loop.traced.monitor


def leads(run: Run, physical: int) -> bool:
    """Tell whether the nested tables lead a vCPU to a physical address."""
    table = run.monitor.code.tables
    for level in (4, 3, 2, 1):
        entry = run.scene.ram.entry(table + 8 * (physical >> 12 + 9 * (level - 1) & 511))
        if not entry & PRESENT:
            return False
        if entry & LARGE:
            return True
        table = entry & 0x000F_FFFF_FFFF_F000
    return True


def test_devices_fault_and_nothing_of_the_guests_own_is_changed() -> None:
    run = Run()
    assert not leads(run, DEVICE) and not leads(run, DEVICE + 0x3FFF)
    assert leads(run, DEVICE - 1) and leads(run, DEVICE + 0x4000) and leads(run, DATA_AT)
    assert run.scene.ram.data[: len(run.before)] == run.before
    stub = run.loop.traced.gate.stub.code
    assert run.scene.ram.read(BLOCK_AT + layout.MODULE, len(stub)) == stub
    root = run.scene.ram.read(run.monitor.code.vmcb(0) + 0xB0, 8)
    assert int.from_bytes(root, "little") == run.monitor.code.tables


@pytest.mark.parametrize("lacks", [HasSvm, HasNoExecute])
def test_a_cpu_without_what_a_monitor_takes_is_refused(lacks: type) -> None:
    with pytest.raises(GuestError, match=r"cannot run in a monitor: its CPU has no SVM.*pages"):
        Run(lacks=lacks)


class Small(Below):
    def take(self, memory: Any, space: AddressSpace, size: int) -> Taken:
        raise NoWindow("nothing is free")


def test_software_without_room_for_a_monitor_is_refused() -> None:
    with pytest.raises(GuestError, match="cannot run in a monitor: nothing is free"):
        Run(Small())


# ---- faults


class Fault:
    """A nested fault of the first vCPU's: it has left by its code, and stands at the stub."""

    def __init__(self, run: Run, code: str, physical: int, error: int = READ, **values: int):
        self.run, ram = run, run.scene.ram
        self.vmcb = run.monitor.code.vmcb(0)
        self.stack = self.vmcb + monitor.PER_VCPU - SPILL_SIZE
        ram.write(CODE_AT, bytes.fromhex(code))
        told = {"tsc": 1000, "rsp": STACK} | values
        ram.write(self.stack, spill(physical, error, self.stack, **told))

    def told(self, offset: int, word: int) -> Fault:
        """Have the CPU tell something in the control block."""
        self.run.scene.ram.write(self.vmcb + offset, word.to_bytes(8, "little"))
        return self

    def take(self, *steps: Any) -> Any:
        """Take the stop at the bell, and what is wanted there; return how it was handled."""
        traced = self.run.loop.traced
        stop = Stopped("read-watchpoint-trigger", 1, traced.gate.stub.stop, 1, "SIGTRAP")
        bell = next(trap for trap in traced.traps if trap.claims(stop))
        return play(bell.handle(stop), (StackAndTables(), (self.stack, 0)), *steps)


def made(run: Run) -> list[tuple[str, int, int, int | None]]:
    return [
        (access.direction, access.linear, access.physical, access.value)
        for record in run.records
        if isinstance(record, Intercept)
        for access in record.accesses
    ]


def test_an_access_is_recorded_at_the_linear_address_by_which_it_came() -> None:
    run = Run()
    done = Fault(run, "8b4604", DEVICE + 4, rsi=AT).take((ReadPhysical(DEVICE + 4, 4), 0x1234))
    assert made(run) == [("read", AT + 4, DEVICE + 4, 0x1234)]
    # The monitor's stack is where linear addresses are physical.
    (change,) = done.changes
    stack = run.monitor.code.vmcb(0) + monitor.PER_VCPU - SPILL_SIZE
    assert stack <= change.linear < stack + SPILL_SIZE
    assert (0x1234).to_bytes(8, "little") in change.data


def test_of_two_addresses_that_lead_there_it_is_the_instructions() -> None:
    run = Run()
    for page in (AT - 0x2000, AT + 0x1_0000):
        run.scene.ram.map(page, DEVICE)
    Fault(run, "8906", DEVICE, WRITE, rsi=AT + 0x1_0000, rax=7).take((WritePhysical, None))
    assert made(run) == [("write", AT + 0x1_0000, DEVICE, 7)]


def test_without_an_instruction_that_tells_the_page_tables_are_searched() -> None:
    run = Run()
    cpu, space = play(
        run.loop.traced.interceptor.look(0),
        (StackAndTables(), (Fault(run, "0f0b", DEVICE + 0x1008).stack, 0)),
    )
    assert cpu.rip == CODE and space.nested is run.scene.view.nested
    fault = play(
        NestedFaults(run.scene.view).read(0),
        (StackAndTables(), (Fault(run, "0f0b", DEVICE + 0x1008).stack, 0)),
    )
    assert fault.spill.cr2 == AT + 0x1008


def test_a_physical_address_that_no_page_table_leads_to_cannot_be() -> None:
    with pytest.raises(InterceptError, match="physical 0xfebf3000, where nothing of its page"):
        Fault(Run(), "8b06", DEVICE + 0x3000, rsi=AT).take()


def test_a_stack_that_is_not_the_monitors_cannot_be() -> None:
    work = NestedFaults(Run().scene.view).read(0)
    with pytest.raises(InterceptError, match="stack at 0x700000000 cannot be read"):
        play(work, (StackAndTables(), (7 << 32, 0)))


def test_page_tables_in_a_device_end_the_run() -> None:
    fault = Fault(Run(), "8b06", DEVICE + 8, rsi=AT).told(0x78, 1 << 33)
    words = r"page table where no RAM is, at physical 0xfebf0008 \(nvme\+0x8\).*CR3 0x100000\)"
    with pytest.raises(GuestError, match=words):
        fault.take()


def test_code_outside_long_mode_is_at_its_segment() -> None:
    run = Run()
    segment = 0x93 << 16 | 0x0000_FFFF << 32  # its attributes and limit
    fault = Fault(run, "a10800", DEVICE + 8, rip=0x10, cs=0x4FF)
    fault.told(REGISTERS["efer"], 0).told(REGISTERS["cr0"], 0x10)
    fault.told(0x410, segment | 0x4FF).told(0x418, CODE_AT - 0x10)
    fault.told(0x430, segment).told(0x438, DEVICE)  # DS
    fault.take((Registers(), registers()), (ReadPhysical(DEVICE + 8, 2), 0xBEEF))
    assert made(run) == [("read", DEVICE + 8, DEVICE + 8, 0xBEEF)]
    (record,) = [record for record in run.records if isinstance(record, Intercept)]
    assert (record.rip, record.text) == (CODE_AT, "mov ax, word ptr [8]")


def test_an_access_that_crosses_pages_is_made_where_the_monitor_sees_both() -> None:
    run = Run()
    run.scene.ram.map(AT + 0x1000, DEVICE + 0x3000)
    wanted: list[Any] = []

    def loaded(want: RunAlone) -> None:
        wanted.append(want)
        run.scene.ram.write(fault.stack + VALUE_OFFSET, struct.pack("<Q", 0x1122_3344_5566_7788))

    fault = Fault(run, "488b4604", DEVICE + 0xFFC, rsi=AT + 0xFF8)
    fault.take((RunAlone, loaded))
    stub = run.loop.traced.gate.stub
    (asked, routine) = wanted[0].changes
    assert struct.unpack_from("<Q", asked.data) == (monitor.PAIR + 0xFFC,)
    assert (routine.value, wanted[0].linear) == (stub.loads[8], stub.done)
    own = Paging(run.monitor.code.root(4), 4, 0)
    leaves = [walk(run.scene.ram, own, monitor.PAIR + page) for page in (0, 0x1000)]
    assert [leaf and leaf.physical for leaf in leaves] == [DEVICE, DEVICE + 0x3000]
    assert [access[1:3] for access in made(run)] == [
        (AT + 0xFFC, DEVICE + 0xFFC), (AT + 0x1000, DEVICE + 0x3000),
    ]  # fmt: skip


def test_an_exception_is_raised_by_the_monitor() -> None:
    run = Run()
    done = Fault(run, "a4", DEVICE, rsi=AT, rdi=AT + 0x10_0000).take()
    place = run.monitor.code.vmcb(0)
    event = struct.pack("<Q", WRITTEN << 32 | 0x8000_0B0E)
    linear = (AT + 0x10_0000).to_bytes(8, "little")
    assert SetMemory(place + vmcb.EVENT, event) in done.changes
    assert SetMemory(place + REGISTERS["cr2"], linear) in done.changes
    assert run.loop.journal.counts["delivered"] == 1 and not made(run)


def test_selectors_are_the_guests_and_not_the_monitors() -> None:
    run = Run()
    fault = Fault(run, "668c1e", DEVICE, WRITE, rsi=AT).told(0x430, 0x2B)  # mov [rsi], ds
    fault.take((Registers(), registers(ds=0x18)), (WritePhysical(DEVICE, 2, 0x2B), None))
    assert made(run) == [("write", AT, DEVICE, 0x2B)]


# ---- what the vCPU carries out by itself

FXSAVE = "0fae4604"  # fxsave [rsi + 4]


class Stepping:
    """A run whose vCPU is stepped; which pages of the device it could access at each step."""

    def __init__(self) -> None:
        self.run = Run()
        self.stub = self.run.loop.traced.gate.stub
        self.seen: list[tuple[bool, bool]] = []
        self.run.scene.ram.map(AT + 0x1000, DEVICE + 0x3000)

    def leaves(self) -> Any:
        return BreakAlone(self.stub.leave), None

    def steps(self, *places: int) -> list[Any]:
        def stepped(address: int) -> Any:
            def look(_: StepAlone) -> int:
                self.seen.append((leads(self.run, DEVICE), leads(self.run, DEVICE + 0x3000)))
                return address

            return StepAlone, look

        return [stepped(address) for address in places]


BACK: Any = [(Registers(), registers()), (FlushTlb(ROOT), None)]


def test_an_instruction_that_is_not_emulated_has_its_page_for_a_moment() -> None:
    it = Stepping()
    inside = it.stub.monitor.start
    fault = Fault(it.run, FXSAVE, DEVICE + 4, WRITE, rsi=AT)
    fault.take(
        it.leaves(), *it.steps(inside, CODE, CODE + 4), (Registers(), registers(rip=CODE + 4)),
        *BACK,
    )  # fmt: skip
    assert it.seen == [(True, False)] * 3 and not leads(it.run, DEVICE)
    assert [access[:3] for access in made(it.run)] == [("write", AT + 4, DEVICE + 4)]


def test_an_instruction_that_comes_upon_another_page_starts_over_with_both() -> None:
    it = Stepping()
    code = "8e1e"  # mov ds, [rsi]: the table of descriptors lies in the other one

    def met(_: RunAlone) -> None:
        Fault(it.run, code, DEVICE + 0x3018, rsi=AT)

    fault = Fault(it.run, code, DEVICE, rsi=AT)
    fault.take(
        it.leaves(), *it.steps(CODE, it.stub.spill), (RunAlone, met),
        (StackAndTables(), (fault.stack, 0)),
        it.leaves(), *it.steps(CODE, CODE + 2), (Registers(), registers(rip=CODE + 2)), *BACK,
    )  # fmt: skip
    assert it.seen == [(True, False)] * 2 + [(True, True)] * 2
    # How much it reads there nobody tells.
    assert ("unknown", AT + 0x1000, DEVICE + 0x3000, None) in made(it.run)


def test_an_instruction_that_gets_no_further_ends_the_run() -> None:
    it = Stepping()
    fault = Fault(it.run, FXSAVE, DEVICE + 4, WRITE, rsi=AT)
    with pytest.raises(InterceptError, match=f"faults again at linear {AT + 4:#x}"):
        fault.take(
            it.leaves(), *it.steps(CODE, it.stub.spill), (RunAlone, None),
            (StackAndTables(), (fault.stack, 0)), *BACK,
        )  # fmt: skip
    it = Stepping()
    fault = Fault(it.run, FXSAVE, DEVICE + 4, WRITE, rsi=AT)
    inside = [it.stub.monitor.start] * 1024
    with pytest.raises(InterceptError, match="does not come out of the monitor"):
        fault.take(it.leaves(), *it.steps(*inside), *BACK)


@pytest.mark.parametrize(("top", "pages"), [(0x1020, (True, True)), (0x1028, (False, True))])
def test_a_frame_that_the_cpu_was_pushing_to_a_device_is_pushed_again(
    top: int, pages: tuple[bool, bool]
) -> None:
    it = Stepping()
    fault = Fault(it.run, "90", DEVICE + 0x2000 + top - 8, WRITE, rsp=AT + top)
    fault.told(0x88, 0x8000_0020)  # an interrupt, without an error code
    after = registers(rip=HANDLER, rsp=AT + top - 40)
    done = fault.take(it.leaves(), *it.steps(HANDLER), (Registers(), after), *BACK)
    # It would start over where it comes upon a page that it has not.
    assert done == GoOn() and it.seen == [pages]
    assert [access[:2] for access in made(it.run)] == [
        ("write", AT + at) for at in range(top - 8, top - 48, -8)
    ]
    (record,) = [record for record in it.run.records if isinstance(record, Intercept)]
    assert record.note == "the frame of an exception or an interrupt"


# ---- other stops, and what is learnt


def test_where_a_device_may_have_moved_the_map_is_looked_at() -> None:
    run = Run()
    looked = Stopped("read-watchpoint-trigger", 1, run.monitor.label("looked"), 3, "SIGTRAP")
    moved = replace(NVME, start=DEVICE + 0x10_0000, end=DEVICE + 0x10_3FFF)
    play(
        run.loop.run(),
        (Start(()), None), (Await, Ran(looked)), (MapChanged(), True),
        (MemoryMap(), ([moved], [(0, 0x3F_FFFF)])), (Woken(), None), (Registers(), registers()),
        (FlushAllTlbs(), None), (Start(()), None), (Await, GONE),
    )  # fmt: skip
    assert run.loop.journal.counts["looks"] == 1
    assert leads(run, DEVICE) and not leads(run, DEVICE + 0x10_0000)
    # The monitor reads a word of its own there, which GDB watches.
    place = run.scene.ram.entry(BLOCK_AT + monitor.word("LOOK_AT"))
    assert run.watched == place


def test_what_is_learnt_of_a_system_reaches_the_monitor() -> None:
    run = Run()
    block, code = run.scene.ram, run.monitor.code
    assert block.entry(BLOCK_AT + monitor.word("TELLER")) == TELLER
    assert block.read(BLOCK_AT + Diary().ignore()[0], 8) == Diary().ignore()[1]
    current = Current(0x1FB80, range(CODE, CODE + 0x1000))
    run.software.learn(Learnt((ROOT, 0x620), CODE + 0x40, current))
    assert block.entry(BLOCK_AT + monitor.word("TELLER")) == CODE + 0x40
    offset, words = monitor.thread_of(current)
    for vcpu in range(2):
        assert block.read(code.state(vcpu) + offset, len(words)) == words
    # Somebody reads what threads tell from there on.
    place, limit = Diary().open()
    assert block.read(BLOCK_AT + place, len(limit)) == limit


def test_a_vcpu_at_the_stub_is_told_with_its_guests_registers() -> None:
    run = Run()
    stack = run.monitor.code.vmcb(0) + monitor.PER_VCPU - 0x40
    fault = Fault(run, "90", DEVICE).told(REGISTERS["cr2"], AT).told(REGISTERS["cr0"], 0x10)
    fault.told(REGISTERS["efer"], SVME).told(0x430, 0x40)  # DS, of real-mode code
    own = dict(registers(rip=run.monitor.code.block, rsp=stack, efer=0xD00 | SVME).values)
    assert run.monitor.registers(own) == own  # its guest's, whose code is there
    own["rip"] = WINDOW_CODE
    told = run.monitor.registers(own)
    assert {name: told[name] for name in ("cr0", "cr2", "cr3", "ds", "efer", "rip")} == {
        "cr0": 0x10, "cr2": AT, "cr3": ROOT, "ds": 0x40, "efer": 0, "rip": CODE,
    }  # fmt: skip
    assert told.keys() == own.keys() and told["rbx"] == own["rbx"]


def test_a_guest_that_is_let_go_has_its_devices_and_stays_in_the_monitor() -> None:
    run = Run()
    play(
        run.loop.leave(),
        (MakeChanges(()), None), (Registers(), registers()), (FlushAllTlbs(), None),
        (Detach(), None),
    )  # fmt: skip
    assert run.loop.released and leads(run, DEVICE) and run.software.removed
    assert run.scene.ram.entry(BLOCK_AT + monitor.word("CLOSED")) == 1
    assert run.scene.ram.data[: len(run.before)] == run.before
