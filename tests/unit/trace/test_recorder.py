"""The last accesses of a run: what is kept, what it needs, and what a crash leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import trace_sample as sample
from block_sample import DEVICE, LINEAR, PLACES, REGION, block, row, site
from full_disk import room_for

from tracer.check.replay import Replay
from tracer.cli import main
from tracer.errors import TraceError
from tracer.text.amount import counted
from tracer.trace.compiled import BlockRecord
from tracer.trace.loss import Losses
from tracer.trace.reader import TraceReader
from tracer.trace.record import (
    End,
    Intercept,
    Line,
    LostRecord,
    MapRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionRecord,
    StackFrame,
    StackRecord,
)
from tracer.trace.recorder import FlightRecorder
from tracer.trace.summary import Summary
from tracer.trace.writer import check_trace_output, earlier_of
from tracer.x86.decode import decode
from tracer.x86.state import GPR, Mode

Output = pytest.CaptureFixture[str]


def stack(number: int) -> StackRecord:
    return StackRecord(time_ns=0, id=number, frames=[StackFrame(rip=number, symbol=f"f{number}")])


def emulated(seq: int, number: int | None) -> Intercept:
    """A read that replays, with a call chain."""
    insn = decode(bytes.fromhex("8b07") + bytes(13), 0x1000, Mode.LONG)
    read = MemoryAccess(
        direction="read", width=4, linear=LINEAR, physical=DEVICE, value=seq, region="bar",
        offset=0,
    )  # fmt: skip
    before = {"rflags": 0x202, **dict.fromkeys(GPR, 0), "rdi": LINEAR, "rax": 1 << 40}
    return Intercept(
        seq=seq, time_ns=1000 + seq, vcpu=0, cpl=0, mode=64, rip=0x1000, symbol="driver+0x0",
        code=insn.code, text=insn.text, cr2=LINEAR, error_code=0x8, via="emulated",
        accesses=[read], before=before, after={"rip": 0x1002, "rax": seq}, stack=number,
    )  # fmt: skip


def run(accesses: int, *, blocks: bool, size: int = 7) -> list[Line]:
    """A whole run of so many accesses, each of which reads its own number."""
    told: list[Line] = [
        REGION,
        Mark(time_ns=0, text="kernel entry", qemu_log_offset=77),
        MapRecord(
            time_ns=0, linear=LINEAR, physical=DEVICE, size=4096, regions=["bar"], by="ioremap"
        ),
        PLACES,
        site(0, "8b07"),
    ]
    for seq in range(accesses):
        number = seq // 10
        if seq % 10 == 0:
            told.append(stack(number))
        if not blocks:
            told.append(emulated(seq, number))
        elif seq % size == 0:
            rows = [row(read=each) for each in range(seq, min(seq + size, accesses))]
            told.append(
                block(
                    *rows, seq=seq, time_ns=1000 + seq, stacks=[number] + [None] * (len(rows) - 1)
                )
            )
    counts = {"accesses": accesses, "intercepts": 0 if blocks else accesses}
    counts |= {"emulated": 0 if blocks else accesses, "compiled": accesses if blocks else 0}
    return [*told, End(time_ns=10**6, outcome="poweroff", counts=counts)]


def read(path: Path) -> tuple[list[Record], TraceReader]:
    with TraceReader(path) as trace:
        return list(trace), trace


def values(records: list[Record]) -> list[int | None]:
    return [each.accesses[0].value for each in records if isinstance(each, Intercept)]


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("accesses", [0, 1, 19, 20, 21, 39, 40, 41, 100, 123])
@pytest.mark.parametrize("name", ["run.vtrace", "run.vtrace.zst"])
def test_the_last_accesses_are_kept_as_a_trace(
    tmp_path: Path, capsys: Output, name: str, accesses: int, blocks: bool
) -> None:
    path = tmp_path / name
    with FlightRecorder(path, sample.HEADER, 20) as recorder:
        for line in run(accesses, blocks=blocks):
            recorder.append(line)
    assert sorted(tmp_path.iterdir()) == [path]
    records, trace = read(path)
    kept = list(range(accesses))[-20:]
    assert values(records) == kept
    seqs = [record.seq for record in records if isinstance(record, Intercept)]
    assert seqs == kept
    end = trace.end
    assert end is not None and end.counts["accesses"] == len(kept) and end.outcome == "poweroff"
    assert end.counts.get("left_out", 0) == accesses - len(kept)
    assert sum(isinstance(record, RegionRecord) for record in records) == 1
    told = {record.id for record in records if isinstance(record, StackRecord)}
    assert told >= {r.stack for r in records if isinstance(r, Intercept) and r.stack is not None}
    if accesses:
        for jobs in ("1", "2"):
            assert main.main(["replay", str(path), "--jobs", jobs]) == 0
        replay = Replay(next_seq=0)
        assert not any(replay.add(record) for record in records)
    said = capsys.readouterr()
    if accesses > 20:
        marks = [record for record in records if isinstance(record, Mark)]
        assert [mark.qemu_log_offset for mark in marks] == [None]
        assert f"{counted(accesses - 20, 'access')} left out before the first" in said.err
        assert main.main(["show", str(path)]) == 0
        line = f"── {accesses - 20} access{'' if accesses == 21 else 'es'} left out ──"
        assert capsys.readouterr().out.startswith(line)


def test_what_a_crash_leaves_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace"
    recorder = FlightRecorder(path, sample.HEADER, 20)
    sizes = []
    for line in run(205, blocks=True)[:-1]:
        recorder.append(line)
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
        found: list[int | None] = []
        for file in (earlier_of(path), path):
            if file.exists():
                found += values(read(file)[0])
        last = (
            line.seq + line.accesses
            if isinstance(line, BlockRecord)
            else len(found) and ((found[-1] or 0) + 1)
        )
        assert found == list(range(last))[-len(found) :]
        assert len(found) >= min(last, 20)
    assert max(sizes[len(sizes) // 2 :]) < 2 * max(sizes[: len(sizes) // 2])
    records, _ = read(path)
    replay = Replay(next_seq=0)
    assert not any(replay.add(record) for record in records)


def test_memory_and_disk_do_not_grow_with_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace"
    with FlightRecorder(path, sample.HEADER, 10) as recorder:
        for line in run(3, blocks=False)[:5]:
            recorder.append(line)
        largest = 0
        for seq in range(2000):
            recorder.append(emulated(seq, None))
            largest = max(largest, sum(file.stat().st_size for file in tmp_path.iterdir()))
        size = len(path.read_bytes())
    assert largest < 40 * 1000 and size < largest


def test_a_loss_that_was_wanted_is_told_as_such() -> None:
    losses, summary = Losses(), Summary()
    left = LostRecord(time_ns=0, count=1000, seq=1000)
    losses.add(left)
    summary.add(left)
    assert losses.words == "1,000 accesses left out" and losses.known == 1000
    losses.add(LostRecord(time_ns=0, count=2))
    assert losses.words == "1,002 events lost"
    assert summary.losses.left_out == 1000


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--last", "0", "-o", "x.vtrace"], "--last 0"),
        (["--last", "many", "-o", "x.vtrace"], "--last many"),
        (["--last", "-3", "-o", "x.vtrace"], "--last"),
        (["--last", "5"], "only with -o"),
        (["--last", "5", "-o", "/dev/null"], "/dev/null"),
        (["--last", "5", "-o", "x.vtrace", "--check"], "--check"),
    ],
)
def test_what_cannot_be_meant_is_told_in_a_line(
    options: list[str], why: str, capsys: Output
) -> None:
    assert main.main(["boot", "--kernel", "/nowhere", *options]) in (1, 2)
    told = capsys.readouterr().err
    assert why in told


def test_a_disk_that_is_full_at_the_end_leaves_the_last_accesses(tmp_path: Path) -> None:
    path = tmp_path / "t.vtrace"
    files = [earlier_of(path), path]
    *lines, end = run(100, blocks=False)
    with FlightRecorder(path, sample.HEADER, 30) as recorder:
        for line in lines:
            recorder.append(line)
        before = [file.read_bytes() for file in files]
        with room_for(max(map(len, before)) + 10), pytest.raises(TraceError) as caught:
            recorder.append(end)
    assert str(caught.value).startswith(f"cannot write the end of trace {path}: File too large; ")
    assert str(caught.value).endswith(f"; its last accesses are safe in {files[0]} and {files[1]}")
    assert [file.read_bytes() for file in files] == before
    assert sorted(tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("option", ["--output", "--qemu-log", "--serial"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no/x", "No such file or directory; make its folder first, or name another file"),
        ("file/x", "Not a directory; what should be its folder is a file: name another"),
        ("folder", "Is a directory; name a file in it"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_there_is_a_guest(
    option: str, name: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("as it is")
    (tmp_path / "folder").mkdir()
    files = {kind: tmp_path / f"other{kind}" for kind in ("--output", "--qemu-log", "--serial")}
    files["--serial"].write_text("as it is")
    files[option] = tmp_path / name
    words = [str(word) for pair in files.items() for word in pair]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main.main(["boot", "--kernel", "/nowhere", *words]) == 1
    kind = "trace " if option == "--output" else ""
    assert capsys.readouterr().err == f"vetrace: cannot write {kind}{tmp_path / name}: {why}\n"
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert {path.name: at for path, at in after.items() if path.is_file()} == {
        path.name: at for path, at in before.items() if path.is_file()
    }


def test_looking_whether_a_trace_can_be_written_harms_none(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("as it is")
    (tmp_path / "empty").touch()
    for name in ("full", "empty", "new"):
        check_trace_output(tmp_path / name)
    assert (tmp_path / "full").read_text() == "as it is"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]
