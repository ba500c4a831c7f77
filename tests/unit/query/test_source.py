"""A source of a trace gives what is wanted of it: a queue's entries come with their access."""

from __future__ import annotations

from pathlib import Path

import pytest
import trace_sample as sample

from tracer.devices import library
from tracer.query import source as module
from tracer.query.source import Source
from tracer.query.words import choose
from tracer.trace.queue import QueueRecord
from tracer.trace.reader import TraceReader
from tracer.trace.record import Record

SQ0, CQ0 = 0x1000, 0x1004


def told(path: Path, condition: str, count: int, limit: int | None = None) -> list[int]:
    """Return the numbers of the doorbells that come, of so many, told of behind all of them."""
    records: list[Record] = [sample.RECORDS[0], sample.region("nvme")]
    for seq in range(count):
        access = sample.device("nvme", CQ0 if seq % 2 else SQ0, 4, "write", seq)
        records.append(sample.intercept(seq, access))
    records += [
        QueueRecord(time_ns=0, seq=seq, vcpu=0, region="nvme", queue="Q", number=0)
        for seq in range(count)
    ]
    with TraceReader(sample.write(path, [*records, sample.end(count)])) as reader:
        source = Source(reader, choose(*[condition][: bool(condition)]), library.load(), limit)
        return [item.seq for item in source.items(queues=True) if isinstance(item, QueueRecord)]


def test_a_doorbell_is_told_of_where_its_access_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LATELY", 16)
    assert told(tmp_path / "a", "", 8) == [*range(8)]
    assert told(tmp_path / "b", "register == CQ0HDBL", 8) == [1, 3, 5, 7]
    assert told(tmp_path / "c", "value == 3", 8) == [3]
    assert told(tmp_path / "e", "register == CQ0HDBL", 8, limit=2) == [1, 3]
    assert told(tmp_path / "f", "", 8, limit=8) == [*range(8)]
    assert told(tmp_path / "g", "", 64, limit=8) == []  # it comes too late for all that is known
    assert told(tmp_path / "d", "region == nvme and register == SQ0TDBL", 64)[-16:] == [
        *range(32, 64, 2)
    ]
