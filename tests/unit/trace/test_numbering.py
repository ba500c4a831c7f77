"""Lines of a trace that were taken out, repeated or moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trace_sample as sample

from tracer.cli import main
from tracer.trace.compiled import BlockRecord
from tracer.trace.numbering import Numbering
from tracer.trace.reader import TraceReader
from tracer.trace.record import LostRecord

Lines = list[bytes]
Output = pytest.CaptureFixture[str]

AT = 7
"""The first access of the sample trace is in this line, counted from 0."""

WRONG = {
    "out": (lambda lines: lines.pop(AT + 1), "2 is at line 9, where 1"),
    "twice": (lambda lines: lines.insert(AT, lines[AT]), "0 is at line 9, where 1"),
    "moved": (lambda lines: lines.insert(AT + 1, lines.pop(AT)), "1 is at line 8, where 0"),
}


@pytest.fixture(params=WRONG)
def wrong(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A trace of which a line is not in its place, and what is to be told of it."""
    path = sample.write(tmp_path / "run.vtrace")
    lines = path.read_bytes().splitlines(keepends=True)
    assert b'"seq":0' in lines[AT] and b'"seq":1' in lines[AT + 1]
    change: Callable[[Lines], object]
    change, places = WRONG[request.param]
    change(lines)
    path.write_bytes(b"".join(lines))
    return path, f"access {places} is due"


def test_whoever_reads_it_is_told(wrong: tuple[Path, str], capsys: Output) -> None:
    path, told = wrong
    for words in (["show"], ["stats"], ["tally", "count"], ["allow-list"]):
        assert main.main([words[0], str(path), *words[1:]]) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"vetrace: {path}: {told}: lines are missing, twice there, or not")
    assert main.main(["open", str(path), "-e", "goto end"]) == 0
    shown = capsys.readouterr().out
    assert told in shown.replace("\n", " ")


def test_the_damage_has_both_that_and_a_cut(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "run.vtrace")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:AT], *lines[AT + 1 : AT + 3]]))
    with TraceReader(path) as trace:
        assert len(list(trace)) == AT + 1
    assert trace.damage is not None
    assert trace.damage.startswith("access 1 is at line 8") and "; there is no end" in trace.damage


def test_a_block_has_as_many_numbers_as_accesses_and_the_last_ones_begin_later() -> None:
    def block(seq: int) -> BlockRecord:
        return BlockRecord(seq=seq, time_ns=0, accesses=5, window=0, rows=b"")

    numbering = Numbering()
    numbering.follow(LostRecord(time_ns=0, count=100, seq=100), 2)
    numbering.follow(LostRecord(time_ns=0, count=7), 3)
    for number, seq in enumerate((100, 105, 110), 4):
        numbering.follow(block(seq), number)
    assert numbering.fault is None
    numbering.follow(block(1114), 7)
    first = numbering.fault
    assert first is not None and first.startswith("access 1,114 is at line 7, where 115 is due")
    numbering.follow(block(0), 8)
    assert numbering.fault == first
