"""What sent an interrupt: by tables, pins, local APICs and PICs as the guest has set them up."""

from __future__ import annotations

import pytest
from block_sample import PLACES, block
from input_row import row
from input_sample import RIP, SITES, configured, set_latch, site_of
from msgspec.structs import replace

from tracer.compiled.inputs import FIRST
from tracer.compiled.message import Message
from tracer.trace.block import Blocks
from tracer.trace.cause import IPI, PIC, SELF_IPI, UNKNOWN, Causes, is_message
from tracer.trace.compiled import SiteRecord
from tracer.trace.member import Space
from tracer.trace.record import Intercept, LostRecord
from tracer.x86.bus import Direction

LOGICAL = 0xFEE0_1004
LINT0, TIMER, ID, LDR, DFR, ICR, ICR_HIGH = 0x350, 0x320, 0x20, 0xD0, 0xE0, 0x300, 0x310
MASKED, SELF, OTHERS, LOGICALLY = 1 << 16, 1 << 18, 3 << 18, 1 << 11


def local(causes: Causes, offset: int, value: int, vcpu: int = 0) -> None:
    assert Causes.follows("memory", offset, "lapic", "write")
    causes.note(vcpu, "memory", offset, "lapic", "write", 4, value)


def table(causes: Causes, number: int, data: int, *, control: int = 0, to: int = LOGICAL) -> None:
    for at, value in enumerate((to, 0, data, control)):
        place = 16 * number + 4 * at
        causes.note(0, "memory", place, "nvme.msix-table", "write", 4, value)


def pin(causes: Causes, number: int, low: int, high: int = 1 << 24) -> None:
    for half, value in enumerate((low, high)):
        causes.note(0, "memory", 0, "ioapic", "write", 4, 0x10 + 2 * number + half)
        causes.note(0, "memory", 0x10, "ioapic", "write", 4, value)


def out(causes: Causes, port: int, value: int) -> None:
    causes.note(0, "port", port, "pic", "write", 1, value)


def pics(causes: Causes, mask: int) -> None:
    """As Linux sets the first one up: vectors from 0x30 on."""
    for port, value in ((0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, mask)):
        out(causes, port, value)


def test_an_entry_of_a_table_a_pin_and_a_timer() -> None:
    causes = Causes()
    assert causes.cause(0, 0x24) == UNKNOWN
    table(causes, 1, 0x24)
    pin(causes, 4, 0x0925)
    local(causes, TIMER, 0xEC)
    assert [causes.cause(0, vector) for vector in (0x24, 0x25, 0xEC)] == [
        "nvme[1]", "ioapic pin 4", "lapic timer",
    ]  # fmt: skip
    assert causes.cause(1, 0xEC) == UNKNOWN  # another vCPU's timer


def test_several_that_hold_a_vector_are_all_told_but_for_those_that_are_masked() -> None:
    causes = Causes()
    table(causes, 1, 0x24)
    table(causes, 2, 0x24)
    assert causes.cause(0, 0x24) == "nvme[1] or nvme[2]"
    table(causes, 1, 0x24, control=1)
    assert causes.cause(0, 0x24) == "nvme[2]"
    table(causes, 2, 0x24, control=1)  # one may be on its way
    assert causes.cause(0, 0x24) == "nvme[1] or nvme[2]"


def test_what_was_on_its_way_while_a_source_got_another_vector() -> None:
    causes = Causes()
    table(causes, 1, 0x24)
    table(causes, 1, 0x26)
    assert causes.cause(0, 0x24) == "nvme[1]"


def test_destinations_tell_sources_apart() -> None:
    causes = Causes()
    table(causes, 1, 0x24, to=0xFEE0_1004)  # logical 1
    table(causes, 2, 0x24, to=0xFEE0_1000)  # physical 1
    for vcpu in (0, 1):
        local(causes, DFR, 0xFFFF_FFFF, vcpu)
        local(causes, LDR, 1 << 24 + vcpu, vcpu)
        causes.note(vcpu, "memory", ID, "lapic", "read", 4, vcpu << 24)
    assert causes.cause(0, 0x24) == "nvme[1]"
    assert causes.cause(1, 0x24) == "nvme[2]"


def test_no_vector_of_other_delivery_modes_nor_of_what_is_remapped() -> None:
    causes = Causes()
    table(causes, 1, 0x424)  # an NMI
    table(causes, 2, 0x24, to=0xFEE0_0010)
    pin(causes, 0, 0x724)  # what the PIC tells
    local(causes, LINT0, 0x724)
    assert causes.cause(0, 0x24) == UNKNOWN


