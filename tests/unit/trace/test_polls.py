"""Polls: what is read again and again, from where, and what of it goes on."""

from __future__ import annotations

import trace_sample as sample
from msgspec.structs import replace

from tracer.trace.poll import Poll
from tracer.trace.polls import Polls
from tracer.trace.record import Intercept, MemoryAccess, Record
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


def polls(*records: Record) -> Polls:
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


TOLD = WaitRecord(
    time_ns=0, seq=1, vcpu=0, rip=0x1000, region="nvme", offset=CSTS, width=4,
    awaited=[WayOut(rip=1, mask=1, value=1), WayOut(rip=2, mask=0xFFFF_FFFF, value=0xFFFF_FFFF)],
)  # fmt: skip


def irregular(upto: int, first: int = 0) -> list[Intercept]:
    """A loop that reads CSTS in each turn, and now and then another register, or writes one."""
    found = []
    for number in range(first, upto):
        found.append(read(number))
        if number % 7 == 3:
            found.append(read(number, 5, CAP, 0x1010))
        if number % 11 == 5:
            found.append(write(number))
    return found


def test_what_may_be_a_poll_that_others_part_is_one_once_it_is_known() -> None:
    found = polls(*irregular(20))
    assert list(found.parted()) == []
    for record in irregular(40, 20):
        found.add(record)
    (poll,) = [each for each in found.parted() if each.offset == CSTS]
    assert (poll.turns, poll.duration_ns, poll.first) == (40, 39 * MS, 0)
    assert all(each.turns < 8 for each in found.all())
    assert found.add(TOLD) == [] and [*found.parted()] == []
    assert counted(found.waiting()) == [("nvme", CSTS, 40, 39)]
    for record in irregular(60, 40):
        assert found.add(record) == []
    (over,) = found.add(read(60, 1))
    assert counted([over]) == [("nvme", CSTS, 61, 60)] and over.value == 1 and over.is_wait
    # What it waited for is read again, at another time: nobody waits.
    for number in range(100, 130):
        assert found.add(read(number, 1)) == [] and found.add(write(number)) == []
    assert found.open() == [] and counted(list(found.all())) == [("nvme", CSTS, 61, 60)]
    # The next wait is another one.
    for record in irregular(150, 140):
        found.add(record)
    assert counted(found.open()) == [("nvme", CSTS, 10, 9)]


def test_a_wait_that_gave_up_is_over_when_its_turn_is_overdue() -> None:
    found = polls(*irregular(30))
    found.add(TOLD)
    found.add(write(40))
    (over,) = found.add(read(500))
    assert counted([over]) == [("nvme", CSTS, 30, 29)] and over.is_wait
    assert found.open() == []


def test_parts_that_have_read_what_is_awaited_are_no_one_wait() -> None:
    # A driver sends bytes: it reads that there is room, now and then that there is none.
    records = []
    for number in range(60):
        records += [read(number, number % 5 != 0), write(number)]
    found = polls(*records, read(60, 0), read(61, 0), read(62, 0))
    assert any(each.offset == CSTS for each in found.parted())
    found.add(TOLD)
    assert counted(found.open()) == [("nvme", CSTS, 3, 2)]
    assert [each.value for each in found.add(read(63, 1))] == [1]
    for record in records:
        assert found.add(record) == []


def test_who_goes_on_reading_what_is_awaited_is_in_another_loop() -> None:
    found = polls(*(read(n) for n in range(10)), TOLD)
    assert counted(found.add(read(10, 1))) == [("nvme", CSTS, 11, 10)]
    place = "nvme", CSTS, 0x1000
    for number in range(11, 20):
        found.add(read(number, 1))
        assert found.open() == [] and not found.doubts
    for number in range(20, 24):
        found.add(read(number, 1))
    assert found.doubts == {place: 1}
    (poll,) = found.waiting()
    assert poll.told is None and counted([poll]) == [("nvme", CSTS, 14, 13)]
    # The wait that was told keeps what was found out then.
    other = replace(TOLD, awaited=[WayOut(rip=1, mask=1)])
    found.add(other)
    (poll,) = found.waiting()
    assert poll.told == other
    found.add(read(24, 0))
    (poll,) = found.all()
    assert poll.told == other and poll.turns == 15


def test_a_write_that_is_not_of_the_loop_ends_a_wait() -> None:
    near = replace(TOLD, head=0x1FF0, awaited=[WayOut(rip=0x2010, mask=1, value=1)])
    for told, ends in ((TOLD, True), (near, False)):
        found = polls(*(read(n) for n in range(10)), told)
        assert bool(found.add(write(10))) is ends and bool(found.waiting()) is not ends


def test_what_is_read_before_the_loop_is_not_of_the_wait() -> None:
    begun = [read(0), replace(write(1), rip=0x2222)]
    found = polls(*begun, *(read(n) for n in range(2, 40)), TOLD)
    assert counted(found.waiting()) == [("nvme", CSTS, 38, 37)]
    found = polls(*begun, *irregular(40, 2), TOLD)
    assert counted(found.waiting()) == [("nvme", CSTS, 38, 37)]


def test_what_is_found_out_right_behind_a_write_joins_the_parts() -> None:
    records = irregular(39)
    assert records[-1].accesses[0].direction == "write"
    found = polls(*records, TOLD)
    assert found.open() == []
    found.add(read(39))
    assert counted(found.waiting()) == [("nvme", CSTS, 40, 39)]
    (over,) = polls(*records, TOLD).add(read(39, 1))
    assert counted([over]) == [("nvme", CSTS, 40, 39)]


def test_a_loop_spans_its_own_function_alone() -> None:
    told = WaitRecord(
        time_ns=0, seq=0, vcpu=0, rip=0x9000, region="nvme", offset=0, width=4, head=0x1000,
        loop="wait+0x10", awaited=[WayOut(rip=0x1020, symbol="wait+0x30", mask=1)],
        gives_up=[WayOut(rip=0x8000, symbol="wait.cold+0x1")],
    )  # fmt: skip
    assert [told.spans(rip) for rip in (0xFFF, 0x1000, 0x1020, 0x1021, 0x7000, 0x8000)] == [
        False, True, True, False, False, False,
    ]  # fmt: skip
    unnamed = replace(told, loop=None, gives_up=[WayOut(rip=0x1040)])
    assert unnamed.spans(0x1030)
