"""Ports in a trace and in QEMU's log: one order, whatever devices they are of."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from tracer.check import witness
from tracer.check.comparison import Comparison
from tracer.trace.member import Space
from tracer.trace.record import (
    Intercept,
    MapRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionInfo,
    RegionRecord,
)
from tracer.x86.bus import Direction


def region(name: str, start: int, end: int, space: Space = "port", qemu: str = "") -> RegionRecord:
    info = RegionInfo(
        name=name, start=start, end=end, qemu_name=qemu or name, device=name, traced=True,
        space=space,
    )  # fmt: skip
    return RegionRecord(time_ns=0, region=info)


REGIONS = [region("serial", 0x3F8, 0x3FF), region("rtc", 0x70, 0x71)]


def made(
    seq: int, place: str, address: int, value: int | None, width: int = 1,
    direction: Direction = "read", space: Space = "port", skipped: bool = False,
) -> Intercept:  # fmt: skip
    access = MemoryAccess(
        direction=direction, width=width, linear=0, physical=address, value=value, region=place,
        offset=0, space=space, skipped=skipped,
    )  # fmt: skip
    return Intercept(
        seq=seq, time_ns=0, vcpu=0, cpl=0, mode=64, rip=0x1000, code=b"", text="in", cr2=0,
        error_code=0, via="monitor", accesses=[access], before={}, after={},
    )  # fmt: skip


def line(
    address: int, value: int, width: int = 1, name: str = "serial", direction: Direction = "read",
    cpu: int = 0,
) -> str:  # fmt: skip
    return (
        f"memory_region_ops_{direction} cpu {cpu} mr 0x55 addr 0x{address:x} value 0x{value:x} "
        f"size {width} name '{name}'"
    )


def compared(
    records: Iterable[Record], *lines: str, regions: Iterable[Record] = REGIONS
) -> Comparison:
    mark = Mark(time_ns=0, text="kernel entry", qemu_log_offset=0)
    log = [text.encode() + b"\n" for text in lines]
    return witness.compare([*regions, mark, *records], log)


def test_ports_of_all_devices_have_one_order() -> None:
    records = [made(0, "serial", 0x3F8, 1), made(1, "rtc", 0x71, 2), made(2, "serial", 0x3F8, 3)]
    right = line(0x3F8, 1), line(0x71, 2, name="rtc"), line(0x3F8, 3)
    assert compared(records, *right).agrees
    assert set(compared(records, *right).regions) == {"port"}
    turned = compared(records, right[1], right[0], right[2])
    assert not turned.agrees and turned.regions["port"].traced == 3


def test_a_port_that_the_trace_lacks_and_one_that_it_has_alone() -> None:
    records = [made(0, "serial", 0x3F8, 1)]
    missing = compared(records, line(0x3F8, 1), line(0x3F8, 2))
    assert (missing.missing, missing.extra, missing.different) == (1, 0, 0)
    extra = compared([*records, made(1, "serial", 0x3F9, 1)], line(0x3F8, 1))
    assert (extra.missing, extra.extra, extra.different) == (0, 1, 0)
    different = compared(records, line(0x3F8, 7))
    assert (different.missing, different.extra, different.different) == (0, 0, 1)


def test_a_port_where_nothing_was_announced_is_one_too() -> None:
    assert compared([made(0, "port", 0xEE, 0xFF)], line(0xEE, 0xFF, name="io")).agrees
    assert compared([], line(0xEE, 0xFF, name="io")).missing == 1


def test_ports_are_not_looked_at_where_the_trace_has_none() -> None:
    found = compared([], line(0x3F8, 1), regions=[])
    assert not found.missing and not found.regions


def test_what_no_vcpu_did_is_left_out() -> None:
    assert compared([made(0, "serial", 0x3F8, 1)], line(0x3F8, 9, cpu=-1), line(0x3F8, 1)).agrees


def test_a_wide_access_is_told_in_pieces() -> None:
    records = [made(0, "rtc", 0x70, 0x2211, 2, "write")]
    pieces = [line(0x70 + n, 0x11 * (n + 1), name="rtc", direction="write") for n in range(2)]
    assert compared(records, *pieces).agrees


def test_a_port_is_no_physical_address() -> None:
    records = [made(0, "serial", 0x3F8, 1)]
    low = region("window", 0, 0xFFFF, "memory")
    found = compared(records, line(0x3F8, 1), regions=[low, *REGIONS])
    assert found.agrees and found.regions["port"].traced == 1


def test_what_has_no_witness_is_counted_and_no_fault() -> None:
    records = [
        made(0, "msr", 0x10, 5, 8, space="msr"), made(1, "cpuid", 1, 5, 4, space="cpuid"),
        made(2, "serial", 0x3F8, 1), made(3, "msr", 0x10, 5, 8, space="msr"),
    ]  # fmt: skip
    found = compared(records, line(0x3F8, 1))
    assert found.agrees and found.traced == 1
    assert found.unwitnessed == {"msr": 2, "cpuid": 1}


def test_an_access_that_was_not_made_is_not_in_the_log() -> None:
    records = [made(0, "serial", 0x3F8, None, skipped=True), made(1, "serial", 0x3F8, 1)]
    assert compared(records, line(0x3F8, 1)).agrees


# --- what a device model does not take -----------------------------------------------------------

PICS = [region("pic", 0x20, 0x21), region("pic#2", 0xA0, 0xA1, qemu="pic")]
NOTHING_THERE = [
    replace(each, region=replace(each.region, base=0))
    for each in (region("io", 0x22, 0x3F, qemu="io"), region("io", 0x2E8, 0x2FF, qemu="io"))
]
RTC = replace(REGIONS[1], region=replace(REGIONS[1].region, start=0x71, base=0x70))


def refusal(offset: int, width: int, name: str, direction: Direction = "read") -> str:
    return f"Invalid {direction} at addr 0x{offset:X}, size {width}, region '{name}', reason: odd"


@pytest.mark.parametrize(
    ("port", "name", "offset"), [(0x71, "rtc", 1), (0x2F9, "io", 0x2F9), (0xA1, "pic", 1)]
)
def test_an_access_that_is_refused_is_told_by_the_name_and_the_offset(
    port: int, name: str, offset: int
) -> None:
    regions = [REGIONS[0], RTC, *PICS, *NOTHING_THERE]
    records = [made(0, name, port, 0, 2), made(1, name, port, 0x1234, 2, "write")]
    read, written = refusal(offset, 2, name), refusal(offset, 2, name, "write")
    assert compared(records, read, written, regions=regions).agrees
    assert compared(records, read, regions=regions).extra == 1
    assert compared(records[:1], read, written, regions=regions).missing == 1
    assert compared([], read, regions=REGIONS[:1]).traced == 0
    # A read answers 0, of the port alone that it is of.
    assert compared([made(0, name, port, 9, 2)], read, regions=regions).different == 1
    assert not compared([made(0, name, port ^ 2, 0, 2)], read, regions=regions).agrees


def test_refusals_of_devices_that_are_alike_are_told_apart_by_the_trace() -> None:
    records = [made(n, "pic", port, 0, 2) for n, port in enumerate([0x21, 0xA1, 0xA1, 0x21, 0xA1])]
    log = [refusal(1, 2, "pic")] * len(records)
    assert compared(records, *log, regions=PICS).agrees
    assert compared(records, *log, log[0], regions=PICS).missing == 1


def test_a_refusal_of_memory_is_none_of_a_port_of_the_same_name() -> None:
    both = [region("bar", 0xFEB0_0000, 0xFEB0_00FF, "memory", "bar"),
            region("bar.io", 0xC000, 0xC0FF, qemu="bar")]  # fmt: skip
    memory = made(0, "bar", 0xFEB0_0001, 0, 2, space="memory")
    port = made(1, "bar.io", 0xC001, 0, 2)
    log = refusal(1, 2, "bar")
    assert compared([memory, port], log, log, regions=both).agrees
    assert compared([port, memory], log, log, regions=both).agrees


# --- what is no port, for all its number ---------------------------------------------------------


def test_memory_that_is_an_alias_of_ports_is_logged_at_these() -> None:
    bar = region("rtl8139", 0xFEBC_6000, 0xFEBC_60FF, "memory")
    ports = region("rtl8139.io", 0xC000, 0xC0FF, qemu="rtl8139")
    mapped = MapRecord(
        time_ns=0, linear=0, physical=0xFEBC_6000, size=256, regions=["rtl8139"], by="ioremap"
    )
    log = line(0xC03E, 5, 2, "rtl8139")
    access = made(1, "rtl8139", 0xFEBC_603E, 5, 2, space="memory")
    access = replace(access, accesses=[replace(access.accesses[0], offset=0x3E)])
    probed = made(0, "rtl8139.io", 0xC03E, 5, 2)
    assert compared([probed, mapped, access], log, log, regions=[bar, ports]).agrees
    assert compared([mapped, probed], log, regions=[bar, ports]).extra == 1


def test_a_device_of_another_byte_order_is_logged_the_way_it_has_it() -> None:
    told = [region("fwcfg", 0x510, 0x511), region("dma", 0x514, 0x51B, qemu="fwcfg.dma")]
    records = [
        made(0, "dma", 0x518, 0x8031_E41F, 4, "write"), made(1, "fwcfg", 0x510, 0x19, 2, "write")
    ]  # fmt: skip
    other = line(0x510, 0x19, 2, "fwcfg", "write")
    right = line(0x518, 0x1FE4_3180, 4, "fwcfg.dma", "write")
    assert compared(records, right, other, regions=told).agrees
    wrong = line(0x518, 0x8031_E41F, 4, "fwcfg.dma", "write")
    assert compared(records, wrong, other, regions=told).different == 1
