"""Accesses of which not every byte is known: how they are recorded, shown, counted and compared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Unpack

import msgspec
import pytest
import trace_sample as sample

from tracer.access.recorded import memory_access
from tracer.access.region import Region
from tracer.access.transfer import Transfer
from tracer.check.replay import Replay
from tracer.cli import main
from tracer.confidential.hypercall import hypercalls
from tracer.export.mmiotrace import MmiotraceLog
from tracer.query.sieve import Sieve
from tracer.query.words import Words, choose
from tracer.trace.event import events_of
from tracer.trace.lines import access_lines
from tracer.trace.record import Intercept, MemoryAccess, Record
from tracer.x86.bus import Direction

Output = pytest.CaptureFixture[str]


def within(offset: int, extent: int, direction: Direction = "read") -> MemoryAccess:
    """Make accesses that may be anywhere in these bytes."""
    access = sample.device("nvme", offset, 0, direction, None)
    return msgspec.structs.replace(access, extent=extent)


FXSAVE = msgspec.structs.replace(
    sample.intercept(
        0, within(0x200, 0x200, "write"), text="fxsave [rdi]", symbol="save+0x1", via="stepped"
    ),
    error_code=0xB,
)
BAD = sample.intercept(1, within(0x0, 0x1000, "unknown"), text="(bad)", via="stepped")


def trace(path: Path, *records: Intercept) -> str:
    """Write a trace of these records; return its name."""
    everything: list[Record] = [sample.region("nvme"), *records, sample.end(len(records))]
    sample.write(path, everything)
    return str(path)


def test_a_transfer_of_unknown_extent_is_recorded_as_one() -> None:
    region = Region("nvme", 0x1000, 0x1FFF, 0x1000, "nvme", "nvme")
    whole = Transfer("write", 0x5010, 0x1010, 0, None, region, True, False, extent=0x20)
    access = memory_access(whole)
    assert (access.width, access.extent, access.span, access.offset) == (0, 0x20, 0x20, 0x10)
    assert access.value is None and hypercalls(access) is None
    unknown = dataclasses.replace(whole, direction="unknown")
    assert memory_access(unknown).direction == "unknown"
    exact = dataclasses.replace(whole, width=4, extent=None)
    assert memory_access(exact).span == exact.span == 4
    assert memory_access(exact).extent is None


def test_what_is_not_known_of_an_access_is_written_and_read_again(tmp_path: Path) -> None:
    name = trace(tmp_path / "t.vtrace", FXSAVE, BAD)
    accesses = [json.loads(line) for line in Path(name).read_text().splitlines()]
    (first,) = accesses[2]["accesses"]
    assert first["width"] == 0 and first["extent"] == 0x200 and "value" not in first
    assert accesses[3]["accesses"][0]["direction"] == "unknown"


def test_lines_tell_both_ends_and_no_width() -> None:
    assert "nvme+0x200..0x3ff" in access_lines(FXSAVE)[0]
    assert "  W?~  ?" in access_lines(FXSAVE)[0]
    assert "nvme+0x0..0xfff" in access_lines(BAD)[0] and "  ??~  ?" in access_lines(BAD)[0]


def test_objects_have_the_extent(tmp_path: Path, capsys: Output) -> None:
    name = trace(
        tmp_path / "t.vtrace",
        FXSAVE,
        sample.intercept(1, sample.device("nvme", 0x1C, 4, "read", 1)),
    )
    assert main.main(["show", name, "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(item["width"], item["extent"]) for item in shown] == [(0, 0x200), (4, None)]


def test_counts_tell_what_is_neither_a_read_nor_a_write(tmp_path: Path, capsys: Output) -> None:
    name = trace(tmp_path / "t.vtrace", FXSAVE, BAD)
    assert main.main(["stats", name, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    (region,) = counts["regions"]
    assert (region["reads"], region["writes"], region["unknown"]) == (0, 1, 1)
    assert counts["accesses"] == counts["stepped"] == 2
    assert {form["form"] for form in counts["forms"]} == {"fxsave m", "(bad)"}
    assert main.main(["stats", name]) == 0
    assert "unknown" in capsys.readouterr().out
    assert main.main(["stats", trace(tmp_path / "u.vtrace", FXSAVE)]) == 0
    assert "unknown" not in capsys.readouterr().out


def test_a_filter_finds_it_by_any_byte_and_by_no_direction_that_is_not_known() -> None:
    def chosen(record: Intercept, **words: Unpack[Words]) -> bool:
        return bool(Sieve(choose(**words)).wanted(record))

    assert chosen(FXSAVE, offset=0x3FF) and chosen(FXSAVE, offset=0x200)
    assert not chosen(FXSAVE, offset=0x400)
    assert not chosen(BAD, read=True) and not chosen(BAD, write=True)
    assert chosen(BAD) and Sieve(choose("direction == unknown")).wanted(BAD)


@pytest.mark.parametrize("extent", [0x40, 0x1FF])
def test_diff_holds_extents_against_each_other(tmp_path: Path, capsys: Output, extent: int) -> None:
    other = sample.intercept(0, within(0x200, extent, "write"), symbol="save+0x1", via="stepped")
    first, second = trace(tmp_path / "a", FXSAVE), trace(tmp_path / "b", other)
    assert main.main(["diff", first, first]) == 0
    assert main.main(["diff", first, second]) == 3
    out = capsys.readouterr().out
    assert "+0x200..0x3ff" in out and f"+0x200..{0x1FF + extent:#x}" in out
    assert main.main(["diff", "--json", first, second]) == 3
    assert '"extent":512' in capsys.readouterr().out


def test_exports_say_that_it_is_not_known(tmp_path: Path) -> None:
    lines = MmiotraceLog().lines(FXSAVE, events_of(FXSAVE))
    assert [line.split()[0] for line in lines] == ["MARK", "UNKNOWN"]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = tmp_path / "table"
    name = trace(
        tmp_path / "t.vtrace",
        FXSAVE,
        sample.intercept(1, sample.device("nvme", 0x1C, 4, "read", 1)),
    )
    assert main.main(["export", name, "--format", "parquet", "-o", str(table)]) == 0
    rows = parquet.read_table(table).to_pylist()
    assert [(row["width"], row["extent"]) for row in rows] == [(0, 0x200), (4, None)]


def test_its_fault_lies_within_it() -> None:
    inside = FXSAVE.cr2 + 0x1FF
    write = msgspec.structs.replace(FXSAVE, cr2=inside)
    assert Replay().add(write) is None
    assert Replay().add(msgspec.structs.replace(write, error_code=0x9)) is not None
    beyond = FXSAVE.cr2 + 0x200
    assert Replay().add(msgspec.structs.replace(write, cr2=beyond)) is not None
    unknown = msgspec.structs.replace(BAD, seq=0)
    assert Replay().add(unknown) is None
    assert Replay().add(msgspec.structs.replace(unknown, error_code=0xB)) is None