def test_pics_send_what_is_not_masked_while_the_local_apic_lets_them() -> None:
    causes = Causes()
    pics(causes, 0xFE)
    pin(causes, 2, 0x0930 | MASKED)
    assert causes.cause(0, 0x30) == PIC  # firmware has opened the pin
    assert causes.cause(1, 0x31) == PIC  # nobody else is known
    local(causes, LINT0, 0x700 | MASKED)
    pin(causes, 2, 0x0930)
    assert causes.cause(0, 0x30) == "ioapic pin 2"
    local(causes, LINT0, 0x700)
    assert causes.cause(0, 0x30) == "ioapic pin 2 or pic"
    out(causes, 0x20, 0x20)  # a command
    out(causes, 0x21, 0xFF)
    assert causes.cause(0, 0x30) == "ioapic pin 2"


@pytest.mark.parametrize(
    ("first", "words"),
    [(0x11, 3), (0x10, 2), (0x13, 2), (0x12, 1)],
)
def test_a_pic_takes_as_many_words_as_its_first_says(first: int, words: int) -> None:
    causes = Causes()
    out(causes, 0xA0, first)
    for value in (0x38, 2, 1)[:words]:
        out(causes, 0xA1, value)
    out(causes, 0xA1, 0xFE)
    pin(causes, 1, 0x0939)
    assert causes.cause(0, 0x39) == "ioapic pin 1"
    assert causes.cause(0, 0x38) == PIC


def test_interrupts_between_vcpus_are_told_once_each() -> None:
    causes = Causes()
    local(causes, LDR, 1 << 24, 0)
    local(causes, LDR, 2 << 24, 1)
    table(causes, 1, 0x24)
    local(causes, ICR_HIGH, 2 << 24)
    local(causes, ICR, 0x24 | LOGICALLY)
    assert causes.cause(0, 0x24) == "nvme[1]"
    assert causes.cause(1, 0x24) == IPI  # the entry is for the other one
    table(causes, 1, 0x24, to=0xFEE0_2004)
    local(causes, ICR, 0x24 | LOGICALLY)
    assert causes.cause(1, 0x24) == "ipi or nvme[1]"
    assert causes.cause(1, 0x24) == "nvme[1]"
    local(causes, ICR, 0xFD | OTHERS)
    assert causes.cause(1, 0xFD) == IPI
    local(causes, ICR, 0xF6 | SELF)
    assert causes.cause(0, 0xF6) == SELF_IPI
    local(causes, ICR, 0x610 | OTHERS)  # start-up
    assert causes.cause(1, 0x10) == UNKNOWN


def test_registers_of_x2apic_are_msrs() -> None:
    causes = Causes()

    def msr(index: int, value: int, vcpu: int = 0, *, write: bool = True) -> None:
        way: Direction = "write" if write else "read"
        assert Causes.follows("msr", index, "msr", way)
        causes.note(vcpu, "msr", index, "msr", way, 8, value)

    msr(0x832, 0xEC)
    assert causes.cause(0, 0xEC) == "lapic timer"
    for vcpu in (0, 1):
        msr(0x802, vcpu, vcpu, write=False)
    msr(0x830, 1 << 32 | 0xFD)
    assert causes.cause(1, 0xFD) == IPI
    msr(0x83F, 0xF6)
    assert causes.cause(0, 0xF6) == SELF_IPI


@pytest.mark.parametrize(
    ("space", "place", "region", "direction", "follows"),
    [
        ("memory", 8, "nvme.msix-table", "write", True),
        ("memory", 8, "nvme.msix-table", "read", False),
        ("memory", 0x14, "nvme", "write", False),
        ("memory", 0x20, "lapic", "read", True),
        ("memory", 0xB0, "lapic", "write", False),
        ("memory", 0x10, "ioapic#2", "write", True),
        ("memory", 0x10, None, "write", False),
        ("port", 0x21, "pic", "write", True),
        ("port", 0x64, "i8042", "write", False),
        ("msr", 0x832, "msr", "read", True),
        ("msr", 0x10, "msr", "read", False),
        ("config", 0x8000, "config", "write", True),
        ("cpuid", 0x21, "cpuid", "read", False),
    ],
)
def test_what_is_followed(
    space: Space, place: int, region: str | None, direction: Direction, follows: bool
) -> None:
    assert Causes.follows(space, place, region, direction) is follows


def test_names_of_who_sends_messages() -> None:
    told = ["nvme[1]", "ioapic pin 4", "00:1f.2 msi", "lapic timer", PIC, IPI, SELF_IPI, UNKNOWN]
    assert [name for name in told if is_message(name)] == told[:3]


IRQ = FIRST + 7


def interrupt(vector: int, vcpu: int = 0) -> bytes:
    return row(IRQ, vector, vector, write=True, width=1, vcpu=vcpu)


