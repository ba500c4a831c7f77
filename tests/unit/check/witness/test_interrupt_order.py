"""Interrupts of a trace against those of QEMU's log: vector and place, vCPU by vCPU."""

from __future__ import annotations

from collections.abc import Sequence

from interrupt_log import HERE, PLAIN, THERE, VCPUS, at, given, managed, registers, serving, taken
from msgspec.structs import replace

from tracer.check import witness
from tracer.check.comparison import Comparison
from tracer.check.lines import difference_line
from tracer.compiled.message import Message
from tracer.trace.inputs import interrupts, message_access, messages
from tracer.trace.record import Intercept, Mark, MemoryAccess, Record, RegionInfo, RegionRecord

ANNOUNCED = RegionRecord(time_ns=0, region=interrupts())
TIMER, DISK = 0xEC, 0x24


def came(seq: int, vector: int, rip: int = HERE, vcpu: int = 0) -> Intercept:
    access = MemoryAccess(
        direction="write", width=1, linear=0, physical=vector, value=vector, region="irq",
        offset=vector, space="irq",
    )  # fmt: skip
    return Intercept(
        seq=seq, time_ns=0, vcpu=vcpu, cpl=0, mode=64, rip=rip, symbol="idle+0x9", code=b"",
        text="interrupt", cr2=0, error_code=0, via="monitor", accesses=[access], before={},
        after={},
    )  # fmt: skip


def both(vector: int, vcpu: int = 0, place: int = HERE) -> list[str]:
    return [*taken(vector, vcpu), *given(vector, vcpu, place)]


def compared(
    records: Sequence[Record], lines: Sequence[str], announced: Sequence[Record] = (ANNOUNCED,)
) -> Comparison:
    mark = Mark(time_ns=0, text="kernel entry", qemu_log_offset=0)
    log = [line.encode() + b"\n" for line in lines]
    return witness.compare([*announced, mark, *records], log, vcpus=VCPUS)


def faults(comparison: Comparison) -> tuple[int, ...]:
    region = comparison.regions["irq"]
    return region.traced, region.witnessed, region.missing, region.extra, region.different


def test_vector_and_place_are_compared() -> None:
    lines = [*both(TIMER), *both(DISK, place=THERE)]
    assert faults(compared([came(0, TIMER), came(1, DISK, THERE)], lines)) == (2, 2, 0, 0, 0)
    wrong = compared([came(0, TIMER), came(1, DISK, HERE)], lines)
    assert faults(wrong) == (2, 2, 0, 0, 1) and not wrong.agrees
    assert difference_line(wrong.differences[0]) == (
        f"different  irq  after #0: traced #1 vector 0x24 at {HERE:#x} idle+0x9; QEMU's line"
        f" {len(both(TIMER)) + len(taken(DISK, 0)) + 2} cpu 0 vector 0x24 at {THERE:#x}"
    )
    assert faults(compared([came(0, DISK), came(1, DISK, THERE)], lines)) == (2, 2, 0, 0, 1)


def test_one_of_many_may_be_given_late_by_a_machine_of_several_vcpus() -> None:
    lines = [
        line for number in range(150) for line in both(TIMER, place=(HERE, THERE)[number == 9])
    ]
    late = compared([came(number, TIMER) for number in range(150)], lines)
    assert faults(late) == (150, 150, 0, 0, 0)
    assert late.late == 1 and late.agrees and not late.differences
    lines = [line for number in range(150) for line in both((TIMER, DISK)[number == 9])]
    wrong = compared([came(number, TIMER) for number in range(150)], lines)
    assert faults(wrong)[4] == 1 and not wrong.late


def test_one_that_is_lost_is_missing_and_one_too_many_extra() -> None:
    lines = [*both(TIMER), *both(DISK), *both(TIMER)]
    assert faults(compared([came(0, TIMER), came(1, TIMER)], lines)) == (2, 3, 1, 0, 0)
    records = [came(0, TIMER), came(1, DISK), came(2, DISK), came(3, TIMER)]
    assert faults(compared(records, lines)) == (4, 3, 0, 1, 0)


