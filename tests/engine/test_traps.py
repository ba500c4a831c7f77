"""Stops that are no access: interruptions, late ones, IDTs, gates, maps that change, a release."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from playbook import Cancelled, play
from ram import ROOT
from scene import (
    AT,
    CODE,
    CR4,
    CS,
    DATA,
    DATA_AT,
    DEVICE,
    HANDLER,
    IDT_AT,
    NVME,
    STACK,
    STATE,
    STUB,
    TABLES,
    Scene,
    registers,
    set_rip,
)  # fmt: skip
from stage import Memory, Nobody, Software, Stage, loaded, other_idt

from tracer.access.region import Choice, Region
from tracer.access.stack import Frame, Stack
from tracer.access.stop import Ran, Stopped
from tracer.access.transfer import Transfer
from tracer.access.vcpu import DescriptorTable, SetRegister
from tracer.access.want import (
    AskHold,
    Await,
    BreakAlone,
    DeleteBreakpoint,
    Detach,
    FlushAllTlbs,
    FlushTlb,
    GuestTime,
    HasMachineCheck,
    Hold,
    LogAccesses,
    LogSize,
    MakeChanges,
    MapChanged,
    MemoryMap,
    Pause,
    ReadPhysical,
    Register,
    Registers,
    Resume,
    RunAlone,
    SelectVcpu,
    SetBreakpoint,
    Sleeps,
    StackAndTables,
    Start,
    StepAlone,
    Tables,
    Vcpu,
    VcpuStates,
    WatchReads,
    WatchStores,
    Woken,
    WriteCode,
)
from tracer.errors import GuestError, GuestHung, InterceptError, NoEntries, UsageError
from tracer.intercept.clock import look_at_clock
from tracer.intercept.entry.interrupt_stack import InterruptStacks
from tracer.intercept.entry.spill import CONTROL_SIZE, SPILL_SIZE
from tracer.intercept.entry.visit import EVEN_NS
from tracer.intercept.trap import GoOn, LetGo, StandStill
from tracer.linux.mapping import SPARE_LINEAR
from tracer.session.loop import Loop
from tracer.session.traps import Bell, GateWatch, Interruption, Readiness, Stray
from tracer.trace.record import Intercept, MapRecord, Mark, RegionRecord
from tracer.x86.idt import Gate, pack_gate, unpack_gate
from tracer.x86.paging import PRESENT, USER, WRITABLE
from tracer.x86.state import CpuState, Flag

LIDT = Stopped("breakpoint-hit", 1, CODE, 7, "SIGTRAP")
BELL = Stopped("read-watchpoint-trigger", 1, None, None, "SIGTRAP")


# ---- interruptions


def interruption(stage: Stage, *breakpoints: Any) -> Interruption:
    scene = stage.scene
    bell = Bell(scene.interceptor, scene.gate, stage.journal, asks=False)
    return Interruption(scene.gate, stage.journal, bell, breakpoints)


def at(linear: int, vcpu: int = 0) -> Stopped:
    return Stopped(signal="SIGINT", address=linear, thread=vcpu + 1)


def test_an_interruption_elsewhere_holds_the_guest() -> None:
    stage = Stage()
    trap = interruption(stage)
    assert trap.claims(at(CODE)) and not trap.claims(LIDT)
    assert play(trap.handle(at(CODE, 1))) == StandStill("interrupt", 1)


def test_an_interruption_within_the_stub_waits_for_the_access() -> None:
    stage = Stage()
    for place in (stage.scene.stub.leave, stage.scene.stub.doors[0], stage.scene.stub.base):
        assert play(interruption(stage).handle(at(place))) == GoOn()


def test_an_interruption_at_the_bell_is_the_bells() -> None:
    stage = Stage()
    scene = stage.scene
    scene.fault("8b06", AT, rsi=AT)
    stub, stack = scene.stub, STACK - 0x400
    back = [SetRegister("rip", stub.stop), SetRegister("rsp", stack)]
    handled = play(
        interruption(stage).handle(at(stub.stop)),
        # A single step takes QEMU's half-forgotten stop away, and is taken back.
        (StepAlone(), stub.stop_behind), (Register("rsp"), stack + CONTROL_SIZE),
        (MakeChanges(back), None),
        (StackAndTables(), (stack, ROOT)), (ReadPhysical(DEVICE, 4), 1),
    )  # fmt: skip
    assert isinstance(handled, GoOn) and handled.changes
    assert stage.counts["intercepts"] == 1 and len(scene.records) == 1


def test_an_interruption_at_a_bell_that_is_to_ring_again_is_left_to_it() -> None:
    stage = Stage()
    stub = stage.scene.stub
    trap = interruption(stage)
    assert play(trap.handle(at(stub.stop)), (StepAlone(), HANDLER)) == GoOn()
    assert stage.counts["intercepts"] == 0


def test_an_interruption_where_other_code_rings_is_left_to_it() -> None:
    stage = Stage()
    stage.scene.gate.ringers[CODE + 0x20] = range(CODE + 0x10, CODE + 0x30)
    trap = interruption(stage)
    assert play(trap.handle(at(CODE + 0x20)), (StepAlone(), CODE + 0x19)) == GoOn()
    assert play(trap.handle(at(CODE + 0x10))) == GoOn()
    assert play(trap.handle(at(CODE + 0x30))) == StandStill("interrupt")


class Watched:
    """A breakpoint at CODE, number 7."""

    def __init__(self, handled: Any = None) -> None:
        self.seen: list[int | None] = []
        self.handled = handled or GoOn()

    def claims(self, stop: Stopped) -> bool:
        return stop.breakpoint == 7

    async def handle(self, stop: Stopped) -> Any:
        self.seen.append(stop.breakpoint)
        return self.handled

    def number_at(self, linear: int | None) -> int | None:
        return 7 if linear == CODE else None


def test_an_interruption_at_a_breakpoint_is_both() -> None:
    one, other = Watched(), Watched()
    assert play(interruption(Stage(), one, other).handle(at(CODE))) == StandStill("interrupt")
    assert one.seen == other.seen == [7]
    assert play(interruption(Stage(), one).handle(at(CODE + 1))) == StandStill("interrupt")
    assert one.seen == [7]


def test_an_interruption_where_tracing_ends_lets_the_guest_go() -> None:
    assert play(interruption(Stage(), Watched(LetGo())).handle(at(CODE))) == LetGo()


# ---- the bell


def test_a_person_who_wants_to_is_shown_the_handler_of_an_exception() -> None:
    stage = Stage()
    scene = stage.scene
    scene.interceptor.asks = False
    bell = Bell(scene.interceptor, scene.gate, stage.journal, asks=True)
    scene.fault("a4", AT, rsi=AT, rdi=DATA + 0x1000)
    made: list[Any] = []
    handled = play(
        bell.handle(replace(BELL, address=scene.stub.stop)),
        (StackAndTables(), (STACK - 0x400, ROOT)), (MakeChanges, None), (BreakAlone, None),
        (AskHold(), True), (MakeChanges, lambda wanted: made.extend(wanted.changes)),
    )  # fmt: skip
    assert handled == StandStill("fault") and made[-1] == set_rip(HANDLER)
    scene.fault("a4", AT, rsi=AT, rdi=DATA + 0x1000, tsc=2000)
    handled = play(
        bell.handle(replace(BELL, address=scene.stub.stop)),
        (StackAndTables(), (STACK - 0x400, ROOT)), (MakeChanges, None), (BreakAlone, None),
        (AskHold(), False),
    )  # fmt: skip
    assert isinstance(handled, GoOn) and handled.changes[-1] == set_rip(HANDLER)


# ---- late stops


@pytest.mark.parametrize(
    ("stop", "vcpus", "interrupts", "late"),
    [
        (BELL, 2, 0, True), (BELL, 1, 0, False), (BELL, 1, 1, True),
        (Stopped(signal="SIGTRAP"), 2, 0, True), (Stopped(signal="SIGSEGV"), 2, 0, False),
    ],
)  # fmt: skip
def test_a_stop_may_be_late(stop: Stopped, vcpus: int, interrupts: int, late: bool) -> None:
    stage = Stage()
    stage.scene.view.vcpus = vcpus
    stage.counts["interrupts"] = interrupts
    trap = Stray(stage.scene.view, stage.journal)
    assert trap.claims(stop) is late
    assert play(trap.handle(stop)) == GoOn() and stage.counts["strays"] == 1


# ---- readiness


def test_where_the_software_has_room_it_is_begun_once() -> None:
    stage, begun = Stage(), list[str]()

    async def begin() -> None:
        await FlushAllTlbs()
        begun.append("begun")

    trap = Readiness(begin, stage.journal)
    play(trap.install(CODE), (SetBreakpoint(CODE), 7))
    assert trap.claims(LIDT) and trap.number_at(CODE) == 7
    assert play(trap.handle(LIDT), (DeleteBreakpoint(7), None), (FlushAllTlbs(), None)) == GoOn()
    assert begun == ["begun"] and stage.counts["hooks"] == 1
    assert not trap.claims(LIDT) and trap.number_at(CODE) is None


# ---- gates


def test_a_gate_that_leads_elsewhere_has_the_page_tables_looked_at_anew() -> None:
    stage = Stage()
    scene = stage.scene
    trap = GateWatch(scene.gate, scene.view, stage.journal, stage.coverage)
    scene.ram.map(0xFFFF_C900_0004_0000, DEVICE + 0x2000)
    scene.ram.write(IDT_AT + 14 * 16, pack_gate(Gate(HANDLER + 0x40, 0x8E << 40 | CS << 16, 0)))
    stray = Stopped(signal="SIGTRAP")
    play(
        trap.look(stray),
        (Registers(), registers()), (WriteCode, scene.write_code), (FlushTlb(ROOT), None),
    )  # fmt: skip
    assert scene.poisoned(0xFFFF_C900_0004_0000)
    (record,) = [item for item in stage.records if isinstance(item, MapRecord)]
    assert record.by == "page tables made by the kernel"
    play(trap.look(stray))  # it is as it was made


def test_a_watch_that_fires_is_not_looked_at_twice() -> None:
    stage = Stage()
    scene = stage.scene
    trap = GateWatch(scene.gate, scene.view, stage.journal, stage.coverage)
    fired = Stopped("watchpoint-trigger", 1, CODE, None, "SIGTRAP")
    scene.ram.write(IDT_AT + 14 * 16, bytes(16))
    assert trap.claims(fired)
    play(trap.look(fired))
    scene.write(CODE, bytes.fromhex("48c70600000000"))
    store = registers(rip=CODE + 7, rsi=0xFFFF_FFFF_8200_0000 + 14 * 16)
    handled = play(
        trap.handle(fired),
        (Registers(), store), (WriteCode, scene.write_code),
        *_watches(),
    )  # fmt: skip
    assert handled == GoOn() and stage.counts["hooks"] == 1


def _watches() -> list[Any]:
    return [
        (DeleteBreakpoint(2), None), (DeleteBreakpoint(3), None),
        (WatchStores, 4), (WatchStores, 5),
    ]  # fmt: skip


# ---- IDTs and TSSs that are loaded


def test_each_lidt_of_the_code_has_a_breakpoint_behind_it() -> None:
    stage = Stage()
    stage.scene.write(CODE, bytes.fromhex("90" + "0f011d00000000" + "0f00d8"))
    play(stage.loads.install(stage.scene.space), (SetBreakpoint(CODE + 8), 7))
    assert stage.loads.claims(LIDT) and not stage.loads.claims(replace(LIDT, breakpoint=8))
    assert stage.loads.number_at(CODE + 8) == 7 and stage.loads.number_at(CODE) is None


def test_a_new_idt_gets_the_gate_and_has_the_page_tables_looked_at() -> None:
    stage = Stage()
    scene = stage.scene
    state = loaded(stage, other_idt(scene))
    handled = play(
        stage.loads.handle(LIDT),
        (Registers(), registers()), (VcpuStates(), (state,)),
        (WriteCode, scene.write_code), (WatchStores, 8), (WatchStores, 9),
        (MemoryMap(), ([NVME], [(0, 0x3F_FFFF)])), (FlushTlb(ROOT), None),
    )  # fmt: skip
    assert handled == GoOn() and scene.gate.knows(scene.space, state.tables.idt)
    # The second time it is known.
    again = play(stage.loads.handle(LIDT), (Registers(), registers()), (VcpuStates(), (state,)))
    assert again == GoOn()


def test_an_idt_without_room_ends_the_tracing() -> None:
    stage = Stage()
    state = loaded(stage, other_idt(stage.scene, limit=8))
    handled = play(
        stage.loads.handle(LIDT), (Registers(), registers(rip=CODE + 4)), (VcpuStates(), (state,))
    )
    assert handled == LetGo() and stage.marks == ["not traced from driver+0x4 on"]
    assert stage.journal.warnings == stage.marks


def test_idts_are_looked_for_on_every_vcpu_that_translates() -> None:
    stage = Stage()
    scene = stage.scene
    lost = loaded(stage, DescriptorTable(0x1000, 0xFFF))
    states = (replace(STATE, paging=False), lost, loaded(stage, other_idt(scene)))
    found = play(
        stage.loads.look(),
        (VcpuStates(), states), (WriteCode, scene.write_code), (WatchStores, 8), (WatchStores, 9),
    )  # fmt: skip
    assert found and not play(stage.loads.look(), (VcpuStates(), states))


# ---- interrupt stacks


TSS = DATA + 0x100


def stacks(scene: Scene) -> InterruptStacks:
    return InterruptStacks(scene.gate.room, 2)


def test_a_guest_with_a_tss_gets_a_stack_that_it_does_not_use() -> None:
    scene = Scene()
    scene.ram.write(IDT_AT + 16 + 4, b"\x07")  # IST 7, and present
    scene.ram.write(IDT_AT + 16 + 5, b"\x8e")
    one = stacks(scene)
    state = replace(STATE, task=TSS, task_limit=0x67, task_selector=0x18)
    assert play(one.begin(state, registers(), scene.space))
    assert one.number == 6
    place = TSS + 36 + 8 * 5
    assert scene.word(place) in scene.gate.room


def test_a_guest_without_a_tss_gets_one() -> None:
    scene = Scene()
    one = stacks(scene)
    changes: list[Any] = []
    found = play(
        one.begin(STATE, registers(), scene.space),
        (WriteCode, scene.write_code), (WriteCode, scene.write_code),
        (BreakAlone, lambda wanted: changes.extend(wanted.changes)), (MakeChanges, None),
    )  # fmt: skip
    assert found and one.number and changes[0] == SetRegister("eflags", 0x202 & ~Flag.IF)


@pytest.mark.parametrize("limit", [0, 0x20])
def test_a_tss_that_is_too_short_has_no_room_for_a_stack(limit: int) -> None:
    scene = Scene()
    one = stacks(scene)
    state = replace(STATE, task=TSS, task_limit=limit, task_selector=0x18)
    assert not play(one.begin(state, registers(), scene.space)) and one.number == 0


def test_without_room_there_are_no_stacks() -> None:
    scene = Scene()
    assert not play(InterruptStacks(range(0), 1).begin(STATE, registers(), scene.space))
    assert not play(InterruptStacks(scene.gate.room, 64).begin(STATE, registers(), scene.space))


def test_a_task_that_is_loaded_without_a_stack_is_told_of() -> None:
    scene = Scene()
    one = stacks(scene)
    state = replace(STATE, task=TSS, task_limit=0x67, task_selector=0x18)
    play(one.begin(state, registers(), scene.space))
    stage = Stage(scene, one)
    scene.write(TSS + 36 + 8 * (one.number - 1), struct.pack("<Q", 0x1234))  # it uses it itself
    handled = play(stage.loads.handle(LIDT), (Registers(), registers()), (VcpuStates(), (state,)))
    assert handled == GoOn() and "no interrupt stack" in stage.marks[0]


# ---- the memory map


def test_devices_that_have_moved_are_healed_and_poisoned_anew() -> None:
    stage = Stage()
    scene = stage.scene
    scene.view._stale = False
    moved = Region("nvme", DEVICE + 0x10_0000, DEVICE + 0x10_3FFF, DEVICE + 0x10_0000, "nvme", "n")
    scene.ram.map(0xFFFF_C900_0005_0000, DEVICE + 0x10_0000)
    memory = [(0, 0x3F_FFFF), (DEVICE, DEVICE + 0x3FFF)]  # where the device was
    play(
        stage.coverage.follow_map(),
        (MapChanged(), True), (MemoryMap(), ([moved], memory)),
        (Woken(), 12), (LogSize(), 40), (Registers(), registers()), (FlushAllTlbs(), None),
    )  # fmt: skip
    assert scene.poisoned(0xFFFF_C900_0005_0000) and not scene.poisoned(AT)
    (mark,) = [record for record in stage.records if isinstance(record, Mark)]
    assert (mark.text, mark.qemu_log_offset, mark.qemu_log_from) == ("the machine woke up", 40, 12)
    assert any(isinstance(record, RegionRecord) for record in stage.records)
    assert stage.counts["outdated"] == 1
    play(stage.coverage.follow_map(), (MapChanged(), False))


def test_a_map_that_only_seems_to_have_changed_leaves_all_as_it_is() -> None:
    stage = Stage()
    stage.scene.view._stale = False
    regions = list(stage.scene.view.regions.regions)
    play(
        stage.coverage.follow_map(),
        (MapChanged(), True), (MemoryMap(), (regions, [(0, 0x3F_FFFF)])), (Woken(), None),
    )  # fmt: skip
    assert stage.counts == {"maps": 1}


def test_mappings_of_programs_are_made_known() -> None:
    stage = Stage()
    scene = stage.scene
    user = 0x7F00_0010_0000
    scene.ram.map(user, DEVICE + 0x1000, PRESENT | WRITABLE | USER)
    play(
        stage.coverage.choose(Choice(("nvme",)), scene.space),
        (MemoryMap(), ([NVME], [(0, 0x3F_FFFF)])), (MemoryMap(), ([NVME], [(0, 0x3F_FFFF)])),
        (FlushAllTlbs(), None),
    )  # fmt: skip
    assert scene.poisoned(user) and len(stage.software.programs) == 1


def test_a_choice_that_names_nothing_changes_nothing() -> None:
    stage = Stage()
    before = stage.coverage.choice
    with pytest.raises(UsageError):
        play(
            stage.coverage.choose(Choice(("nvem",)), stage.scene.space),
            (MemoryMap(), ([NVME], [(0, 0x3F_FFFF)])),
        )
    assert stage.coverage.choice == before


def test_a_large_page_over_device_and_ram_is_refused_and_told() -> None:
    stage = Stage()
    scene = stage.scene
    scene.view.show(type(scene.view.regions)([NVME], [(DEVICE, DEVICE + 0x3FFF)],
                                             [(DEVICE + 0x8000, DEVICE + 0x8FFF)]))  # fmt: skip
    scene.ram.map(0xFFFF_D000_0000_0000, DEVICE & -(1 << 21), level=2)
    play(stage.coverage.poison(registers(efer=0), "a test"), (FlushTlb(ROOT), None))
    assert not scene.poisoned(0xFFFF_D000_0000_0000)
    assert stage.counts["refused"] == 1 and "over a traced device and RAM" in stage.marks[0]
    # Another way of tracing may be there.
    stage = Stage()
    scene = stage.scene
    scene.view.show(type(scene.view.regions)([NVME], [(DEVICE, DEVICE + 0x3FFF)],
                                             [(DEVICE + 0x8000, DEVICE + 0x8FFF)]))  # fmt: skip
    scene.ram.map(0xFFFF_D000_0000_0000, DEVICE & -(1 << 21), level=2)
    stage.coverage.whole = True
    with pytest.raises(NoEntries, match="over a traced device and RAM"):
        play(stage.coverage.poison(registers(efer=0), "a test"))
    assert not stage.marks


def test_the_local_apic_gets_its_spare_mapping_and_loses_it() -> None:
    stage = Stage()
    scene = stage.scene
    scene.ram.map(SPARE_LINEAR - (1 << 21), DATA_AT & -(1 << 21), level=2)  # makes the tables
    play(stage.coverage.poison(registers(efer=1 << 11), "a test"), (FlushTlb(ROOT), None))
    leaf = scene.space.leaf(SPARE_LINEAR)
    assert leaf is not None and not leaf.poisoned
    play(stage.coverage.heal(scene.space))
    assert scene.space.leaf(SPARE_LINEAR) is None and not scene.poisoned(AT)


# ---- time


def test_time_at_a_stop_elsewhere_is_read_in_the_stub() -> None:
    stage = Stage()
    scene = stage.scene
    here = registers(rip=CODE, rsp=STACK, rax=1)
    stack = STACK - SPILL_SIZE
    scene.write(stack, struct.pack("<Q", 77_000))
    changes = [SetRegister("eflags", 0x202 & ~Flag.IF), set_rip(scene.stub.spill)]
    back: list[Any] = []
    play(
        stage.ground.tell_time(here),
        (RunAlone(scene.stub.stop, changes), None), (Register("rsp"), stack),
        (MakeChanges, lambda wanted: back.extend(wanted.changes)),
    )  # fmt: skip
    assert scene.view.time_ns == 77_000
    assert {change.name: change.value for change in back}["rip"] == CODE


def test_an_idle_guests_time_is_asked_of_qemu() -> None:
    scene = Scene()
    play(look_at_clock(scene.view), (GuestTime(), 1_000_000_000))
    assert scene.view.time_ns == 1_000_000_000
    play(look_at_clock(scene.view), (GuestTime(), 999_999_000))  # in microseconds, and cut
    assert scene.view.time_ns == 1_000_000_000
    play(look_at_clock(scene.view), (GuestTime(), None))
    assert scene.view.time_ns == 1_000_000_000

    def meanwhile(wanted: GuestTime) -> int:
        scene.view.tell_time(5_000_000_000)
        return 1_000_000_000

    play(look_at_clock(scene.view), (GuestTime(), meanwhile))
    assert scene.view.time_ns == 5_000_000_000


def test_in_real_time_the_time_that_the_guest_ran_stands_in() -> None:
    stage = Stage()
    view = stage.scene.view
    view.realtime, view.ran = True, 2.5
    play(look_at_clock(view))
    assert view.time_ns == 2_500_000_000
    play(stage.ground.tell_time(registers()))


# ---- the loop


def loop(scene: Scene, software: Software | None = None) -> tuple[Loop, list[Any]]:
    one = Loop(scene.view, Memory(scene), software or Software(), Choice())  # type: ignore[arg-type]
    records: list[Any] = []
    one.journal.subscribers.append(records.append)
    return one, records


def fresh() -> Scene:
    """A scene whose gate is the guest's own again."""
    scene = Scene()
    scene.gate.remove()
    scene.write(STUB, b"\xcc" * 0x1000)
    for page in range(2):
        scene.ram.map(AT + 0x1000 * page, DEVICE + 0x1000 * page)
    return scene


