"""Entries that a doorbell tells, up to a limit, and notes on what is missing."""

from __future__ import annotations

import struct

from tracer.intercept.queue.told import MOST_ENTRIES, Told
from tracer.intercept.queue.virtqueue import chain_of

RAM_SIZE = 0x4000


def told(ram: bytes = bytes(RAM_SIZE)) -> Told:
    def read(physical: int, size: int) -> bytes | None:
        return ram[physical : physical + size] if physical + size <= len(ram) else None

    return Told(read)


def used_ring(index: int, entries: list[tuple[int, int]]) -> bytes:
    ring = b"".join(struct.pack("<II", *entry) for entry in entries)
    return (struct.pack("<HH", 0, index % (1 << 16)) + ring).ljust(RAM_SIZE, b"\0")


def test_what_is_no_ram_is_noted() -> None:
    found = told()
    assert found.word(0) == 0 and found.notes == []
    assert found.word(RAM_SIZE - 1) is None
    assert found.read(1 << 60, 8) is None
    assert found.notes == ["physical 0x3fff is not RAM", "physical 0x1000000000000000 is not RAM"]


def test_new_entries_of_a_used_ring_are_told_once() -> None:
    found = told(used_ring(3, [(5, 512), (6, 1), (7, 2), (8, 3)]))
    assert found.used(0, 4, 1) == 3
    assert [(each.index, each.fields["id"], each.fields["len"]) for each in found.entries] == [
        (1, 6, 1), (2, 7, 2),
    ]  # fmt: skip
    assert found.used(0, 4, 3) == 3 and len(found.entries) == 2


def test_indices_go_around() -> None:
    found = told(used_ring(1, [(5, 0), (6, 0), (7, 0), (8, 0)]))
    assert found.used(0, 4, (1 << 16) - 1) == 1
    assert [each.index for each in found.entries] == [3, 0]


def test_a_hostile_index_tells_the_ring_once_and_there_is_an_end() -> None:
    found = told(used_ring(40_000, [(number, 0) for number in range(256)]))
    assert found.used(0, 256, 0) == 40_000
    assert len(found.entries) == MOST_ENTRIES
    assert found.notes == ["more entries were used"]
    assert found.used(RAM_SIZE, 256, 7) == 7  # where nothing is


def test_chains_have_room_up_to_the_limit() -> None:
    descriptors = b"".join(
        struct.pack("<QIHH", 0x1000, 16, 1, (number + 1) % 128) for number in range(128)
    )
    found = told(descriptors.ljust(RAM_SIZE, b"\0"))
    chain = chain_of(found.read, 0, 128, 0)
    found.chain(chain, "id")
    assert len(found.entries) == MOST_ENTRIES and found.full
    assert found.entries[3].fields["id"] == 4
    assert any("chain 0:" in note for note in found.notes) == bool(chain.fault)
