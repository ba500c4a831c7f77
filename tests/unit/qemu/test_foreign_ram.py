"""tracer.qemu.foreign_ram: RAM in files, where QEMU's memory map has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.errors import QemuError
from tracer.qemu.flat_view import FlatRange
from tracer.qemu.foreign_ram import ForeignMemory, Store

START = 0x1000


def piece(start: int, end: int, offset: int, name: str = "ram", kind: str = "ram") -> FlatRange:
    return FlatRange(start, end, kind, name, offset, "")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[ForeignMemory]:
    file = tmp_path / "ram"
    file.write_bytes(bytes(START) + bytes(range(256)) * 0x40)
    made = ForeignMemory({"ram": Store(os.open(file, os.O_RDWR), START)})
    made.lay_out(
        [
            piece(0x10_0000, 0x10_1FFF, 0x2000),
            piece(0, 0xFFF, 0),
            piece(0x2000, 0x2FFF, 0, kind="rom"),
            piece(0x1000, 0x1FFF, 0, name="vga.vram"),
        ]
    )
    yield made
    made.close()


def test_bytes_are_where_the_map_has_them(memory: ForeignMemory) -> None:
    assert memory.read(0x12, 3) == b"\x12\x13\x14"
    memory.write(0x10_1FFE, b"ab")
    assert memory.read(0x10_1FFC, 4) == b"\xfc\xfdab"
    assert memory.read(0, 1) == b"\0"
    assert memory.ranges == [(0, 0xFFF), (0x10_0000, 0x10_1FFF)]


@pytest.mark.parametrize(
    ("physical", "size"),
    [(0xFFF, 2), (0x1000, 1), (0x2000, 1), (0xF_FFFF, 2), (0x10_2000, 1), (0x10_1FFF, 2)],
)
def test_what_is_not_ram(memory: ForeignMemory, physical: int, size: int) -> None:
    with pytest.raises(LookupError):
        memory.read(physical, size)
    with pytest.raises(LookupError):
        memory.write(physical, bytes(size))
    assert not memory.holds(physical, size)


def test_ram_in_two_pieces_is_held(memory: ForeignMemory) -> None:
    memory.lay_out([piece(0, 0xFFF, 0), piece(0x1000, 0x1FFF, 0x1000)])
    assert memory.holds(0xFFF, 2) and not memory.holds(0x1FFF, 2)


def test_ram_that_is_gone_is_told(memory: ForeignMemory) -> None:
    memory.lay_out([piece(0, 0xFF_FFFF, 0)])
    with pytest.raises(QemuError, match="QEMU has ended"):
        memory.read(0x80_0000, 8)
