"""A guest inside the monitor: how it enters, what it leaves behind, how it goes on alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from input_row import PROGRAM, row
from monitored import (
    BEHIND,
    BLOCK_AT,
    GONE,
    NXE,
    SLOTS,
    SVME,
    THERE,
    Run,
)
from playbook import play
from ram import ROOT
from scene import CODE, CS, STATE, registers

from tracer.access.stop import Stopped
from tracer.access.vcpu import SetRegister
from tracer.access.want import (
    Await,
    BreakAlone,
    FlushTlb,
    Registers,
    Start,
    StepAlone,
    Vcpu,
    VcpuStates,
)
from tracer.compiled import layout, monitor
from tracer.compiled.inputs import FIRST, Input
from tracer.compiled.layout import SLOT_SIZE, control_field
from tracer.errors import GuestError, InterceptError
from tracer.intercept.ring.secondary import FullRing
from tracer.intercept.trap import GoOn
from tracer.trace.record import RegionRecord
from tracer.x86 import vmcb


def test_a_vcpu_enters_with_its_registers_and_stands_where_it_stood() -> None:
    run = Run()
    assert run.root == BEHIND + 2 * monitor.PER_VCPU + 4096  # four levels
    start = BLOCK_AT + monitor.PLACE
    entered = {"rax": run.vmcb(), "rbx": 0, "rip": start}
    assert run.entered == BreakAlone(
        registers()["rip"], [SetRegister(*each) for each in entered.items()]
    )
    block = run.scene.ram.read(run.vmcb(), 4096)
    assert vmcb.outside(block)["cr3"] == ROOT
    assert int.from_bytes(block[0x4D0:0x4D8], "little") == NXE | SVME


def test_a_vcpu_that_does_not_come_in_whole_ends_the_run() -> None:
    with pytest.raises(InterceptError, match="not come into the monitor whole: rsp, eflags is"):
        Run(after=registers(efer=NXE | SVME, rsp=1, eflags=0x10002))
    with pytest.raises(InterceptError, match="EFER is another one's"):
        Run(after=registers(efer=NXE))


def test_a_cpu_without_svm_is_refused() -> None:
    with pytest.raises(GuestError, match="the guest's CPU has no SVM"):
        Run(svm=False)


def test_ports_are_announced_and_those_of_a_memory_regions_name_have_another() -> None:
    announced = [r.region for r in Run().records if isinstance(r, RegionRecord)]
    assert [(r.name, r.space) for r in announced] == [
        ("nvme", "memory"), ("nvme.io", "port"), ("serial", "port"), ("config", "config"),
    ]  # fmt: skip
    without = [r for r in Run(frozenset({Input.MSR})).records if isinstance(r, RegionRecord)]
    assert [r.region.name for r in without] == ["nvme"]


def test_what_it_leaves_behind_is_published_with_its_instruction_and_its_region() -> None:
    run = Run()
    run.scene.write(CODE + 0x100, bytes.fromhex("ec0f32"))
    run.leave(
        row(Input.PORT, 0x3FD, 0x60, rip=CODE + 0x100, following=CODE + 0x101, cr3=ROOT),
        row(Input.MSR, 0x10, 5, rip=CODE + 0x101, cr3=ROOT),
        row(Input.PORT, 0x999, 1, rip=CODE + 0x100, cr3=ROOT),
        row(Input.TSC, 0, 9, rip=CODE + 0x100, cr3=ROOT),
    )
    play(run.loop.run(), (Start(()), None), (Await, GONE))
    told = [(r.text, r.accesses[0].region, r.accesses[0].offset, r.seq) for r in run.intercepts]
    assert told == [
        ("in al, dx", "serial", 5, 0), ("rdmsr", "msr", 0x80, 1), ("in al, dx", "port", 0x999, 2),
    ]  # fmt: skip
    assert {r.via for r in run.intercepts} == {"monitor"}
    counts = run.loop.journal.counts
    assert (counts["accesses"], counts["monitor"], counts["compiled"]) == (3, 3, 0)


def test_what_nobody_wants_is_taken_and_not_published() -> None:
    run = Run(frozenset({Input.MSR}))
    run.leave(row(Input.CPUID, 1), row(Input.CPUID, 2))
    run.loop.sites.drain()  # type: ignore[union-attr]
    assert not run.intercepts and not run.loop.journal.counts["accesses"]


def test_a_programs_code_is_read_by_its_own_tables() -> None:
    run = Run()
    run.scene.write(CODE + 0x100, bytes.fromhex("ec"))
    run.leave(
        row(Input.PORT, 0x3FD, rip=CODE + 0x100, cpl=PROGRAM, cr3=ROOT),
        row(Input.PORT, 0x3FD, rip=CODE + 0x100, cpl=PROGRAM, cr3=0x3E_0000),
    )
    run.loop.sites.drain()  # type: ignore[union-attr]
    assert [(r.text, r.code, r.cpl) for r in run.intercepts] == [
        ("in al, dx", b"\xec", 3), ("in", b"", 3),
    ]  # fmt: skip


def test_room_in_the_ring_is_told_though_it_is_shut_for_compiled_sites() -> None:
    run = Run()
    sites, ram = run.loop.sites, run.scene.ram
    assert sites is not None
    sites.shut()
    run.leave(row(Input.MSR, 1), row(Input.MSR, 2))
    sites.drain()
    size = layout.ring_size(SLOTS)
    room, limit = (ram.read(BLOCK_AT + control_field(name), 8) for name in ("ROOM", "LIMIT"))
    assert int.from_bytes(room, "little") == 2 * size + 2 * SLOT_SIZE
    assert int.from_bytes(limit, "little") == 0


def test_a_record_that_no_monitor_has_left_ends_the_run() -> None:
    run = Run()
    run.leave(row(Input.MSR, 1, mode=7))
    with pytest.raises(InterceptError, match="which no thunk has left there"):
        run.loop.sites.drain()  # type: ignore[union-attr]


def test_a_stop_in_the_monitor_is_stepped_out_of() -> None:
    run = Run()
    inside = BLOCK_AT + monitor.PLACE + 0x10
    stop = Stopped(address=inside, signal="SIGTRAP")
    assert run.monitor.covers(inside) and not run.monitor.covers(CODE)
    out = play(
        run.monitor.step_out(stop),
        (StepAlone(), inside + 4), (StepAlone(), inside + 8), (StepAlone(), CODE),
    )  # fmt: skip
    assert out == replace(stop, address=CODE)


def test_a_vcpu_that_waits_in_the_monitor_for_another_one_stays_there() -> None:
    run = Run()
    inside = BLOCK_AT + monitor.PLACE + 0x10
    stop = Stopped(address=inside, signal="SIGTRAP")
    assert play(run.monitor.step_out(stop), *[(StepAlone(), inside)] * 1024) is None


def test_a_vcpu_that_finds_no_room_stands_until_records_were_taken() -> None:
    run = Run()
    stop = Stopped(reason="read-watchpoint-trigger", address=run.monitor.full)
    assert run.monitor.full in run.monitor.stands
    assert play(run.monitor.step_out(stop), (StepAlone(), run.monitor.full)) == stop
    trap = next(t for t in run.loop.traced.traps if t.claims(stop))
    assert play(trap.handle(stop)) == GoOn()
    assert run.loop.journal.counts["full rings"] == 1
    # GDB watches the word that it reads, where the monitor's own page tables have it.
    watched = BLOCK_AT + monitor.word("FULL_AT")
    linear = monitor.WINDOW_BASE + BLOCK_AT + monitor.word("FULL")
    assert run.scene.ram.read(watched, 8) == linear.to_bytes(8, "little")
    assert run.monitor.halts_when_full
    run.scene.view.realtime = True
    assert not run.monitor.halts_when_full
    full = FullRing(run.loop.journal)
    play(full.begin(run.monitor))
    assert not full.claims(stop)


def test_a_vcpu_in_the_monitor_is_told_as_its_guest() -> None:
    run = Run()
    inside = replace(THERE, rip=BLOCK_AT + monitor.PLACE, cr3=run.root)
    (first, other) = run.monitor.outside([inside, THERE])
    assert (first.rip, first.cr3) == (registers()["rip"], ROOT) and other == THERE
    assert first.tables == STATE.tables
    (told, _) = play(run.scene.view.states(), (VcpuStates(), (inside, THERE)))
    assert told == first


def test_an_exit_that_nobody_knows_ends_the_run() -> None:
    run = Run()
    run.monitor.check()
    place = BLOCK_AT + monitor.word("UNKNOWN")
    run.scene.ram.write(place, (0x400).to_bytes(8, "little"))
    with pytest.raises(InterceptError, match="exit code 0x400"):
        run.monitor.check()


def test_a_guest_that_is_let_go_stays_inside_and_leaves_for_nothing() -> None:
    run = Run()
    run.scene.ram.write(BLOCK_AT, bytes(layout.block_size(SLOTS)))  # as `close` does
    run.monitor.leave()
    ram = run.scene.ram
    code = bytes.fromhex(monitor.IMAGES[False][0])
    assert ram.read(BLOCK_AT + monitor.PLACE, len(code)) == code
    assert ram.read(BLOCK_AT + monitor.word("CLOSED"), 8) == (1).to_bytes(8, "little")
    for vcpu in range(2):
        words = ram.read(run.vmcb(vcpu) + vmcb.INTERCEPTS, 8)
        assert not int.from_bytes(words, "little") & (1 << 27 | 1 << 14)
    maps = ram.read(BEHIND + 2 * monitor.PER_VCPU + monitor.MAPS, 0x5000)
    assert maps.count(0) == len(maps) - 2  # EFER's, and that of VM_CR and VM_HSAVE_PA


def test_a_further_vcpu_enters_where_the_systems_code_begins() -> None:
    run = Run()
    trap = next(t for t in run.loop.traced.traps if t.claims(Stopped(breakpoint=7)))
    before, after = registers(efer=NXE, cs=CS), registers(efer=NXE | SVME, cs=CS)
    play(
        trap.handle(Stopped(breakpoint=7, thread=2)),
        (Registers(), before), (Vcpu(), 1), (VcpuStates(), (THERE, THERE)), (FlushTlb, None),
        (BreakAlone, run._enter), (Registers(), after),
    )  # fmt: skip
    assert run.entered.changes[0] == SetRegister("rax", run.vmcb(1))
    owner = run.scene.ram.read(run.vmcb(1) + 0x2000 + 0xB0, 8)
    assert int.from_bytes(owner, "little") == ~1 & (1 << 64) - 1
    # It is there already, as where a CPU was taken off and comes back without a reset.
    play(trap.handle(Stopped(breakpoint=7, thread=2)), (Registers(), after))


def test_what_an_nmis_handler_did_is_counted_and_how_often_firmware_was_asked() -> None:
    run = Run()
    for count, word in ((3, "NESTED"), (4, "MANAGED")):
        run.scene.ram.write(BLOCK_AT + monitor.word(word), count.to_bytes(8, "little"))
    run.monitor.account()
    assert run.loop.journal.counts["inputs lost"] == 3
    assert run.loop.journal.counts["smis"] == 4
    assert FIRST > 1 << 31
