"""Descriptor chains: in order, indirect, and those of a guest that is hostile."""

from __future__ import annotations

import struct

from tracer.intercept.queue.virtqueue import INDIRECT, NEXT, WRITE, Chain, chain_of, used_of

TABLE, SIZE = 0x1000, 8


def chain(*descriptors: tuple[int, int, int, int], more: dict[int, bytes] | None = None,
          head: int = 0) -> Chain:  # fmt: skip
    data = b"".join(struct.pack("<QIHH", *each) for each in descriptors)
    ram = {TABLE: data.ljust(16 * SIZE, b"\0"), **(more or {})}

    def read(physical: int, size: int) -> bytes | None:
        for start, held in ram.items():
            if start <= physical and physical + size <= start + len(held):
                return held[physical - start :][:size]
        return None

    return chain_of(read, TABLE, SIZE, head)


def told(it: Chain) -> list[tuple[int, int, bool]]:
    return [(each.index, each.address, each.indirect) for each in it.descriptors]


def test_a_chain_in_its_order() -> None:
    it = chain((0xA000, 16, NEXT, 2), (0, 0, 0, 0), (0xB000, 512, NEXT | WRITE, 1))
    assert told(it) == [(0, 0xA000, False), (2, 0xB000, False), (1, 0, False)]
    assert it.fault == "" and it.descriptors[1].text == "device writes 512 bytes at 0xb000"
    assert it.descriptors[1].place == TABLE + 32


def test_an_indirect_table() -> None:
    table = struct.pack("<QIHHQIHH", 0xA000, 16, NEXT, 1, 0xB000, 1, WRITE, 0)
    it = chain((0x9000, 32, INDIRECT, 0), more={0x9000: table})
    assert told(it) == [(0, 0x9000, False), (0, 0xA000, True), (1, 0xB000, True)]
    assert it.descriptors[0].text == "table of 2 at 0x9000"


def test_what_a_hostile_guest_may_write() -> None:
    assert "comes twice" in chain((1, 1, NEXT, 1), (2, 1, NEXT, 0)).fault
    assert "outside the 8" in chain((1, 1, NEXT, 9)).fault
    assert "outside the 8" in chain(head=0xFFFF).fault
    assert "not in RAM" in chain((0xDEAD_0000, 32, INDIRECT, 0)).fault
    assert "a table of 33 bytes" in chain((0x9000, 33, INDIRECT, 0)).fault
    assert "a table of 268435455 descriptors" in chain((0x9000, 0xFFFF_FFF0, INDIRECT, 0)).fault
    nested = struct.pack("<QIHH", 0x9000, 16, INDIRECT, 0)
    assert chain((0x9000, 16, INDIRECT, 0), more={0x9000: nested}).fault == "a table has a table"
    assert used_of(struct.pack("<II", 3, 513)) == (3, 513)