REGIONS: Any = (MemoryMap(), ([NVME], [(0, 0x3F_FFFF)]))


def trapped(scene: Scene, *, notes: bool = True, stacks: bool = False, software: Any = None) -> Any:
    one, records = loop(scene, software)
    note: list[Any] = [(BreakAlone, None), (MakeChanges, None)] if notes else []
    play(
        one.trap(stacks=stacks),
        REGIONS, (HasMachineCheck(), notes), (Registers(), registers()),
        (VcpuStates(), (STATE,)), (Vcpu(), 0),
        (WriteCode, scene.write_code), (WatchReads, 1),
        (WriteCode, scene.write_code), (WatchStores, 2), (WatchStores, 3),
        *note, (FlushTlb(ROOT), None),
    )  # fmt: skip
    return one, records


def test_traps_are_put_in_place_and_everything_is_poisoned() -> None:
    scene = fresh()
    one, records = trapped(scene)
    assert scene.poisoned(AT)
    assert unpack_gate(scene.ram.read(IDT_AT + 14 * 16, 16)).handler in one.traced.gate.stub.doors
    assert "what nobody knows" in one.journal.warnings
    assert records[-1].by == "present at kernel entry"


def test_without_machine_check_banks_the_run_says_that_cr2_changes() -> None:
    one, _ = trapped(fresh(), notes=False, stacks=True)
    assert "no machine-check banks" in one.journal.warnings[1]
    assert one.journal.warnings[2] == "no stacks"


