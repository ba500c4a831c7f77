"""Records made into events: what each access is known by."""

from __future__ import annotations

import json

import msgspec
import pytest
import trace_sample as sample

from tracer.devices import library
from tracer.query.sieve import Sieve
from tracer.query.words import choose
from tracer.trace import codec
from tracer.trace.event import Event, Events, Everything, events_of
from tracer.trace.naming import Naming
from tracer.trace.record import Intercept, LostRecord, Mark, MemoryAccess, Record


def made(records: list[Record], events: Events) -> list[Event]:
    found = []
    for record in records:
        found += events.add(record)
        events.note(record)
    return found


def test_each_device_access_is_an_event_with_its_number_and_its_record() -> None:
    found = made(sample.RECORDS, Events())
    assert [event.seq for event in found] == [0, 1, 2, 3, 4]
    assert all(event.access in event.record.accesses for event in found)
    assert all(event.access.region is not None for event in found)
    assert [event.named for event in found] == [None] * 5


def test_an_event_has_its_register_and_its_phase() -> None:
    found = made(sample.RECORDS, Events(Everything(Naming(library.load()))))
    names = [event.named.text if event.named else None for event in found[:2]]
    assert names == ["CSTS", "CC"]
    assert {event.phase for event in found} == {"kernel"}


def test_a_choice_leaves_out_what_it_does_not_want() -> None:
    chosen = Events(Sieve(choose(register="CC", write=True), library.load()))
    (event,) = made(sample.RECORDS, chosen)
    assert (event.seq, event.named and event.named.text) == (1, "CC")


def test_what_came_before_is_told_by_the_next_event_alone() -> None:
    access = sample.device("nvme", 0x1C, 4, "read", 1)
    first, second, third = (sample.intercept(seq, *[access] * (1 + seq % 2)) for seq in (0, 1, 3))
    records: list[Record] = [
        first, Mark(time_ns=1, text="one"), LostRecord(time_ns=1, vcpu=0, count=3),
        second, Mark(time_ns=2, text="kernel entry"), LostRecord(time_ns=2), third,
    ]  # fmt: skip
    found = made(records, Events())
    assert [(event.seq, event.mark, event.lost) for event in found] == [
        (0, None, 0), (1, "one", 3), (2, "one", 0), (3, "one", None), (4, "one", 0),
    ]  # fmt: skip


def test_one_record_alone_has_events_without_anything_else() -> None:
    record = sample.intercept(7, sample.ram(4, "read", 1), sample.device("hpet", 0, 4, "read", 1))
    (event,) = events_of(record)
    assert event == Event(7, record, record.accesses[1])
    assert events_of(sample.end(0)) == []


def test_an_access_is_to_memory_unless_it_says_otherwise() -> None:
    record = sample.intercept(0, sample.device("nvme", 0, 4, "read", 1))
    assert [event.space for event in events_of(record)] == ["memory"]
    assert b"space" not in codec.encode(record)


@pytest.mark.parametrize("space", ["port", "config", "irq"])
def test_another_space_is_in_the_file(space: str) -> None:
    access = msgspec.structs.replace(sample.device("nvme", 0, 4, "read", 1), space=space)
    line = codec.encode(sample.intercept(0, access))
    assert json.loads(line)["accesses"][0]["space"] == space
    record = codec.decode(line, 2)
    assert isinstance(record, Intercept)
    assert [event.space for event in events_of(record)] == [space]
    assert isinstance(record.accesses[0], MemoryAccess)


def test_a_space_that_nobody_knows_is_refused() -> None:
    record = sample.intercept(0, sample.device("nvme", 0, 4, "read", 1))
    line = codec.encode(record).replace(b'"direction"', b'"space":"moon","direction"')
    with pytest.raises(codec.TraceError, match=r"accesses\[0\].space"):
        codec.decode(line, 2)
