"""The log of Linux's own MMIO tracer: written, read, and round."""

from __future__ import annotations

import msgspec
import pytest
import trace_sample as sample
from hypothesis import given
from hypothesis import strategies as st

from tracer.export.mmiotrace import LONGEST_LINE, MmiotraceLog, MmiotraceReader
from tracer.trace import codec
from tracer.trace.event import events_of
from tracer.trace.record import (
    Intercept,
    LostRecord,
    MapRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionInfo,
    RegionRecord,
    UserRecord,
)
from tracer.x86.bus import Direction

# As kernel/trace/trace_mmiotrace.c prints it, with what ftrace puts before it.
KERNEL_LOG = """\
# tracer: mmiotrace
VERSION 20070824
PCIDEV 0018 1b360010 b febf0004 0 0 0 0 0 0 4000 0 0 0 0 0 0 nvme
MARK 12.000000 modprobe nvme
MAP 12.345678 1 0xfebf0000 0xffffc90000034000 0x2000 0x0 0
R 4 12.345700 1 0xfebf001c 0x0 0xffffffffc0001234 0
W 4 12.345800 1 0xfebf0014 0x460001 0xffffffffc0001300 0
MAP 12.400000 2 0xfed00000 0xffffc90000040000 0x1000 0x0 0
R 8 12.400001 2 0xfed000f0 0x123456789abcdef0 0x0 0
UNKNOWN 12.500000 1 0xfebf0000 0f,ae,38 0xffffffffc0001400 0
R 1 12.600000 9 0xc0000010 0xff 0x0 0
UNMAP 12.700000 1 0x0 0
"""


def read(text: str) -> tuple[list[Record], MmiotraceReader]:
    """Read a log; return its records, each of which a trace can hold, and the reader."""
    reader = MmiotraceReader()
    records = [
        record
        for number, line in enumerate(text.split("\n"), 1)
        for record in reader.records(line, number)
    ]
    for record in records:
        assert codec.decode(codec.encode(record), 1) == record
    return records, reader


def imported(text: str) -> list[Record]:
    return read(text)[0]


def accesses(records: list[Record]) -> list[MemoryAccess]:
    return [a for r in records if isinstance(r, Intercept) for _, a in r.device_accesses()]


def regions(records: list[Record]) -> list[str]:
    return [r.region.name for r in records if isinstance(r, RegionRecord)]


def marks(records: list[Record]) -> list[str]:
    return [r.text for r in records if isinstance(r, Mark)]


def exported(records: list[Record]) -> list[str]:
    log = MmiotraceLog()
    lines = log.opening()
    for record in records:
        lines += log.lines(record, events_of(record))
    return lines


def test_a_kernel_log_has_its_accesses_in_the_regions_it_names() -> None:
    found = accesses(imported(KERNEL_LOG))
    assert [(a.direction, a.width, a.region, a.offset, a.value) for a in found] == [
        ("read", 4, "nvme.bar0", 0x1C, 0x0),
        ("write", 4, "nvme.bar0", 0x14, 0x460001),
        ("read", 8, "map-0xfed00000", 0xF0, 0x123456789ABCDEF0),
        ("unknown", 0, "nvme.bar0", 0x0, None),
        ("read", 1, "page-0xc0000000", 0x10, 0xFF),
    ]
    assert found[0].linear == 0xFFFFC9000003401C


def test_a_kernel_log_numbers_its_accesses_and_keeps_times_and_sites() -> None:
    records = [r for r in imported(KERNEL_LOG) if isinstance(r, Intercept)]
    assert [r.seq for r in records] == [0, 1, 2, 3, 4]
    assert records[0].time_ns == 12_345_700_000
    assert records[0].rip == 0xFFFFFFFFC0001234
    assert {r.via for r in records} == {"stepped"} and all(r.imported for r in records)


def test_what_has_no_record_of_its_own_is_kept_as_a_mark() -> None:
    assert [text.split()[0] for text in marks(imported(KERNEL_LOG))] == [
        "PCIDEV", "modprobe", "UNMAP",
    ]  # fmt: skip


def test_a_kernel_log_comes_out_as_it_went_in() -> None:
    lines = [line for line in exported(imported(KERNEL_LOG)) if "vetrace region" not in line]
    # But for the map id of an access whose mapping the log does not have.
    expected = KERNEL_LOG.replace("12.600000 9 ", "12.600000 0 ").splitlines()[1:]
    assert lines == expected


