"""Blocks of raw records: what records a reader makes of them, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest
import trace_sample as sample
from block_sample import (
    DEVICE,
    LINEAR,
    PLACES,
    REGION,
    WINDOW,
    asked_row,
    block,
    lines,
    row,
    site,
)  # fmt: skip

from tracer.cli import main
from tracer.compiled.asking import FIRST
from tracer.devices.map import RegisterMaps
from tracer.errors import TraceError
from tracer.query.source import Source
from tracer.query.words import choose
from tracer.trace import codec
from tracer.trace.block import Blocks
from tracer.trace.compiled import BlockRecord, Place, PlacesRecord, Rate, SiteRecord
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept, Line
from tracer.trace.summary import Summary, summary_object
from tracer.trace.writer import TraceWriter, ring_of


def made(*told: Line) -> list[Intercept]:
    """The records that a reader makes of lines."""
    blocks = Blocks()
    found = [record for line in told for record in blocks.records(line)]
    assert all(isinstance(record, Intercept) for record in found)
    return found  # type: ignore[return-value]  # as was just seen


def test_a_record_tells_what_the_emulator_would_have_told() -> None:
    raw = row(vcpu=3, error=0xA, rdi=LINEAR + 8, rcx=2, read=5, written=7)
    (told,) = made(PLACES, site(0, "f0010f"), block(raw, accesses=2))
    assert (told.vcpu, told.cpl, told.mode, told.rip) == (3, 0, 64, 0x1000)
    assert (told.code, told.symbol, told.via) == (b"\xf0\x01\x0f", "driver+0x0", "compiled")
    assert (told.cr2, told.error_code) == (LINEAR + 8, 0xA)
    first, second = told.accesses
    assert (first.direction, first.width, first.value) == ("read", 4, 5)
    assert (second.direction, second.width, second.value) == ("write", 4, 7)
    assert {(each.region, each.offset) for each in told.accesses} == {("bar", 8)}
    assert {each.physical for each in told.accesses} == {DEVICE + 8}
    assert told.before["rcx"] == 2 and told.before["rflags"] == 0x202 and len(told.before) == 17
    assert set(told.after) == {"rip"}


def test_what_an_instruction_leaves_behind_is_worked_out_once_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    monkeypatch.setattr(
        "tracer.trace.block.state_after", lambda *given: asked.append(given) or None
    )
    (told,) = made(PLACES, site(0, "8b07"), block(row(read=5)))
    assert told.accesses[0].value == 5 and told.before["rdi"] == LINEAR and not asked
    assert told.after == {} and told.after == {} and len(asked) == 1


def test_numbers_and_times_go_on_from_row_to_row() -> None:
    rows = row(tsc=90), row(tsc=200), row(tsc=150)
    told = made(PLACES, site(0, "8b07"), block(*rows, seq=7, time_ns=100, rate=rate()))
    assert [record.seq for record in told] == [7, 8, 9]
    assert [record.time_ns for record in told] == [100, 200, 200]
    told = made(PLACES, site(0, "8b07"), block(*rows, time_ns=100))
    assert [record.time_ns for record in told] == [100, 100, 100]


def rate(**changes: int) -> Rate:
    """A counter that is the time, unless something else is said."""
    return Rate(**{"counter": 0, "time_ns": 0, "ticks": 1, "span_ns": 1, **changes})


def test_a_counter_has_a_rate_and_an_end() -> None:
    told = rate(counter=1000, time_ns=50, ticks=4, span_ns=2)
    assert [told.at(counter) for counter in (1000, 1004, 996)] == [50, 52, 48]
    assert told.at(1 << 64) < 1 << 63 and rate().at((1 << 64) - 1) == (1 << 63) - 1


@pytest.mark.parametrize(
    ("code", "how", "told"),
    [
        ("480f6f07", {"read": 1}, [("read", 8, 1)]),
        ("f30f6f07", {"read": 1 | 2 << 64}, [("read", 8, 1), ("read", 8, 2)]),
        ("f3ab", {"written": 9}, [("write", 4, 9)]),
        ("ff37", {"read": 3 | 0x5000 + WINDOW << 128, "written": 3},
         [("read", 8, 3), ("write", 8, 3)]),
        ("a5", {"read": 3 | 0x5000 + WINDOW << 128, "written": 3, "rdi": 0x77},
         [("read", 4, 3), ("write", 4, 3)]),
    ],
)  # fmt: skip
def test_accesses_are_told_as_they_go_over_the_bus(code: str, how: Any, told: Any) -> None:
    blocks = Blocks()
    for line in (PLACES, site(0, code)):
        assert not list(blocks.records(line))
    rows = row(**how)
    _, reached = blocks.count(rows, WINDOW)
    (record,) = blocks.records(block(rows, accesses=reached))
    assert isinstance(record, Intercept)
    found = [(each.direction, each.width, each.value) for each in record.accesses]
    assert found == told
    assert sum(each.region is not None for each in record.accesses) == reached
    assert all(each.region or each.physical == 0x5000 for each in record.accesses)


def test_what_reaches_no_traced_device_has_no_record_and_no_number() -> None:
    flash = Place(region="flash", start=DEVICE, end=DEVICE + 0xFF, base=DEVICE, reads=False)
    other = Place(region="bar", start=DEVICE + 0x100, end=DEVICE + 0x1FF, base=DEVICE)
    places = PlacesRecord(time_ns=0, places=[flash, other])
    near = {"linear": LINEAR + 0x100, "physical": DEVICE + 0x100}
    far = {"linear": LINEAR + 0x200, "physical": DEVICE + 0x200}
    before = {"linear": LINEAR - 8, "physical": DEVICE - 8}
    rows = row(), row(site=1), row(**near), row(**far), row(**before)
    blocks = Blocks()
    for line in (places, site(0, "8b07"), site(1, "8907")):
        assert not list(blocks.records(line))
    assert blocks.count(b"".join(rows), WINDOW) == (2, 2)
    told = list(blocks.records(block(*rows, accesses=2, seq=4)))
    assert [record.seq for record in told if isinstance(record, Intercept)] == [4, 5]
    assert [r.accesses[0].region for r in told if isinstance(r, Intercept)] == ["flash", "bar"]


def test_a_device_that_moves_is_found_where_it_is_from_there_on() -> None:
    there = PlacesRecord(
        time_ns=0, places=[Place(region="moved", start=DEVICE, end=DEVICE + 7, base=DEVICE - 8)]
    )
    told = made(PLACES, site(0, "8b07"), block(row()), there, block(row(), seq=1))
    assert [(r.accesses[0].region, r.accesses[0].offset) for r in told] == [
        ("bar", 0),
        ("moved", 8),
    ]


def test_call_chains_are_those_of_the_rows() -> None:
    told = made(PLACES, site(0, "8b07"), block(row(), row(), stacks=[5, None]))
    assert [record.stack for record in told] == [5, None]


def test_a_trace_with_blocks_reads_like_any_other(tmp_path: Path) -> None:
    for name in ("run.vtrace", "run.vtrace.zst"):
        path = tmp_path / name
        with TraceWriter(path, sample.HEADER) as writer:
            for line in lines(3):
                writer.append(line)
        with TraceReader(path) as trace:
            records = list(trace)
        assert [type(record).__name__ for record in records] == [
            "RegionRecord", "Intercept", "Intercept", "Intercept", "End",
        ]  # fmt: skip
        assert trace.records == 5 and trace.damage is None and not trace.missing()


def test_a_block_that_is_written_and_read_is_the_same() -> None:
    for line in lines(3):
        assert codec.decode(codec.encode(line), 1) == line


def test_registers_are_written_like_any_others() -> None:
    (told,) = made(PLACES, site(0, "8b07"), block(row(read=5)))
    again = codec.decode(codec.encode(told), 1)
    assert again == told and isinstance(again, Intercept)
    assert dict(again.after) == {"rip": 0x1002, "rax": 5} and dict(told.after) == again.after
    assert repr(told.before) == repr(again.before)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([block(row())], "site 0, which is not known"),
        ([PLACES, site(0, "8b07"), block(row(), accesses=2)], "2 accesses has 1"),
        ([PLACES, site(0, "8b07"), block(row(physical=-1))], "an access at 0xffffffffffffffff"),
        ([PLACES, site(0, "8b07"), block(row(), window=0)], "an access at 0xffffff80feb00000"),
        ([site(3, "f7f1")], "site 3: "),
        ([site(3, "8b")], "site 3: "),
        ([site(3, "")], "site 3: "),
    ],
)
def test_a_block_that_nothing_can_be_made_of_is_an_error(told: list[Line], why: str) -> None:
    with pytest.raises(TraceError, match=why):
        made(*told)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("AAAA", "compressed bytes"),
        ("KLUv/aAAAABAAQAA", "2097152 bytes at most"),  # says that it holds 1 GiB
        ("*", "base64"),
        (7, "`bytes`"),
    ],
)
def test_rows_that_do_not_unpack_are_an_error_of_their_line(rows: Any, why: str) -> None:
    written = msgspec.json.decode(codec.encode(block(row())))
    line = msgspec.json.encode(written | {"rows": rows})
    with pytest.raises(TraceError, match=f"line 9: .*{why}"):
        codec.decode(line, 9)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (block(accesses=0), "0 bytes"),
        (block(row()[:-1]), "255 bytes"),
        (block(row(), row()[:1]), "257 bytes"),
        (block(row(), stacks=[0, 0]), "2 stacks"),
    ],
)
def test_rows_that_are_not_whole_are_an_error_for_everybody_who_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], told: Line, why: str
) -> None:
    path = tmp_path / "run.vtrace"
    with TraceWriter(path, sample.HEADER) as writer:
        for line in (PLACES, site(0, "8b07"), told):
            writer.append(line)
    ring_of(path).touch()
    for command in ("show", "stats", "replay", "audit", "recover"):
        assert main.main([command, str(path)]) == 1
        assert re.fullmatch(rf"vetrace: \S+: line 4: .*{why}.*\n", capsys.readouterr().err)


def test_an_error_in_a_block_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace"
    with TraceWriter(path, sample.HEADER) as writer:
        writer.append(block(row()))
    with TraceReader(path) as trace, pytest.raises(TraceError, match=r"run\.vtrace: line 2: "):
        list(trace)


def test_rows_are_packed_in_the_file() -> None:
    told = block(*[row(tsc=number) for number in range(1000)], accesses=1000)
    assert isinstance(told, BlockRecord) and len(told.rows) == 256_000
    assert len(codec.encode(told)) < 64_000


# ---- counted without being made


def mixed(count: int) -> list[Line]:
    """A trace of several sites and places, and of rows that reach no device."""
    codes = ("8b07", "8907", "f0010f", "f30f6f07", "a5")
    rows = []
    for number in range(count):
        at = number * number % 7 * 0x10
        other = 0x5000 + WINDOW << 128
        far = {"linear": LINEAR + 0x2000, "physical": DEVICE + 0x2000} if number % 11 == 5 else {}
        rows.append(row(number % len(codes), rdi=LINEAR + at, read=number | other, **far))
    sites = [site(number, code, rip=0x1000 + 16 * number) for number, code in enumerate(codes)]
    told, seq = [REGION, PLACES, *sites], 0
    blocks = Blocks()
    for line in told:
        list(blocks.records(line))
    for part in (rows[: count // 2], [each for each in rows[count // 2 :] if each[32] != 4]):
        _, accesses = blocks.count(b"".join(part), WINDOW)
        told.append(block(*part, accesses=accesses, seq=seq))
        seq += accesses
    return [*told, sample.end(seq)]


def test_records_are_counted_as_they_are_one_by_one(tmp_path: Path) -> None:
    told = mixed(200)
    blocks, one_by_one, by_kind = Blocks(), Summary(), Summary()
    for line in told:
        by_kind.take(line)
        for record in blocks.records(line):
            one_by_one.add(record)
    assert summary_object(by_kind) == summary_object(one_by_one)
    assert by_kind.compiled > 200
    path = tmp_path / "run.vtrace"
    with TraceWriter(path, sample.HEADER) as writer:
        for line in told:
            writer.append(line)
    counted = Summary()
    with TraceReader(path) as trace:
        source = Source(trace, choose(), RegisterMaps())
        lines = 0
        for record, events, times in source.kinds():
            counted.add(record, events, times=times)
            lines += 1
        assert trace.records > lines
    assert summary_object(counted) == summary_object(one_by_one) | {"phases": ANY}


def test_a_block_that_does_not_count_is_an_error() -> None:
    told = [PLACES, site(0, "8b07"), block(row(), row(), accesses=3)]
    summary = Summary()
    with pytest.raises(TraceError, match="3 accesses has 2"):
        for line in told:
            summary.take(line)


def test_records_come_one_by_one_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace"
    with TraceWriter(path, sample.HEADER) as writer:
        for line in lines(9):
            writer.append(line)
    for one_by_one, records in ((False, 1), (True, 9)):
        with TraceReader(path) as trace:
            found = [
                times for record, times in trace.kinds(lambda _, told=one_by_one: told)
                if isinstance(record, Intercept)
            ]  # fmt: skip
        assert (len(found), sum(found)) == (records, 9)


# ---- what a guest's own kernel has decoded


def asked_for(number: int, code: str, access: str = "read", width: int = 4) -> SiteRecord:
    """The line of a site that a guest asks for an access for."""
    return msgspec.structs.replace(site(0, "8b07"), number=number, code=bytes.fromhex(code),
                                   asked=access, width=width)  # fmt: skip


def named(data: bytes, number: int) -> bytes:
    """A row with the number of its site."""
    return data[:32] + number.to_bytes(4, "little") + data[36:]


def test_an_access_that_a_guest_asked_for_has_its_call_and_whether_it_agrees() -> None:
    rows = (
        named(asked_row("8b07", 0x1000, read=7, mask=0xFC00), FIRST),
        named(asked_row("890f", 0x1000, written=0xF_0000_0005, rcx=5), FIRST + 1),
        named(asked_row("890f", 0x1000, written=6, rcx=5), FIRST + 1),
    )
    load, store = asked_for(FIRST, "8b07"), asked_for(FIRST + 1, "890f", "write")
    read, written, otherwise = made(PLACES, load, store, block(*rows))
    assert {each.via for each in (read, written, otherwise)} == {"guest"}
    assert [each.agrees for each in (read, written, otherwise)] == [True, True, False]
    assert read.asked is not None and written.asked is not None
    assert read.asked.given == {
        "rax": 0, "rcx": 0xFC00, "r10": 0, "r11": 48, "r12": 4, "r13": 0, "r14": DEVICE | 1 << 47,
        "r15": 0,
    }  # fmt: skip
    assert read.asked.returned == {"rax": 0, "r10": 0, "r11": 7}
    assert written.asked.returned == {"rax": 0, "r10": 0}
    assert written.asked.given["r15"] == 0xF_0000_0005
    (access,) = written.accesses
    told = access.direction, access.width, access.value, access.region, access.physical
    assert told == ("write", 4, 5, "bar", DEVICE)
    assert (read.after, otherwise.after) == ({"rax": 7, "rip": 0x1002}, {})
    assert read.before["rdi"] == LINEAR and read.accesses[0].value == 7


def test_an_access_of_an_instruction_that_nobody_knows_is_what_was_asked_for() -> None:
    data = named(asked_row("0f0f", 0x1000, width=1, read=3), FIRST)
    (told,) = made(PLACES, asked_for(FIRST, "0f0f", width=1), block(data))
    assert told.agrees is False and told.after == {} and told.before["rdi"] == LINEAR
    assert (told.accesses[0].value, told.accesses[0].width) == (3, 1)


def test_accesses_that_a_guest_asked_for_are_counted_beside_compiled_ones() -> None:
    blocks = Blocks()
    for line in (REGION, PLACES, site(0, "8b07"), asked_for(FIRST, "8b07")):
        list(blocks.records(line))
    mine = named(asked_row("8b07", 0x1000), FIRST)
    far = named(asked_row("8b07", 0x1000, physical=DEVICE - 0x10_0000), FIRST)
    rows = row(0) + mine + far + mine
    assert blocks.count(rows, WINDOW) == (3, 3)
    assert blocks.asked_for(rows, WINDOW) == 2


def test_a_site_that_is_asked_for_has_a_width() -> None:
    told = msgspec.structs.replace(asked_for(FIRST, "8b07"), width=None)
    with pytest.raises(TraceError, match="without a width"):
        made(PLACES, told)
