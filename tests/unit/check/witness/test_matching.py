"""Comparing a trace with QEMU's log: what agrees, what does not, and where each begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import trace_sample as sample
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tracer.check.comparison import Comparison
from tracer.check.qemu_log import LogEntry, LogReader, entries, is_torn, parse_line
from tracer.check.witness import compare, side
from tracer.trace.member import Via
from tracer.trace.record import Intercept, MapRecord, Mark, MemoryAccess, Record, UserRecord
from tracer.x86.bus import Direction

NVME, HPET, LAPIC = sample.START["nvme"], sample.START["hpet"], sample.START["lapic"]


def line(
    direction: str, address: int, width: int, value: int, name: str = "nvme", cpu: int = -1
) -> bytes:
    """Write a log line as QEMU 7.2 does."""
    return (
        f"memory_region_ops_{direction} cpu {cpu} mr 0x5609916759e0 addr {address:#x}"
        f" value {value:#x} size {width} name '{name}'\n"
    ).encode()


def told(access: MemoryAccess, cpu: int = -1) -> bytes:
    """Write the log line for an access that QEMU dispatched as it is."""
    assert access.region is not None and access.value is not None
    return line(
        access.direction, access.physical, access.width, access.value,
        sample.QEMU_NAME[access.region], cpu,
    )  # fmt: skip


def trace(*accesses: MemoryAccess, offset: int | None = 0, via: Via = "emulated") -> list[Record]:
    """Trace each access by an instruction of its own, every region announced."""
    records: list[Record] = [sample.region(name) for name in sample.START]
    if offset is not None:
        records.append(Mark(time_ns=0, text="kernel entry", qemu_log_offset=offset))
    return [*records, *(sample.intercept(n, a, via=via) for n, a in enumerate(accesses))]


def read(offset: int, width: int, value: int | None, name: str = "nvme") -> MemoryAccess:
    return sample.device(name, offset, width, "read", value)


def write(offset: int, width: int, value: int | None, name: str = "nvme") -> MemoryAccess:
    return sample.device(name, offset, width, "write", value)


def faults(comparison: Comparison) -> tuple[int, int, int]:
    return comparison.missing, comparison.extra, comparison.different


# --- the log ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [b"", b"1234@1700000000.123456:"])
def test_an_entry_is_parsed(prefix: bytes) -> None:
    assert parse_line(prefix + line("read", HPET, 4, 0x8086, "hpet"), 7) == LogEntry(
        line=7, cpu=-1, direction="read", address=HPET, width=4, value=0x8086, name="hpet"
    )


def test_a_name_may_hold_spaces_and_quotes() -> None:
    entry = parse_line(line("write", NVME, 4, 1, "it's a 'device' name", cpu=3))
    assert entry is not None
    assert (entry.name, entry.cpu) == ("it's a 'device' name", 3)


def test_a_value_has_no_bits_beyond_its_width() -> None:
    entry = parse_line(line("read", NVME, 2, 0xDEADBEEF))
    assert entry is not None and entry.value == 0xBEEF


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"memory_region_subpage_read cpu 0 mr 0x1 offset 0x1 value 0x1 size 4\n",
        b"qemu: hardware error\n",
        line("read", NVME, 4, 1)[:60],
    ],
)
def test_other_lines_are_no_entries(text: bytes) -> None:
    assert parse_line(text) is None


@pytest.mark.parametrize("width", [b"0", b"00", b"100", b"99999999999"])
def test_a_width_that_no_access_has_is_no_entry(width: bytes) -> None:
    assert parse_line(line("read", NVME, 4, 1).replace(b"size 4", b"size " + width)) is None


def test_numbers_beyond_all_bounds_are_no_entry() -> None:
    assert parse_line(line("read", NVME, 4, 1).replace(b"cpu -1", b"cpu " + b"9" * 5000)) is None


WHOLE = line("read", NVME, 4, 1)


@pytest.mark.parametrize(
    ("text", "torn"),
    [
        (WHOLE, False),
        (WHOLE[:-1], False),  # an editor took the end of the last line
        (b"", True),
        (WHOLE[:40], True),
        (WHOLE[:-2], True),  # the name may go on
        (WHOLE[:40] + WHOLE, True),
        (WHOLE[:40] + b"\n", True),
        (b"hpet: bad write" + WHOLE, False),  # a device that ended no line
        (b"1234@1700000000.123456:" + WHOLE, False),
        (b"nothing of interest\n", False),
        (b"nothing of inter", True),
        (WHOLE.replace(b"\n", b"\r\n"), False),
    ],
)
def test_a_line_may_be_torn(text: bytes, torn: bool) -> None:
    assert is_torn(text) is torn


def test_what_is_whole_of_torn_lines_is_read() -> None:
    log = LogReader([WHOLE, WHOLE[:50] + line("read", NVME, 4, 2), line("read", NVME, 4, 3)[:-2]])
    assert [entry.value for entry in log.entries()] == [1, 2]
    assert log.torn == 2 and log.line == 3


def test_reading_begins_at_the_offset() -> None:
    log = [line("read", NVME, 4, 1), line("read", NVME, 4, 2)]
    assert [entry.value for entry in entries(log, len(log[0]))] == [2]


# --- what agrees -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "log"),
    [
        (read(0x1C, 4, 5), [line("read", NVME + 0x1C, 4, 5)]),
        (read(0, 8, 0x2_0000_0001), [line("read", NVME, 4, 1), line("read", NVME + 4, 4, 2)]),
        (
            write(1, 4, 0x44332211),  # unaligned: 1 + 2 + 1
            [
                line("write", NVME + 1, 1, 0x11),
                line("write", NVME + 2, 2, 0x3322),
                line("write", NVME + 4, 1, 0x44),
            ],
        ),
        (read(0, 1, 0x78), [line("read", NVME, 4, 0x12345678)]),
        (read(2, 1, 0x34), [line("read", NVME, 4, 0x12345678)]),
        (write(4, 4, 9), [line("write", NVME + 4, 4, 9, cpu=0)]),
    ],
    ids=["as it is", "2 x 4", "1 + 2 + 1", "wider", "inside a wider one", "by a vCPU"],
)
def test_one_access_may_be_logged_as(access: MemoryAccess, log: list[bytes]) -> None:
    comparison = compare(trace(access), log)
    assert comparison.agrees
    assert comparison.regions["nvme"].witnessed == 1


@pytest.mark.parametrize(
    ("access", "log"),
    [
        (read(0, 4, 5), [line("write", NVME, 4, 5)]),
        (read(0, 4, 5), [line("read", NVME + 4, 4, 5)]),
        (read(0, 4, 5), [line("read", NVME, 4, 6)]),
        (read(0, 8, 5), [line("read", NVME, 4, 5)]),
        (read(0, 8, 5), [line("read", NVME + 4, 4, 0), line("read", NVME, 4, 5)]),
        (read(0, 8, 5), [line("read", NVME, 4, 5), line("write", NVME + 4, 4, 0)]),
        (read(0, 4, 5), [line("read", NVME, 2, 5), line("read", NVME + 3, 2, 0)]),
        (read(0, 8, 5), [line("read", NVME, 4, 5), line("read", NVME + 4, 8, 0)]),
        (read(0, 4, 0x0505), [line("read", NVME, 4, 0x0505), line("read", NVME, 4, 0x0505)]),
    ],
    ids=[
        "other direction", "other address", "other value", "half of it", "descending",
        "directions mixed", "a gap", "more than it", "twice",
    ],
)  # fmt: skip
def test_nothing_else_is_accepted(access: MemoryAccess, log: list[bytes]) -> None:
    assert not compare(trace(access), log).agrees


# 4 bytes at 0xffd, recorded in three pieces, two of them in the first page.
OVER_A_PAGE = (read(0xFFD, 2, 0x2211), read(0xFFF, 1, 0x33), read(0x1000, 1, 0x44))


@pytest.mark.parametrize(
    "log",
    [
        [line("read", NVME + 0xFFC, 4, 0x33221100), line("read", NVME + 0x1000, 4, 0x88776644)],
        [
            line("read", NVME + 0xFFD, 1, 0x11),
            line("read", NVME + 0xFFE, 2, 0x3322),
            line("read", NVME + 0x1000, 1, 0x44),
        ],
        [told(access) for access in OVER_A_PAGE],
    ],
)
def test_pieces_of_an_access_are_told_together(log: list[bytes]) -> None:
    records = [*trace(), sample.intercept(0, *OVER_A_PAGE)]
    comparison = compare(records, log)
    assert comparison.agrees, comparison.differences
    assert comparison.regions["nvme"].traced == comparison.regions["nvme"].witnessed == 3
    for index in range(len(log)):
        assert not compare(records, [*log[:index], *log[index + 1 :]]).agrees


def test_the_part_in_a_device_of_an_access_that_begins_in_ram() -> None:
    ram = msgspec.structs.replace(read(0, 4, 0x77), region=None, offset=None)
    ram = msgspec.structs.replace(ram, linear=ram.linear - 4)
    records = [*trace(), sample.intercept(0, ram, read(0, 4, 0x5A))]
    whole = [line("read", NVME, 4, 0x5A), line("read", NVME + 4, 4, 0x1234)]
    assert compare(records, whole).agrees
    assert compare(records, whole[:1]).agrees
    assert not compare(records, [line("read", NVME, 4, 0x5B), whole[1]]).agrees


@pytest.mark.parametrize("via", ["stepped", "compiled"])
def test_what_a_vcpu_made_by_itself_must_be_a_vcpus(via: Any) -> None:
    access = read(0x20, 4, 0, "lapic")
    for cpu, agrees in ((0, True), (-1, False)):
        log = [line("read", LAPIC + 0x20, 4, 0, "apic-msi", cpu)]
        assert compare(trace(access, via=via), log).agrees is agrees


def test_a_stepped_value_counts_where_it_is_known() -> None:
    log = [line("read", LAPIC + 0x20, 4, 7, "apic-msi", cpu=0)]
    for value, agrees in ((None, True), (7, True), (8, False)):
        access = read(0x20, 4, value, "lapic")
        assert compare(trace(access, via="stepped"), log).agrees is agrees


def refused(direction: Direction, offset: int, width: int, name: str = "nvme") -> bytes:
    """Write the log line for an access of a width that the device model does not take."""
    return (
        f"Invalid {direction} at addr 0x{offset:X}, size {width}, region '{name}',"
        " reason: invalid size (min:2 max:8)\n"
    ).encode()


def test_a_refused_access_counts_as_seen() -> None:
    log = [refused("read", 0x4, 1), refused("write", 0x5, 1)]
    assert compare(trace(read(0x4, 1, 0), write(0x5, 1, 0xAB)), log).agrees


@pytest.mark.parametrize(
    "access", [read(0x4, 1, 7), read(0x5, 1, 0), read(0x4, 2, 0), write(0x4, 1, 0)]
)
def test_a_refused_access_must_fit(access: MemoryAccess) -> None:
    assert not compare(trace(access), [refused("read", 0x4, 1)]).agrees


def test_what_a_person_did_is_compared_as_the_devices_saw_it() -> None:
    given = msgspec.structs.replace(read(0x4, 4, 0x55), device=0x11)
    skipped = msgspec.structs.replace(write(0x14, 4, 1), skipped=True)
    poked = msgspec.structs.replace(write(0x14, 4, 7), linear=0x0)
    records = trace(read(0x0, 4, 2), given, skipped, read(0x1C, 4, 3))
    records.insert(-1, UserRecord(time_ns=0, text="poke nvme+0x14 0x7", accesses=[poked]))
    log = [told(read(0x0, 4, 2)), told(read(0x4, 4, 0x11)), told(poked), told(read(0x1C, 4, 3))]
    assert compare(records, log).agrees
    assert faults(compare(records, log[:2] + log[3:])) == (0, 1, 0)
    assert not compare(records, [log[0], told(read(0x4, 4, 0x55)), *log[2:]]).agrees


def test_a_region_that_was_not_traced_all_the_time_is_not_compared() -> None:
    records = trace(read(0x0, 4, 2), read(0x0, 8, 1, "hpet"), read(0x4, 4, 3))
    records.insert(-1, sample.region("hpet", traced=False))
    log = [told(read(0x0, 4, 2)), told(read(0x4, 4, 3))]
    comparison = compare(records, log)
    assert comparison.agrees and comparison.switched == ["hpet"]
    assert "hpet" not in comparison.regions
    assert not compare(records, log[:1]).agrees


def test_what_a_guest_did_after_it_was_let_go_is_not_compared() -> None:
    records = trace(read(0x0, 4, 2))
    log = [told(read(0x0, 4, 2)), told(read(0x4, 4, 3))]
    assert faults(compare(records, log)) == (1, 0, 0)
    assert compare([*records, UserRecord(time_ns=0, text="detach")], log).agrees
    assert compare([*records, Mark(time_ns=0, text="kexec", last=True)], log).agrees
    assert faults(compare([*records, Mark(time_ns=0, text="a mark")], log)) == (1, 0, 0)


def test_what_firmware_did_while_the_machine_woke_up_is_left_out() -> None:
    before, after = read(0x0, 4, 2), read(0x4, 4, 3)
    log = [told(before), told(write(0x8, 4, 1), cpu=0), told(read(0xC, 4, 9)), told(after)]
    begin = len(log[0])
    end = begin + len(log[1]) + len(log[2])
    woke = Mark(time_ns=0, text="the machine woke up", qemu_log_offset=end, qemu_log_from=begin)
    *records, second = trace(before, after)
    comparison = compare([*records, woke, second], log)
    assert comparison.firmware == 1
    # A debugger's access is none of firmware's.
    assert faults(comparison) == (1, 0, 0)


def test_messages_from_devices_are_left_out() -> None:
    access = write(0xB0, 4, 0, "lapic")
    log = [
        line("write", LAPIC, 4, 0x4021, "apic-msi"),
        line("write", LAPIC + 0xB0, 4, 0, "apic-msi", cpu=0),
        line("write", LAPIC + 0x1024, 4, 0x22, "apic-msi", cpu=0),
        # In an IOMMU's own address space, where it remaps them.
        line("write", LAPIC + 0x30, 4, 2, "vtd-ir", cpu=0),
        line("write", LAPIC + 0x30, 4, 2, "amd_iommu_ir"),
        line("write", LAPIC + 0x30, 4, 2, "amdvi-ir"),
    ]
    comparison = compare(trace(access, via="stepped"), log)
    assert comparison.agrees
    assert comparison.messages == 5


@pytest.mark.parametrize(
    "entry",
    [
        line("read", LAPIC, 4, 0, "apic-msi", cpu=0),
        line("write", LAPIC + 0x10, 4, 0, "apic-msi", cpu=0),
        line("write", LAPIC + 0x4, 4, 0, "other", cpu=0),
    ],
    ids=["a read", "beyond the reserved bytes", "another device"],
)
def test_what_is_no_message_counts(entry: bytes) -> None:
    access = read(0x20, 4, 0, "lapic")
    log = [told(access, cpu=0), entry]
    assert faults(compare(trace(access, via="stepped"), log)) == (1, 0, 0)


def test_ports_and_untraced_regions_are_ignored() -> None:
    records = trace(read(0, 4, 1))
    records[2] = sample.region("hpet", traced=False)
    log = [
        line("write", 0x70, 1, 0x8F, "rtc-index", cpu=0),
        line("read", NVME, 4, 1),
        line("read", HPET, 4, 1, "hpet"),
        line("read", NVME + sample.SIZE["nvme"] + sample.SIZE["nvme.msix-table"], 4, 1),
        line("read", NVME - 4, 4, 1),
    ]
    comparison = compare(records, log)
    assert comparison.agrees
    assert "hpet" not in comparison.regions


def test_regions_need_no_common_order() -> None:
    one, two = read(0, 4, 1), read(0xF0, 4, 2, "hpet")
    assert compare(trace(one, two), [told(two), told(one)]).agrees


def test_a_region_that_is_logged_but_never_traced_fails() -> None:
    access = read(0, 4, 1)
    comparison = compare(trace(access), [told(access), line("read", HPET, 4, 1, "hpet")])
    assert faults(comparison) == (1, 0, 0)
    assert comparison.regions["hpet"].missing == 1


def test_lines_may_end_in_two_bytes() -> None:
    access = read(0, 4, 1)
    log = [line("read", NVME, 4, 9), told(access)]
    windows = [text.replace(b"\n", b"\r\n") for text in log]
    assert compare(trace(access, offset=len(log[0])), windows).agrees


# --- what was not looked at --------------------------------------------------------------------


def test_accesses_of_vcpus_beside_the_traced_regions_are_counted() -> None:
    records = trace(read(0, 4, 1))
    records[2] = sample.region("hpet", traced=False)
    log = [
        line("read", HPET, 4, 1, "hpet", cpu=0),  # before the kernel
        line("read", HPET, 4, 1, "hpet", cpu=0),
        line("write", HPET + 8, 4, 1, "hpet", cpu=1),
        line("read", HPET, 4, 1, "hpet"),  # by a debugger
        line("write", 0x70, 1, 0x8F, "rtc-index", cpu=0),  # a port
        line("read", 0x1234_0000, 4, 0, "system.flash1", cpu=0),  # in no map
        line("write", LAPIC + 4, 4, 0x22, "apic-msi", cpu=0),  # a message
        line("read", NVME, 4, 1),
    ]
    records.insert(-1, Mark(time_ns=0, text="kernel entry", qemu_log_offset=len(log[0])))
    del records[-3]
    comparison = compare(records, log)
    assert comparison.agrees
    assert comparison.overlooked == {"hpet": 2, "system.flash1": 1}


def test_a_device_that_a_board_maps_by_an_alias_is_logged_by_its_offset() -> None:
    accesses = [read(0x1C, 4, 1), write(0x1000, 4, 2)]
    log = [line("read", 0x1C, 4, 1, cpu=0), line("write", 0x1000, 4, 2)]
    comparison = compare(trace(*accesses), log)
    assert comparison.agrees
    assert comparison.regions["nvme"].witnessed == 2
    # A port, and an offset that the region does not have.
    log += [line("read", 0x1C, 1, 0, "rtc"), line("read", 0x4000_0000, 4, 1, cpu=0)]
    comparison = compare(trace(*accesses), log)
    assert comparison.agrees
    assert comparison.overlooked == {"nvme": 1}


def test_what_a_guest_does_after_the_reset_that_ended_its_trace_is_another_ones() -> None:
    access = read(0, 4, 1)
    begun, end = trace(access), sample.end(1)
    reset = msgspec.structs.replace(end, outcome="guest-reset")
    before, behind = [b"CPU Reset (CPU 0)\n", told(access)], [told(read(8, 4, 2)), told(access)]
    log = [*before, b"CPU Reset (CPU 0)\n", *behind]
    assert faults(compare([*begun, reset], log)) == (0, 0, 0)
    assert faults(compare([*begun, end], log)) == (2, 0, 0)
    # Accesses before the reset are missing, and so are all where no reset is logged.
    assert faults(compare([*begun, reset], [told(read(8, 4, 2)), *log])) == (1, 0, 0)
    assert faults(compare([*begun, reset], [*before, *behind])) == (2, 0, 0)


def test_a_device_whose_memory_is_an_alias_of_its_ports_is_logged_at_its_ports() -> None:
    start = 0xFC19_4100
    known = sample.region("nvme")
    info = msgspec.structs.replace(
        known.region, name="rtl8139", qemu_name="rtl8139", start=start, end=start + 0xFF
    )
    place = {"region": "rtl8139", "physical": start + 0x3E, "offset": 0x3E}
    access = msgspec.structs.replace(read(0x3E, 2, 5), **place)
    mark = Mark(time_ns=0, text="kernel entry", qemu_log_offset=0)
    mapped = MapRecord(
        time_ns=0, linear=0, physical=start, size=0x100, regions=["rtl8139"], by="ioremap"
    )
    begun = [known, msgspec.structs.replace(known, region=info), mark]
    entry = line("read", 0xC03E, 2, 5, "rtl8139", cpu=0)
    comparison = compare([*begun, mapped, sample.intercept(0, access)], [entry])
    assert comparison.agrees and comparison.regions["rtl8139"].witnessed == 1
    # Nested traps record no mapping.
    first = msgspec.structs.replace(access, physical=start + 0x37, offset=0x37, width=1)
    nested = [*begun, sample.intercept(0, first), sample.intercept(1, access)]
    comparison = compare(nested, [line("read", 0xC037, 1, 5, "rtl8139", cpu=-1), entry])
    assert comparison.agrees and comparison.regions["rtl8139"].witnessed == 2
    # One entry too many, another register, a port of the board's.
    assert faults(compare([*begun, mapped, sample.intercept(0, access)], [entry, entry])) == (
        1,
        0,
        0,
    )
    other = line("read", 0xC03C, 2, 5, "rtl8139", cpu=0)
    assert faults(compare([*begun, mapped, sample.intercept(0, access)], [other])) != (0, 0, 0)
    board = line("read", 0x3E, 1, 0, "rtc", cpu=0)
    assert compare([*begun, mapped, sample.intercept(0, access)], [entry, board]).agrees
    # A driver that has mapped nothing goes by the ports, which are not traced.
    nvme = read(0, 4, 1)
    assert compare([*begun, sample.intercept(0, nvme)], [entry, told(nvme), entry]).agrees


def test_what_comes_before_an_unmarked_trace_is_not_counted() -> None:
    accesses = [read(4 * n, 4, n) for n in range(20)]
    other = line("read", 0x1234_0000, 4, 0, "system.flash1", cpu=0)
    log = [other, *map(told, accesses[:15]), other, *map(told, accesses[15:]), other]
    records = trace(*accesses, offset=None)
    assert compare(records, [other] * 100 + log).overlooked.get("system.flash1", 0) <= 3
    assert compare(records, log).agrees


def test_what_a_guest_did_after_it_was_let_go_is_not_counted() -> None:
    access = read(0, 4, 1)
    records = [*trace(access), UserRecord(time_ns=0, text="detach")]
    log = [told(access), line("read", 0x1234_0000, 4, 0, "system.flash1", cpu=0)]
    assert compare(records, log).overlooked == {}


# --- a log that is cut -------------------------------------------------------------------------


def test_a_log_that_ends_before_the_trace_is_cut() -> None:
    accesses = [read(4 * (n % 8), 4, n, ("nvme", "hpet")[n % 2]) for n in range(100)]
    log = [told(access) for access in accesses]
    for kept in (0, 1, 50, 92):
        comparison = compare(trace(*accesses), log[:kept])
        assert comparison.cut is not None and not comparison.agrees
        assert (comparison.cut.line, comparison.cut.accesses) == (kept, 100 - kept)
        assert comparison.cut.seq == kept and comparison.telling == []
        assert "the log is cut" in str(comparison.cut)
    # Fewer accesses are as likely to be wrong.
    for kept in (93, 99):
        comparison = compare(trace(*accesses), log[:kept])
        assert comparison.cut is None and faults(comparison) == (0, 100 - kept, 0)


def test_a_mark_tells_how_long_the_log_was() -> None:
    accesses = [read(4, 4, n) for n in range(20)]
    log = [told(access) for access in accesses]
    records = trace(*accesses)
    records.append(Mark(time_ns=9, text="end", qemu_log_offset=sum(map(len, log)) + 30))
    comparison = compare(records, [*log, b"CPU Reset (CPU 0)\n" * 2])
    assert comparison.agrees
    comparison = compare(records, log)
    assert comparison.cut is not None and comparison.cut.accesses == 0
    assert faults(comparison) == (0, 0, 0) and not comparison.agrees


def test_a_hole_in_a_log_is_told() -> None:
    accesses = [read(4, 4, n) for n in range(60)]
    log = [told(access) for access in accesses]
    comparison = compare(trace(*accesses), [*log[:20], log[20][:33] + log[40], *log[41:]])
    assert comparison.cut is not None
    assert (comparison.cut.line, comparison.cut.accesses) == (21, 0)
    assert faults(comparison) == (0, 20, 0)


def test_a_wrong_log_is_not_called_cut() -> None:
    accesses = [read(4, 4, n) for n in range(60)]
    comparison = compare(trace(*accesses), [told(read(4, 4, 99 + n)) for n in range(30)])
    assert comparison.cut is None and not comparison.agrees


# --- refused accesses ----------------------------------------------------------------------------


# Two devices of a kind have regions of one name, which is all that the log tells of a refusal.
def test_a_refused_access_is_that_of_the_device_whose_turn_it_is() -> None:
    starts = {"edu": 0xFE000000, "edu#2": 0xFE100000}
    records: list[Record] = []
    for name, start in starts.items():
        info = msgspec.structs.replace(
            sample.region("nvme").region, name=name, start=start, end=start + 0xFFFFF,
            qemu_name="edu-mmio",
        )  # fmt: skip
        records.append(msgspec.structs.replace(sample.region("nvme"), region=info))
    records.append(Mark(time_ns=0, text="kernel entry", qemu_log_offset=0))
    log = []
    for seq, name in enumerate(["edu", "edu#2", "edu#2", "edu"]):
        access = msgspec.structs.replace(
            read(2 * seq, 2, 0), region=name, physical=starts[name] + 2 * seq
        )
        records.append(sample.intercept(seq, access))
        log.append(refused("read", 2 * seq, 2, "edu-mmio"))
    assert compare(records, log).agrees
    assert faults(compare(records, log[1:])) != (0, 0, 0)


def test_comparing_nothing_fails() -> None:
    comparison = compare(trace(), [])
    assert faults(comparison) == (0, 0, 0)
    assert not comparison.agrees


# --- where it begins -------------------------------------------------------------------------


def test_it_begins_where_the_mark_says() -> None:
    access = read(0, 4, 1)
    firmware, kernel = line("read", NVME, 4, 9), told(access)
    assert compare(trace(access, offset=len(firmware)), [firmware, kernel]).agrees
    assert faults(compare(trace(access, offset=0), [firmware, kernel])) == (1, 0, 0)


def test_without_a_mark_each_region_begins_at_its_first_accesses() -> None:
    accesses = [read(0x1C, 4, n, name) for n in range(8) for name in ("nvme", "hpet")]
    firmware = [line("read", NVME + 0x1C, 4, 0), line("read", HPET + 0x1C, 4, 3, "hpet")]
    log = firmware * 3 + [told(access) for access in accesses]
    comparison = compare(trace(*accesses, offset=None), log)
    assert comparison.agrees
    assert not comparison.marked


def test_without_a_mark_no_region_begins_before_what_the_trace_has_before_it() -> None:
    first = [read(0x1C, 4, n) for n in range(20)]
    then = read(0, 8, 5, "hpet")
    firmware = [line("read", HPET, 4, 5, "hpet"), line("read", HPET + 4, 4, 0, "hpet")]
    log = [*firmware, *(told(access) for access in first), *firmware]
    assert compare(trace(*first, then, offset=None), log).agrees


def test_without_a_mark_the_turns_of_a_loop_do_not_tell_where_a_region_begins() -> None:
    turns = [write(0xB0, 4, 0) for _ in range(100)]
    others = [write(0x38, 4, n) for n in range(50)]
    told_all = [told(access) for access in [*turns, *others[:9], *turns, *others[9:], *turns]]
    for first in (0, 40, 99, 100, 120, 140, 200, 209, 240):
        accesses = [*turns, *others[:9], *turns, *others[9:], *turns][first:]
        comparison = compare(trace(*accesses, offset=None), told_all)
        assert faults(comparison) == (0, 0, 0) and comparison.traced == len(accesses), first


def test_without_a_mark_a_difference_is_still_found() -> None:
    accesses = [read(4 * n, 4, n) for n in range(40)]
    log = [line("read", NVME + 0x40, 4, 0), *(told(access) for access in accesses)]
    del accesses[30]
    assert faults(compare(trace(*accesses, offset=None), log)) == (1, 0, 0)


# --- one difference in a long run --------------------------------------------------------------

# Few registers, as polling loops have them. Every value is another (see built), so that there is
# one account of what happened.
accesses_of_a_run = st.lists(
    st.tuples(
        st.sampled_from(["nvme", "hpet"]),
        st.sampled_from([0x0, 0x8, 0x10, 0x18]),
        st.sampled_from([4, 8]),
        st.sampled_from(["read", "write"]),
    ),
    min_size=1,
    max_size=200,
)

Shape = tuple[str, int, int, Direction]


def built(shapes: list[Shape]) -> tuple[list[MemoryAccess], list[bytes]]:
    """Make a run and the log of it, 8 bytes logged as 2 x 4; the values tell accesses apart."""
    accesses, log = [], []
    for value, (name, offset, width, direction) in enumerate(shapes):
        whole = value | value << 32 if width == 8 else value
        accesses.append(sample.device(name, offset, width, direction, whole))
        parts = [
            line(direction, sample.START[name] + offset + n, 4, value, sample.QEMU_NAME[name])
            for n in range(0, width, 4)
        ]
        log.append(b"".join(parts))
    return accesses, log


def lines(log: list[bytes]) -> list[bytes]:
    return b"".join(log).splitlines(keepends=True)


@settings(deadline=None)
@given(accesses_of_a_run)
def test_a_faithful_trace_agrees(shapes: list[Shape]) -> None:
    accesses, log = built(shapes)
    comparison = compare(trace(*accesses), lines(log))
    assert comparison.agrees
    assert comparison.traced == len(shapes)


@settings(deadline=None)
@given(accesses_of_a_run, st.data())
def test_a_dropped_access_is_one_missing(shapes: list[Shape], data: st.DataObject) -> None:
    accesses, log = built(shapes)
    dropped = data.draw(st.integers(0, len(accesses) - 1))
    entries_lost = accesses[dropped].width // 4
    del accesses[dropped]
    comparison = compare(trace(*accesses), lines(log))
    assert not comparison.agrees
    assert faults(comparison) == (entries_lost, 0, 0)


@settings(deadline=None)
@given(accesses_of_a_run, st.data())
def test_an_added_access_is_one_extra(shapes: list[Shape], data: st.DataObject) -> None:
    accesses, log = built(shapes)
    added = data.draw(st.integers(0, len(accesses)))
    accesses.insert(added, read(0x28, 4, 0x5A5A5A5A))
    comparison = compare(trace(*accesses), lines(log))
    assert not comparison.agrees
    assert faults(comparison) == (0, 1, 0)


@settings(deadline=None)
@given(accesses_of_a_run, st.data())
def test_a_changed_access_is_one_different(shapes: list[Shape], data: st.DataObject) -> None:
    accesses, log = built(shapes)
    changed = data.draw(st.integers(0, len(accesses) - 1))
    was = accesses[changed]
    assert was.value is not None and was.region is not None
    offset = was.offset or 0
    accesses[changed] = sample.device(
        was.region, offset, was.width, was.direction, was.value ^ 1 << 30
    )
    comparison = compare(trace(*accesses), lines(log))
    assert not comparison.agrees
    assert faults(comparison) == (0, 0, 1)


@settings(deadline=None)
@given(accesses_of_a_run, st.data())
def test_any_change_fails(shapes: list[Shape], data: st.DataObject) -> None:
    accesses, log = built(shapes)
    changed = data.draw(st.integers(0, len(accesses) - 1))
    was = accesses[changed]
    # No narrower than it was: part of a wider entry is the one liberty a change could hide in.
    now = sample.device(
        was.region or "",
        data.draw(st.integers(0, 0x20)),
        data.draw(st.sampled_from([width for width in (4, 8) if width >= was.width])),
        data.draw(st.sampled_from(["read", "write"])),
        data.draw(st.integers(0, 7)),
    )
    assume(now != was)
    accesses[changed] = now
    assert not compare(trace(*accesses), lines(log)).agrees


def test_repeated_polling_does_not_confuse_the_count() -> None:
    accesses = [read(0x1C, 4, value) for value in [0] * 500 + [1] + [0] * 500]
    log = [told(access) for access in accesses]
    del accesses[200]
    comparison = compare(trace(*accesses), log)
    assert not comparison.agrees
    assert sum(faults(comparison)) <= 3


def test_a_difference_tells_where_it_is() -> None:
    accesses = [read(4 * n, 4, n) for n in range(20)]
    log = [told(access) for access in accesses]
    accesses[10] = read(40, 4, 99)
    (difference,) = compare(trace(*accesses), log).differences
    assert (difference.kind, difference.region, difference.after_seq) == ("different", "nvme", 9)
    assert difference.traced is not None and difference.traced.seq == 10
    assert [entry.line for entry in difference.logged] == [11]


def test_only_the_first_differences_are_kept() -> None:
    accesses = [read(0, 4, n) for n in range(50)]
    comparison = compare(trace(*accesses), [], keep=3)
    assert comparison.extra == 50
    assert [d.traced.seq for d in comparison.differences if d.traced] == [0, 1, 2]


def test_a_region_may_move() -> None:
    moved = sample.region("nvme")
    at = 0xE0000000
    info = type(moved.region)(
        name="nvme", start=at, end=at + 0x1FFF, qemu_name="nvme", device="nvme",
        traced=True,
    )  # fmt: skip
    before, after = read(0, 4, 1), read(0, 4, 2)
    after = MemoryAccess(
        direction="read", width=4, linear=0x0, physical=at, value=0x2, region="nvme",
        offset=0x0,
    )  # fmt: skip
    records = trace(before)
    records += [type(moved)(time_ns=1, region=info), sample.intercept(1, after)]
    assert compare(records, [told(before), line("read", at, 4, 2)]).agrees


# --- what the vCPU does by itself ----------------------------------------------------------------


def within(offset: int, extent: int, direction: Direction) -> MemoryAccess:
    return msgspec.structs.replace(read(offset, 0, None), direction=direction, extent=extent)


def test_what_follows_a_block_is_not_taken_with_it() -> None:
    block = within(0x100, 0x100, "write")
    stores = [line("write", NVME + 0x100 + 8 * n, 8, 5, cpu=0) for n in range(20)]
    for follower in (write(0x1F0, 4, 7), read(0x100, 4, 7)):
        accesses = [block, *[follower] * 20, block]
        log = [*stores, *[told(follower, cpu=0)] * 20, *stores]
        records = trace(*accesses, via="stepped")
        assert compare(records, log).agrees
        assert compare(records, log).regions["nvme"].witnessed == len(accesses)
        assert faults(compare(records, log[:25] + log[26:])) == (0, 1, 0)
        # A store that the block may have made as well says nothing.
        ambiguous = follower.physical == NVME + 0x1F0
        again = compare(records, [*log[:25], *log[24:]])
        assert faults(again) == (not ambiguous, 0, 0)


@pytest.mark.parametrize(("via", "cpu"), [("emulated", -1), ("compiled", 0)])
def test_an_access_that_the_end_cut_may_be_in_the_log(via: Any, cpu: int) -> None:
    records = [*trace(write(0, 4, 9)), sample.intercept(1, within(4, 4, "read"), via=via)]
    log = [told(write(0, 4, 9))]
    last = line("read", NVME + 4, 4, 7, cpu=cpu)
    for logged in (log, [*log, last]):
        assert compare(records, logged).agrees
    assert not compare(records, [*log, line("read", NVME + 8, 4, 7, cpu=cpu)]).agrees


def test_blocks_in_a_row_share_what_there_is() -> None:
    blocks = [within(0x100, 0x100, "write"), within(0x200, 0x40, "read"), within(0x100, 8, "read")]
    log = [line("write", NVME + 0x100 + 8 * n, 8, 5, cpu=0) for n in range(20)] * 2
    log += [line("read", NVME + 0x200 + 8 * n, 8, 5, cpu=0) for n in range(4)]
    log += [line("read", NVME + 0x100, 4, 5, cpu=0)]
    accesses = [blocks[0], blocks[0], *blocks[1:], read(4, 4, 9)]
    assert compare(trace(*accesses, via="stepped"), [*log, told(accesses[-1], cpu=0)]).agrees
    beyond = line("read", NVME + 0x240, 8, 5, cpu=0)
    log.insert(-1, beyond)
    comparison = compare(trace(*accesses, via="stepped"), [*log, told(accesses[-1], cpu=0)])
    assert faults(comparison) == (1, 0, 0)


def test_a_block_may_be_read_and_written_in_any_order() -> None:
    records = trace(read(0, 4, 1))
    parts = [within(0x100, 0x240, "read"), within(0x100, 0x240, "write")]
    records.append(sample.intercept(1, *parts, via="stepped"))
    records.append(sample.intercept(3, read(4, 4, 2)))
    log = [
        told(read(0, 4, 1)),
        line("write", NVME + 0x100, 8, 0, cpu=0),
        line("read", NVME + 0x300, 8, 0, cpu=0),
        line("write", NVME + 0x300, 8, 3, cpu=0),
        told(read(4, 4, 2)),
    ]
    comparison = compare(records, log)
    assert comparison.agrees and comparison.regions["nvme"].witnessed == 4
    assert faults(compare(records, log[:-1])) == (0, 1, 0)


def test_an_older_trace_has_a_block_as_one_wide_access() -> None:
    access = write(0x100, 512, None)
    log = [line("write", NVME + 0x100 + 16 * n, 8, 5, cpu=0) for n in range(20)]
    assert compare(trace(access, via="stepped"), log).agrees
    assert not compare(trace(access), log).agrees


# --- one fault is one fault ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 65, 500])
def test_a_wide_store_in_parts_is_no_more_than_itself(count: int) -> None:
    # What once made everything after it wrong: more entries in a row than were looked ahead.
    accesses = [read(4, 4, n) for n in range(2000)]
    log = [told(access) for access in accesses]
    log[1000:1000] = [line("write", NVME + 0x100 + 4 * n, 4, n, cpu=0) for n in range(count)]
    assert faults(compare(trace(*accesses), log)) == (count, 0, 0)
    accesses[1000:1000] = [write(0x100, 8, n) for n in range(count)]
    del log[1000 : 1000 + count]
    assert faults(compare(trace(*accesses), log)) == (0, count, 0)


def test_a_lag_of_one_region_leaves_the_others_alone() -> None:
    names = ("nvme", "hpet", "lapic")
    accesses = [read(4, 4, n, names[n % 3]) for n in range(3000)]
    log = [told(access, cpu=0) for access in accesses]
    polls = [line("read", HPET + 0xF0, 4, n, "hpet", cpu=0) for n in range(5000)]
    log[1500:1500] = polls
    comparison = compare(trace(*accesses), log)
    assert faults(comparison) == (5000, 0, 0)
    assert comparison.regions["hpet"].missing == 5000
    assert comparison.regions["nvme"].witnessed == comparison.regions["nvme"].traced == 1000


def test_more_than_can_be_held_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "LIMIT", 500)
    accesses = [read(4, 4, n) for n in range(400)]
    log = [told(access) for access in accesses]
    log[200:200] = [line("read", NVME + 4, 4, 10_000 + n) for n in range(3000)]
    assert faults(compare(trace(*accesses), log)) == (3000, 0, 0)


def test_faults_in_every_other_access_are_counted_as_such() -> None:
    accesses = [read(4 * (n % 8), 4, n) for n in range(6000)]
    log = [told(access) for access in accesses]
    for n in range(0, 6000, 3):
        accesses[n] = read(4 * (n % 8), 4, n ^ 0x100000)
    assert faults(compare(trace(*accesses), log)) == (0, 0, 2000)


# A bound on what has to be held: how far the log and the trace are read apart. The log says nothing
# of the only access to a region, and would be searched for it to its end.
@pytest.mark.parametrize("lost", [None, 500])
def test_both_sides_are_read_as_streams(monkeypatch: pytest.MonkeyPatch, lost: int | None) -> None:
    monkeypatch.setattr(side, "LIMIT", 200)
    accesses = [read(4 * (n % 9), 4, n, ("nvme", "hpet")[n % 2]) for n in range(5000)]
    if lost is not None:
        accesses[lost] = read(0, 4, 0, "lapic")
    records = trace(*accesses)
    apart = []
    done = 0

    def following() -> Iterator[Record]:
        nonlocal done
        for record in records:
            done += isinstance(record, Intercept)
            yield record

    def leading() -> Iterator[bytes]:
        for count, access in enumerate(accesses):
            apart.append(abs(count - done))
            if count != lost:
                yield told(access)

    comparison = compare(following(), leading())
    assert faults(comparison) == ((0, 0, 0) if lost is None else (0, 1, 0))
    assert max(apart) <= 400


# --- vCPUs -------------------------------------------------------------------------------------


def of_vcpu(vcpu: int, seq: int, access: MemoryAccess) -> Record:
    return msgspec.structs.replace(sample.intercept(seq, access), vcpu=vcpu)


@pytest.mark.parametrize(("name", "agrees"), [("lapic", True), ("nvme", False)])
def test_each_vcpu_has_a_local_apic_of_its_own(name: str, agrees: bool) -> None:
    accesses = [write(0xB0, 4, n, name) for n in range(40)]
    vcpus = [n % 2 for n in range(40)]
    records = trace() + [of_vcpu(vcpu, n, accesses[n]) for n, vcpu in enumerate(vcpus)]
    # vCPU 1 makes each of its stores only after the next one of vCPU 0.
    order = sorted(range(40), key=lambda n: n + 2.5 * (n % 2))
    log = [told(accesses[n], vcpus[n]) for n in order]
    assert (faults(compare(records, log)) == (0, 0, 0)) is agrees


def test_the_order_of_one_vcpu_counts() -> None:
    accesses = [write(0xB0, 4, n, "lapic") for n in range(4)]
    records = trace() + [of_vcpu(1, n, access) for n, access in enumerate(accesses)]
    log = [told(accesses[n], 1) for n in (0, 2, 1, 3)]
    assert faults(compare(records, log)) != (0, 0, 0)