def told(records: list[Record]) -> list[tuple[object, ...]]:
    """Return what a log can tell of the accesses."""
    return [
        (a.direction, a.width, a.extent, a.region, a.offset, a.physical, a.value)
        for a in accesses(records)
    ]


def test_a_trace_goes_out_and_comes_in_with_the_same_regions_and_values() -> None:
    back = imported("\n".join(exported(sample.RECORDS)))
    assert regions(back) == list(sample.START)
    assert next(r for r in back if isinstance(r, MapRecord)).linear == 0xFFFFC90000000000
    assert told(back) == told(sample.RECORDS) and len(told(back)) == 5


def hidden(
    seq: int, direction: Direction, width: int, extent: int | None = None, value: str | None = None
) -> Intercept:
    access = sample.device("nvme", 0x40 * seq, width, direction, None)
    access = msgspec.structs.replace(access, extent=extent, value=value)
    return sample.intercept(seq, access, via="stepped")


def test_an_access_that_the_log_cannot_tell_comes_back_as_it_was() -> None:
    records: list[Record] = [
        sample.region("nvme"),
        hidden(0, "read", 4),
        hidden(1, "write", 16),
        hidden(2, "write", 0, 0x200),
        hidden(3, "unknown", 0, 0x1000 - 0xC0),
        hidden(4, "write", 16, value=0x112233445566778899AABBCCDDEEFF00),
        hidden(5, "read", 3, value=0x112233),
        hidden(6, "unknown", 4, value=0x1),
        sample.intercept(7, sample.device("nvme", 0x14, 4, "read", 7)),
    ]
    lines = exported(records)
    back = imported("\n".join(lines))
    assert told(back) == told(records)
    assert exported(back) == lines


def test_an_older_trace_has_no_extent() -> None:
    back = imported("\n".join(exported([sample.region("nvme"), hidden(0, "read", 0)])))
    (access,) = accesses(back)
    assert (access.direction, access.width, access.extent) == ("read", 0, None)


def test_what_a_person_did_is_a_mark() -> None:
    record = UserRecord(time_ns=1_000_000, text="poke nvme+0x14 0x0")
    assert MmiotraceLog().lines(record, []) == ["MARK 0.001000 vetrace user poke nvme+0x14 0x0"]


def test_a_value_that_is_not_known_is_unknown() -> None:
    (line,) = [line for line in exported(sample.RECORDS) if line.startswith("UNKNOWN")]
    assert line == "UNKNOWN 0.214318 0 0xfee00020 8b,40,1c 0xffffffff81234567 0"


def test_what_a_terminal_would_obey_is_escaped() -> None:
    texts = ["\x1b[2J", "PCIDEV \x07\tbell", "é"]
    lines = exported([Mark(time_ns=0, text=text) for text in texts])
    assert lines[1:] == ["MARK 0.000000 \\x1b[2J", "PCIDEV \\x07\tbell", "MARK 0.000000 é"]


def test_a_mark_stays_on_its_line() -> None:
    lines = exported([Mark(time_ns=1_000, text="two\nlines")])
    assert lines[-1] == "MARK 0.000001 two lines"


# --- lines of other writers ------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "VERSION 20070825",
        "GIF89a",
        "R 4",
        "R 4 1.0 1 0x0 0x0 0x0",
        "R 4 1.0 1 0x0 0x0 0x0 0 0",
        "R 3 1.0 1 0x0 0x0 0x0 0",
        "R 4 now 1 0x0 0x0 0x0 0",
        "R 4 1.0 1 nvme 0x0 0x0 0",
        "R 4 1.0 1 0x0 0x1_0 0x0 0",
        "R 4 1.0 1 0x0 -0x1 0x0 0",
        "R ٤ 1.0 1 0x0 0x0 0x0 0",
        "R 4 9999999999.0 1 0x0 0x0 0x0 0",
        "R 4 1.0 1 0x10000000000000000 0x0 0x0 0",
        "R 4 1.0 1 0xfe\0 0x0 0x0 0",
        "MAP 1.0 1 0x0",
        "MAP 1.0 1 0xffffffffffff0000 0x0 0x20000 0x0 0",
        "MAP 1.0 1 0x0 0x0 0xffffffffffffffff 0x0 0",
        "UNKNOWN 1.0 1 0x0 0f,ae 0x0 0",
        "PCIDEV 0018",
        "MARK",
        "MARK now text",
        "CPU:99999 [LOST 1 EVENTS]",
        "CPU:0 [LOST many EVENTS]",
        "rw what?",
        "map what?",
        "second line of a marker",
        "\0\0\0",
        "R 4 12.34",
        "x" * (LONGEST_LINE + 1),
        "MARK 1.0 " + "x" * LONGEST_LINE,
    ],
)
def test_what_is_not_understood_is_counted_and_kept_as_a_mark(line: str) -> None:
    reader = MmiotraceReader()
    (record,) = reader.records(line, 7)
    assert isinstance(record, Mark) and record.text.startswith("not understood: ")
    kept = record.text.removeprefix("not understood: ")
    assert kept == line.strip("\0") or (kept.endswith("…") and line.startswith(kept[:-1]))
    assert (reader.told, reader.failed, reader.accesses) == (0, 1, 0)
    assert reader.first is not None and reader.first[0] == 7
    assert reader.remarks == ["1 line was not understood (first: line 7)"]


