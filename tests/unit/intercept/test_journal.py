"""What the journal hands on of blocks that nobody has asked for the records of."""

from __future__ import annotations

from block_sample import WINDOW, block
from input_sample import SITES, configured, set_latch
from scene import Scene

from tracer.intercept.journal import Journal
from tracer.trace.record import Intercept, Record


def test_a_block_is_led_to_by_those_before_it_that_nobody_has_looked_at() -> None:
    journal = Journal(Scene().view)
    for site in SITES:
        journal.publish(site)

    def publish(seq: int, *rows: bytes) -> int:
        _, accesses = journal.blocks.count(b"".join(rows), WINDOW)
        journal.publish(block(*rows, accesses=accesses, seq=seq))
        return seq + accesses

    seq = publish(0, set_latch(0x8000_0800))
    seq = publish(seq, configured())
    assert journal.last is not None and journal.last.accesses[1].physical == 0x8000
    seq = publish(seq, configured(), set_latch(0x8000_1000))
    told: list[Record] = []
    journal.subscribers.append(told.append)
    publish(seq, configured())
    (record,) = (each for each in told if isinstance(each, Intercept))
    assert record.accesses[1].physical == 0x1_0000 and journal.last == record
