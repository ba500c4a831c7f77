"""The uses of registers: counted, and the last of each kind."""

from __future__ import annotations

import trace_sample as sample
from msgspec.structs import replace

from tracer.devices import library
from tracer.devices.entry import Entry
from tracer.devices.map import RegisterMap
from tracer.trace.event import Event, Events, Everything
from tracer.trace.naming import Naming
from tracer.trace.record import MemoryAccess
from tracer.trace.uses import RegisterUses, use_of

NAMING = Naming(library.load())
NAMING.learn(sample.region("nvme"))


def nvme() -> RegisterMap:
    found = NAMING.map_of("nvme")
    assert found is not None
    return found


def entry(name: str) -> Entry:
    (found,) = nvme().find(name)
    return found


def events(*accesses: MemoryAccess) -> list[Event]:
    made = Events(Everything(NAMING))
    return [
        event
        for seq, access in enumerate(accesses)
        for event in made.add(sample.intercept(seq, access))
    ]


def uses(*accesses: MemoryAccess) -> RegisterUses:
    found = RegisterUses()
    for event in events(*accesses):
        found.add(event)
    return found


def test_reads_and_writes_are_counted_and_the_last_is_kept() -> None:
    found = uses(
        sample.device("nvme", 0x14, 4, "write", 1),
        sample.device("nvme", 0x14, 4, "write", 2),
        sample.device("nvme", 0x1C, 4, "read", 7),
        sample.device("nvme", 0x14, 4, "read", 3),
        replace(sample.device("nvme", 0x14, 4, "write", 9), skipped=True),
    ).of("nvme", entry("CC"))
    assert (found.reads, found.writes) == (1, 2)
    assert found.written is not None and (found.written.event.seq, found.written.value) == (1, 2)
    assert found.last is not None and (found.last.event.seq, found.last.value) == (3, 3)
    assert uses().of("nvme", entry("CC")).last is None


def test_a_part_of_a_register_and_two_by_one_access() -> None:
    found = uses(sample.device("nvme", 0x4, 4, "read", 0x20)).of("nvme", entry("CAP"))
    assert found.read is not None and not found.read.is_whole
    assert (found.read.value, found.read.part.first) == (0x20, 32)
    both = uses(sample.device("nvme", 0xC, 8, "read", 0x2_0000_0001))
    values = [both.of("nvme", entry(name)).read for name in ("INTMS", "INTMC")]
    assert [use is not None and use.value for use in values] == [1, 2]


def test_an_array_as_a_whole_and_one_of_it() -> None:
    array = next(each for each in nvme().entries() if each.name == "SQ*TDBL")
    found = uses(
        sample.device("nvme", 0x1000, 4, "write", 1),
        sample.device("nvme", 0x1008, 4, "write", 2),
        sample.device("nvme", 0x1008, 4, "write", 3),
    )
    assert found.of("nvme", array).writes == 3
    assert found.of("nvme", entry("SQ1TDBL")).writes == 2
    assert found.of("nvme#2", entry("SQ1TDBL")).writes == 0
    (first, *_) = events(sample.device("nvme", 0x1000, 4, "write", 1))
    assert use_of(first, "nvme", array) is not None
    assert use_of(first, "nvme", entry("SQ1TDBL")) is None
    assert use_of(first, "nvme#2", array) is None
