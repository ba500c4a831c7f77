"""Interrupts as QEMU's log tells them: which are the guest's, whose, and where they came."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from interrupt_log import (
    GDT,
    HERE,
    IDT,
    PLAIN,
    SHARED,
    THERE,
    VCPUS,
    at,
    given,
    managed,
    registers,
    serving,
    taken,
    vmcb,
)

from tracer.check.interrupts import UNKNOWN, InterruptLog, Interrupts, Served
from tracer.check.qemu_log import LogReader
from tracer.compiled.monitor import vcpu_inside


def found(lines: Iterable[str]) -> list[Served]:
    log = InterruptLog(VCPUS)
    told = [
        served
        for number, line in enumerate(lines, 1)
        for served in log.line(line.encode() + b"\n", number)
    ]
    return [*told, *log.rest()]


def test_what_the_monitor_takes_and_gives_is_one_interrupt() -> None:
    lines = [*taken(0xEC, 0), *given(0xEC, 0), *taken(0x24, 1), *given(0x24, 1, THERE, 3)]
    assert [(one.vcpu, one.vector, one.rip, one.cpl) for one in found(lines)] == [
        (0, 0xEC, HERE, 0), (1, 0x24, THERE, 3),
    ]  # fmt: skip


def test_the_line_is_that_of_the_place_and_the_place_is_linear() -> None:
    lines = [*taken(0xEC, 0), serving(0xEC), at(0xEC, HERE, 0x5A48, base=0x100),
             *registers(HERE - 0x100, 0x5A48, 0x1000)]  # fmt: skip
    (one,) = found(lines)
    assert (one.line, one.rip) == (len(taken(0xEC, 0)) + 2, HERE)


def test_exceptions_software_interrupts_and_nmis_are_none() -> None:
    lines = []
    for vector, more in ((0x0E, "i=0"), (0x80, "i=1"), (0x02, "i=0")):
        lines += [at(vector, HERE, 0x5A48, more=more), *registers(HERE, 0x5A48, 0x1000)]
    assert found(lines) == []
    # The vector alone makes no interrupt of a line.
    assert len(found([*taken(0x80, 0), *lines, *given(0x80, 0)])) == 1


def test_two_vcpus_at_once_are_told_apart() -> None:
    a, b = taken(0xEC, 0), taken(0xEC, 1)
    c, d = given(0xEC, 0), given(0xEC, 1, THERE)
    mixed = [a[0], b[0], b[1], a[1], *a[2:], *b[2:], d[0], c[0], c[1], d[1], *d[2:], *c[2:]]
    assert [(one.vcpu, one.rip) for one in found(mixed)] == [(1, THERE), (0, HERE)]


def test_a_line_may_begin_behind_the_beginning_of_another_vcpus() -> None:
    first, second = given(0xEC, 0), given(0x24, 1, THERE)
    begun, rest = first[1].split(" env->")
    mixed = [*taken(0xEC, 0), *taken(0x24, 1), first[0], begun + second[0], "env->" + rest,
             *first[2:], *second[1:]]  # fmt: skip
    assert [(one.vcpu, one.vector) for one in found(mixed)] == [(0, 0xEC), (1, 0x24)]


def test_what_goes_straight_to_the_guest_is_its_own_too() -> None:
    straight = [serving(0x30, ""), at(0x30, HERE, 0x5A48), *registers(HERE, 0x5A48, 0x1001)]
    learnt = [*taken(0xEC, 1), *given(0xEC, 1)]
    assert [(one.vcpu, one.vector) for one in found([*learnt, *straight])] == [
        (1, 0xEC), (1, 0x30),
    ]  # fmt: skip


def test_a_vcpu_outside_of_the_monitor_has_no_number() -> None:
    lines = [serving(0x30, ""), at(0x30, HERE, 0x5A48),
             *registers(HERE, 0x5A48, 0x1000, efer=PLAIN)]  # fmt: skip
    assert [one.vcpu for one in found(lines)] == [None]


def test_one_that_the_guest_was_never_given_is_none_unless_the_log_ends() -> None:
    assert found([*taken(0x24, 0), *taken(0xEC, 0), *given(0xEC, 0)]) == found(
        ["", *[""] * (len(taken(0x24, 0)) - 1), *taken(0xEC, 0), *given(0xEC, 0)]
    )
    (last,) = found(taken(0x24, 1))
    assert (last.vcpu, last.vector, last.rip) == (1, 0x24, None)


def test_real_mode_has_no_place() -> None:
    lines = [*taken(8, 0), serving(8), *taken(9, 0), serving(9)]
    assert [(one.vector, one.rip) for one in found(lines)] == [(8, None), (9, None)]


def test_they_are_entries_beside_those_of_accesses() -> None:
    write = "memory_region_ops_write cpu 0 mr 0x5 addr 0x70 value 0x1 size 1 name 'rtc'"
    log = [
        line.encode() + b"\n" for line in (*taken(0x24, 0), write, *given(0x24, 0), *taken(8, 1))
    ]
    port, first, last = LogReader(log, Interrupts(VCPUS)).entries()
    assert port.space == "memory"
    assert (first.space, first.cpu, first.address, first.value) == ("irq", 0, HERE, 0x24)
    assert (last.cpu, last.address, last.value) == (1, UNKNOWN, 8)


@pytest.mark.parametrize("root", [SHARED, SHARED + 0x1000])
def test_a_vcpu_in_the_monitor_is_known_by_its_tables_and_its_stack(root: int) -> None:
    stacks = [vmcb(n) + 0x3000 for n in range(VCPUS)]
    assert [vcpu_inside(sp, root, GDT, IDT, VCPUS) for sp in stacks] == [0, 1]
    assert [vcpu_inside(sp - 0xFF0, root, GDT, IDT, VCPUS) for sp in stacks] == [0, 1]
    first = stacks[0]
    assert vcpu_inside(first, root + 0x2000, GDT, IDT, VCPUS) is None
    assert vcpu_inside(first, root, GDT + 8, IDT, VCPUS) is None
    assert vcpu_inside(first - 0x1000, root, GDT, IDT, VCPUS) is None
    assert vcpu_inside(vmcb(VCPUS) + 0x3000, root, GDT, IDT, VCPUS) is None


def test_firmwares_code_is_that_of_the_vcpu_that_an_smi_came_to() -> None:
    log = InterruptLog(VCPUS)
    told = []
    for line in managed(1, "one", *managed(0, "both"), "one"):
        assert [*log.line(line.encode() + b"\n", 1)] == []
        if line in ("one", "both"):
            told.append(set(log.managing))
    assert told == [{1}, {0, 1}, {1}] and not log.managing
    # Before the kernel's entry firmware has SMIs of its own.
    log.line(b"SMM: enter\n", 1)
    for line in registers(HERE, 8, 0x1000, efer=PLAIN):
        log.line(line.encode() + b"\n", 1)
    assert not log.managing