def test_a_guest_that_uses_fred_is_refused() -> None:
    one, _ = loop(fresh())
    with pytest.raises(GuestError, match="FRED"):
        play(one.trap(), REGIONS, (HasMachineCheck(), True), (Registers(), registers(cr4=1 << 32)))


def test_before_it_is_traced_nothing_can_be_asked_of_a_guest() -> None:
    one, _ = loop(Scene())
    with pytest.raises(InterceptError, match="not being traced yet"):
        one.unwind(None, None)  # type: ignore[arg-type]
    assert one.blame([]) == ""
    play(one.reach_entry(), (LogAccesses(), None))


MAP: Any = (MapChanged(), False)


def test_a_run_without_a_person_goes_from_stop_to_stop() -> None:
    scene = fresh()
    one, records = trapped(scene)
    stub = one.traced.gate.stub
    stop = Ran(replace(BELL, address=stub.stop), 0.5)
    scene.fault("8b06", AT, rsi=AT)
    play(
        one.run(),
        (Resume(()), stop), MAP, (StackAndTables(), (STACK - 0x400, ROOT)),
        (ReadPhysical(DEVICE, 4), 5),
        (Resume, Ran(Stopped(signal="SIGQUIT"), 0.25)),
    )  # fmt: skip
    assert one.view.ran == 0.75 and one.journal.counts["stops"] == 1
    assert sum(isinstance(record, Intercept) for record in records) == 1


