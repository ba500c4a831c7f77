"""PCI configuration space by ports: where accesses lead, and that all who count have as many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trace_sample as sample
from block_sample import PLACES, REGION, WINDOW, block, row, site
from input_row import row as input_row
from input_sample import IN, OUT, SITES, configured, set_latch, site_of
from msgspec.structs import replace

from tracer.compiled.inputs import FIRST
from tracer.devices import library
from tracer.trace.block import Blocks
from tracer.trace.compiled import BlockRecord
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept, Line, LostRecord
from tracer.trace.recorder import FlightRecorder
from tracer.trace.summary import Summary, summary_object
from tracer.trace.writer import TraceWriter

NVME = 0x8000_0800
"""What CF8 is set to for bus 0, device 1, function 0."""
LEFT = FIRST + 9
CPUID = site_of(LEFT, "cpuid", "cpuid", 4)


def told(*rows: bytes, seq: int = 0) -> BlockRecord:
    """A block of rows that has as many accesses as they are counted to have."""
    blocks = taught()
    _, accesses = blocks.count(b"".join(rows), WINDOW)
    return block(*rows, accesses=accesses, seq=seq)


def taught() -> Blocks:
    blocks = Blocks()
    for line in (PLACES, site(0, "8b07"), *SITES, CPUID):
        assert not list(blocks.records(line))
    return blocks


def made(blocks: Blocks, *lines: Line) -> list[Intercept]:
    found = [record for line in lines for record in blocks.records(line)]
    return [record for record in found if isinstance(record, Intercept)]


def places(records: Sequence[Intercept]) -> list[tuple[int, bool]]:
    """Where each record's access to configuration space leads, and whether it is skipped."""
    return [
        (access.physical, access.skipped)
        for record in records
        for access in record.accesses
        if access.space == "config"
    ]


def test_an_access_to_a_data_port_is_one_to_configuration_space_as_well() -> None:
    latch, read = made(
        taught(), told(set_latch(0x8012_3456 & ~3), configured(5, port=0xCFE, width=2))
    )
    assert (latch.seq, read.seq) == (0, 1) and len(latch.accesses) == 1
    port, config = read.accesses
    assert (port.space, port.physical, port.value, port.skipped) == ("port", 0xCFE, 5, False)
    assert (config.space, config.region, config.direction) == ("config", "config", "read")
    assert (config.width, config.value, config.skipped, config.linear) == (2, 5, False, 0)
    # Bus 0x12, device 6, function 4, register 0x54 and 2.
    assert config.physical == config.offset == 0x12 << 20 | 6 << 15 | 4 << 12 | 0x56
    assert [seq for seq, _ in read.device_accesses()] == [1, 2]


@pytest.mark.parametrize(
    ("rows", "where"),
    [
        ([configured()], (0, True)),  # nobody knows where
        ([configured(port=0xCFF, width=1)], (3, True)),
        ([set_latch(NVME), configured()], (0x8000, False)),
        ([set_latch(NVME | 0x40), configured(write=True)], (0x8040, False)),
        ([set_latch(NVME | 0x40), configured(port=0xCFD, width=1)], (0x8041, False)),
        ([set_latch(NVME ^ 1 << 31), configured()], (0x8000, True)),  # not enabled
        ([set_latch(NVME), set_latch(0xFF, width=1), configured()], (0x8000, False)),
        ([set_latch(NVME), set_latch(0xFF, width=2), configured()], (0x8000, False)),
        ([set_latch(NVME), set_latch(0, raised=True), configured()], (0x8000, False)),
        ([set_latch(NVME), input_row(IN, 0xCF8, 0, width=4), configured()], (0x8000, False)),
        ([set_latch(NVME), input_row(OUT, 0xCF9, 6, width=1, write=True), configured()],
         (0x8000, False)),
        ([set_latch(NVME | 0x7F00_0000), configured()], (0x8000, False)),
        ([set_latch(NVME | 2), configured()], (0x8002, False)),
        ([set_latch(NVME), configured(port=0xCFD, width=2)], (0x8001, True)),  # not aligned
        ([set_latch(NVME), set_latch(NVME + 0x800), configured()], (0x1_0000, False)),
        ([set_latch(NVME), input_row(LEFT, 0xCF8, 0, width=4), configured()], (0x8000, False)),
    ],
)  # fmt: skip
def test_where_it_leads(rows: list[bytes], where: tuple[int, bool]) -> None:
    assert places(made(taught(), told(*rows))) == [where]


def test_an_exception_in_its_place_reaches_neither() -> None:
    data = input_row(IN, 0xCFC, 9, width=4, raised=True)
    *_, read = made(taught(), told(set_latch(NVME), data))
    assert [(each.skipped, each.value) for each in read.accesses] == [(True, None)] * 2


def test_no_other_row_has_such_an_access() -> None:
    rows = (
        *(input_row(IN, port, 0, width=4) for port in (0xCF8, 0xCFB, 0xD00)),
        input_row(LEFT, 0xCFC, 0, width=4), row(0),
    )  # fmt: skip
    blocks = taught()
    assert blocks.count(b"".join(rows), WINDOW) == (5, 8)
    assert blocks.inputs_in(b"".join(rows)) == 7
    assert places(made(blocks, told(set_latch(NVME), *rows))) == []


