"""The places where tracing of a bare guest can begin, and the way there."""

from __future__ import annotations

import pytest
from playbook import play
from ram import ROOT, Ram

from tracer.access.stop import Ran, Stopped
from tracer.access.vcpu import DescriptorTable, DescriptorTables, RegisterFile, VcpuState
from tracer.access.want import (
    Await,
    DeleteBreakpoint,
    GuestTime,
    MemoryMap,
    Pause,
    Registers,
    Resume,
    SetBreakpoint,
    Sleeps,
    Start,
    Vcpu,
    VcpuStates,
)
from tracer.bare.entry import reach_place, reach_time
from tracer.errors import GuestError, GuestHung, QemuError, TargetGone
from tracer.x86.idt import Gate, pack_gate

LOW, STACK = 0x10_0000, 0x10_0F00
PLACE, BACK, HANDLER, OTHER = LOW + 0x10, LOW + 0x20, LOW + 0x30, LOW + 0x40
QUIT = Ran(Stopped(signal="SIGQUIT"))


def memory(*, usable: bool = True) -> Ram:
    ram = Ram()
    ram.map(LOW, 0x20_0000)
    rest = (0x8E << 40 if usable else 0) | 8 << 16
    for vector, handler in ((14, HANDLER), (32, OTHER), (33, OTHER)):
        ram.write(0x20_0000 + 16 * vector, pack_gate(Gate(handler, rest, 0)))
    ram.write(0x20_0F00, BACK.to_bytes(8, "little"))
    return ram


def state(*, paging: bool = True, rsp: int = STACK) -> VcpuState:
    table = DescriptorTable(LOW, 34 * 16 - 1)
    return VcpuState(LOW, rsp, 0, ROOT, 0x20, DescriptorTables(table, table), 0, 0, 0, paging)


def at(number: int | None) -> tuple[Resume, Ran]:
    return Resume(), Ran(Stopped("breakpoint-hit", 1, LOW, number, "SIGTRAP"))


def looked(found: VcpuState) -> list[tuple[object, object]]:
    return [(VcpuStates(), (found,)), (Vcpu(), 0)]


MAP = (MemoryMap(), ([], []))


def test_a_place_is_reached_once_the_guest_takes_page_faults() -> None:
    play(
        reach_place(PLACE, "main", memory(), behind=False),
        (SetBreakpoint(PLACE), 4), at(4), *looked(state(paging=False)), at(4), *looked(state()),
        MAP, (DeleteBreakpoint(4), None),
    )  # fmt: skip


def test_a_return_is_that_of_the_call() -> None:
    play(
        reach_place(PLACE, "return:f", memory(), behind=True),
        (SetBreakpoint(PLACE), 4), at(4), *looked(state(paging=False)),  # in 32 bits
        at(4), *looked(state()), MAP, (SetBreakpoint(BACK), 5),
        at(4),  # it calls itself
        at(5), *looked(state(rsp=STACK - 8)),  # and returns from that
        at(5), *looked(state(rsp=STACK + 8)), (DeleteBreakpoint(5), None),
        *looked(state()), MAP, (DeleteBreakpoint(4), None),
    )  # fmt: skip


def test_a_stack_that_cannot_be_read_has_no_return() -> None:
    with pytest.raises(GuestError, match="cannot be read at RSP"):
        play(
            reach_place(PLACE, "return:f", memory(), behind=True),
            (SetBreakpoint(PLACE), 4), at(4), *looked(state(rsp=0)), MAP,
        )  # fmt: skip


@pytest.mark.parametrize("gone", [QUIT, TargetGone()])
def test_a_place_that_is_never_reached(gone: object) -> None:
    work = reach_place(PLACE, "main", memory(), behind=False)
    with pytest.raises(GuestError, match="never came there: it has ended"):
        play(work, (SetBreakpoint(PLACE), 4), (Resume(), gone))


def test_a_place_without_a_handler() -> None:
    early = [at(4), *looked(state(paging=False))]
    with pytest.raises(GuestError, match=r"came there 2 times, without .* not again: it has ended"):
        play(
            reach_place(PLACE, "main", memory(), behind=False),
            (SetBreakpoint(PLACE), 4), *early, *early, (Resume(), QUIT),
        )  # fmt: skip
    with pytest.raises(GuestError, match="came there 64 times"):
        work = reach_place(PLACE, "main", memory(), behind=False)
        play(work, (SetBreakpoint(PLACE), 4), *64 * early)


def test_whoever_takes_no_page_faults_needs_64_bits_alone() -> None:
    play(
        reach_place(PLACE, "main", memory(usable=False), behind=False, faults=False),
        (SetBreakpoint(PLACE), 4), at(4), *looked(state(paging=False)), at(4), *looked(state()),
        (DeleteBreakpoint(4), None),
    )  # fmt: skip
    assert play(
        reach_time(1_500_000_000, "1s", memory(usable=False), faults=False),
        *RUN, *looked(state()), MAP, *looked(state()), SELECTOR, (Vcpu(), 0), (Sleeps(0), False),
    )  # fmt: skip
    early = looked(state(paging=False))
    assert not play(reach_time(1_500_000_000, "1s", memory(), faults=False), *RUN, *early, *early)


RUN = [
    (Start(), None), (Await, None), (GuestTime(), 1_400_000_000), (Await, None),
    (GuestTime(), 1_500_000_000), (Pause(), None), (Await, None),
    (Await, Ran(Stopped(signal="SIGINT"))),
]  # fmt: skip
SELECTOR = (Registers(), RegisterFile({"cs": 8}))


def test_a_time_is_waited_for() -> None:
    assert play(
        reach_time(1_500_000_000, "1.5s", memory()),
        *RUN, *looked(state()), MAP, SELECTOR, (Vcpu(), 0), (Sleeps(0), False),
    )  # fmt: skip


@pytest.mark.parametrize(
    "idle",
    [[SELECTOR, (Vcpu(), 0), (Sleeps(0), True)], [(Registers(), RegisterFile({"cs": 0x33}))]],
)
def test_whoever_sleeps_or_runs_a_program_is_interrupted(idle: list[tuple[object, object]]) -> None:
    assert play(
        reach_time(1_500_000_000, "1.5s", memory()),
        *RUN, *looked(state()), MAP, *idle, *looked(state()),
        (SetBreakpoint(HANDLER), 4), (SetBreakpoint(OTHER), 5), at(5),
        (DeleteBreakpoint(4), None), (DeleteBreakpoint(5), None),
    )  # fmt: skip


def test_a_time_at_which_the_guest_is_over_or_not_ready() -> None:
    with pytest.raises(GuestError, match=r"1\.5s: the guest was not there yet: it has ended"):
        play(reach_time(1, "1.5s", memory()), (Start(), None), (Await, QUIT))
    with pytest.raises(GuestError, match="it has ended"):
        play(reach_time(1, "1.5s", memory()), (Start(), None), (Await, TargetGone()))
    early = reach_time(1_500_000_000, "1s", memory(usable=False))
    assert not play(early, *RUN, *looked(state()), MAP)
    with pytest.raises(GuestError, match="it has ended"):
        gone = (GuestTime(), QemuError("gone"))
        play(reach_time(1, "1.5s", memory()), (Start(), None), (Await, None), gone, (Await, QUIT))
    with pytest.raises(GuestHung):
        over = Ran(Stopped(signal="SIGINT", expired=True))
        play(reach_time(1, "1.5s", memory()), (Start(), None), (Await, over))