def test_a_stop_that_nobody_claims_ends_the_run() -> None:
    one, _ = trapped(fresh())
    one.view.vcpus = 1
    strange = Stopped("signal-received", 1, CODE, None, "SIGSEGV", {"why": "strange"})
    with pytest.raises(InterceptError, match="strange"):
        play(one.run(), (Resume(()), Ran(strange)), MAP)


def test_a_person_holds_the_guest_before_it_runs_and_lets_it_go() -> None:
    scene = fresh()
    software = Software()
    one, _ = trapped(scene, software=software)
    one.asks = True
    held: list[Any] = []

    def let_go(wanted: Hold) -> None:
        held.append((wanted.reason, wanted.cpu.rip))
        one.release()

    play(
        one.run(),
        (GuestTime(), None), (Registers(), registers()), (Hold, let_go),
        (MakeChanges(()), None), (VcpuStates(), (STATE, STATE)), (Registers(), registers()),
        (FlushAllTlbs(), None), (Detach(), None),
    )  # fmt: skip
    assert held == [("kernel entry", CODE)] and software.removed
    assert not scene.poisoned(AT)
    assert unpack_gate(scene.ram.read(IDT_AT + 14 * 16, 16)).handler == HANDLER


def test_a_trap_that_lets_the_guest_go_ends_the_loop() -> None:
    scene = fresh()
    one, _ = trapped(scene, software=Software([Watched(LetGo())]))
    play(
        one.run(),
        (Resume(()), Ran(LIDT)), MAP,
        (MakeChanges(()), None), (VcpuStates(), (STATE, STATE)), (Registers(), registers()),
        (FlushAllTlbs(), None), (Detach(), None),
    )  # fmt: skip
    assert not scene.poisoned(AT)


