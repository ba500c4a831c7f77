"""Waits and doorbells of a page, and the calls that a TDX guest would make."""

from __future__ import annotations

import trace_sample as sample
from msgspec.structs import replace

from tracer.confidential.hypercall import tdvmcall
from tracer.devices import library
from tracer.report.page.waits import Waits, foretold, queue_objects
from tracer.trace.event import Events, Everything
from tracer.trace.naming import Naming
from tracer.trace.queue import QueueEntry, QueueRecord
from tracer.trace.record import Intercept
from tracer.trace.waiting import WaitRecord, WayOut

MS = 1_000_000
RIP = 0xFFFFFFFF81234567
CSTS, MAIN_COUNTER = 0x1C, 0xF0


def reads(region: str, offset: int, first: int, count: int, width: int = 4) -> list[Intercept]:
    return [
        replace(sample.intercept(n, sample.device(region, offset, width, "read", n)),
                time_ns=n * MS)
        for n in range(first, first + count)
    ]  # fmt: skip


def waits(*records: Intercept | WaitRecord) -> Waits:
    naming = Naming(library.load())
    for name in ("nvme", "hpet"):
        naming.learn(sample.region(name))
    events, found = Events(Everything(naming)), Waits()
    for record in records:
        if isinstance(record, WaitRecord):
            found.learn(record)
        else:
            found.add(record, events.add(record))
    return found


LOOKED = WaitRecord(
    time_ns=0, seq=20, vcpu=0, rip=RIP, region="nvme", offset=CSTS, width=4, register="CSTS",
    head=RIP, loop="nvme_wait_ready+0x7f", awaited=[WayOut(rip=1, mask=1, value=1)],
    gives_up=[WayOut(rip=2, symbol="nvme_wait_ready+0xc2", said="jiffies")],
)  # fmt: skip


def test_what_is_waited_for_has_its_place_and_its_words() -> None:
    (told,) = waits(*reads("nvme", CSTS, 5, 30), LOOKED).objects()
    assert (told["register"], told["until"]) == ("CSTS", "RDY=1")
    assert told["ends"] == "nvme_wait_ready+0xc2 (jiffies)"
    assert (told["first"], told["last"], told["turns"], told["goes_on"]) == (5, 34, 30, True)
    write = sample.intercept(40, sample.device("nvme", 0x14, 4, "write", 1))
    write = replace(write, time_ns=40 * MS, rip=RIP + 0x100)
    (told,) = waits(*reads("nvme", CSTS, 5, 30), LOOKED, write).objects()
    assert (told["until"], told["goes_on"]) == ("RDY=1", False)


def test_short_loops_clocks_and_what_is_no_wait_are_left_out() -> None:
    assert waits(*reads("nvme", CSTS, 5, 30)).objects() == []  # nobody knows that a loop tests it
    assert waits(*reads("nvme", CSTS, 0, 6)).objects() == []
    assert waits(*reads("hpet", MAIN_COUNTER, 0, 30, 8)).objects() == []
    nothing = replace(LOOKED, awaited=[])
    assert waits(*reads("nvme", CSTS, 5, 30), nothing).objects() == []


def test_what_would_be_asked_is_what_the_specification_has() -> None:
    parts = {"width": 4, "physical": 0xFEBF_1014, "value": 0x460001}
    for direction in ("read", "write"):
        call = tdvmcall(direction, *parts.values())
        told = foretold()[direction]
        for side, registers in (("given", call.given), ("returned", call.returned)):
            made = {
                name: sum(parts[part] for part in more) | int(number, 16)
                for name, (number, *more) in told[side].items()
            }
            assert made == registers


def test_a_doorbell_has_its_entries() -> None:
    entry = QueueEntry(kind="command", index=3, physical=0x1000, data=b"\1", text="read")
    record = QueueRecord(
        time_ns=7, seq=9, vcpu=0, region="nvme", queue="SQ", number=1, entries=[entry], late=True
    )
    (told,) = queue_objects([record])
    assert (told["seq"], told["late"]) == (9, True)
    assert told["entries"][0]["text"] == "read"  # type: ignore[index]
