"""`vetrace tally`: counts over a trace, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import block_sample as blocks
import pytest
import trace_sample as sample

from tracer.cli import main
from tracer.trace.writer import TraceWriter

Output = pytest.CaptureFixture[str]


def tally(capsys: Output, path: Path, text: str, *options: str) -> dict[str, Any]:
    assert main.main(["tally", str(path), text, "--json", *options]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def pairs(told: dict[str, Any], name: str = "count") -> dict[str, Any]:
    return {"/".join(map(str, group["key"].values())): group[name] for group in told["groups"]}


def test_all_spaces_are_counted(tmp_path: Path, capsys: Output) -> None:
    trace = sample.write(tmp_path / "run.vtrace", sample.MIXED)
    assert pairs(tally(capsys, trace, "count by space")) == {
        "cpuid": 4, "memory": 1, "msr": 1, "port": 1,
    }  # fmt: skip
    assert pairs(tally(capsys, trace, "count by port, register if space == port")) == {
        "0x3fd/LSR": 1
    }
    assert pairs(tally(capsys, trace, "max(value) by msr if msr == 0xc0000080"), "max(value)") == {
        "0xc0000080": "0xd01"
    }


def test_filters_and_the_condition_hold_together(tmp_path: Path, capsys: Output) -> None:
    trace = sample.write(tmp_path / "run.vtrace")
    assert pairs(tally(capsys, trace, "count by register, function if region == nvme")) == {
        "CC/nvme_enable_ctrl": 1, "CSTS/nvme_pci_enable": 1,
    }  # fmt: skip
    told = tally(capsys, trace, "count by register if region == nvme", "--write")
    assert (pairs(told), told["accesses"]) == ({"CC": 1}, 1)
    assert told["tally"] == "count by register if region == nvme"


def test_a_reader_gets_a_table_or_a_histogram(tmp_path: Path, capsys: Output) -> None:
    trace = sample.write(tmp_path / "run.vtrace")
    assert main.main(["tally", str(trace), "count by region", "--limit", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["region", "count"] and lines[2] == ["nvme", "2"]
    assert lines[3] == ["…", "3", "more", "3"] and " ".join(lines[4]) == "5 accesses in 4 groups"
    assert main.main(["tally", str(trace), "hist(value & 0xff)"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["hist(value", "&", "0xff)"]
    assert lines[1][:2] == ["[0x1]", "2"] and lines[-2][:3] == ["[0x80,", "0x100)", "1"]
    assert lines[-1][:2] == ["5", "accesses;"]  # one is hidden by a native step


@pytest.mark.parametrize(
    ("text", "caret", "why"),
    [
        ("count by regin", 9, "unknown name regin"),
        ("count by region if region == nmve", 29, "no region of"),
        ("count by function == nosuch", 21, "no function of"),
        ("count by callers == f", 9, "callers are not known"),
        ("count by register is NOSUCH", 21, "no register of"),
        ('count by mark in "a".."b"', 0, "no mark of"),
        ("max(1 // (value - 1))", 6, "access 0: division by zero"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(
    tmp_path: Path, capsys: Output, text: str, caret: int, why: str
) -> None:
    trace = sample.write(tmp_path / "run.vtrace")
    assert main.main(["tally", str(trace), text]) == 2
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert not told.out and why in lines[0]
    if caret:
        assert lines[1:] == [f"  {text}", f"  {' ' * caret}^"]


def test_a_trace_without_accesses_has_none(tmp_path: Path, capsys: Output) -> None:
    trace = sample.write(tmp_path / "run.vtrace", [sample.region("nvme"), sample.end(0)])
    for text in ("count by register", "hist(value)", "count"):
        assert main.main(["tally", str(trace), text]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("0 accesses")


def written(path: Path) -> Path:
    rows = [
        blocks.row(site=n % 2, tsc=n, read=n, rdi=blocks.LINEAR + 4 * (n % 3)) for n in range(60)
    ]
    with TraceWriter(path, sample.HEADER) as trace:
        for line in (
            blocks.REGION, blocks.PLACES, blocks.site(0, "8b07", symbol="f+0x0"),
            blocks.site(1, "8b07", rip=0x2000, symbol="g+0x0"), blocks.block(*rows),
            sample.end(60),
        ):  # fmt: skip
            trace.append(line)
    return path


@pytest.mark.parametrize("condition", ["", " if offset != 0", " if region == bar and offset > 3"])
def test_those_that_are_alike_are_counted_as_one_by_one(
    tmp_path: Path, capsys: Output, condition: str
) -> None:
    trace = written(tmp_path / "run.vtrace")
    fast = tally(capsys, trace, f"count, sum(width) by offset, function{condition}")
    slow = tally(capsys, trace, f"count, sum(width), max(value) by offset, function{condition}")
    assert slow["groups"] and fast["accesses"] == slow["accesses"] == (40 if condition else 60)
    for group in slow["groups"]:
        del group["max(value)"]
    assert fast["groups"] == slow["groups"]
    assert main.main(["stats", str(trace), "--json", "--if", "offset != 0"]) == 0
    registers = json.loads(capsys.readouterr().out)["registers"]
    assert {each["offset"]: each["accesses"] for each in registers} == {"0x4": 20, "0x8": 20}


def test_marks_can_part_accesses(tmp_path: Path, capsys: Output) -> None:
    records = list(sample.RECORDS)
    records[7:7] = [sample.Mark(time_ns=3, text="half", qemu_log_offset=None)]
    trace = sample.write(tmp_path / "run.vtrace", records)
    assert pairs(tally(capsys, trace, 'count by mark in "half"..')) == {"False": 1, "True": 4}
