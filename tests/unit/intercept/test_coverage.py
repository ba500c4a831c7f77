"""What is announced of a guest's regions."""

from __future__ import annotations

from typing import Any

from stage import Stage

from tracer.access.region import Region
from tracer.access.want import MemoryMap, PortMap
from tracer.compiled.inputs import Input
from tracer.trace.record import RegionRecord

SERIAL = Region("serial", 0x3F8, 0x3FF, 0x3F8, "serial", "serial")
CONFIG = Region("config", 0x400, 0x403, 0x400, "config", "config")


def announced(stage: Stage) -> list[tuple[str, str]]:
    """Have the regions looked at once, and return those that are new."""
    del stage.records[:]
    work: Any = stage.coverage.refresh()
    answers = {MemoryMap: ([], []), PortMap: [SERIAL, CONFIG]}
    answer = None
    try:
        while True:
            answer = answers[type(work.send(answer))]
    except StopIteration:
        pass
    return [
        (record.region.name, record.region.space)
        for record in stage.records
        if isinstance(record, RegionRecord)
    ]


def test_configuration_space_is_announced_once_where_ports_are() -> None:
    stage = Stage()
    assert announced(stage) == []
    stage.coverage.record({Input.PORT})
    assert announced(stage) == [
        ("serial", "port"), ("config.io", "port"), ("config", "config"),
    ]  # fmt: skip
    (record,) = (each for each in stage.records if each.region.space == "config")
    assert (record.region.start, record.region.end) == (0, 0xFFF_FFFF)
    assert announced(stage) == []
