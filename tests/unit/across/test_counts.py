"""Whoever counts the accesses of a trace counts the same: tallies, statistics, tables, Python."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.api import open_trace
from tracer.cli import main
from tracer.trace.record import Record

Output = pytest.CaptureFixture[str]

# As QEMU has it: the local APIC's region is called otherwise than its device.
APIC = replace(sample.region("lapic"), region=replace(sample.region("lapic").region, device="apic"))
RECORDS: list[Record] = [
    *(APIC if record == sample.region("lapic") else record for record in sample.RECORDS[:-1]),
    sample.ports("i8042.cmd"),
    sample.inputs(5, sample.port(0x64, 1, "read", 0x1C)),
    sample.inputs(6, sample.msr(0xC0000080, "write", 0xD01), symbol="probe+0x9 [edu]"),
    replace(sample.inputs(7, sample.irq(0x23), symbol=None), cause="nvme[1]"),
    sample.end(8),
]
FACTS = ("region", "device", "register", "function", "direction", "via", "space", "phase", "vcpu")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample.write(tmp_path_factory.mktemp("counts") / "run.vtrace", RECORDS)


def tallied(trace: Path, fact: str, capsys: Output) -> Counter[str]:
    assert main.main(["tally", str(trace), f"count by {fact}", "--json", "--limit", "0"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    return Counter({str(group["key"][fact] or ""): group["count"] for group in groups})


@pytest.mark.parametrize("fact", FACTS)
def test_python_and_tallies_agree(trace: Path, fact: str, capsys: Output) -> None:
    told = Counter(str(getattr(access, fact) or "") for access in open_trace(trace))
    assert told == tallied(trace, fact, capsys)


@pytest.mark.parametrize("fact", FACTS)
def test_a_database_and_tallies_agree(
    trace: Path, fact: str, tmp_path: Path, capsys: Output
) -> None:
    made = tmp_path / "run.db"
    assert main.main(["export", str(trace), "--format", "sqlite", "-o", str(made)]) == 0
    with sqlite3.connect(made) as opened:
        rows = opened.execute(f"SELECT {fact}, count(*) FROM access GROUP BY {fact}").fetchall()
    assert Counter({str(name or ""): count for name, count in rows}) == tallied(trace, fact, capsys)


@pytest.mark.parametrize("fact", FACTS)
def test_a_table_and_tallies_agree(trace: Path, fact: str, tmp_path: Path, capsys: Output) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    made = tmp_path / "run.parquet"
    assert main.main(["export", str(trace), "--format", "parquet", "-o", str(made)]) == 0
    told = Counter(str(value or "") for value in parquet.read_table(made)[fact].to_pylist())
    assert told == tallied(trace, fact, capsys)


def test_statistics_and_tallies_agree(trace: Path, capsys: Output) -> None:
    assert main.main(["stats", str(trace), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    regions = {
        each["region"]: count
        for each in told["regions"]
        if (count := each["reads"] + each["writes"] + each["unknown"])
    }
    assert regions == tallied(trace, "region", capsys)
    registers: Counter[str] = Counter()
    for each in told["registers"]:
        registers[each["register"] or ""] += each["accesses"]
    assert registers == tallied(trace, "register", capsys)


def test_a_condition_on_a_device_chooses_what_tables_call_so(trace: Path) -> None:
    told = [access.seq for access in open_trace(trace) if access.device == "apic"]
    assert told == [access.seq for access in open_trace(trace).where("device == apic")] == [4]