@pytest.mark.parametrize(
    "line",
    [
        "R   4  1.500000   1   0xfebf001c   0x5 \t 0x0   0",
        "R\t4\t1.500000\t1\t0xfebf001c\t0x5\t0x0\t0",
        "  R 4 1.500000 1 0xfebf001c 0x5 0x0 0  \r",
        "R 4 1.500000 1 0xFEBF001C 0x00000005 0x0 4012",
        "R 4 1.500000 -1 0xfebf001c 0x5 0x0 0",
        "[    1.500012] R 4 1.500000 1 0xfebf001c 0x5 0x0 0",
        "<4>[    1.500012][  T123] R 4 1.500000 1 0xfebf001c 0x5 0x0 0",
        "\0\0R 4 1.500000 1 0xfebf001c 0x5 0x0 0\0",
    ],
)
def test_an_access_may_be_written_in_many_ways(line: str) -> None:
    records, reader = read(line)
    (access,) = accesses(records)
    assert (access.direction, access.width, access.value) == ("read", 4, 0x5)
    assert access.physical == 0xFEBF001C and records[-1].time_ns == 1_500_000_000
    assert (reader.told, reader.failed) == (1, 0)


@pytest.mark.parametrize(
    ("line", "width", "value"),
    [
        ("R 1 1.0 1 0x0 0xffffff80 0x0 0", 1, 0x80),  # MOVSX r32, m8
        ("R 2 1.0 1 0x0 0xffffffffffff8402 0x0 0", 2, 0x8402),  # MOVSX r64, m16
        ("W 4 1.0 1 0x0 0xc1f748000000011f 0x0 0", 4, 0x11F),  # REX.W C7
        ("W 1 1.0 1 0x0 0x3f57 0x0 0", 1, 0x57),  # 2.6.27
    ],
)
def test_a_value_wider_than_its_access_is_cut_and_that_is_said(
    line: str, width: int, value: str
) -> None:
    records, reader = read(line)
    record = records[-1]
    assert isinstance(record, Intercept) and reader.wide == 1
    assert (record.accesses[0].width, record.accesses[0].value) == (width, value)
    assert record.note is not None and "wider than the access" in record.note
    again, reader = read("\n".join(exported(records)))
    assert told(again) == told(records) and reader.wide == 0


@pytest.mark.parametrize(
    ("line", "vcpu", "count", "words"),
    [
        ("CPU:0 [LOST 1205 EVENTS]", 0, 1205, "1,205 events lost"),
        ("CPU:3 [LOST 1 EVENTS]", 3, 1, "1 event lost"),
        ("CPU 1 [LOST 7 EVENTS]", 1, 7, "7 events lost"),
        ("CPU: 1  [ LOST  7  EVENTS ]", 1, 7, "7 events lost"),
        ("CPU:1 [LOST EVENTS]", 1, None, "an unknown number of events lost"),
        ("MARK 0.000000 Lost 12 events.", None, 12, "12 events lost"),
    ],
)
def test_lost_events_are_a_record(
    line: str, vcpu: int | None, count: int | None, words: str
) -> None:
    records, reader = read(f"MARK 5.000000 before\n{line}")
    assert records[1] == LostRecord(time_ns=5_000_000_000, vcpu=vcpu, count=count)
    assert reader.remarks == [words]
    assert imported("\n".join(exported(records))) == records


