"""Perfetto and Parquet: what other tools find in the files."""

from __future__ import annotations

import io
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.cli import main
from tracer.trace.record import Intercept, MemoryAccess

Output = pytest.CaptureFixture[str]

ACCESSES: list[tuple[Intercept, int, MemoryAccess]] = [
    (record, seq, access)
    for record in sample.RECORDS
    if isinstance(record, Intercept)
    for seq, access in record.device_accesses()
]


def export(tmp_path: Path, form: str, *arguments: str) -> Path:
    """Export the sample trace and return the path of the result."""
    trace, result = tmp_path / "run.vtrace", tmp_path / "result"
    sample.write(trace)
    done = main.main(["export", str(trace), "--format", form, "-o", str(result), *arguments])
    assert done == 0
    return result


def test_a_perfetto_trace_has_a_track_per_vcpu_and_region(tmp_path: Path) -> None:
    protos = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    trace = protos.Trace.FromString(export(tmp_path, "perfetto").read_bytes())
    described = [p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")]
    tracks = {track.uuid: track for track in described}
    roots = [t for t in tracks.values() if not t.parent_uuid]
    assert [t.name for t in roots] == ["vCPU 0"]
    assert sorted(t.name for t in tracks.values() if t.parent_uuid == roots[0].uuid) == sorted(
        sample.START
    )
    events = [p for p in trace.packet if p.HasField("track_event")]
    told = []
    for packet in events:
        values = {a.name: a.string_value for a in packet.track_event.debug_annotations}
        name = tracks[packet.track_event.track_uuid].name
        told.append((packet.timestamp, name, values.get("value"), values["text"]))
    assert told == [
        (record.time_ns, access.region, access.value and hex(access.value), record.text)
        for record, _, access in ACCESSES
    ]
    assert trace.packet[0].sequence_flags & protos.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    assert len({p.trusted_packet_sequence_id for p in trace.packet}) == 1


def test_a_table_has_a_row_per_access(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(export(tmp_path, "parquet"))
    rows = table.to_pylist()
    assert [(r["seq"], r["region"], r["direction"], r["width"]) for r in rows] == [
        (seq, access.region, access.direction, access.width) for _, seq, access in ACCESSES
    ]
    assert [(r["address"], r["rip"], r["code"]) for r in rows] == [
        (access.physical, record.rip, record.code.hex()) for record, _, access in ACCESSES
    ]
    assert [r["value"] for r in rows] == [1, 0x460001, 7, 0x1234_5678_9ABC_DEF0, None]
    assert (rows[0]["function"], rows[4]["function"]) == ("nvme_pci_enable", None)
    assert b'"kernel":"vmlinuz"' in table.schema.metadata[b"vetrace"]


def test_the_query_of_the_docs_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    pytest.importorskip("pyarrow")
    page = (Path(__file__).parents[3] / "docs" / "trace-format.md").read_text()
    query = page.partition("```sql\n")[2].partition("```")[0]
    assert query
    export(tmp_path, "parquet").rename(tmp_path / "traces.parquet")
    monkeypatch.chdir(tmp_path)
    assert duckdb.sql(query.replace("traces/*.parquet", "traces.parquet")).fetchall() == [
        ("hpet", "read_hpet", 1),
        ("lapic", None, 1),
        ("nvme", "memcpy_toio", 1),
        ("nvme", "nvme_enable_ctrl", 1),
        ("nvme", "nvme_pci_enable", 1),
    ]


def exported(tmp_path: Path, form: str) -> Path:
    trace, result = sample.write(tmp_path / "run.vtrace", sample.MIXED), tmp_path / "result"
    assert main.main(["export", str(trace), "--format", form, "-o", str(result)]) == 0
    return result


def test_a_table_tells_the_space_of_each_access(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(exported(tmp_path, "parquet")).to_pylist()
    assert [(row["space"], row["address"]) for row in rows] == [
        ("memory", 0xFEBF001C), ("port", 0x3FD), ("msr", 0xC0000080),
        *[("cpuid", 7 | 1 << 32)] * 4,
    ]  # fmt: skip
    assert rows[-1]["offset"] == 16 * (7 | 1 << 32) + 12


# A confidential guest asked for something else than its instruction makes, and a rule had its say.
NOTED = replace(
    sample.intercept(0, sample.device("nvme", 0x1C, 4, "read", 1), via="guest"),
    note="by rule 1", agrees=False,
)  # fmt: skip


def noted(tmp_path: Path, form: str) -> Path:
    trace, result = tmp_path / "run.vtrace", tmp_path / "result"
    sample.write(trace, [sample.region("nvme"), NOTED, *sample.RECORDS[7:8], sample.end(2)])
    assert main.main(["export", str(trace), "--format", form, "-o", str(result)]) == 0
    return result


def test_a_table_has_notes_and_whether_a_guest_asked_as_its_code_does(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(noted(tmp_path, "parquet")).to_pylist()
    told = [("by rule 1", False), (None, None)]
    assert [(row["note"], row["agrees"]) for row in rows] == told
    with sqlite3.connect(noted(tmp_path, "sqlite")) as database:
        assert database.execute("SELECT note, agrees FROM access").fetchall() == told


def test_a_perfetto_trace_has_them_as_arguments(tmp_path: Path) -> None:
    protos = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    trace = protos.Trace.FromString(noted(tmp_path, "perfetto").read_bytes())
    events = [p.track_event for p in trace.packet if p.HasField("track_event")]
    first, second = ({a.name: a.string_value for a in e.debug_annotations} for e in events)
    assert (first["note"], first["agrees"]) == ("by rule 1", "false")
    assert not {"note", "agrees"} & set(second)


def test_a_perfetto_trace_names_inputs_by_their_numbers(tmp_path: Path) -> None:
    protos = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    trace = protos.Trace.FromString(exported(tmp_path, "perfetto").read_bytes())
    events = [p.track_event for p in trace.packet if p.HasField("track_event")]
    told = [(e.name, e.categories[0]) for e in events[:4]]
    assert told == [
        ("read 4 +0x1c", "mmio"), ("read 1 +0x5", "port"), ("write 8 0xc0000080", "msr"),
        ("read 4 0x7.1", "cpuid"),
    ]  # fmt: skip
    spaces = [
        next((a.string_value for a in e.debug_annotations if a.name == "space"), None)
        for e in events[:3]
    ]
    assert spaces == [None, "port", "msr"]


def test_mmiotrace_has_memory_alone(tmp_path: Path, capsys: Output) -> None:
    lines = exported(tmp_path, "mmiotrace").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["VERSION", "MARK", "R"]
    error = capsys.readouterr().err
    assert "1 access written" in error and "6 accesses left out" in error


@pytest.mark.parametrize("form", ["mmiotrace", "perfetto", "parquet"])
def test_filters_choose_what_is_exported(tmp_path: Path, capsys: Output, form: str) -> None:
    if form != "mmiotrace":
        pytest.importorskip({"parquet": "pyarrow"}.get(form, form))
    export(tmp_path, form, "--region", "nvme", "--write")
    assert capsys.readouterr().err == f"vetrace: 2 accesses written to {tmp_path / 'result'}\n"


@pytest.mark.parametrize(("form", "package"), [("perfetto", "perfetto"), ("parquet", "pyarrow")])
def test_a_library_that_is_missing_is_named(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, form: str, package: str
) -> None:
    monkeypatch.delitem(sys.modules, f"tracer.export.{form}", raising=False)
    monkeypatch.delattr(f"tracer.export.{form}", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    trace = sample.write(tmp_path / "run.vtrace")
    result = tmp_path / "result"
    assert main.main(["export", str(trace), "--format", form, "-o", str(result)]) == 2
    assert f"needs {package}, which is not installed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [trace]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, capsys: Output) -> None:
    trace = sample.write(tmp_path / "run.vtrace")
    trace.write_bytes(trace.read_bytes() + b"{}\n")
    result = tmp_path / "result"
    result.write_text("old")
    assert main.main(["export", str(trace), "--format", "mmiotrace", "-o", str(result)]) == 1
    assert result.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [result, trace]


def test_a_number_that_no_column_holds_is_told_with_its_file(
    tmp_path: Path, capsys: Output
) -> None:
    wide = sample.intercept(0, sample.device("nvme", 0x14, 4, "write", 1 << 64))
    path = sample.write(tmp_path / "run.vtrace", [sample.region("nvme"), wide, sample.end(1)])
    table = tmp_path / "t.parquet"
    assert main.main(["export", str(path), "--format", "parquet", "-o", str(table)]) == 1
    told = f"vetrace: {path}: access 0: a number of more than 64 bits fits no column\n"
    assert capsys.readouterr().err == told and not table.exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: Output) -> None:
    trace = sample.write(tmp_path / "run.vtrace")
    for path in (tmp_path / "no" / "such", Path("/dev/full")):
        assert main.main(["export", str(trace), "--format", "mmiotrace", "-o", str(path)]) == 1
        assert capsys.readouterr().err.startswith(f"vetrace: cannot write {path}: No s")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("run.vtrace/x", "Not a directory; what should be its folder is a file: name another"),
        ("no/x", "No such file or directory; make its folder first, or name another file"),
        ("no/", "Is a directory; name a file in it"),
        (".", "Is a directory; name a file in it"),
        ("x" * 300, "File name too long; give it a shorter name"),
    ],
)
def test_a_name_that_cannot_be_written_is_told_with_what_to_do(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    trace = sample.write(tmp_path / "run.vtrace")
    assert main.main(["export", "run.vtrace", "--format", "mmiotrace", "-o", name]) in (1, 2)
    assert capsys.readouterr().err == f"vetrace: cannot write {name}: {why}\n"
    assert list(tmp_path.iterdir()) == [trace]


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path: Path) -> None:
    trace, result = sample.write(tmp_path / "run.vtrace"), tmp_path / ("x" * 255)
    assert main.main(["export", str(trace), "--format", "mmiotrace", "-o", str(result)]) == 0
    assert sorted(tmp_path.iterdir()) == [trace, result]


def test_no_room_for_a_database_is_told(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("tracer.export.sqlite.write", full)
    trace = sample.write(tmp_path / "run.vtrace")
    arguments = ["export", str(trace), "--format", "sqlite", "-o", str(tmp_path / "db")]
    assert main.main(arguments) == 1
    told = capsys.readouterr().err
    assert told.endswith(
        ": database or disk is full; make room there, or name another place with TMPDIR\n"
    )
    assert told.startswith("vetrace: cannot make the database in ") and list(
        tmp_path.iterdir()
    ) == [trace]


@pytest.mark.parametrize("form", ["mmiotrace", "perfetto", "parquet"])
def test_standard_output_gets_what_a_file_gets(tmp_path: Path, form: str) -> None:
    if form != "mmiotrace":
        pytest.importorskip({"parquet": "pyarrow"}.get(form, form))
    result = export(tmp_path, form)
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "export", str(tmp_path / "run.vtrace"), "--format", form,
         "-o", "-"],
        cwd=Path(__file__).parents[3], capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == b"vetrace: 5 accesses written to standard output\n"
    if form == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table(io.BytesIO(done.stdout)) == parquet.read_table(result)
    else:
        assert done.stdout == result.read_bytes()


def test_a_trace_is_never_overwritten_by_its_export(tmp_path: Path, capsys: Output) -> None:
    trace = sample.write(tmp_path / "run.vtrace")
    before = trace.read_bytes()
    assert main.main(["export", str(trace), "--format", "mmiotrace", "-o", str(trace)]) == 2
    assert "is the trace itself" in capsys.readouterr().err and trace.read_bytes() == before
