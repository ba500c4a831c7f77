"""Markers and lost events: where every reader shows them, and stretches between two marks."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import trace_sample as sample

from tracer.cli import main
from tracer.query.sieve import Sieve
from tracer.query.words import choose
from tracer.text.amount import counted
from tracer.trace.loss import Losses
from tracer.trace.marker import Stretch, is_marker, names_stretch
from tracer.trace.phase import PhaseTracker
from tracer.trace.record import Intercept, LostRecord, Mark, Record, UserRecord

Output = pytest.CaptureFixture[str]
MILLISECOND = 1_000_000


def mark(text: str, at: int = 0) -> Mark:
    return Mark(time_ns=at * MILLISECOND, text=text)


def read(seq: int, value: int | None, offset: int = 0x1C) -> Intercept:
    """Make an access as an import has it, a millisecond after the one before."""
    made = sample.intercept(seq, sample.device("nvme", offset, 4, "read", value), via="stepped")
    return msgspec.structs.replace(
        made, time_ns=(10 * seq + 5) * MILLISECOND, code=b"", before={}, after={}, symbol=None
    )


LOST = LostRecord(time_ns=25 * MILLISECOND, vcpu=0, count=1205)
RECORDS: list[Record] = [
    mark("PCIDEV 0018 1b360010 b febf0004 0 0 0 0 0 0 4000 0 0 0 0 0 0 nvme"),
    sample.region("nvme"),
    mark("kernel entry"),
    read(0, 1),
    mark("modprobe nvme", 10),
    read(1, 2),
    mark("not understood: rw what?", 20),
    LOST,
    read(2, None),
    mark("remove", 30),
    LostRecord(time_ns=31 * MILLISECOND, vcpu=1),
    read(3, 4),
    mark("phase: initcall nvme_init", 40),
    read(4, 5),
    sample.end(5),
]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return str(sample.write(tmp_path / "run.vtrace", RECORDS))


def shown(capsys: Output, *arguments: str, status: int = 0) -> str:
    assert main.main([*arguments]) == status
    return capsys.readouterr().out


def objects(capsys: Output, *arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in shown(capsys, *arguments).splitlines()]


@pytest.mark.parametrize(
    ("text", "shows", "names"),
    [
        ("modprobe nvme", True, True),
        ("", True, True),
        ("not understood: rw what?", True, False),
        ("kernel entry", False, False),
        ("phase: early", False, False),
        ("PCIDEV 0018", False, False),
        ("LSPCI ", False, False),
        ("UNMAP 1.0 1 0x0 0", False, False),
    ],
)
def test_not_every_mark_is_a_marker(text: str, shows: bool, names: bool) -> None:
    assert (is_marker(mark(text)), names_stretch(mark(text))) == (shows, names)


def test_show_has_a_line_for_each(trace: str, capsys: Output) -> None:
    lines = [line for line in shown(capsys, "show", trace).splitlines() if "──" in line]
    assert lines == [
        "── mark: modprobe nvme ──",
        "── mark: not understood: rw what? ──",
        "── 1,205 events lost by CPU 0 ──",
        "── mark: remove ──",
        "── an unknown number of events lost by CPU 1 ──",
    ]


def test_an_object_has_the_marker_and_the_loss_before_it(trace: str, capsys: Output) -> None:
    found = objects(capsys, "show", "--json", trace)
    assert [(item["mark"], item["lost"]) for item in found] == [
        (None, 0), ("modprobe nvme", 0), ("not understood: rw what?", 1205), ("remove", None),
        ("remove", 0),
    ]  # fmt: skip


def test_what_is_folded_ends_at_a_marker(tmp_path: Path, capsys: Output) -> None:
    polls = [read(n, 0) for n in range(8)]
    records: list[Record] = [sample.region("nvme"), *polls[:4], mark("here"), *polls[4:]]
    path = str(sample.write(tmp_path / "t.vtrace", [*records, sample.end(8)]))
    lines = shown(capsys, "show", path).splitlines()
    assert [line.split()[:2] for line in lines if "↑" in line or "──" in line] == [
        ["↑", "4"], ["──", "mark:"], ["↑", "4"],
    ]  # fmt: skip


def test_a_mark_of_the_prompt_is_told_once(tmp_path: Path, capsys: Output) -> None:
    records: list[Record] = [
        sample.region("nvme"), UserRecord(time_ns=0, text="mark here"), mark("here"),
        read(0, 1), sample.end(1),
    ]  # fmt: skip
    path = str(sample.write(tmp_path / "t.vtrace", records))
    lines = shown(capsys, "show", path).splitlines()
    assert [line for line in lines if "──" in line] == ["── user: mark here ──"]
    assert [item["mark"] for item in objects(capsys, "show", "--json", path)] == ["here"]


def test_stats_count_them(trace: str, capsys: Output) -> None:
    (found,) = objects(capsys, "stats", "--json", trace)
    assert found["markers"] == 3 and found["without_value"] == 1
    assert (found["lost_events"], found["lost_uncounted"]) == (1205, 1)
    lines = shown(capsys, "stats", trace).splitlines()
    assert lines[-2] == (
        "3 markers, 1,205 events lost and an unknown number more, 1 access without a value"
    )
    assert lines[-1] == "5 accesses by 5 intercepts: 0 emulated, 5 stepped"


def test_a_trace_without_them_says_nothing(tmp_path: Path, capsys: Output) -> None:
    records: list[Record] = [sample.region("nvme"), mark("kernel entry"), read(0, 1), sample.end(1)]
    path = str(sample.write(tmp_path / "t.vtrace", records))
    assert len(shown(capsys, "show", path).splitlines()) == 1
    assert not any(word in shown(capsys, "stats", path) for word in ("marker", "lost", "value"))
    assert shown(capsys, "diff", path, path) == "nvme: 1 alike\n"


# --- diff ------------------------------------------------------------------------------------


def with_value(records: list[Record], seq: int, value: int) -> list[Record]:
    return [read(seq, value) if isinstance(r, Intercept) and r.seq == seq else r for r in records]


def test_diff_tells_of_what_was_lost_and_of_what_is_not_known(
    trace: str, tmp_path: Path, capsys: Output
) -> None:
    other = str(sample.write(tmp_path / "b", [r for r in RECORDS if not isinstance(r, LostRecord)]))
    assert shown(capsys, "diff", trace, other).splitlines() == [
        f"{trace}: 1,205 events lost and an unknown number more, which the other may have",
        "nvme: 5 alike, 1 of them of unknown value",
    ]
    (found,) = objects(capsys, "diff", "--json", trace, other)
    assert (found["lost_events"], found["lost_uncounted"]) == ([1205, 0], [1, 0])
    (region,) = found["regions"]  # type: ignore[misc]
    assert region["unknown"] == 1


def test_diff_heads_what_follows_a_marker(trace: str, tmp_path: Path, capsys: Output) -> None:
    other = str(sample.write(tmp_path / "b", with_value(RECORDS, 3, 9)))
    lines = shown(capsys, "diff", trace, other, "--context", "2", status=3).splitlines()
    assert [" ".join(line.split()[:4]) for line in lines[3:]] == [
        "── mark: modprobe nvme", "R4 +0x1c CSTS 0x00000002",
        "── mark: not understood:", "R4 +0x1c CSTS ?",
        "── mark: remove ──", "~ R4 +0x1c CSTS", "RDY 0→1, SHST occurring→complete",
        "R4 +0x1c CSTS 0x00000005",
    ]  # fmt: skip
    assert main.main(["diff", "--json", trace, other]) == 3
    (region,) = json.loads(capsys.readouterr().out)["regions"]
    changed = next(line for line in region["hunks"][0] if line["kind"] == "changed")
    assert changed["first"]["mark"] == changed["second"]["mark"] == "remove"


def test_a_trace_of_nothing_is_said_to_be_one(trace: str, tmp_path: Path, capsys: Output) -> None:
    empty = str(sample.write(tmp_path / "e", [sample.region("nvme"), sample.end(0)]))
    for paths in ((trace, empty), (empty, trace)):
        out = shown(capsys, "diff", *paths, status=3)
        assert f"{empty} has no such access: everything is only in the other trace\n" in out
        assert out.count("\n") == 3  # with the lost events, and the one region
    found = json.loads(shown(capsys, "diff", "--json", trace, empty, status=3))
    assert found["regions"][0]["first"] == 5 and found["regions"][0]["hunks"]


# --- exports ---------------------------------------------------------------------------------


def export(trace: str, form: str, path: Path, *arguments: str) -> Path:
    assert main.main(["export", trace, "--format", form, "-o", str(path), *arguments]) == 0
    return path


def test_a_perfetto_trace_has_a_track_of_marks(trace: str, tmp_path: Path) -> None:
    protos = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    data = export(trace, "perfetto", tmp_path / "p").read_bytes()
    packets = protos.Trace.FromString(data).packet
    (track,) = [p.track_descriptor.uuid for p in packets if p.track_descriptor.name == "marks"]
    events = [p for p in packets if p.HasField("track_event") and p.track_event.track_uuid == track]
    assert [(p.timestamp // MILLISECOND, p.track_event.name) for p in events] == [
        (10, "modprobe nvme"), (20, "not understood: rw what?"), (25, "1,205 events lost"),
        (30, "remove"), (31, "an unknown number of events lost"),
    ]  # fmt: skip
    (lost, _) = [p for p in events if p.track_event.categories == ["lost"]]
    numbers = {a.name: a.int_value for a in lost.track_event.debug_annotations}
    assert numbers == {"vcpu": 0, "count": 1205}


def test_a_table_has_them_beside_the_accesses(trace: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(export(trace, "parquet", tmp_path / "t")).to_pylist()
    assert [(row["mark"], row["lost"], row["value"]) for row in rows] == [
        (None, 0, 1), ("modprobe nvme", 0, 2), ("not understood: rw what?", 1205, None),
        ("remove", None, 4), ("remove", 0, 5),
    ]  # fmt: skip


def test_a_log_has_them_as_lines(trace: str, tmp_path: Path) -> None:
    lines = export(trace, "mmiotrace", tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if "LOST" in line] == [
        "CPU:0 [LOST 1205 EVENTS]", "CPU:1 [LOST EVENTS]",
    ]  # fmt: skip
    assert "MARK 0.010000 modprobe nvme" in lines and "MARK 0.030000 remove" in lines
    within = export(trace, "mmiotrace", tmp_path / "log", "--from-mark", "remove").read_text()
    assert "modprobe" not in within and "LOST 1205" not in within
    assert "PCIDEV" in within and "vetrace region" in within and "LOST EVENTS" in within


# --- from one mark to another ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["--from-mark", "modprobe nvme"], [1, 2, 3, 4]),
        (["--from-mark", "modprobe"], [1, 2, 3, 4]),
        (["--from-mark", "mod*"], [1, 2, 3, 4]),
        (["--to-mark", "remove"], [0, 1, 2]),
        (["--from-mark", "modprobe nvme", "--to-mark", "remove"], [1, 2]),
        (["--from-mark", "modprobe nvme", "--to-mark", "remove", "--value", "2"], [1]),
        (["--from-mark", "rw what", "--to-mark", "remove"], [2]),
        (["--from-mark", "phase: initcall nvme*"], [4]),
        (["--from-mark", "kernel entry"], [0, 1, 2, 3, 4]),
    ],
)
def test_accesses_between_marks(
    trace: str, tmp_path: Path, capsys: Output, arguments: list[str], numbers: list[int]
) -> None:
    assert [item["seq"] for item in objects(capsys, "show", "--json", trace, *arguments)] == numbers
    (counts,) = objects(capsys, "stats", "--json", trace, *arguments)
    assert counts["accesses"] == len(numbers)
    out = shown(capsys, "diff", trace, trace, *arguments)
    assert f"nvme: {len(numbers)} alike" in out
    assert main.main(["audit", trace, *arguments]) == 1
    assert f"of its {counted(len(numbers), 'access')}: " in capsys.readouterr().err


def test_notes_outside_of_the_stretch_are_not_shown(trace: str, capsys: Output) -> None:
    lines = shown(
        capsys, "show", trace, "--from-mark", "modprobe", "--to-mark", "not understood"
    ).splitlines()
    assert [line for line in lines if "──" in line] == [
        "── mark: modprobe nvme ──", "── mark: not understood: rw what? ──",
    ]  # fmt: skip
    lines = shown(capsys, "show", trace, "--time", "0.03-").splitlines()
    assert lines[0] == "── mark: remove ──" and len(lines) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from-mark", "nosuch"], "has 'nosuch' in it; its marks: modprobe nvme, not understood"),
        (["--from-mark", "PCIDEV"], "has 'PCIDEV' in it"),
        (["--from-mark", "initcall"], "has 'initcall' in it"),
        (["--to-mark", "nosuch"], "has 'nosuch' in it"),
        (["--from-mark", "remove", "--to-mark", "modprobe"], "after the other has 'modprobe' in"),
    ],
)
def test_a_mark_that_is_not_there_is_told(
    trace: str, capsys: Output, arguments: list[str], words: str
) -> None:
    for command in (["show"], ["stats"], ["audit"], ["diff", trace]):
        assert main.main([*command, trace, *arguments]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1


def test_a_trace_without_marks_says_so(tmp_path: Path, capsys: Output) -> None:
    path = str(sample.write(tmp_path / "t.vtrace"))
    assert main.main(["show", path, "--from-mark", "x"]) == 2
    assert "its marks: none at all" in capsys.readouterr().err


def test_a_stretch_ends_once() -> None:
    stretch = Stretch("a", "b")
    told = []
    for text in ("b", "a", "x", "b", "x", "a", "x"):
        stretch.add(mark(text))
        told.append(stretch.open)
    assert told == [False, True, True, True, False, False, False]


def test_the_same_mark_may_open_and_close() -> None:
    stretch = Stretch("a", "a")
    told = []
    for text in ("a", "x", "a", "x"):
        stretch.add(mark(text))
        told.append(stretch.open)
    assert told == [True, True, True, False]


# --- phases of an imported trace -------------------------------------------------------------


def phases(*records: Record) -> list[str | None]:
    tracker = PhaseTracker()
    return [phase for r in records if (phase := tracker.add(r), isinstance(r, Intercept))[1]]


def test_a_marker_opens_a_phase_of_an_imported_trace() -> None:
    assert phases(*RECORDS) == [
        None, "modprobe nvme", "modprobe nvme", "remove", "initcall nvme_init",
    ]  # fmt: skip


def test_a_marker_opens_none_of_the_guests_own() -> None:
    access = sample.device("nvme", 0, 4, "read", 1)
    assert phases(mark("before"), sample.intercept(0, access)) == ["early"]


def test_phases_choose_and_count(trace: str, capsys: Output) -> None:
    found = objects(capsys, "show", "--json", trace, "--phase", "modprobe*")
    assert [item["seq"] for item in found] == [1, 2]
    (counts,) = objects(capsys, "stats", "--json", trace)
    assert {"phase": "modprobe nvme", "region": "nvme", "accesses": 2} in counts["phases"]  # type: ignore[operator]
    lines = shown(capsys, "show", trace, "--phase", "modprobe*").splitlines()
    assert lines[0] == "── mark: modprobe nvme ──"


# --- what is lost ----------------------------------------------------------------------------


def test_losses_in_words() -> None:
    def words(*records: LostRecord) -> str:
        losses = Losses()
        for record in records:
            losses.add(record)
        return losses.words

    def lost(count: int | None, vcpu: int | None = None) -> LostRecord:
        return LostRecord(time_ns=0, vcpu=vcpu, count=count)

    assert words() == "no events lost"
    assert words(lost(1)) == "1 event lost"
    assert words(lost(5), lost(2, 0), lost(3, 1)) == "5 events lost"
    assert words(lost(5), lost(7, 0)) == "7 events lost"
    assert words(lost(None, 0)) == "an unknown number of events lost"
    assert words(lost(5), lost(None, 0)) == "5 events lost and an unknown number more"


def test_notes_are_chosen_by_their_moment() -> None:
    sieve = Sieve(choose("time >= 20ms"))
    assert sieve.wanted_note(LOST) and not sieve.wanted_note(mark("early", 10))
    assert sieve.wanted_note(mark("phase: early", 10))
