"""The facts that conditions ask about: of an access that waits, and of one in a trace."""

from __future__ import annotations

import pytest
import stop_sample
import trace_sample as sample
from msgspec.structs import replace

from tracer.access.decision import Pending
from tracer.access.region import Region
from tracer.access.transfer import Transfer
from tracer.devices.map import Named
from tracer.query.condition import parse
from tracer.query.condition.vocabulary import NAMES
from tracer.query.course import Changes, Marks
from tracer.query.facts import Course, Recorded, facts_of_touch
from tracer.query.pending import PendingFacts
from tracer.trace.name import RegionNames
from tracer.trace.record import Mark, MemoryAccess, Record, StackFrame, StackRecord, UserRecord
from tracer.x86.decode import decode
from tracer.x86.state import CpuState, Mode

SITE = "nvme_pci_enable+0x5e [nvme]"
NVME = Region(
    "nvme", 0xFEBF0000, 0xFEBF1FFF, 0xFEBF0000, "nvme", "nvme", within=("disk",), types=("pci",)
)
MARKS = (Mark(time_ns=0, text="kernel entry"), Mark(time_ns=1, text="before"))
CALLERS = ("nvme_reset_work+0x10 [nvme]", "worker_thread+0x2")

FACTS = {
    "value": "value == 3",
    "offset": "offset == 0x14",
    "width": "width == 4",
    "extent": "extent == 4",
    "address": "address == 0xfebf0014",
    "linear": "linear == 0xffffc900febf0014",
    "space": "space == memory and space is memory and space != port and not space == msr",
    "region": "region == nvme and region is disk and region is p?i",
    "device": "device == nvme and device is nv*",
    "register": "register == CC and register is nvme.cc",
    "symbol": "symbol == nvme_pci_enable+0x5e and symbol is nvme_pci_enable",
    "function": "function == nvme_pci_enable",
    "module": "module == nvme",
    "callers": "callers == worker_thread and callers ~ nvme_r* and callers is nvme_pci_enable",
    "direction": "direction == write",
    "vcpu": "vcpu == 1",
    "cpl": "cpl == 0",
    "seq": "seq == 7",
    "time": "time == 2s",
    "mnemonic": "mnemonic == mov",
    "via": "via == emulated",
    "phase": "phase == kernel",
    "mark": 'mark == before and mark in "bef".. and mark not in .."before"',
    "changes": "changes",
    "$rax": "$rax == 0xffffc90000000000 and $eax == 0 and $rflags == 2",
    "$rip": "$rip == 0xffffffff81234567",
}
"""For each fact a condition that holds of the same access, live and in a trace."""


def marks() -> Marks:
    """Return the marks that came before the access."""
    found = Marks(kept=True)
    for record in MARKS:
        found.add(record)
    return found


def live(value: int | None = 3, marks: Marks | None = None, changes: Changes | None = None,
         phase: str | None = "kernel", offset: int = 0x14) -> PendingFacts:  # fmt: skip
    """Return what is known of the access while the guest waits at it."""
    transfer = Transfer(
        "write" if value is not None else "read", 0xFFFFC900FEBF0000 + offset,
        NVME.base + offset, 4, value, NVME, True, False,
    )  # fmt: skip
    insn = decode(bytes.fromhex("8903"), 0xFFFFFFFF81234567, Mode.LONG)
    cpu = CpuState(gpr=(0xFFFFC90000000000, *range(15)), rip=0xFFFFFFFF81234567, rflags=2)
    pending = Pending(
        seq=7, time_ns=2_000_000_000, vcpu=1, symbol=SITE, code=insn.code, insn=insn, cpu=cpu,
        space=stop_sample.space(), transfer=transfer, foretold=(transfer,), via="emulated",
    )  # fmt: skip
    return PendingFacts(
        pending, register=lambda region, offset, width: Named("CC", ()), callers=lambda: CALLERS,
        phase=phase, marks=marks, changes=changes,
    )  # fmt: skip


def recorded(value: int | None = 3, course: Course | None = None) -> Recorded:
    """Return what is known of the same access in a trace."""
    if course is None:
        regions = RegionNames()
        told = sample.region("nvme")
        info = replace(told.region, within=["disk"], types=["pci"])
        regions.learn(replace(told, region=info))
        course = Course(regions=regions, marks=marks(), phase="kernel")
        frames = [StackFrame(rip=1, symbol=name) for name in CALLERS]
        course.stacks.learn(StackRecord(time_ns=0, id=3, frames=frames))
    access = replace(sample.device("nvme", 0x14, 4, "write", value), linear=0xFFFFC900FEBF0014)
    record = replace(
        sample.intercept(7, access, text="mov dword ptr [rbx], eax", symbol=SITE),
        time_ns=2_000_000_000, vcpu=1, stack=3,
    )  # fmt: skip
    return Recorded(course).at(record, access, 7, Named("CC", ()))


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_is_the_same_live_and_in_a_trace(fact: str) -> None:
    condition = parse(FACTS[fact])
    assert fact.startswith("$") or fact in condition.names
    assert condition.test(live(marks=marks())) is True
    assert condition.test(recorded()) is True


def test_every_fact_is_tried() -> None:
    assert set(NAMES) - set(FACTS) == {"count", "cause", "source", *NUMBERS}


NUMBERS = ("port", "msr", "leaf", "subleaf", "data")
"""What only accesses have that are to something else than memory."""