def test_linux_tells_of_the_same_events_twice() -> None:
    _, reader = read(
        "MARK 0.000000 Lost 461 events.\nCPU:0 [LOST 400 EVENTS]\nCPU:1 [LOST 61 EVENTS]"
    )
    assert reader.remarks == ["461 events lost"]
    _, reader = read("CPU:0 [LOST 1205 EVENTS]\nCPU:1 [LOST EVENTS]\noops")
    assert reader.remarks == [
        "1 line was not understood (first: line 3)",
        "1,205 events lost and an unknown number more",
    ]


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("  modprobe-24    [000]     5.066846: mmiotrace_rw:     febf001c 9 ffffffffc0001234 1 1 4",
         "R 4 5.066846 1 0xfebf001c 0x9 0xffffffffc0001234 0"),
        ("           <...>-24    [001] d..1.  5.066870: mmiotrace_rw: febf0014 460001 0 1 2 4",
         "W 4 5.066870 1 0xfebf0014 0x460001 0x0 0"),
        ("modprobe 24 [000]     5.066913: ftrace:mmiotrace_rw: febf0014 0faE38 0 1 5 0", None),
        ("modprobe 24 [000]     5.066913: ftrace:mmiotrace_rw: febf0014 fae38 0 1 5 0",
         "UNKNOWN 5.066913 1 0xfebf0014 0f,ae,38 0x0 0"),
        (" a b-95    [000]     5.064886: mmiotrace_map: febf0000 ffffc900005c2000 2000 1 3",
         "MAP 5.064886 1 0xfebf0000 0xffffc900005c2000 0x2000 0x0 0"),
        ("  x-24    [000]     5.067997: mmiotrace_map:        0 ffffc90000045000 0 2 4",
         "UNMAP 5.067997 2 0x0 0"),
        ("  x-1     [000]     5.062845: print:                tracing_mark_write: bind  nvme",
         "MARK 5.062845 bind  nvme"),
        ("  x-1     [000]     5.062845: tracing_mark_write: bind nvme", "MARK 5.062845 bind nvme"),
        ("CPU:0 [1205 EVENTS DROPPED]", "CPU:0 [LOST 1205 EVENTS]"),
        ("CPU:1 [EVENTS DROPPED]", "CPU:1 [LOST EVENTS]"),
        ("cpus=4", "#"),
        ("  x-24    [000]     5.066846: mmiotrace_rw:         febf001c 9 0 1 3 4", None),
        ("  x-24    [000]     5.066846: mmiotrace_rw:         febf001c 9 0 1 1 3", None),
        ("  x-24    [000]     5.066846: mmiotrace_map: 0 0 0 1 1", None),
        ("  x-24    [000]     5.066846: sched_switch: prev_comm=x", None),
    ],
)  # fmt: skip
def test_events_of_ftrace_are_the_same_lines(line: str, same: str | None) -> None:
    records, reader = read(line)
    assert reader.failed == (same is None)
    if same is not None:
        assert records == imported(same)


@pytest.mark.parametrize(
    ("line", "opens"),
    [
        ("", False), ("   \r", False), ("#", False), ("##### CPU 2 buffer started ####", False),
        ("CPU 2 buffer started", False), ("# a comment of anything", False),
        ("# tracer: mmiotrace", True), ("VERSION 20070824", True),
    ],
)  # fmt: skip
def test_some_lines_tell_nothing(line: str, opens: bool) -> None:
    records, reader = read(line)
    assert (records, reader.told, reader.failed, reader.opened) == ([], 0, 0, opens)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("MARK 1.0 modprobe nvme", "modprobe nvme"),
        ("MARK   1.0   modprobe nvme", "modprobe nvme"),
        ("MARK 1.0   indented", "  indented"),
        ("MARK 1.0 ", ""),
        ("MARK 1.0", ""),
        ("MARK 1.0 vetrace region {", "vetrace region {"),
        ("MARK 1.0 vetrace region {}", "vetrace region {}"),
        ("MARK 1.0 vetrace region " + "[" * 60_000, "vetrace region " + "[" * 60_000),
        ("MARK 1.0 vetrace access {}", "vetrace access {}"),
        ("MARK 1.0 Lost 12 events.", "Lost 12 events."),
    ],
)
def test_a_marker_has_the_text_that_somebody_wrote(line: str, text: str) -> None:
    assert marks(imported(line)) == [text]


