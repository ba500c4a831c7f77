"""What Perfetto's own trace processor makes of an exported trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from trace_processor import TraceProcessor, trace_processor

from tracer.cli import main
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept, MemoryAccess

GOLDEN = Path(__file__).parents[1] / "golden" / "6.1.0-56-cloud-amd64" / "nvme.vtrace.zst"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceProcessor]:
    result = tmp_path_factory.mktemp("perfetto") / "nvme.pftrace"
    with trace_processor() as processor:
        assert main.main(["export", str(GOLDEN), "--format", "perfetto", "-o", str(result)]) == 0
        processor.load(result.read_bytes())
        yield processor


@pytest.fixture(scope="module")
def accesses() -> list[tuple[Intercept, int, MemoryAccess]]:
    with TraceReader(GOLDEN) as trace:
        return [
            (record, seq, access)
            for record in trace
            if isinstance(record, Intercept)
            for seq, access in record.device_accesses()
        ]


Accesses = list[tuple[Intercept, int, MemoryAccess]]


def test_nothing_is_lost_on_the_way_in(opened: TraceProcessor) -> None:
    assert opened.query("SELECT count(*) FROM stats")[0][0] > 100
    bad = "SELECT name, value FROM stats WHERE severity IN ('error', 'data_loss') AND value"
    assert opened.query(bad) == []


def test_a_vcpu_has_a_track_and_each_region_one_below(
    opened: TraceProcessor, accesses: Accesses
) -> None:
    rows = opened.query(
        "SELECT parent.name AS vcpu, track.name AS region, count(slice.id) FROM slice"
        " JOIN track ON slice.track_id = track.id"
        " JOIN track AS parent ON track.parent_id = parent.id GROUP BY 1, 2"
    )
    counts = Counter(access.region for _, _, access in accesses)
    assert len(counts) > 1
    assert rows == [("vCPU 0", region, count) for region, count in sorted(counts.items())]


def test_an_access_has_time_name_and_arguments(opened: TraceProcessor, accesses: Accesses) -> None:
    names = ("seq", "value", "address", "symbol", "text", "via")
    arguments = ", ".join(f"extract_arg(arg_set_id, 'debug.{name}')" for name in names)
    rows = opened.query(f"SELECT ts, dur, category, name, {arguments} FROM slice ORDER BY 5")
    assert rows == [
        (
            record.time_ns, 0, "mmio", f"{access.direction} {access.width} +{access.offset:#x}",
            seq, f"{access.value:#x}", f"{access.physical:#x}", record.symbol, record.text,
            record.via,
        )
        for record, seq, access in accesses
    ]  # fmt: skip