def taught() -> Blocks:
    blocks = Blocks()
    irq = SiteRecord(
        time_ns=0, number=IRQ, rip=RIP, code=b"", text="interrupt", asked="write", width=1,
        space="irq",
    )  # fmt: skip
    for line in (PLACES, *SITES, site_of(FIRST + 9, "cpuid", "cpuid", 4), irq):
        list(blocks.records(line))
    return blocks


def causes_of(blocks: Blocks, *rows: bytes, seq: int = 0) -> list[str | None]:
    _, accesses = blocks.count(b"".join(rows), 0)
    made = blocks.records(block(*rows, accesses=accesses, seq=seq))
    return [each.cause for each in made if isinstance(each, Intercept)]


def capability(data: int) -> list[bytes]:
    """Write an MSI capability of the function 00:1f.2 by ports."""
    function = 0x8000_FA80
    return [
        set_latch(function | 4), configured(0xFEE0_1004, write=True),
        set_latch(function | 8), configured(data, write=True),
    ]  # fmt: skip


def test_rows_of_interrupts_have_their_cause_in_their_place() -> None:
    blocks = taught()
    told = causes_of(blocks, interrupt(0x40), *capability(0x40), interrupt(0x40))
    assert (told[0], told[-1]) == (UNKNOWN, "00:1f.2 msi")
    assert told[1:-1] == [None] * 4
    # A block may be told again, and lines behind it go on from there.
    once = block(*capability(0x41), interrupt(0x41), accesses=7, seq=9)
    for _ in range(2):
        *_, last = blocks.records(once)
        assert isinstance(last, Intercept) and last.cause == "00:1f.2 msi"
    copied = blocks.copy()
    assert causes_of(blocks, interrupt(0x41), seq=20) == ["00:1f.2 msi"]
    assert causes_of(copied, interrupt(0x41), seq=20) == ["00:1f.2 msi"]
    list(blocks.records(LostRecord(time_ns=0)))
    assert causes_of(blocks, interrupt(0x41), seq=30) == [UNKNOWN]


def test_kinds_of_interrupts_are_told_apart_by_their_causes() -> None:
    blocks = taught()
    rows = [interrupt(0x40), *capability(0x40), interrupt(0x40), interrupt(0x40)]
    kinds = list(blocks.kinds(block(*rows, accesses=9)))
    told = {record.cause: times for record, times in kinds if record.accesses[0].space == "irq"}
    assert told == {UNKNOWN: 1, "00:1f.2 msi": 2}


def test_a_cause_that_a_trace_tells_stays() -> None:
    blocks = taught()
    *_, made = blocks.records(block(interrupt(0x40), accesses=1))
    assert isinstance(made, Intercept)
    told = replace(made, cause="nvme[1]")
    assert list(blocks.records(told)) == [told]


def expected(causes: Causes, vector: int, vcpu: int = 0) -> Message | None:
    told, message = causes.expected(vcpu, vector)
    assert causes.expected(vcpu, vector) == (told, message)  # nobody has taken it
    assert causes.cause(vcpu, vector) == told
    return message


def test_a_message_is_what_the_guest_gave_its_source() -> None:
    causes = Causes()
    assert expected(causes, 0x24) is None
    table(causes, 1, 0x4024)
    pin(causes, 4, 0x8925, 3 << 24)
    local(causes, TIMER, 0xEC)
    assert expected(causes, 0x24) == Message(LOGICAL, 0x4024)
    assert expected(causes, 0x25) == Message(0xFEE0_3004, 0x8125)
    assert expected(causes, 0xEC) is None  # a timer sends none


def test_one_of_several_messages_is_known_as_far_as_they_agree() -> None:
    causes = Causes()
    table(causes, 1, 0x24)
    table(causes, 2, 0x24)
    assert expected(causes, 0x24) == Message(LOGICAL, 0x24)
    table(causes, 2, 0x4024)
    assert expected(causes, 0x24) == Message(LOGICAL, None)
    table(causes, 2, 0x4024, to=LOGICAL + 8)
    assert expected(causes, 0x24) == Message(None, None)
    table(causes, 2, 0x4024, to=LOGICAL + 8, control=1)
    assert expected(causes, 0x24) == Message(LOGICAL, 0x24)


def test_a_message_that_was_on_its_way_is_the_last_one_of_its_vector() -> None:
    causes = Causes()
    table(causes, 1, 0x24)
    causes.note(0, "memory", 28, "nvme.msix-table", "write", 4, 1)  # masked, as Linux does
    table(causes, 1, 0x25, to=LOGICAL + 0x1000)
    assert expected(causes, 0x24) == Message(LOGICAL, 0x24)
    assert expected(causes, 0x25) == Message(LOGICAL + 0x1000, 0x25)


