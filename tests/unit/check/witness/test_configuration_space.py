"""PCI configuration space by ports: the trace's own decoding against what QEMU's log tells."""

from __future__ import annotations

from typing import Any

import pytest

from tracer.check import witness
from tracer.check.comparison import Comparison
from tracer.trace.configuration import configuration_space
from tracer.trace.record import Intercept, Mark, MemoryAccess, Record, RegionInfo, RegionRecord

PORTS = RegionInfo(
    name="data", start=0xCF8, end=0xCFF, qemu_name="pci-conf-data", device="data", traced=True,
    space="port",
)  # fmt: skip
REGIONS = [RegionRecord(time_ns=0, region=each) for each in (PORTS, configuration_space())]
NVME = 0x8000_0800
ONES = 0xFFFF_FFFF


def made(seq: int, *accesses: MemoryAccess) -> Intercept:
    return Intercept(
        seq=seq, time_ns=0, vcpu=0, cpl=0, mode=64, rip=0x1000, code=b"", text="in", cr2=0,
        error_code=0, via="monitor", accesses=list(accesses), before={}, after={},
    )  # fmt: skip


def at(space: Any, address: int, value: int, direction: Any, **members: Any) -> MemoryAccess:
    return MemoryAccess(
        direction=direction, width=4, linear=0, physical=address, value=value, region=space,
        offset=address, space=space, **members,
    )  # fmt: skip


def read(place: int, value: int, *, skipped: bool = False) -> list[MemoryAccess]:
    return [
        at("port", 0xCFC, value, "read"),
        at("config", place, value, "read", skipped=skipped),
    ]


def write(place: int, value: int) -> list[MemoryAccess]:
    return [at("port", 0xCFC, value, "write"), at("config", place, value, "write")]


def traced(*each: list[MemoryAccess]) -> list[Record]:
    """A latch that is set, and then these."""
    records: list[Record] = [made(0, at("port", 0xCF8, NVME, "write"))]
    return [*records, *(made(2 * n - 1, *one) for n, one in enumerate(each, 1))]


def line(direction: str, value: int, port: int = 0xCFC, cpu: int = 0, name: str = "data") -> str:
    return (
        f"memory_region_ops_{direction} cpu {cpu} mr 0x55 addr {port:#x} value {value:#x} size 4"
        f" name 'pci-conf-{name}'"
    )


LATCH = line("write", NVME, 0xCF8, name="idx")


def compared(records: list[Record], *lines: str, regions: Any = REGIONS) -> Comparison:
    mark = Mark(time_ns=0, text="kernel entry", qemu_log_offset=0)
    return witness.compare([*regions, mark, *records], [each.encode() + b"\n" for each in lines])


def faults(comparison: Comparison) -> tuple[int, ...]:
    region = comparison.regions["config"]
    return region.traced, region.witnessed, region.missing, region.extra, region.different


THERE = "pci_cfg_read nvme 00:01.0 @0x0 -> 0x101b36"


def test_both_sides_tell_the_same() -> None:
    records = traced(read(0x8000, 0x101B36), write(0x8000, 1), read(0x8000, ONES))
    found = compared(
        records, LATCH, THERE, line("read", 0x101B36), line("write", 1),
        "pci_cfg_write nvme 00:01.0 @0x0 <- 0x1", line("read", ONES),
    )  # fmt: skip
    assert found.agrees and faults(found) == (3, 3, 0, 0, 0)
    assert found.regions["port"].traced == 4
    assert (found.absent, found.entries, found.unwitnessed) == (1, 4, {})


@pytest.mark.parametrize(
    ("place", "value", "counts"),
    [
        (0x1_0000, 0x101B36, (1, 1, 0, 0, 1)),
        (0x8004, 0x101B36, (1, 1, 0, 0, 1)),
        (0x8000, 0x101B37, (1, 1, 0, 0, 1)),
    ],
)
def test_a_trace_that_leads_elsewhere_differs(
    place: int, value: int, counts: tuple[int, ...]
) -> None:
    found = compared(traced(read(place, value)), LATCH, THERE, line("read", 0x101B36))
    assert not found.agrees and faults(found) == counts


def test_what_either_side_has_alone() -> None:
    one = read(0x8000, 0x101B36)
    lost = compared(traced(one), LATCH, line("read", 0x101B36))
    assert faults(lost) == (1, 0, 0, 1, 0)
    more = compared(
        traced(one), LATCH, THERE, line("read", 0x101B36), THERE, line("read", 0x101B36)
    )
    assert faults(more) == (1, 2, 1, 0, 0)


def test_what_reached_nothing_is_on_neither_side() -> None:
    skipped = traced(read(0, 7, skipped=True))[1:]
    found = compared(skipped, line("read", 7))
    assert found.agrees and faults(found) == (0, 0, 0, 0, 0)


def test_what_no_vcpu_did_and_what_is_not_announced_is_left_out() -> None:
    records = traced()
    found = compared(records, LATCH, THERE, line("read", 0x101B36, cpu=-1))
    assert found.agrees and faults(found) == (0, 0, 0, 0, 0)
    older = compared(records, LATCH, THERE, line("read", 0x101B36), regions=REGIONS[:1])
    assert set(older.regions) == {"port"} and not older.absent


def test_firmware_is_left_out() -> None:
    lines = LATCH, THERE, line("read", 0x101B36)
    assert faults(compared(traced(), *lines)) == (0, 1, 1, 0, 0)
    size = sum(len(each) + 1 for each in lines)
    woken = Mark(time_ns=0, text="the machine woke up", qemu_log_offset=size, qemu_log_from=0)
    assert faults(compared([woken, *traced()], *lines)) == (0, 0, 0, 0, 0)
