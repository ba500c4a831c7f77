"""Polls: what is read again and again, from where, and what of it goes on."""

from __future__ import annotations

import trace_sample as sample
from msgspec.structs import replace

from tracer.trace.polls import Poll, Polls
from tracer.trace.record import Intercept, MemoryAccess
from tracer.trace.waiting import WaitRecord, WayOut

CSTS, CC, CAP = 0x1C, 0x14, 0x0
MS = 1_000_000


def made(number: int, access: MemoryAccess, rip: int = 0x1000, vcpu: int = 0) -> Intercept:
    record = sample.intercept(number, access)
    return replace(record, time_ns=number * MS, rip=rip, vcpu=vcpu)


def read(number: int, value: int = 0, offset: int = CSTS, rip: int = 0x1000, vcpu: int = 0,
         name: str = "nvme") -> Intercept:  # fmt: skip
    return made(number, sample.device(name, offset, 4, "read", value), rip, vcpu)


def write(number: int, offset: int = CC) -> Intercept:
    return made(number, sample.device("nvme", offset, 4, "write", 1), 0x2000)


def polls(*records: Intercept) -> Polls:
    found = Polls()
    for record in records:
        found.add(record)
    return found


def counted(found: list[Poll]) -> list[tuple[str, int, int, int]]:
    return [(poll.region, poll.offset, poll.turns, poll.duration_ns // MS) for poll in found]


def test_other_devices_and_vcpus_do_not_part_a_poll() -> None:
    records = []
    for number in range(0, 40, 4):
        records += [
            read(number), read(number + 1, name="lapic", rip=0x3000),
            read(number + 2, CAP, vcpu=1), read(number + 3, name="lapic", offset=number),
        ]  # fmt: skip
    found = polls(*records).open()
    assert ("nvme", CSTS, 10, 36) in counted(found)


def test_a_turn_of_two_reads() -> None:
    records = [each for n in range(0, 20, 2) for each in (read(n), read(n + 1, CAP, CAP, 0x1010))]
    assert counted(polls(*records).open()) == [("nvme", CSTS, 10, 18), ("nvme", CAP, 10, 18)]


def test_a_turn_that_writes_is_no_wait() -> None:
    records = [each for n in range(0, 40, 2) for each in (read(n), write(n + 1))]
    found = polls(*records)
    assert found.open() == [] and list(found.all()) == []


def test_a_poll_ends_with_a_write_and_the_longest_is_kept() -> None:
    found = polls(*(read(n) for n in range(5)), write(5), *(read(n, n) for n in range(6, 20)))
    assert counted(found.open()) == [("nvme", CSTS, 14, 13)]
    assert [poll.value for poll in found.open()] == [19]
    assert counted(list(found.all())) == [("nvme", CSTS, 14, 13)]
    found.add(write(20))
    assert found.open() == [] and counted(list(found.all())) == [("nvme", CSTS, 14, 13)]


def test_what_else_is_read_once_begins_a_poll_anew() -> None:
    found = polls(
        *(read(n) for n in range(8)), read(8, offset=CAP), *(read(n) for n in range(9, 14))
    )
    assert counted(found.open()) == [("nvme", CSTS, 5, 4)]


def test_a_poll_whose_turn_is_overdue_does_not_go_on() -> None:
    found = polls(*(read(n) for n in range(10)))
    assert found.waiting(30 * MS) and not found.waiting(500 * MS)


def test_what_is_known_to_be_no_loop_waits_for_nothing() -> None:
    found = polls(*(read(n) for n in range(10)))
    told = WaitRecord(time_ns=0, seq=1, vcpu=0, rip=0x1000, region="nvme", offset=CSTS, width=4)
    found.add(told)
    assert found.waiting() == [] and list(found.all()) == []
    found.add(replace(told, awaited=[WayOut(rip=1, mask=1, value=1)]))
    (poll,) = found.waiting()
    assert poll.told is not None and poll.told.awaited
    found.repeat({poll.place: 1000}, 0)
    assert found.waiting()[0].turns == 1010


def port(number: int, address: int, config: int) -> Intercept:
    """Read a data port of PCI configuration space, which leads to an address there."""
    made_at = sample.port(address, 1, "read", 0)
    there = replace(made_at, region="config", physical=config, offset=config, space="config")
    return replace(sample.inputs(number, made_at, there), time_ns=number * MS)


def test_a_scan_of_configuration_space_is_no_poll_and_one_register_there_is() -> None:
    assert polls(*(port(n, 0xCFC, n << 12) for n in range(20))).open() == []
    (poll,) = polls(*(port(n, 0xCFE, 0x8006) for n in range(20))).open()
    assert (poll.region, poll.offset, poll.space, poll.turns) == ("config", 0x8006, "config", 20)
