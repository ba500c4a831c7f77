"""tracer.qemu.packet_ram: RAM by packets, asked for no more often than it has to be."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from tracer.errors import QemuError
from tracer.qemu.flat_view import FlatRange
from tracer.qemu.packet_ram import PacketMemory

SIZE = 0x4000


class Stub:
    """Answers packets from RAM of its own; ``asked`` has those about RAM."""

    def __init__(self) -> None:
        self.ram = bytearray(range(256)) * (SIZE // 256)
        self.asked: list[str] = []
        self.moment = 0

    def exchange(self, packets: Sequence[str]) -> list[str]:
        first, *own, last = packets
        assert (first, last) == ("Qqemu.PhyMemMode:1", "Qqemu.PhyMemMode:0")
        self.moment += len(packets)
        self.asked += own
        return ["OK", *map(self._answer, own), "OK"]

    def _answer(self, packet: str) -> str:
        kind, at, size, data = re.fullmatch(r"([mM])(\w+),(\w+):?(\w*)", packet).groups()  # type: ignore[union-attr]
        start, end = int(at, 16), int(at, 16) + int(size, 16)
        assert end - start <= 2048
        if kind == "m":
            return self.ram[start:end].hex()
        self.ram[start:end] = bytes.fromhex(data)
        return "OK"


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def memory(stub: Stub) -> PacketMemory:
    made = PacketMemory({"ram"})
    made.lay_out(
        [
            FlatRange(0x2000, 0x3FFF, "ram", "ram", 0x2000, ""),
            FlatRange(0, 0xFFF, "ram", "ram", 0, ""),
            FlatRange(0x1000, 0x1FFF, "ram", "vga.vram", 0, ""),
        ]
    )
    made.connect(stub.exchange, lambda: stub.moment)
    return made


def test_what_is_near_is_asked_for_once(memory: PacketMemory, stub: Stub) -> None:
    assert memory.read(0x2010, 4) == b"\x10\x11\x12\x13"
    assert memory.read(0x20F8, 8) == bytes(range(0xF8, 0x100))
    assert stub.asked == ["m2000,100"]
    assert memory.read(0x20F8, 0x1000) == bytes(stub.ram[0x20F8:0x30F8])
    assert stub.asked[1:] == ["m2100,800", "m2900,800"]
    # Whatever else is asked of GDB may have changed it.
    stub.ram[0x2010] = 0xFF
    stub.moment += 1
    assert memory.read(0x2010, 1) == b"\xff"


def test_what_is_written_is_read(memory: PacketMemory, stub: Stub) -> None:
    assert memory.read(0x3000, 2) == b"\0\1"
    data = bytes(reversed(range(256))) * 10
    memory.write(0x3001, data)
    assert memory.read(0x3000, 2 + len(data)) == b"\0" + data + b"\x01"
    assert [word[:10] for word in stub.asked[1:3]] == ["M3001,800:", "M3801,200:"]


@pytest.mark.parametrize(("physical", "size"), [(0xFFF, 2), (0x1000, 1), (0x1FFF, 2), (0x4000, 1)])
def test_what_is_not_ram(memory: PacketMemory, stub: Stub, physical: int, size: int) -> None:
    with pytest.raises(LookupError):
        memory.read(physical, size)
    with pytest.raises(LookupError):
        memory.write(physical, bytes(size))
    assert not memory.holds(physical, size) and not stub.asked
    assert memory.ranges == [(0, 0xFFF), (0x2000, 0x3FFF)] and memory.holds(0x2000, 0x2000)


def test_what_is_refused_is_told(memory: PacketMemory) -> None:
    memory.connect(lambda packets: ["OK", *["E14"] * (len(packets) - 2), "OK"], lambda: 0)
    with pytest.raises(QemuError, match="cannot be read any more: 'E14'"):
        memory.read(0, 1)
    with pytest.raises(QemuError, match="cannot be written any more"):
        memory.write(0, b"a")
    with pytest.raises(QemuError, match="cannot be read yet"):
        fresh().read(0, 1)


def fresh() -> PacketMemory:
    made = PacketMemory({"ram"})
    made.lay_out([FlatRange(0, 0xFFF, "ram", "ram", 0, "")])
    return made
