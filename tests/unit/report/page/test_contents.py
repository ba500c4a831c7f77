"""The contents of a page, as its scripts are given them."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode
from pathlib import Path
from typing import Any

import trace_sample as sample
from msgspec.structs import replace

from tracer.check.diff import Differ, Side
from tracer.devices import library
from tracer.query.source import Source
from tracer.query.words import choose
from tracer.report.page.contents import contents, difference
from tracer.trace.call import Hypercall
from tracer.trace.reader import TraceReader
from tracer.trace.record import LostRecord, Mark, Record, StackFrame, StackRecord, UserRecord


def read(path: Path, *conditions: str, sides: dict[str, Side] | None = None) -> dict[str, Any]:
    with TraceReader(path) as trace:
        source = Source(trace, choose(*conditions), library.load())
        return contents(source, None, Differ(), {} if sides is None else sides)


def chunk(told: list[str]) -> list[Any]:
    (packed,) = told
    return list(json.loads(zlib.decompress(b64decode(packed))))


def test_what_many_accesses_share_is_told_once(tmp_path: Path) -> None:
    poll = [sample.intercept(n, sample.device("nvme", 0x1C, 4, "read", n)) for n in range(9)]
    other = sample.intercept(9, sample.device("nvme", 0x14, 4, "write", 1))
    records: list[Record] = [sample.region("nvme"), *poll, other, sample.end(10)]
    told = read(sample.write(tmp_path / "poll.vtrace", records))["accesses"]
    assert told["count"] == 10
    (site,) = told["sites"]
    assert (site["function"], site["mnemonic"]) == ("nvme_pci_enable", "mov")
    assert told["shapes"]["offset"] == [0x1C, 0x14]
    assert [each["text"] for each in told["names"]] == ["CSTS", "CC"]
    assert told["folds"]["start"]["first"] == 0
    assert told["regions"] == ["nvme"]


def test_fields_are_where_the_value_has_them(tmp_path: Path) -> None:
    # The upper half of a register of 8 bytes, then two registers by one access.
    half = sample.intercept(0, sample.device("nvme", 0x4, 4, "read", 0x20))
    both = sample.intercept(1, sample.device("nvme", 0xC, 8, "read", 0))
    records: list[Record] = [sample.region("nvme"), half, both, sample.end(2)]
    named = read(sample.write(tmp_path / "fields.vtrace", records))["accesses"]["names"]
    assert named[0]["text"] == "CAP+4"
    places = {name: (at, bits) for name, at, bits, _, _ in named[0]["fields"]}
    assert places["CSS"] == (5, 8)  # bits 44:37 of CAP
    assert named[1]["names"] == ("INTMS,INTMC", "INTMS", "INTMC")
    assert [(field[0], field[1]) for field in named[1]["fields"]][-1][1] == 32


def test_what_few_have_is_beside_the_columns(tmp_path: Path) -> None:
    wide = sample.device("nvme", 0x14, 4, "write", 1 << 80)
    skipped = replace(sample.device("nvme", 0x14, 4, "write", 2), skipped=True)
    asked = Hypercall(given={"r10": 0, "r12": 4}, returned={"r10": 0})
    records: list[Record] = [
        sample.region("nvme"),
        StackRecord(time_ns=0, id=3, frames=[StackFrame(rip=1, symbol="outer+0x1")]),
        replace(
            sample.intercept(0, wide, sample.ram(4, "read", 7)), stack=3, note="by rule 1",
            asked=asked, agrees=False, before={"rax": 1, "fs_base": 1 << 40},
        ),
        Mark(time_ns=9, text="phase: initcall x"),
        UserRecord(time_ns=9, text="mark here"),
        Mark(time_ns=9, text="here"),
        LostRecord(time_ns=9, count=4),
        sample.intercept(1, skipped),
        sample.end(2),
    ]  # fmt: skip
    told = read(sample.write(tmp_path / "few.vtrace", records))["accesses"]
    assert told["peculiar"] == {"0": {"value": hex(1 << 80)}, "1": {"skipped": True, "lost": 4}}
    first, second = chunk(told["further"])
    assert first["before"] == {"rax": "0x1", "fs_base": hex(1 << 40)}
    assert [each["region"] for each in first["accesses"]] == ["nvme", None]
    assert (first["given"], first["agrees"], first["note"]) == (
        {"r10": "0x0", "r12": "0x4"}, False, "by rule 1",
    )  # fmt: skip
    assert second["before"] == {"rflags": "0x2", "rax": "0xffffc90000000000"}
    assert chunk(told["changed"]) == [{"rax": "0x1"}] * 2
    assert told["chains"] == [("outer+0x1",)]
    assert told["phases"] == ["early", "initcall x"]
    assert [(at, text, kind) for at, text, kind, _ in told["marks"]] == [
        (1, "phase: initcall x", 2), (1, "here", 1),
    ]  # fmt: skip
    # A mark that a person made is told by the command.
    assert [note["at"] for note in told["notes"]] == [1, 1]
    assert "mark here" in told["notes"][0]["text"]
    assert "4 events lost" in told["notes"][1]["text"]


def test_registers_never_accessed_are_told(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "sample.vtrace")
    (nvme,) = [each for each in read(path)["coverage"] if each["region"] == "nvme"]
    rows = {row["name"]: row for row in nvme["registers"]}
    assert (rows["CSTS"]["reads"], rows["CSTS"]["writes"], rows["CSTS"]["first"]) == (1, 0, 0)
    assert (rows["CC"]["reads"], rows["CC"]["writes"], rows["CC"]["first"]) == (0, 1, 1)
    assert (rows["AQA"]["reads"], rows["AQA"]["writes"], rows["AQA"]["first"]) == (0, 0, None)
    # An array is one register, whatever of it is accessed.
    (table,) = [each for each in read(path)["coverage"] if each["region"] == "nvme.msix-table"]
    assert {row["name"] for row in table["registers"] if row["writes"]} == {"ENTRY[*].ADDR"}


def test_ports_are_told_together(tmp_path: Path) -> None:
    records: list[Record] = [
        sample.ports("i8042.cmd"),
        sample.ports("pic"),
        sample.inputs(0, sample.port(0x64, 1, "read", 0x1C)),
        sample.inputs(1, sample.port(0x21, 1, "write", 0xFF)),
        sample.end(2),
    ]
    coverage = read(sample.write(tmp_path / "ports.vtrace", records))["coverage"]
    (ports,) = [each for each in coverage if each["region"] == "port"]
    accessed = [row for row in ports["registers"] if row["reads"] or row["writes"]]
    assert sorted((row["reads"], row["writes"]) for row in accessed) == [(0, 1), (1, 0)]


def test_a_condition_chooses_what_is_told(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "sample.vtrace")
    told = read(path, "device == nvme and direction == write")
    assert told["accesses"]["count"] == 2
    assert told["statistics"]["accesses"] == 2
    assert {each["region"] for each in told["coverage"]} == {"nvme", "nvme.msix-table"}
    assert {region for site in told["audit"]["sites"] for region in site["regions"]} == {
        "nvme", "nvme.msix-table",
    }  # fmt: skip


def test_a_difference_has_both_sides(tmp_path: Path) -> None:
    differ, sides = Differ(), [dict[str, Side](), dict[str, Side]()]
    for value, side in zip((0x460001, 0x460000), sides, strict=True):
        access = sample.device("nvme", 0x14, 4, "write", value)
        records: list[Record] = [sample.region("nvme"), sample.intercept(0, access), sample.end(1)]
        path = sample.write(tmp_path / "side.vtrace", records)
        with TraceReader(path) as trace:
            contents(Source(trace, choose(), library.load()), None, differ, side)
    told = difference(sides, ("a", "b"), differ)
    (region,) = told["regions"]
    ((line,),) = region["hunks"]
    assert (line["kind"], line["fields"]) == ("changed", "EN 1→0")
    assert [side["value"] for side in line["sides"]] == ["0x00460001", "0x00460000"]
    assert told["names"] == ["a", "b"]