def test_a_store_that_is_due_is_made_before_its_mapping_goes() -> None:
    scene = fresh()
    one, _ = trapped(scene, software=Software([Watched(LetGo())]))
    stub = one.traced.gate.stub
    late = replace(STATE, rip=stub.departures[4] + 4)  # of a vCPU that was stopped by another one
    rang = Ran(Stopped(address=stub.stop))

    def made(_: Any) -> Ran:
        assert scene.poisoned(AT), "nothing has been taken away"
        return Ran(Stopped(address=stub.leave, breakpoint=7))

    play(
        one.run(),
        (Resume(()), Ran(LIDT)), MAP,
        (MakeChanges(()), None), (VcpuStates(), (STATE, late)), (SetBreakpoint(stub.leave), 7),
        (Resume(()), rang), (VcpuStates(), (STATE, late)),
        (Resume(()), made), (VcpuStates(), (STATE, STATE)), (DeleteBreakpoint(7), None),
        (Registers(), registers()), (FlushAllTlbs(), None), (Detach(), None),
    )  # fmt: skip
    assert not scene.poisoned(AT)


HOME = CODE + 0x40
RELEASED: list[Any] = [(MakeChanges(()), None), (VcpuStates(), (STATE, STATE))]


class Homely(Software):
    homes = (HOME,)


