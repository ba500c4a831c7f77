"""Accesses to PCI configuration space by ports, as QEMU's log tells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.check.configuration import ConfigurationLog
from tracer.check.qemu_log import LogEntry, LogReader, entries

TEXTS = Path(__file__).parents[2] / "data" / "texts"


def ops(direction: str, port: int, value: int, width: int = 4, name: str = "", cpu: int = 0) -> str:
    told = name or ("pci-conf-idx" if port < 0xCFC else "pci-conf-data")
    return (
        f"memory_region_ops_{direction} cpu {cpu} mr 0x55 addr {port:#x} value {value:#x}"
        f" size {width} name '{told}'"
    )


def latch(value: int, width: int = 4) -> str:
    return ops("write", 0xCF8, value, width)


def cfg(direction: str, place: str, value: int, device: str = "nvme") -> str:
    arrow = "->" if direction == "read" else "<-"
    return f"pci_cfg_{direction} {device} {place} {arrow} {value:#x}"


def found(*lines: str, offset: int = 0) -> list[LogEntry]:
    log = [line.encode() + b"\n" for line in lines]
    return [
        entry
        for entry in LogReader(log, ConfigurationLog()).entries(offset)
        if entry.space == "config"
    ]


NVME = 0x8000_0800
PLACE = "00:01.0 @0x4"


def test_a_read_is_told_before_its_port_and_a_write_after_it() -> None:
    read, written = found(
        latch(NVME | 4), cfg("read", PLACE, 0x107), ops("read", 0xCFC, 0x107, 2),
        latch(NVME | 4), ops("write", 0xCFC, 0x507, 2), cfg("write", PLACE, 0x507),
    )  # fmt: skip
    assert read == LogEntry(3, 0, "read", 0x8004, 2, 0x107, "nvme", space="config")
    assert written == LogEntry(5, 0, "write", 0x8004, 2, 0x507, "nvme", space="config")


def test_bus_device_function_and_register_are_those_that_qemu_tells() -> None:
    (entry,) = found(cfg("read", "1f:1e.7 @0xfe", 0x1_FFFE, "a b"), ops("read", 0xCFE, 0xFFFE, 2))
    assert entry.address == 0x1F << 20 | 0x1E << 15 | 7 << 12 | 0xFE
    assert (entry.value, entry.name) == (0xFFFE, "a b")


def test_where_no_function_is_the_port_of_the_address_tells_the_place() -> None:
    there = latch(NVME + 0x2000 | 8)
    ones = (1 << 32) - 1
    read, written, again = found(
        there, ops("read", 0xCFE, 0xFFFF, 2), ops("write", 0xCFD, 7, 1), there,
        ops("read", 0xCFC, ones),
    )  # fmt: skip
    assert [each.address for each in (read, written, again)] == [0x2800A, 0x28009, 0x28008]
    assert {each.name for each in (read, written, again)} == {""} and written.value == 7


def test_on_a_machine_without_pci_no_function_is_anywhere() -> None:
    (read,) = found(
        ops("write", 0xCFB, 1, 1, name="io"), ops("write", 0xCF8, NVME | 8, name="io"),
        ops("read", 0xCFE, 0xFFFF_FFFF_FFFF_FFFF, 2, name="io"),
    )  # fmt: skip
    assert (read.address, read.value, read.name) == (0x800A, 0xFFFF, "")


@pytest.mark.parametrize(
    "lines",
    [
        [ops("read", 0xCFC, 0xFFFF_FFFF)],  # nobody knows where
        [latch(NVME ^ 1 << 31), ops("read", 0xCFC, 0xFFFF_FFFF)],  # not enabled
        [latch(NVME), ops("read", 0xCFC, 0x101B36)],  # a function is there: its line is lost
        [latch(NVME, 2), ops("read", 0xCFC, 0xFFFF_FFFF)],
        [ops("read", 0xCF8, NVME), ops("read", 0xCFC, 0xFFFF_FFFF)],
        [latch(NVME), cfg("read", PLACE, 7),
         ops("read", 0xB000_8004, 7, name="pcie-mmcfg-mmio"), latch(NVME)],
        [latch(NVME), ops("write", 0xB000_8004, 7, name="pcie-mmcfg-mmio"), cfg("write", PLACE, 7)],
        [latch(NVME), cfg("write", PLACE, 7)],
        [latch(NVME), cfg("read", "01:1 @0x4", 7), ops("read", 0xCFC, 7)],  # of an older QEMU
        [latch(NVME), ops("read", 0x3F8, 0xFF, 1, "serial")],
    ],
)  # fmt: skip
def test_what_is_no_access_by_ports(lines: list[str]) -> None:
    assert found(*lines) == []


def test_a_line_belongs_to_the_next_access_and_to_no_other() -> None:
    mine, other = found(
        cfg("read", PLACE, 7), ops("read", 0xB000_8004, 7, name="pcie-mmcfg-mmio"),
        latch(NVME + 0x800), ops("read", 0xCFC, 0xFFFF_FFFF),
        ops("write", 0xCFC, 1), ops("read", 0x3F9, 0, 1, "serial"), cfg("write", "00:02.0 @0x0", 1),
    )  # fmt: skip
    assert (mine.address, mine.name) == (0x1_0000, "")
    assert (other.address, other.name, other.line) == (0x1_0000, "nvme", 5)


def test_a_line_of_an_access_in_memory_is_not_that_of_the_next_by_ports() -> None:
    (entry,) = found(
        latch(NVME + 0x800), cfg("read", PLACE, 7),
        ops("read", 0xB000_8004, 7, name="pcie-mmcfg-mmio"), ops("read", 0xCFC, 0xFFFF_FFFF),
    )  # fmt: skip
    assert (entry.address, entry.name, entry.value) == (0x1_0000, "", 0xFFFF_FFFF)


def test_the_last_write_may_be_to_nothing() -> None:
    (entry,) = found(latch(NVME), ops("write", 0xCFC, 1))
    assert (entry.direction, entry.name) == ("write", "")


def test_what_stands_before_the_beginning_says_nothing() -> None:
    begun = [latch(NVME), cfg("read", PLACE, 7), ops("read", 0xCFC, 0xFFFF_FFFF)]
    assert found(*begun, offset=len("\n".join(begun[:2])) + 1) == []


RECORDED = sorted(TEXTS.glob("qemu-*/configuration"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_lines_as_qemu_writes_them(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    told = [e for e in LogReader(lines, ConfigurationLog()).entries() if e.space == "config"]
    assert len(list(entries(lines))) == sum(b"memory_region_ops" in line for line in lines)
    ports = sum(b"pci-conf-data" in line for line in lines)
    assert len(told) == ports > 8
    assert {entry.direction for entry in told} == {"read", "write"}
    assert {entry.width for entry in told} == {1, 2, 4}
    assert "" in {entry.name for entry in told} and len({entry.name for entry in told}) > 2