def test_each_vcpu_has_an_order_of_its_own() -> None:
    lines = [*both(TIMER, 0), *both(DISK, 1, THERE), *both(DISK, 0)]
    records = [came(0, DISK, THERE, 1), came(1, TIMER), came(2, DISK)]
    assert faults(compared(records, lines)) == (3, 3, 0, 0, 0)
    swapped = [came(0, DISK, THERE, 0), came(1, TIMER, vcpu=1), came(2, DISK)]
    assert not compared(swapped, lines).agrees


def test_a_place_that_the_log_has_not_is_the_traces() -> None:
    # The guest ended before it was given the last one.
    records = [came(0, TIMER), came(1, DISK, THERE)]
    assert faults(compared(records, [*both(TIMER), *taken(DISK, 0)])) == (2, 2, 0, 0, 0)
    assert faults(compared(records, [*both(TIMER), *taken(TIMER, 0)])) == (2, 2, 0, 0, 1)


def test_without_the_region_nothing_of_the_log_tells_of_them() -> None:
    found = compared([came(0, TIMER)], both(DISK), announced=())
    assert found.unwitnessed == {"irq": 1} and "irq" not in found.regions


def test_those_of_a_vcpu_outside_of_the_monitor_are_counted_apart() -> None:
    outside = [serving(DISK, ""), at(DISK, HERE, 8), *registers(HERE, 8, 0x1001, efer=PLAIN)]
    found = compared([came(0, TIMER)], [*outside, *both(TIMER)])
    assert faults(found) == (1, 1, 0, 0, 0) and found.overlooked == {"irq": 1}
    straight = [serving(DISK, ""), at(DISK, HERE, 8), *registers(HERE, 8, 0x1000)]
    assert faults(compared([came(0, TIMER)], [*both(TIMER), *straight])) == (1, 2, 1, 0, 0)


def test_what_firmware_accesses_is_counted_apart() -> None:
    port = RegionRecord(time_ns=0, region=RegionInfo(
        name="apm-io", start=0xB2, end=0xB3, qemu_name="apm-io", device="apm-io", traced=True,
        space="port",
    ))  # fmt: skip
    read = "memory_region_ops_read cpu {} mr 0x5 addr 0xb2 value 0x5 size 1 name 'apm-io'"
    lines = [*managed(1, read.format(1), read.format(0)), read.format(1)]
    found = compared([], lines, announced=(ANNOUNCED, port))
    assert (found.firmware, found.missing) == (1, 2)


TABLE = RegionRecord(
    time_ns=0,
    region=RegionInfo(
        name="nvme.msix-table", start=0xFEBF_2000, end=0xFEBF_2FFF, qemu_name="msix-table",
        device="nvme", traced=True,
    ),
)  # fmt: skip
APIC = RegionRecord(
    time_ns=0,
    region=RegionInfo(
        name="lapic", start=0xFEE0_0000, end=0xFEEF_FFFF, qemu_name="apic-msi", device="lapic",
        traced=True,
    ),
)  # fmt: skip


def logged(address: int, value: int, name: str = "msix-table", cpu: int = -1) -> str:
    return (
        f"memory_region_ops_write cpu {cpu} mr 0x1 addr {address:#x} value {value:#x} size 4"
        f" name '{name}'"
    )


def entry(number: int, vector: int, to: int = 0xFEE0_1004) -> list[str]:
    place = 0xFEBF_2000 + 16 * number
    return [logged(place, to), logged(place + 8, vector)]


def message(vector: int, to: int = 0xFEE0_1004) -> str:
    return logged(to, vector, "apic-msi")


def attributed(lines: Sequence[str], *causes: tuple[int, int, str]) -> tuple[int, int]:
    """Compare interrupts, each of a vector and a vCPU with its cause."""
    records = [
        replace(came(number, vector, vcpu=vcpu), cause=cause)
        for number, (vector, vcpu, cause) in enumerate(causes)
    ]
    found = compared(records, lines, (ANNOUNCED, TABLE, APIC))
    assert faults(found)[2:] == (0, 0, 0)
    return found.attributed, found.misattributed