def test_a_message_that_was_on_its_way_to_another_cpu_is_the_one_for_that() -> None:
    causes = Causes()
    here, there = LOGICAL, LOGICAL + 0x1000
    for vcpu in (0, 1):
        causes.note(vcpu, "memory", LDR, "lapic", "write", 4, 1 << 24 + vcpu)
    table(causes, 1, 0x24, to=here)
    causes.note(0, "memory", 28, "nvme.msix-table", "write", 4, 1)
    table(causes, 1, 0x24, to=there)
    assert expected(causes, 0x24, 0) == Message(here, 0x24)
    assert expected(causes, 0x24, 1) == Message(there, 0x24)


def test_what_may_have_been_no_message_has_none() -> None:
    causes = Causes()
    table(causes, 1, 0x24)
    causes.note(1, "memory", LDR, "lapic", "write", 4, 1 << 24)
    local(causes, ICR_HIGH, 1 << 24)
    local(causes, ICR, 0x24 | LOGICALLY)
    assert expected(causes, 0x24, 1) is None  # nobody knows whether that or the other CPU's
    assert expected(causes, 0x24, 1) == Message(LOGICAL, 0x24)


def test_each_vector_of_a_capability_has_data_of_its_own() -> None:
    blocks = taught()
    function = 0x8000_FA80
    control = [set_latch(function), configured(0x0021_0005, write=True)]
    words = [*capability(0x4040), *control, *capability(0x4040)]
    rows = blocks.with_messages(b"".join([*words, interrupt(0x41), interrupt(0x43)]), 0)
    _, accesses = blocks.count(rows, 0)
    made = list(blocks.records(block(rows, accesses=accesses)))
    told = [each.accesses for each in made if isinstance(each, Intercept)][-2:]
    values = [[access.value for access in each] for each in told]
    assert values == [[0x4041, 0x41], [0x4043, 0x43]]


def test_rows_of_interrupts_have_the_messages_that_were_noted_in_them() -> None:
    blocks = taught()
    list(blocks.records(block(*capability(0x40), accesses=6)))
    raw = b"".join([interrupt(0x40), *capability(0x41), interrupt(0x41), interrupt(0x42)])
    rows = blocks.with_messages(raw, 0)
    # Nothing has come of it yet.
    assert blocks.with_messages(raw, 0) == rows and blocks.message(0, 0x41) == (UNKNOWN, None)
    assert blocks.count(rows, 0) == (7, 11) and blocks.inputs_in(rows) == 11
    whole = block(rows, accesses=11, seq=6)
    made = [each for each in blocks.records(whole) if isinstance(each, Intercept)]
    numbers = [number for each in made for number, _ in each.device_accesses()]
    assert numbers == list(range(6, 17))
    came = [each for each in made if each.accesses[-1].space == "irq"]
    assert [[a.space for a in each.accesses] for each in came] == [["msi", "irq"]] * 2 + [["irq"]]
    assert [each.accesses[0].value for each in came] == [0x40, 0x41, 0x42]
    assert {each.accesses[0].physical for each in came[:2]} == {LOGICAL}
    assert [each.cause for each in came] == ["00:1f.2 msi", "00:1f.2 msi", UNKNOWN]
    seen = blocks.seen(whole)
    assert seen is not None
    values = [(each.seq, each.access.space, each.value()) for each in seen]
    assert values == [
        (number, access.space, access.value)
        for each in made for number, access in each.device_accesses()
    ]  # fmt: skip
    rows_of = [each for some in blocks.rows(whole, range(7)) for each in some]
    assert [each.accesses for each in rows_of] == [each.accesses for each in made]
    kinds = list(blocks.kinds(whole))
    assert sum(times * len(each.accesses) for each, times in kinds) == 11
    assert blocks.message(0, 0x41) == ("00:1f.2 msi", Message(LOGICAL, 0x41))


def test_rows_without_interrupts_are_left_as_they_are() -> None:
    blocks = taught()
    rows = b"".join(capability(0x40))
    assert blocks.with_messages(rows, 0) is rows


def test_a_record_of_its_own_has_its_cause_behind_its_message() -> None:
    blocks = taught()
    list(blocks.records(block(*capability(0x40), accesses=6)))
    rows = blocks.with_messages(interrupt(0x40), 0)
    *_, made = blocks.copy().records(block(rows, accesses=2, seq=6))
    assert isinstance(made, Intercept)
    (told,) = blocks.records(replace(made, cause=None))
    assert isinstance(told, Intercept) and told.cause == "00:1f.2 msi"