@pytest.mark.parametrize(
    ("access", "known"),
    [
        (sample.port(0x64, 1, "read", 0x1C), "space == port and port == 0x64 and address == 0x64"),
        (
            sample.port(0x64, 1, "read", 0x1C),
            "region is i8042.cmd and offset == 0 and via == monitor",
        ),
        (sample.msr(0xC0000080, "write", 1), "space == msr and msr == 0xc0000080"),
        (sample.cpuid(0x21, 3)[0], "space == cpuid and leaf == 0x21 and subleaf == 3"),
        (sample.cpuid(0x40000000)[1], "leaf == 0x40000000 and subleaf == 0 and width == 4"),
        (sample.tsc(5), "space == tsc and value == 5"),
        (sample.msi(0xFEE01004, 0x4023), "space == msi and data == 0x4023 and value == data"),
        (sample.msi(0xFEE01004, 0x4023), 'address == 0xfee01004 and source ~ "nvme*"'),
        (sample.irq(0x24), 'space == irq and cause == "nvme[1]" and cause ~ "nvme*"'),
    ],
)
def test_an_input_has_its_space_and_its_number(access: MemoryAccess, known: str) -> None:
    record = replace(
        sample.inputs(0, access), cause="nvme[1]" if access.space in ("irq", "msi") else None
    )
    facts = Recorded(Course()).at(record, access, 0, None)
    assert parse(known).test(facts) is True
    own = {"port": {"port"}, "msr": {"msr"}, "cpuid": {"leaf", "subleaf"},
           "msi": {"data"}}.get(access.space, set())  # fmt: skip
    for number in NUMBERS:
        asked = parse(f"{number} == {number}").test(facts)
        assert asked is (True if number in own else None)


def test_an_interrupt_may_have_one_of_several_causes() -> None:
    access = sample.irq(0x24)
    record = replace(sample.inputs(0, access), cause="ioapic pin 4 or nvme[1]")
    facts = Recorded(Course()).at(record, access, 0, None)
    assert parse('cause == "nvme[1]" and cause == "ioapic pin 4"').test(facts) is True
    assert parse('cause == "nvme[2]"').test(facts) is False
    assert parse('cause == "nvme[1]"').test(recorded()) is False
    assert parse('source == "nvme[1]"').test(facts) is False
    message = sample.msi(0xFEE01004, 0x24)
    facts = Recorded(Course()).at(record, message, 0, None)
    assert parse('source == "nvme[1]" and source == "ioapic pin 4"').test(facts) is True
    assert parse('cause == "nvme[1]"').test(facts) is False


def test_memory_has_no_number_of_an_input() -> None:
    for number in NUMBERS:
        for facts in (live(), recorded()):
            assert parse(f"{number} >= 0").test(facts) is None
            assert parse(f"not {number} >= 0").test(facts) is not True


def test_what_a_person_accessed_has_its_space() -> None:
    user = UserRecord(time_ns=0, text="peek")
    for access, space in ((sample.ram(4, "read", 1), "memory"), (sample.tsc(5), "tsc")):
        facts = facts_of_touch(user, access, None, Course())
        assert parse(f"space == {space}").test(facts) is True


@pytest.mark.parametrize(
    "text", ["value == 3", "callers is worker_thread", "$rbx == 0", "changes and value == 3"]
)
def test_what_a_trace_does_not_tell_is_not_known(text: str) -> None:
    bare = recorded(value=None, course=Course())
    assert parse(text).test(bare) is None and parse(f"not {text}").test(bare) is not True


def test_a_read_that_waits_has_no_value_and_no_change() -> None:
    assert parse("changes").test(live(value=None)) is None
    assert parse("changes").needs_value and parse("value").needs_value


def test_changes_are_told_to_each_who_asks() -> None:
    condition, other, changes = parse("value != 9 and changes"), parse("changes"), Changes()
    found = [condition.test(live(value, changes=changes)) for value in (1, 1, 9, 1, 2)]
    assert found == [True, False, False, False, True]
    assert other.test(live(2, changes=changes)) is True
    assert condition.test(live(2, changes=changes, offset=0x18)) is True
    facts = live(5, changes=changes)
    assert condition.test(facts) is condition.test(facts) is True  # one access is judged once


def test_a_stretch_that_is_asked_for_late_has_its_past() -> None:
    found = Marks(kept=True)
    inside = parse('mark in "be".."aft"')
    seen = []
    for text in ("x", "before", "between", "after", "before"):
        found.add(Mark(time_ns=0, text=text))
        seen.append(inside.test(live(marks=found)))
    assert seen == [False, True, True, False, False]
    assert parse('mark in "aft".. and mark == before').test(live(marks=found)) is True
    assert parse('mark in "aft"..').test(live(marks=found.upto(3))) is False
    assert (found.upto(3).last, found.count) == ("between", 5)


def test_a_phase_that_is_not_known_has_no_name() -> None:
    for text, holds in (('phase == ""', True), ("phase is *", False), ("phase ~ *", True)):
        assert parse(text).test(live(phase=None)) is holds


def test_records_between_accesses_do_not_end_what_is_known() -> None:
    records: list[Record] = [*MARKS, sample.region("nvme"), sample.end(0)]
    found = Marks(kept=True)
    for record in records:
        found.add(record)
    assert (found.last, found.count) == ("before", 2)
