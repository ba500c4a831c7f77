"""What every reader makes of a trace that a person has touched."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import trace_sample as sample

from tracer.cli import main
from tracer.confidential.audit import audit
from tracer.confidential.handler import CURRENT, PROFILES
from tracer.trace.layout import layout
from tracer.trace.lines import access_lines, user_line
from tracer.trace.record import Intercept, MemoryAccess, UserRecord

Output = pytest.CaptureFixture[str]


def did(text: str, *accesses: MemoryAccess, time_ns: int = 1000) -> UserRecord:
    return UserRecord(time_ns=time_ns, text=text, accesses=list(accesses))


def touched(
    seq: int, access: MemoryAccess, device: int | None = None, skipped: bool = False
) -> Intercept:
    """An intercept whose only access a person has changed."""
    return sample.intercept(seq, msgspec.structs.replace(access, device=device, skipped=skipped))


CAP, CC = sample.device("nvme", 0, 4, "read", 0x441820), sample.device("nvme", 0x14, 4, "write", 1)
RECORDS = [
    sample.region("nvme"),
    sample.region("hpet"),
    did("set value 0x441820"),
    touched(0, CAP, device=0x401820),
    did("skip 0x0"),
    touched(1, CC, skipped=True),
    did("poke nvme+0xc 0x0", sample.device("nvme", 0xC, 4, "write", 0)),
    did("peek nvme+0x1c", sample.device("nvme", 0x1C, 4, "read", 1), time_ns=2_000_000_000),
    sample.end(2),
]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return str(sample.write(tmp_path / "touched.vtrace", RECORDS))


def shown(capsys: Output, *arguments: str) -> str:
    assert main.main([*arguments]) == 0
    return capsys.readouterr().out


def test_show_tells_in_place_what_was_done(trace: str, capsys: Output) -> None:
    lines = shown(capsys, "show", trace).splitlines()
    assert lines[0] == "── user: set value 0x441820 ──"
    assert lines[1].endswith("R4   0x00441820 (device 0x00401820)")
    assert lines[2] == "── user: skip 0x0 ──"
    assert lines[3].endswith("W4   0x00000001 (skipped)")
    assert lines[4:] == [
        "── user: poke nvme+0xc 0x0 ──",
        "── user: peek nvme+0x1c → 0x00000001 ──",
    ]


@pytest.mark.parametrize(
    ("filters", "texts"),
    [
        (["--region", "hpet"], ["set", "skip"]),
        (["--region", "nvme", "--read"], ["set", "skip", "peek"]),
        (["--register", "CSTS"], ["set", "skip", "peek"]),
        (["--offset", "0xc"], ["set", "skip", "poke"]),
        (["--time", "1-"], ["peek"]),
        (["--vcpu", "1"], []),
        (["--phase", "user space"], []),
    ],
)
def test_filters_hold_for_what_was_done(
    trace: str, capsys: Output, filters: list[str], texts: list[str]
) -> None:
    lines = shown(capsys, "show", trace, *filters).splitlines()
    done = [line.split()[2] for line in lines if line.startswith("── user: ")]
    assert done == texts


def test_a_json_object_has_the_devices_value(trace: str, capsys: Output) -> None:
    first, second = map(json.loads, shown(capsys, "show", "--json", trace).splitlines())
    assert (first["value"], first["device"], first["skipped"]) == ("0x441820", "0x401820", False)
    assert (second["value"], second["device"], second["skipped"]) == ("0x1", None, True)


@pytest.mark.parametrize("columns", [80, 99, 100, 120, 160])
def test_a_touched_line_fits_its_terminal(columns: int) -> None:
    (line,) = access_lines(touched(0, CAP, device=0x401820), layout(columns))
    assert len(line) <= columns and line.endswith("0x00441820 (device 0x00401820)")


def test_what_was_done_cannot_steer_a_terminal() -> None:
    assert user_line(did("mark \x1b[2J")) == "── user: mark \\x1b[2J ──"


def test_a_loop_does_not_go_on_across_what_was_done(tmp_path: Path, capsys: Output) -> None:
    polls = [sample.intercept(n, sample.device("nvme", 0x1C, 4, "read", 0)) for n in range(8)]
    changed = touched(8, sample.device("nvme", 0x1C, 4, "read", 0), device=1)
    records = [sample.region("nvme"), *polls[:4], did("trace on"), *polls[4:], changed]
    path = sample.write(tmp_path / "loop.vtrace", [*records, sample.end(9)])
    lines = shown(capsys, "show", str(path)).splitlines()
    assert [line.split()[:2] for line in lines if "↑" in line or "──" in line] == [
        ["↑", "4"], ["──", "user:"], ["↑", "4"],
    ]  # fmt: skip
    assert lines[-1].endswith("(device 0x00000001)")


def test_stats_count_what_was_done(trace: str, capsys: Output) -> None:
    assert json.loads(shown(capsys, "stats", "--json", trace))["user_actions"] == 4
    assert shown(capsys, "stats", trace).splitlines()[-1].endswith("; 4 user actions")
    assert (
        shown(capsys, "stats", "--time", "1-", trace).splitlines()[-1].endswith("; 1 user action")
    )


def test_diff_says_that_an_access_was_touched(trace: str, tmp_path: Path, capsys: Output) -> None:
    assert shown(capsys, "diff", trace, trace) == "nvme: 2 alike, 4 touched by a person\n"
    cap = sample.device("nvme", 0, 4, "read", 0x401820)
    plain = [sample.region("nvme"), touched(0, cap), touched(1, CC)]
    other = sample.write(tmp_path / "plain.vtrace", [*plain, sample.end(2)])
    assert main.main(["diff", str(other), trace]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("2 touched by a person")
    assert "0x00401820 → 0x00441820 (device 0x00401820)" in lines[1]
    assert "0x00000001 (skipped)" in "\n".join(lines)
    assert main.main(["diff", "--json", str(other), trace]) == 3
    (region,) = json.loads(capsys.readouterr().out)["regions"]
    assert region["touched"] == 2
    (line, *_) = region["hunks"][0]
    assert (line["first"]["device"], line["second"]["device"]) == (None, 0x401820)


def test_a_polled_read_that_was_touched_counts_with_the_others(tmp_path: Path) -> None:
    poll = sample.device("nvme", 0x1C, 4, "read", 0)
    plain = [sample.intercept(n, poll) for n in range(2)]
    paths = [
        str(sample.write(tmp_path / name, [sample.region("nvme"), *records, sample.end(2)]))
        for name, records in (
            ("a.vtrace", plain), ("b.vtrace", [plain[0], touched(1, poll, device=1)]),
        )
    ]  # fmt: skip
    assert main.main(["diff", *paths]) == 0


def test_a_perfetto_trace_has_a_track_of_the_person(trace: str, tmp_path: Path) -> None:
    protos = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    result = tmp_path / "result"
    assert main.main(["export", trace, "--format", "perfetto", "-o", str(result)]) == 0
    packets = protos.Trace.FromString(result.read_bytes()).packet
    names = {
        p.track_descriptor.uuid: p.track_descriptor.name
        for p in packets
        if p.HasField("track_descriptor") and not p.track_descriptor.parent_uuid
    }
    events = [p for p in packets if p.HasField("track_event")]
    by_person = [p for p in events if names.get(p.track_event.track_uuid) == "user"]
    assert [(p.timestamp, p.track_event.name) for p in by_person] == [
        (record.time_ns, record.text) for record in RECORDS if isinstance(record, UserRecord)
    ]
    told = [{a.name: a.string_value for a in p.track_event.debug_annotations} for p in events]
    assert [t["device"] for t in told if "device" in t] == ["0x401820"]
    assert sum(t.get("skipped") == "true" for t in told) == 1


def test_a_table_has_the_devices_value(trace: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    result = tmp_path / "result"
    assert main.main(["export", trace, "--format", "parquet", "-o", str(result)]) == 0
    rows = parquet.read_table(result).to_pylist()
    assert [(r["device_value"], r["skipped"]) for r in rows] == [(0x401820, False), (None, True)]


def test_an_audit_is_of_the_guests_own_accesses() -> None:
    without = [record for record in RECORDS if not isinstance(record, UserRecord)]
    profile = PROFILES[CURRENT]
    assert audit(RECORDS, profile).sites == audit(without, profile).sites