# --- names of places -------------------------------------------------------------------------


def test_two_devices_of_one_driver_have_names_of_their_own() -> None:
    log = """\
PCIDEV 0018 1b360010 b febf0004 0 0 0 0 0 0 4000 0 0 0 0 0 0 nvme
PCIDEV 0020 1b360010 b febe0004 0 0 0 0 0 0 4000 0 0 0 0 0 0 nvme
PCIDEV 0028 80862938 b febd0004 0 0 0 0 0 0 4000 0 0 0 0 0 0 HDA  Intel
PCIDEV 0030 1b360010 b febc0004 0 0 0 0 0 0 4000 0 0 0 0 0 0\x20
PCIDEV 0038 1b360010 b febb0004 0 0 0 0 0 0 4000 0 0 0 0 0 0
R 4 1.0 0 0xfebe0014 0x1 0x0 0
"""
    records = imported(log)
    assert regions(records) == [
        "nvme.bar0", "nvme#2.bar0", "HDA Intel.bar0", "1b360010.bar0", "1b360010#2.bar0",
    ]  # fmt: skip
    assert [a.region for a in accesses(records)] == ["nvme#2.bar0"]
    # A log that begins again, and one that went out and came in, have the same devices.
    assert regions(imported(log + log)) == regions(records)
    assert regions(imported("\n".join(exported(records)))) == regions(records)


def test_a_name_that_looks_like_a_number_is_still_no_other_devices() -> None:
    names = regions(
        imported(
            "\n".join(
                f"PCIDEV 00{n:02x} 1b360010 b fe{n:02x}0004 0 0 0 0 0 0 4000 0 0 0 0 0 0 {driver}"
                for n, driver in enumerate(["nvme#2", "nvme", "nvme", "nvme#2"], 1)
            )
        )
    )
    assert len(set(names)) == 4


def test_only_memory_that_was_assigned_is_a_region() -> None:
    # Ports, no address, a 64-bit BAR that takes two, and a ROM that is switched on.
    line = "PCIDEV 0100 10de0402 10 ac01 4 e000000c 0 0 0 fe000003 80 1000 1000 0 0 0 20000 nvidia"
    found = [r.region for r in imported(line) if isinstance(r, RegionRecord)]
    assert [(r.name, r.start, r.end) for r in found] == [
        ("nvidia.bar2", 0xE0000000, 0xE0000FFF),
        ("nvidia.bar6", 0xFE000000, 0xFE01FFFF),
    ]


def mapped(number: int, start: int, size: int) -> str:
    return f"MAP 1.0 {number} {start:#x} {0xFFFFC90000000000 + start:#x} {size:#x} 0x0 0"


def places(*lines: str) -> list[tuple[str | None, str | None]]:
    return [(a.region, a.offset) for a in accesses(imported("\n".join(lines)))]


def at(*addresses: int, number: int = 1) -> list[str]:
    return [f"R 4 1.0 {number} {address:#x} 0x0 0x0 0" for address in addresses]


def test_a_mapping_is_one_region_however_many_pages_it_has() -> None:
    assert places(mapped(1, 0xFED00000, 0x5000), *at(0xFED00000, 0xFED01008, 0xFED04FFC)) == [
        ("map-0xfed00000", 0x0), ("map-0xfed00000", 0x1008), ("map-0xfed00000", 0x4FFC),
    ]  # fmt: skip


def test_a_longer_mapping_of_the_same_place_is_the_same_region() -> None:
    assert places(
        mapped(1, 0xFED00000, 0x1000), mapped(2, 0xFED00000, 0x4000),
        *at(0xFED00010, 0xFED03000, number=2),
    ) == [("map-0xfed00000", 0x10), ("map-0xfed00000", 0x3000)]  # fmt: skip


def test_a_mapping_that_reaches_beyond_a_bar_is_a_region_beside_it() -> None:
    bar = "PCIDEV 0018 1b360010 b febf0004 0 0 0 0 0 0 1000 0 0 0 0 0 0 nvme"
    found = places(bar, mapped(1, 0xFEBF0000, 0x3000), *at(0xFEBF0014, 0xFEBF1000, 0xFEBF2000))
    assert found == [
        ("nvme.bar0", 0x14), ("map-0xfebf0000", 0x1000), ("map-0xfebf0000", 0x2000),
    ]  # fmt: skip


