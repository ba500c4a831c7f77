"""A trace as a tape: any access of it by its place, the same whichever way it is come to."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from block_sample import lines as block_lines
from trace_sample import HEADER, device, end, intercept, region, write

from tracer.devices import library
from tracer.errors import TraceError
from tracer.query.source import Source
from tracer.query.words import choose
from tracer.trace import tape as tape_module
from tracer.trace.event import Event
from tracer.trace.reader import TraceReader
from tracer.trace.record import LostRecord, Mark, Record
from tracer.trace.tape import Tape
from tracer.trace.writer import TraceWriter

MAPS = library.load()
ROOT = Path(__file__).parents[3]
TRACES = sorted([*ROOT.glob("tests/data/*.vtrace"), *ROOT.glob("tests/golden/*/*.vtrace.zst")])


def read(path: Path) -> Tape:
    """Read a tape to its end."""
    tape = Tape(TraceReader(path), MAPS)
    while tape.more():
        pass
    return tape


def windows(count: int) -> list[Record]:
    """Be a guest whose accesses have names by what was written before, lost and marked at times."""
    made: list[Record] = [region("nvme"), region("hpet")]
    for seq in range(count):
        if seq % 40 == 7:
            made.append(Mark(time_ns=214_318_000 + seq, text=f"turn {seq}"))
        if seq % 50 == 9:
            made.append(LostRecord(time_ns=214_318_000 + seq, count=2))
        if seq % 60 == 11:
            made.append(Mark(time_ns=214_318_000 + seq, text=f"phase: initcall f{seq}"))
        made.append(intercept(seq, device("nvme", 4 * (seq % 16), 4, "write", seq)))
    return [*made, end(count)]


def told(event: Event) -> tuple[object, ...]:
    return (
        event.seq, event.access, event.record.time_ns, event.phase, event.mark, event.lost,
        None if event.named is None else event.named.text,
    )  # fmt: skip


def straight(path: Path) -> list[tuple[object, ...]]:
    with TraceReader(path) as trace:
        return [told(event) for event in Source(trace, choose(), MAPS).events()]


@pytest.mark.parametrize("path", TRACES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_each_access_is_what_it_is_when_the_trace_is_read_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape_module, "ACCESSES", 7)
    tape, expected = read(path), straight(path)
    assert tape.accesses == len(expected) > 0
    places = list(range(len(expected)))
    assert [told(tape.at(place)) for place in places] == expected
    assert [told(tape.at(place)) for place in reversed(places)] == expected[::-1]
    random.Random(1).shuffle(places)
    assert all(told(tape.at(place)) == expected[place] for place in places[:200])


@pytest.mark.parametrize("name", ["run.vtrace", "run.vtrace.zst"])
def test_names_phases_marks_and_losses_are_those_of_the_place(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, windows(5000))
    tape, expected = read(path), straight(path)
    assert len(tape.chunks) > 2
    assert [told(tape.at(place)) for place in range(4999, -1, -1)] == expected[::-1]


def test_nothing_is_read_that_was_not_asked_for(tmp_path: Path) -> None:
    tape = Tape(TraceReader(write(tmp_path / "run.vtrace", windows(5000))), MAPS)
    assert tape.more()
    assert tape.accesses == 1 and tape.end is None


def test_blocks_are_chunks_and_have_the_kinds_of_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace.zst"
    with TraceWriter(path, HEADER) as trace:
        for line in block_lines(300):
            trace.append(line)
    tape, expected = read(path), straight(path)
    assert [told(tape.at(place)) for place in range(len(expected))] == expected
    assert all(chunk.kinds for chunk in tape.chunks)
    kinds = {number for chunk in tape.chunks for number in chunk.kinds or ()}
    assert len(kinds) == len(tape.kinds) < len(expected)


def test_a_trace_that_is_still_written_goes_on(tmp_path: Path) -> None:
    for name in ("run.vtrace", "run.vtrace.zst"):
        path, records = tmp_path / name, windows(30)
        with TraceWriter(path, HEADER) as trace:
            for record in records[:10]:
                trace.append(record)
            tape = read(path)
            before = tape.accesses
            assert 0 < before < 30 and not tape.whole
            assert not tape.more()
            for record in records[10:]:
                trace.append(record)
            while tape.more():
                pass
        assert tape.accesses == 30 and tape.whole
        assert [told(tape.at(place)) for place in range(30)] == straight(path)


def test_a_trace_that_is_cut_goes_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = write(tmp_path / "run.vtrace", windows(100)).read_bytes()
    for size in range(len(whole) // 2, len(whole), 997):
        path = tmp_path / "cut.vtrace"
        path.write_bytes(whole[:size])
        tape = read(path)
        assert tape.accesses == len(straight(path))
        assert tape.reader.damage and tape.trouble is None


def test_a_line_that_is_no_record_ends_the_tape(tmp_path: Path) -> None:
    lines = write(tmp_path / "run.vtrace", windows(100)).read_bytes().splitlines(keepends=True)
    path = tmp_path / "bad.vtrace"
    path.write_bytes(b"".join([*lines[:50], b"{}\n", *lines[50:]]))
    tape = read(path)
    assert tape.trouble is not None and "line 51" in tape.trouble
    assert 0 < tape.accesses < 50 and not tape.more()
    assert told(tape.at(tape.accesses - 1))[0] == tape.accesses - 1


def test_a_file_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "run.vtrace", windows(5000))
    tape = read(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(TraceError, match="has changed since it was opened"):
        tape.at(4999)