def test_what_was_set_goes_from_block_to_block_and_a_block_may_be_told_again() -> None:
    first, second = told(set_latch(NVME)), told(configured(), set_latch(NVME + 0x800), seq=1)
    third = told(configured(), seq=4)
    blocks = taught()
    assert places(made(blocks, first, second)) == [(0x8000, False)]
    blocks.count(first.rows, WINDOW)
    blocks.inputs_in(first.rows)
    assert [places([record]) for record, _ in blocks.kinds(second)] == [[(0x8000, False)], []]
    assert places(made(blocks, second, second)) == [(0x8000, False)] * 2
    assert places(made(blocks, third)) == [(0x1_0000, False)]
    assert places(made(blocks, LostRecord(time_ns=0, count=1), told(configured(), seq=6))) == [
        (0, True)
    ]


def test_a_block_that_was_skipped_sets_it_too() -> None:
    blocks = taught()
    blocks.skip(told(set_latch(NVME), configured(), row(0), set_latch(NVME + 8)))
    assert places(made(blocks, told(configured(), seq=5))) == [(0x8008, False)]


def several() -> list[Line]:
    """Blocks whose rows are alike but for what was set before them."""
    rows = [
        each
        for number in range(40)
        for each in (set_latch(NVME | number % 3 << 2), configured(number), row(0))
    ]
    return [
        told(configured(), *rows[:50]),
        told(*rows[50:], configured(width=2, port=0xCFE), configured(), seq=68),
    ]


def test_kinds_tell_where_each_leads() -> None:
    one_by_one, by_kind, blocks = Summary(), Summary(), taught()
    lines = 0
    for line in (REGION, PLACES, site(0, "8b07"), *SITES, *several()):
        by_kind.take(line)
        for record in blocks.records(line):
            one_by_one.add(record)
            lines += 1
    assert summary_object(by_kind) == summary_object(one_by_one)
    assert {offset for region, offset, _ in by_kind.registers if region == "config"} == {
        "0x0", "0x8000", "0x8004", "0x8008", "0x8002",
    }  # fmt: skip
    kinds = [record for line in several() for record, _ in taught().kinds(line)]  # type: ignore[arg-type]
    # Each block has the latch, memory, the data by what the latch was, and one more place or latch.
    assert len(kinds) == 2 * (2 + 3 + 1) and lines > 8 * len(kinds)


def test_a_reader_that_has_looked_at_kinds_first_tells_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace"
    with TraceWriter(path, sample.HEADER) as writer:
        for line in (REGION, PLACES, site(0, "8b07"), *SITES, *several()):
            writer.append(line)
    with TraceReader(path) as trace:
        plain = [record for record in trace if isinstance(record, Intercept)]
    with TraceReader(path) as trace:
        asked = [record for record, _ in trace.kinds(lambda _: True)]
    assert places(plain) == places([each for each in asked if isinstance(each, Intercept)])
    assert len(places(plain)) == 43


def test_the_last_accesses_begin_with_what_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace"
    whole = told(set_latch(NVME), configured(), configured(8), row(0))
    with FlightRecorder(path, sample.HEADER, 5) as recorder:
        for line in (PLACES, site(0, "8b07"), *SITES, whole):
            recorder.append(line)
        recorder.append(replace(sample.end(6), counts={"compiled": 1, "monitor": 5}))
    with TraceReader(path) as trace:
        found = [record for record in trace if isinstance(record, Intercept)]
    assert [record.seq for record in found] == [1, 3, 5]
    assert trace.end is not None
    ways = {name: trace.end.counts[name] for name in ("accesses", "monitor", "compiled")}
    assert ways == {"accesses": 5, "monitor": 4, "compiled": 1}
    assert places(found) == [(0, True)] * 2


def test_the_registers_are_those_of_configuration_space() -> None:
    known = library.load().of_region("config")
    assert known is not None
    named = known.lookup(0x8004, 2)
    assert named is not None and named.text == "00:01.0 COMMAND"


def test_rows_without_a_record_of_each_tell_the_same_accesses() -> None:
    first = told(
        set_latch(NVME), configured(5), configured(6), set_latch(NVME + 0x800), configured(7),
        configured(8, write=True), input_row(LEFT, 0x21, 1 | 2 << 32, width=4), row(0, read=9),
        input_row(IN, 0xCFC, 9, width=4, raised=True), input_row(IN, 0x64, 2, width=4),
    )  # fmt: skip
    second = told(configured(3), row(0, read=10), seq=first.accesses)
    records, seen = made(taught(), first, second), []
    blocks = taught()
    for line in (first, second):
        found = blocks.seen(line)
        assert found is not None
        seen += [
            (each.seq, each.time_ns, each.like.rip, each.access.region, each.access.offset,
             each.access.direction, each.value())
            for each in found
        ]  # fmt: skip
    assert seen == [
        (seq, record.time_ns, record.rip, access.region, access.offset, access.direction,
         access.value)
        for record in records
        for seq, access in record.device_accesses()
    ]  # fmt: skip