def test_the_smallest_of_places_that_vetrace_named_is_meant() -> None:
    def mark(name: str, start: int, end: int) -> RegionRecord:
        info = RegionInfo(name=name, start=start, end=end, qemu_name="", device="d", traced=True)
        return RegionRecord(time_ns=0, region=info)

    log = exported([mark("d.table", 0x2000, 0x240F), mark("d", 0x0, 0x3FFF)])
    assert places(*log, *at(0x2004, 0x2410)) == [("d.table", 0x4), ("d", 0x2410)]


def test_a_page_that_a_mark_makes_shorter_is_none() -> None:
    region = (
        'MARK 1.0 vetrace region {"name":"page-0x1000","start":"0x1000","end":"0x1003",'
        '"qemu_name":"","device":"unknown","traced":true}'
    )
    unknown = "UNKNOWN 1.0 0 0x1010 f3,a5,89 0x0 0"
    (access,) = accesses(imported(f"{region}\n{unknown}"))
    assert (access.extent, access.offset) == (0xFF0, 0x10)


def test_an_unknown_access_lies_between_its_address_and_the_end_of_page_or_region() -> None:
    log = [mapped(1, 0xFED00000, 0x1800)]
    log += [f"UNKNOWN 1.0 1 {place:#x} f3,a5,89 0x0 0" for place in (0xFED00010, 0xFED01010)]
    assert [a.extent for a in accesses(imported("\n".join(log)))] == [0xFF0, 0x7F0]


def test_maps_keep_their_numbers() -> None:
    log = [mapped(17, 0xFED00000, 0x1000), *at(0xFED00010, number=17), "UNMAP 1.0 17 0x0 0"]
    lines = [line for line in exported(imported("\n".join(log))) if "vetrace" not in line]
    assert [line.split()[2] for line in lines if line.startswith("MAP")] == ["17"]
    assert [line.split()[3] for line in lines if line.startswith("R")] == ["17"]
    assert [line.split()[2] for line in lines if line.startswith("UNMAP")] == ["17"]
    ours = MapRecord(
        time_ns=0, linear=0x5000, physical=0x5000, size=1, regions=[], by="ioremap_page_range"
    )
    assert exported([*imported("\n".join(log)), ours])[-1].split()[2] == "18"


# --- any text at all -------------------------------------------------------------------------

WORDS = (
    "", "R ", "W 4 ", "R 4 1.0 ", "MAP 1.0 1 0x1000 ", "UNMAP 1.0 ", "PCIDEV 0018 ", "VERSION ",
    "MARK 1.0 ", "MARK 1.0 vetrace region ", "MARK 1.0 vetrace access ", "CPU:0 [LOST ",
    "UNKNOWN 1.0 1 0x0 ", "LSPCI ", "[ 1.0] ", "#", "x-1 [000] 1.0: mmiotrace_rw: ",
    "x-1 [000] 1.0: print: tracing_mark_write: ",
)  # fmt: skip
LINES = [*KERNEL_LOG.splitlines(), *exported(sample.RECORDS), *exported([hidden(0, "read", 16)])]


@given(st.lists(st.tuples(st.sampled_from(WORDS), st.text(max_size=60)), max_size=6))
def test_any_lines_are_read_and_written_the_same_from_then_on(
    pieces: list[tuple[str, str]],
) -> None:
    stable("\n".join(word + text for word, text in pieces))


@given(st.data())
def test_a_log_with_anything_changed_is_still_read(data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=12))
    text = "\n".join(lines)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(text)))
        gone = data.draw(st.integers(0, 12))
        text = text[:place] + data.draw(st.text(max_size=3)) + text[place + gone :]
    stable(text)


def stable(text: str) -> None:
    """Hold a log to itself: what is read of it is written so that the same is read again."""
    records, reader = read(text)
    assert reader.accesses == len(accesses(records))
    lines = exported(records)
    again, reader = read("\n".join(lines))
    # A line that is kept as it is need not be one of a log: it is the one thing that may change.
    strange = [m for m in marks(records) if m.startswith(("PCIDEV ", "LSPCI ", "UNMAP "))]
    if not strange:
        assert reader.failed == 0
    assert told(again) == told(records)
    assert exported(again) == lines