def released(cr3: int, *steps: Any) -> tuple[Scene, Loop, Homely]:
    """A guest that is let go where its vCPU has these page tables."""
    scene, software = fresh(), Homely()
    one, _ = trapped(scene, software=software)
    play(one.leave(), *RELEASED, (Registers(), registers(cr3=cr3)), *steps)
    return scene, one, software


GOING: list[Any] = [(FlushAllTlbs(), None), (Detach(), None)]


def test_a_guest_in_its_kernel_is_let_go_there() -> None:
    scene, one, software = released(ROOT, *GOING)
    assert one.released and software.removed and not scene.poisoned(AT)


def test_a_guest_in_a_program_without_the_kernels_tables_is_let_go_in_its_kernel() -> None:
    rang = Ran(replace(BELL, address=fresh().stub.stop))

    def home(_: Any) -> Ran:
        return Ran(Stopped("breakpoint-hit", 1, HOME, 9, "SIGTRAP"))

    scene, one, software = released(
        0x3E_0000,
        (FlushAllTlbs(), None), (SetBreakpoint(HOME), 9),
        (Resume(()), rang), (Resume(()), home), (DeleteBreakpoint(9), None),
        (Registers(), registers()), *GOING,
    )  # fmt: skip
    assert one.released and software.removed and not scene.poisoned(AT)
    assert one.journal.counts["intercepts"] == 0, "it starts over, and nothing stops it"


