"""The ring: committed records in their order, round and round, and what is no record."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.compiled import layout
from tracer.compiled.ring import Ring, far_seen, left_behind, raws, sequence_of
from tracer.errors import InterceptError

BUSY = (1 << 64) - 1
SLOTS = 16
SIZE = SLOTS * 256


class Guest:
    """The side that writes: a ring in bytes, and its head."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)
        self.head = SIZE

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            record = struct.pack("<QQ", self.head, self.head * 3).ljust(256, b"\xaa")
            at = self.head % SIZE
            self.data[at : at + 256] = record
            self.head += 256

    def give(self, ring: Ring, head: int | None = None) -> bytes:
        offset, size = ring.span(self.head if head is None else head)
        start = offset - layout.RING
        taken = ring.take(bytes(self.data[start : start + size]))
        return bytes(self.data[start : start + taken])


def test_records_are_taken_in_their_order_round_the_ring() -> None:
    guest, ring, taken = Guest(), Ring(SLOTS), 0
    for count in (0, 3, 13, 16, 1, 9, 16, 2):
        guest.write(count)
        got = b""
        while found := guest.give(ring):
            got += found
        numbers = [raw.sequence for raw in raws(got)]
        assert numbers == [SIZE + 256 * (taken + n) for n in range(count)]
        taken += count
        assert ring.taken == taken


@given(st.lists(st.tuples(st.integers(0, SLOTS), st.booleans()), max_size=20))
def test_nothing_is_lost_or_seen_twice(steps: list[tuple[int, bool]]) -> None:
    guest, ring, numbers = Guest(), Ring(SLOTS), []
    for count, busy in [*steps, (0, False), (0, False)]:
        room = SLOTS - (guest.head - SIZE) // 256 + ring.taken
        guest.write(min(count, room))
        numbers += [raw.sequence for raw in raws(guest.give(ring, BUSY if busy else None))]
    numbers += [raw.sequence for raw in raws(guest.give(ring))]
    assert numbers == list(range(SIZE, guest.head, 256))


def test_a_record_that_is_not_committed_waits() -> None:
    guest, ring = Guest(), Ring(SLOTS)
    guest.write(3)
    guest.data[512:520] = bytes(8)
    assert len(guest.give(ring, BUSY)) == 512
    assert guest.give(ring, BUSY) == b""
    guest.data[512:520] = struct.pack("<Q", SIZE + 512)
    assert len(guest.give(ring, BUSY)) == 256


def test_what_was_lost_is_told() -> None:
    guest, ring = Guest(), Ring(SLOTS)
    guest.write(SLOTS + 1)
    with pytest.raises(InterceptError, match="lost"):
        guest.give(ring)
    with pytest.raises(InterceptError, match="lost"):
        guest.give(ring, BUSY)
    with pytest.raises(InterceptError, match="lost"):
        ring.span(0)
    with pytest.raises(InterceptError, match="lost"):
        Ring(SLOTS).span(SIZE + 8)  # in the middle of a record


def test_the_limit_follows_what_was_taken() -> None:
    guest, ring = Guest(), Ring(SLOTS)
    assert ring.open() == (layout.control_field("LIMIT"), struct.pack("<Q", 2 * SIZE))
    guest.write(5)
    guest.give(ring)
    assert ring.open()[1] == struct.pack("<Q", 2 * SIZE + 5 * 256)
    assert ring.shut()[1] == bytes(8)


def test_what_is_far_away_is_told_by_its_physical_address() -> None:
    window, reach, far = 0xFFFF_FF80_0000_0000, 1 << 38, range(1 << 39, (1 << 39) + (1 << 37))
    places = {
        window + 0xFEB0_0000: 0xFEB0_0000,
        window + reach - 8: reach - 8,
        window + reach: 1 << 39,
        window + reach + 0x1234: (1 << 39) + 0x1234,
    }
    data = b"".join(struct.pack("<4Q", 1, 2, 3, alias).ljust(256, b"\x55") for alias in places)
    seen = far_seen(data, window, reach, far)
    physical = [raw.alias - window & (1 << 64) - 1 for raw in raws(seen)]
    assert physical == list(places.values())
    for at in range(0, len(data), 256):
        assert seen[at : at + 24] + seen[at + 32 : at + 256] == (
            data[at : at + 24] + data[at + 32 : at + 256]
        )


def test_a_record_has_names() -> None:
    values = range(27)
    record = layout.RECORD.pack(*values, b"read".ljust(32), b"written".ljust(32))
    raw = next(raws(record))
    assert raw.gpr == tuple(range(11, 27))
    assert (raw.linear, raw.site, raw.vcpu, raw.rsp, raw.r15) == (2, 4, 5, 15, 26)
    for name, offset in layout.RECORD_FIELDS.items():
        assert 0 <= offset < 256, name


# ---- what a guest that is gone has left


def image(guest: Guest, head: int | None = None) -> bytes:
    """The block of a guest, as far as it is looked at."""
    block = bytearray(layout.RING) + guest.data
    words = {"HEAD": guest.head if head is None else head, "RING_MASK": SIZE - 1, "WINDOW": 7 << 39}
    for name, word in words.items():
        struct.pack_into("<Q", block, layout.control_field(name), word)
    return bytes(block)


@pytest.mark.parametrize("taken", [0, 3, SLOTS + 3])
@pytest.mark.parametrize("left", [0, 1, SLOTS - 1, SLOTS])
@pytest.mark.parametrize("busy", [False, True])
def test_what_was_not_taken_is_found_in_the_block(taken: int, left: int, busy: bool) -> None:
    guest = Guest()
    guest.write(taken)
    last = guest.head - 256 if taken else None
    guest.write(left)
    window, rows = left_behind(image(guest, BUSY if busy else None), last)
    assert window == 7 << 39 and len(rows) == 256 * left
    if left:
        assert sequence_of(rows) == guest.head - 256


@pytest.mark.parametrize(
    ("block", "last", "why"),
    [
        (b"", None, "0 bytes are no ring"),
        (image(Guest())[:-256], None, "powers of two"),
        (image(Guest())[: -SIZE // 2], None, "4096 bytes, and 2048 are there"),
        (image(Guest()), SIZE + 256, "were lost"),
        (image(Guest(), 64 * SIZE), None, "were lost"),
    ],
)
def test_what_is_no_block_is_told(block: bytes, last: int | None, why: str) -> None:
    with pytest.raises(InterceptError, match=why):
        left_behind(block, last)
