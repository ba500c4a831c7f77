"""A packed virtqueue: wrap counters, indirect tables, completions, and rings that are hostile."""

from __future__ import annotations

import struct

from tracer.intercept.queue.packed import AVAILABLE, USED, PackedRing
from tracer.intercept.queue.virtqueue import INDIRECT, NEXT, WRITE, Chain

BASE, SIZE, MOST = 0x1000, 4, 64


class Both:
    """A driver and a device with a ring in RAM; ``ring`` follows them."""

    def __init__(self, size: int = SIZE) -> None:
        self.ram = bytearray(0x4000)
        self.size = size
        self.ring = PackedRing()
        self._at, self._wrap = 0, True
        self._used, self._used_wrap = 0, True

    def read(self, physical: int, size: int) -> bytes | None:
        return bytes(self.ram[physical : physical + size]) if physical + size <= 0x4000 else None

    def give(self, identifier: int, *buffers: tuple[int, int, int]) -> None:
        for number, (address, length, flags) in enumerate(buffers):
            more = NEXT if number + 1 < len(buffers) else 0
            mark = AVAILABLE if self._wrap else USED
            self._put(self._at, address, length, identifier, flags | more | mark)
            self._at, self._wrap = self._next(self._at, self._wrap)

    def finish(self, identifier: int, length: int, count: int = 1) -> None:
        mark = AVAILABLE | USED if self._used_wrap else 0
        self._put(self._used, 0, length, identifier, mark)
        for _ in range(count):
            self._used, self._used_wrap = self._next(self._used, self._used_wrap)

    def _put(self, at: int, *values: int) -> None:
        self.ram[BASE + 16 * at : BASE + 16 * at + 16] = struct.pack("<QIHH", *values)

    def _next(self, at: int, wrap: bool) -> tuple[int, bool]:
        return (at + 1, wrap) if at + 1 < self.size else (0, not wrap)

    def bell(self) -> tuple[list[Chain], list[tuple[int, int]], str]:
        chains, done, said = self.ring.take(self.read, BASE, self.size, MOST)
        return chains, [(it.identifier, it.length) for it in done], "; ".join(said)


def told(chains: list[Chain]) -> list[tuple[int, list[int]]]:
    return [(it.head, [each.address for each in it.descriptors]) for it in chains]


def test_chains_are_followed_through_many_turns_of_the_ring() -> None:
    both = Both()
    for turn in range(20):
        both.give(turn, (0xA000 + turn, 16, 0), (0xB000, 512, WRITE))
        chains, done, said = both.bell()
        assert told(chains) == [(turn, [0xA000 + turn, 0xB000])] and said == ""
        assert done == ([(turn - 1, 512)] if turn else [])
        assert both.bell() == ([], [], "")  # nothing is told twice
        both.finish(turn, 512, 2)


def test_a_chain_that_goes_over_the_end_and_a_size_that_is_no_power_of_two() -> None:
    both = Both(5)
    both.give(0, *[(1, 1, 0)] * 3)
    assert told(both.bell()[0]) == [(0, [1, 1, 1])]
    both.finish(0, 0, 3)
    both.give(7, *[(2, 1, 0)] * 3)
    assert told(both.bell()[0]) == [(7, [2, 2, 2])]
    both.finish(7, 9, 3)
    assert both.bell()[1:] == ([(7, 9)], "")


def test_completions_in_another_order_than_chains() -> None:
    both = Both()
    both.give(0, (1, 1, 0), (2, 1, 0))
    both.give(1, (3, 1, 0))
    assert told(both.bell()[0]) == [(0, [1, 2]), (1, [3])]
    both.finish(1, 11)
    both.finish(0, 10, 2)
    assert both.bell()[1] == [(1, 11), (0, 10)]


def test_an_indirect_table_in_its_order() -> None:
    both = Both()
    both.ram[0x3000:0x3020] = struct.pack("<QIHHQIHH", 0xA000, 16, 9, 0, 0xB000, 1, 9, WRITE)
    both.give(3, (0x3000, 32, INDIRECT))
    ((chain,), _, _) = both.bell()
    assert chain.fault == "" and chain.head == 3
    assert [(each.address, each.indirect, each.index) for each in chain.descriptors] == [
        (0x3000, False, 0), (0xA000, True, 0), (0xB000, True, 1),
    ]  # fmt: skip


def test_what_was_done_before_its_doorbell_is_counted() -> None:
    both = Both(8)
    both.give(5, *[(1, 1, 0)] * 3)
    both.finish(5, 7, 3)
    both.give(6, (2, 1, 0))
    chains, done, said = both.bell()
    assert (told(chains), done) == ([(6, [2])], [(5, 7)])
    assert said == "1 chains were done before this doorbell"
    both.finish(6, 8)
    assert both.bell()[1] == [(6, 8)]


def test_completions_that_were_written_over() -> None:
    both = Both(2)
    for turn in range(2):
        both.give(turn, (turn, 1, 0))
    both.bell()
    for turn in range(2):
        both.finish(turn, 0)
    both.give(2, (2, 1, 0))
    chains, done, said = both.bell()
    assert (told(chains), done) == ([(2, [2])], [])
    assert said == "completions were written over before they were read"
    both.finish(2, 5)
    assert both.bell()[1] == [(2, 5)]


def test_a_ring_whose_counter_is_not_known() -> None:
    both = Both(2)
    for turn in range(3):
        both.give(turn, (turn, 1, 0))
        both.finish(turn, 0)
    both.ring = PackedRing(1, None, 1)
    both.give(3, (3, 1, 0))
    assert told(both.bell()[0]) == [(3, [3])]
    both.finish(3, 0)
    both.give(4, (4, 1, 0))
    chains, done, said = both.bell()
    assert (told(chains), done, said) == ([(4, [4])], [(3, 0)], "")


def test_what_a_hostile_guest_may_write() -> None:
    both = Both()
    both.give(0, *[(1, 1, NEXT)] * 4)
    ((endless,), _, _) = both.bell()
    assert endless.fault == "the chain has no end" and len(endless.descriptors) == 4
    for length, fault in ((33, "a table of 33 bytes"), (0xFFFF_FFF0, "a table of 268435455 des"),
                          (16, "is not in RAM")):  # fmt: skip
        both = Both()
        both.give(0, (0xDEAD_0000, length, INDIRECT))
        assert fault in both.bell()[0][0].fault
    both = Both()
    both.ram[0x3000:0x3010] = struct.pack("<QIHH", 0x3000, 16, 0, INDIRECT)
    both.give(0, (0x3000, 16, INDIRECT))
    assert both.bell()[0][0].fault == "a table has a table"
    chains, done, said = both.ring.take(lambda place, size: None, BASE, SIZE, MOST)
    assert not chains and not done and "physical 0x1010 is not RAM" in said
    many = Both(256)
    for turn in range(200):
        many.give(turn, (turn, 1, 0))
    chains, _, said = many.bell()
    assert (len(chains), said) == (MOST, f"{200 - MOST} more entries")
    assert many.bell() == ([], [], "")