def test_a_guest_that_ends_on_its_way_home_is_not_let_go() -> None:
    _, one, software = released(
        0x3E_0000,
        (FlushAllTlbs(), None), (SetBreakpoint(HOME), 9),
        (Resume(()), Ran(Stopped(signal="SIGQUIT"))),
    )  # fmt: skip
    assert not one.released and not software.removed


class Looked(Software):
    look_every = 0.005


def test_a_guest_is_looked_at_again_where_its_software_asks_for_it() -> None:
    scene, software = fresh(), Looked([Watched(LetGo())])
    one, _ = trapped(scene, software=software)
    one.asks = True  # nobody is to be told of such a stop
    ours = Ran(Stopped(address=CODE + 0x10, signal="SIGINT"))
    play(
        one.run(),
        (GuestTime(), None), (Registers(), registers()), (Hold, None),
        (Start(()), None), (Await, None), (Pause(), None), (Await, ours), MAP,
        (Start(()), None), (Await, Ran(LIDT)), MAP,
        (MakeChanges(()), None), (VcpuStates(), (STATE, STATE)), (Registers(), registers()),
        (FlushAllTlbs(), None), (Detach(), None),
    )  # fmt: skip
    assert software.looks == 1


def test_an_untraced_run_is_to_have_no_stop() -> None:
    one, _ = loop(Scene())
    play(one.run_untraced(), (Resume(()), Ran(Stopped(signal="SIGQUIT"))))
    with pytest.raises(InterceptError, match="without a trap"):
        play(one.run_untraced(), (Resume(()), Ran(BELL)))


# ---- a person reaches a device


def reading(width: int = 4) -> Transfer:
    return Transfer("read", 0, DEVICE, width, None, NVME, traced=True, ram=False)


def test_a_device_is_reached_by_the_debugger_where_that_will_do() -> None:
    scene = fresh()
    one, _ = trapped(scene)
    work = one.reach(reading(), scene.space, waits=True)
    assert play(work, (Register("rsp"), STACK), (ReadPhysical(DEVICE, 4), 9), MAP) == 9


def test_a_vcpu_that_stands_elsewhere_is_sent_into_the_stub_and_back() -> None:
    scene = fresh()
    one, _ = trapped(scene)
    stub = one.traced.gate.stub
    stack = STACK - SPILL_SIZE
    found = play(
        one.reach(reading(8), scene.space, waits=False),
        (Register("rsp"), STACK), (Registers(), registers()), (Vcpu(), 0), (Sleeps(0), False),
        (RunAlone, None), (Register("rsp"), stack),
        (RunAlone, lambda wanted: scene.write(stack + 8, struct.pack("<Q", 0x55))),
        (MakeChanges, None), MAP,
    )  # fmt: skip
    assert found == 0x55 and stub.done


@pytest.mark.parametrize(
    ("here", "sleeps"), [(registers(), True), (registers(cs=0x33), None), (registers(rsp=AT), None)]
)
def test_a_vcpu_that_cannot_be_sent_is_told_of(here: Any, sleeps: bool | None) -> None:
    scene = fresh()
    one, _ = trapped(scene)
    asked = [(Vcpu(), 0), (Sleeps(0), sleeps)] if sleeps is not None else []
    with pytest.raises(UsageError, match="sleeps or runs"):
        play(
            one.reach(reading(8), scene.space, waits=False),
            (Register("rsp"), STACK), (Registers(), here), *asked,
        )  # fmt: skip


@pytest.mark.parametrize("error", [Cancelled(), InterceptError("lost")])
def test_a_borrowed_entry_is_given_back_however_it_ends(error: BaseException) -> None:
    scene = fresh()
    one, _ = trapped(scene)
    before = bytes(scene.ram.data)
    with pytest.raises(type(error)):
        play(
            one.reach(reading(8), scene.space, waits=True),
            (Register("rsp"), STACK - 0x400), (RunAlone, error),
        )  # fmt: skip
    assert bytes(scene.ram.data) == before


def test_whose_doing_a_triple_fault_was() -> None:
    scene = fresh()
    one, _ = trapped(scene)
    state = replace(STATE, cr2=AT + 4, cr4=CR4)
    assert one.blame([state]).startswith("because it is traced")