def test_causes_are_those_of_the_messages() -> None:
    lines = [*entry(1, DISK), message(DISK), *both(DISK), *both(TIMER), *both(DISK)]
    right = [(DISK, 0, "nvme[1]"), (TIMER, 0, "lapic timer"), (DISK, 0, "nvme[1] or nvme[2]")]
    assert attributed(lines, *right) == (3, 0)
    wrong = [(DISK, 0, "lapic timer"), (TIMER, 0, "nvme[1]"), (DISK, 0, "nvme[2]")]
    assert attributed(lines, *wrong) == (0, 3)
    unknown = [(DISK, 0, "unknown"), (TIMER, 0, "ipi"), (DISK, 0, "self-ipi")]
    assert attributed(lines, *unknown) == (2, 0)


def test_messages_to_another_vcpu_tell_nothing_of_a_cause() -> None:
    local = [logged(0xFEE0_00D0, 1 << 24 + vcpu, "apic-msi", vcpu) for vcpu in (0, 1)]
    there = 0xFEE0_2004
    lines = [*local, *entry(1, DISK), *entry(2, DISK, there), message(DISK), message(DISK, there),
             *both(DISK, 1, THERE), *both(DISK)]  # fmt: skip
    records = [
        replace(came(0, DISK, THERE, 1), cause="nvme[2]"),
        replace(came(1, DISK), cause="nvme[1]"),
    ]
    found = compared(records, lines, (ANNOUNCED, TABLE, APIC))
    assert (found.attributed, found.misattributed) == (2, 0)
    turned = [replace(records[0], cause="nvme[1]"), replace(records[1], cause="nvme[2]")]
    found = compared(turned, lines, (ANNOUNCED, TABLE, APIC))
    assert (found.attributed, found.misattributed) == (0, 2)


ALL = ANNOUNCED, RegionRecord(time_ns=0, region=messages()), TABLE, APIC


def sent(seq: int, vector: int, data: int | None, to: int = 0xFEE0_1004) -> Intercept:
    """An interrupt that came of a message."""
    told = came(seq, vector)
    access = message_access(Message(to or None, data))
    return replace(told, accesses=[access, *told.accesses], cause="nvme[1]")


def counted(records: Sequence[Record], lines: Sequence[str]) -> tuple[int, int, int]:
    """Return how many messages agree, how many do not, and how many have no record."""
    found = compared(records, lines, ALL)
    assert faults(found)[2:] == (0, 0, 0) and "msi" not in found.unwitnessed
    told = found.regions["msi"]
    assert (told.traced, told.missing, told.extra) == (told.witnessed, 0, 0)
    assert found.agrees is not bool(told.different)
    return told.traced - told.different, told.different, found.unrecorded


def test_messages_are_those_of_the_log() -> None:
    lines = [message(DISK), *both(DISK), *both(TIMER), message(DISK), *both(DISK)]
    right = [sent(0, DISK, DISK), came(2, TIMER), sent(3, DISK, DISK)]
    assert counted(right, lines) == (2, 0, 0)
    other = [sent(0, DISK, DISK | 0x4000), came(2, TIMER), sent(3, DISK, DISK, 0xFEE0_2004)]
    assert counted(other, lines) == (0, 2, 2)
    first = len([message(DISK), *taken(DISK, 0)]) + 2
    assert difference_line(compared(other, lines, ALL).differences[0]) == (
        "different  msi  at first: traced #0 0x00004024 to 0xfee01004 before vector 0x24;"
        f" before QEMU's line {first} 0x24 to 0xfee01004"
    )
    hidden = [sent(0, DISK, None), came(2, TIMER), sent(3, DISK, DISK, 0)]
    assert counted(hidden, lines) == (2, 0, 0)  # what is known of them agrees


def test_messages_that_no_record_stands_for_are_counted() -> None:
    once = [message(DISK), message(DISK), *both(DISK), message(0x77)]
    assert counted([sent(0, DISK, DISK)], once) == (1, 0, 2)
    # An interrupt without a message before it stands for none.
    late = [message(DISK), *both(DISK), *both(DISK)]
    assert counted([sent(0, DISK, DISK), sent(2, DISK, DISK)], late) == (2, 0, 0)


def test_an_interrupt_behind_its_message_is_the_one_that_is_told() -> None:
    lines = [message(DISK), *both(DISK, place=THERE)]
    wrong = compared([sent(7, DISK, DISK)], lines, ALL)
    assert faults(wrong) == (1, 1, 0, 0, 1) and wrong.regions["msi"].witnessed == 0
    assert "traced #8 vector 0x24" in difference_line(wrong.differences[0])
