"""What the journal hands on of blocks that nobody has asked for the records of."""

from __future__ import annotations

from block_sample import WINDOW, block
from input_row import row
from input_sample import SITES, configured, set_latch, site_of
from scene import Scene

from tracer.compiled.inputs import FIRST
from tracer.compiled.message import Message
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


def test_an_interrupt_has_the_message_that_unread_blocks_tell() -> None:
    journal = Journal(Scene().view)
    irq = site_of(FIRST + 7, "irq", "interrupt", 1)
    for site in (*SITES, irq):
        journal.publish(site)
    came = row(FIRST + 7, 0x40, 0x40, width=1)
    assert journal.with_messages(came, WINDOW) == came
    words = [set_latch(0x8000_FA84), configured(0xFEE0_1004, write=True)]
    journal.publish(block(*words, accesses=3))
    words = [set_latch(0x8000_FA88), configured(0x40, write=True)]
    journal.publish(block(*words, accesses=3, seq=3))
    assert journal.message(0, 0x40) == ("00:1f.2 msi", Message(0xFEE0_1004, 0x40))
    rows = journal.with_messages(came, WINDOW)
    assert journal.blocks.count(rows, WINDOW) == (1, 2)
    journal.publish(block(rows, accesses=2, seq=6))
    last = journal.last
    assert last is not None and last.cause == "00:1f.2 msi"
    assert [(access.space, access.value) for access in last.accesses] == [
        ("msi", 0x40), ("irq", 0x40),
    ]  # fmt: skip