# ---- a run that takes too long


def late(address: int, **options: Any) -> Ran:
    """A stop of a run whose time is over: by the monitor, or at the stub."""
    stop = Stopped(signal="SIGINT", address=address, thread=1, expired=True)
    return Ran(replace(stop, **options))


def test_where_the_guest_was_interrupted_its_run_is_over() -> None:
    one, _ = trapped(fresh())
    with pytest.raises(GuestHung):
        play(one.run(), (Resume(()), late(CODE)), MAP)


def test_an_access_is_not_made_any_more_once_the_time_is_over() -> None:
    scene = fresh()
    one, records = trapped(scene)
    stub, before = one.traced.gate.stub, len(records)
    scene.fault("8b06", AT, rsi=AT)
    with pytest.raises(GuestHung):
        play(one.run(), (Resume(()), late(stub.stop, signal="SIGTRAP")), MAP)
    assert len(records) == before and one.journal.counts["intercepts"] == 0


def test_a_vcpu_within_the_stub_comes_to_its_end_first() -> None:
    one, _ = trapped(fresh())
    stub = one.traced.gate.stub
    within = next(at for at in range(stub.base, stub.stop) if stub.covers(at))
    with pytest.raises(GuestHung):
        play(
            one.run(),
            (Resume(()), late(within)), MAP, (Resume(()), late(stub.stop, signal="SIGTRAP")), MAP,
        )  # fmt: skip


def test_a_breakpoint_is_seen_to_and_the_guest_goes_on_to_where_it_is_interrupted() -> None:
    watched = Watched()
    one, _ = trapped(fresh(), software=Software([watched]))
    hit = Ran(replace(LIDT, expired=True))
    with pytest.raises(GuestHung):
        play(one.run(), (Resume(()), hit), MAP, (Resume(()), late(CODE + 1)), MAP)
    assert watched.seen == [7]


def test_a_run_may_be_over_before_anything_is_traced() -> None:
    one, _ = loop(Scene())
    with pytest.raises(GuestHung):
        play(one.run_untraced(), (Resume(()), late(CODE)))
    # A stop by itself is one, however late it is.
    play(one.run_untraced(), (Resume(()), Ran(Stopped(signal="SIGQUIT", expired=True))))


class Chain(Nobody):
    def unwind(self, cpu: CpuState, *_: Any) -> Stack:
        return Stack((Frame(cpu.rip, True), Frame(CODE + 0x21, False)))


class Traceable(Software):
    def callers(self, publish: Any, *, stacks: bool) -> Any:
        return Chain()


def test_where_vcpus_are_is_told_of_each_and_a_stub_is_no_place() -> None:
    scene = fresh()
    one, _ = trapped(scene, software=Traceable())
    stub = one.traced.gate.stub
    scene.view.vcpus = 3
    scene.fault("8b06", AT, rip=CODE + 0x30, rsi=AT)
    places = play(
        one.whereabouts(),
        (Vcpu(), 1),
        (SelectVcpu(0), None), (Registers(), registers(rip=stub.stop)),
        (StackAndTables(), (STACK - 0x400, ROOT)),
        (SelectVcpu(1), None), (Registers(), registers(rip=CODE + 0x10)),
        (SelectVcpu(2), None), (Registers(), registers(rip=0x40_1000, cs=0x33)),
        (Tables(), TABLES),
    )  # fmt: skip
    assert places == [
        "vcpu0 is in driver+0x30, called by driver+0x21",
        "vcpu1 is in driver+0x10, called by driver+0x21",
        "vcpu2 is in a program, at 0x401000",
    ]


def test_where_a_vcpu_is_before_anything_is_traced() -> None:
    scene = Scene()
    one, _ = loop(scene, Traceable())
    asked: list[Any] = [(MemoryMap(), None), (Vcpu(), 0), (Registers(), registers(rip=CODE + 4))]
    scene.view.vcpus = 1
    assert play(one.whereabouts(), *asked) == ["vcpu0 is in driver+0x4, called by driver+0x21"]


@pytest.mark.parametrize(("late", "rounds"), [(0, 1), (4_000, 1_001), (EVEN_NS - 4, EVEN_NS // 4)])
def test_time_passes_until_it_is_even(late: int, rounds: int) -> None:
    scene = fresh()
    one, _ = trapped(scene)
    stub, stack = one.traced.gate.stub, STACK - SPILL_SIZE
    now = struct.pack("<Q", 3 * EVEN_NS - late)
    kept = ("eflags", "rip", "rsp", "rax", "rcx", "rdx")
    play(
        one.even_time(),
        (Registers(), registers()),
        (RunAlone, lambda wanted: scene.write(stack, now)), (Register("rsp"), stack),
        (RunAlone(stub.stop, [set_rip(stub.waiting), SetRegister("rcx", rounds)]), None),
        (MakeChanges([SetRegister(name, registers()[name]) for name in kept]), None),
    )  # fmt: skip
