"""Folded stacks, and the command that prints them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trace_sample as sample

from tracer.cli.main import main
from tracer.trace.flame import FoldedStacks
from tracer.trace.record import Record, StackFrame, StackRecord


def stack(number: int, *symbols: str | None, lost: str | None = None) -> StackRecord:
    frames = [StackFrame(rip=0xFFFFFFFF81000010, symbol=symbol) for symbol in symbols]
    return StackRecord(time_ns=0, id=number, frames=frames, lost=lost)


def made_by(record: Record, number: int) -> Record:
    return msgspec.structs.replace(record, stack=number)


RECORDS: list[Record] = [
    *sample.RECORDS[:6],
    stack(0, "nvme_queue_rq+0x10", "blk_mq_run+0x2", "ret_from_fork+0x22"),
    made_by(sample.RECORDS[6], 0),
    made_by(sample.RECORDS[7], 0),
    stack(1, "memcpy_toio+0x1", "probe+0x9 [virtio_pci]", lost="no ORC entry for 0x1"),
    made_by(sample.RECORDS[8], 1),
    sample.RECORDS[9],
    stack(2, None, "odd;name\n+0x1"),
    made_by(sample.RECORDS[10], 2),
    sample.RECORDS[11],
]


def test_chains_are_outermost_first_and_counted() -> None:
    folded = FoldedStacks()
    for record in RECORDS:
        folded.add(record, 2)
    assert list(folded.lines()) == [
        "[unknown];probe [virtio_pci];memcpy_toio 2",
        "odd:name?;0xffffffff81000010 2",
        "read_hpet 2",
        "ret_from_fork;blk_mq_run;nvme_queue_rq 4",
    ]


def test_only_what_is_wanted_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = sample.write(tmp_path / "run.vtrace", RECORDS)
    assert main(["stats", "--folded", str(trace), "--region", "nvme", "--read"]) == 0
    assert capsys.readouterr().out == "ret_from_fork;blk_mq_run;nvme_queue_rq 1\n"


def test_a_trace_without_stacks_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = sample.write(tmp_path / "run.vtrace")
    assert main(["stats", "--folded", str(trace)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "vetrace boot --stacks" in err
