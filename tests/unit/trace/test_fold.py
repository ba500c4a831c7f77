"""Folding loops: what is told once, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import trace_sample as sample
from hypothesis import given
from hypothesis import strategies as st

from tracer.trace.event import Event
from tracer.trace.fold import FEWEST, HELD, LONGEST, Fold, Folder, folded
from tracer.trace.lines import fold_line
from tracer.trace.waiting import WaitRecord


def poll(seq: int, value: int = 0, offset: int = 0x1C) -> Event:
    record = sample.intercept(seq, sample.device("nvme", offset, 4, "read", value))
    return Event(seq, record, record.accesses[0])


def store(seq: int, value: int, offset: int = 0x14) -> Event:
    record = sample.intercept(seq, sample.device("nvme", offset, 4, "write", value))
    return Event(seq, record, record.accesses[0])


def told(events: Iterable[Event]) -> list[object]:
    """Return what folding gives: numbers of accesses, and (first, last, turns) of loops."""
    return [
        ([e.seq for e in item.first], [e.seq for e in item.last], item.turns)
        if isinstance(item, Fold)
        else item.seq
        for item in folded(events)
    ]


def at_once(events: Iterable[Event]) -> list[object]:
    """Return what an eager folder tells after each event, and at the end, in the form of `told`."""
    folder = Folder(eager=True)
    steps: list[object] = [
        [
            (item.first[0].seq, item.last[-1].seq, item.turns, item.more)
            if isinstance(item, Fold)
            else item.seq
            for item in items
        ]
        for items in (*map(folder.add, events), folder.end())
    ]
    return steps


def test_a_polling_loop_is_told_once() -> None:
    events = [store(0, 1), *(poll(n, n) for n in range(1, 6)), store(6, 2)]
    assert told(events) == [0, ([1], [5], 5), 6]


def test_what_comes_twice_is_no_loop() -> None:
    assert told([poll(0), poll(1), store(2, 1)]) == [0, 1, 2]


def test_a_loop_of_several_accesses_ends_with_its_last_whole_turn() -> None:
    events = [(store(n, 7) if n % 2 else poll(n)) for n in range(9)]
    assert told(events) == [([0, 1], [6, 7], 4), 8]


def test_the_longest_loop_is_found_and_a_longer_one_is_not() -> None:
    def turns(size: int) -> list[Event]:
        return [poll(n, offset=4 * (n % size)) for n in range(FEWEST * size)]

    assert told(turns(LONGEST)) == [
        (list(range(LONGEST)), list(range(2 * LONGEST, 3 * LONGEST)), FEWEST)
    ]
    assert told(turns(LONGEST + 1)) == list(range(FEWEST * (LONGEST + 1)))


def test_writes_of_other_values_are_never_folded() -> None:
    assert told(store(n, n) for n in range(6)) == list(range(6))
    assert told(store(n, 7) for n in range(6)) == [([0], [5], 6)]


@pytest.mark.parametrize("member", ["rip", "vcpu", "via"])
def test_another_site_or_vcpu_or_way_ends_a_loop(member: str) -> None:
    import msgspec

    other = {"rip": 1, "vcpu": 1, "via": "stepped"}[member]
    events = [poll(n) for n in range(6)]
    for n in (3, 4, 5):
        record = msgspec.structs.replace(events[n].record, **{member: other})
        events[n] = Event(n, record, record.accesses[0])
    assert told(events) == [([0], [2], 3), ([3], [5], 3)]


def test_another_phase_ends_a_loop() -> None:
    events = [poll(n) for n in range(6)]
    events[3:] = [Event(e.seq, e.record, e.access, "kernel") for e in events[3:]]
    assert told(events) == [([0], [2], 3), ([3], [5], 3)]


def test_the_line_of_a_loop_has_turns_time_and_last_value() -> None:
    (fold,) = folded(poll(n, n) for n in range(1500))
    assert isinstance(fold, Fold) and fold.duration_ns == 1499
    assert fold_line(fold).strip() == "↑ 1,500 times in 0.000001 s, last read 0x000005db"


def unfolded(items: Iterable[Event | Fold]) -> list[tuple[str, str | None]]:
    """Return direction and offset of every access that is told or stands folded."""
    return [
        (event.access.direction, event.access.offset)
        for item in items
        for event in (item.first * item.turns if isinstance(item, Fold) else (item,))
    ]


@given(st.lists(st.integers(0, 2), max_size=80))
def test_no_access_is_lost_or_moved(offsets: list[int]) -> None:
    events = [poll(n, offset=4 * offset) for n, offset in enumerate(offsets)]
    assert unfolded(folded(events)) == [("read", e.access.offset) for e in events]


def test_a_stream_is_folded_while_it_comes() -> None:
    taken = 0

    def source() -> Iterable[Event]:
        nonlocal taken
        for n in range(1000):
            taken += 1
            yield store(n, n)

    next(iter(folded(source())))
    assert taken <= FEWEST * LONGEST + 1


def other(seq: int, offset: int | None = None) -> Event:
    access = sample.device("hpet", 8 * seq if offset is None else offset, 8, "read", seq)
    record = sample.intercept(seq, access)
    return Event(seq, record, record.accesses[0])


def parted(turns: int, between: int) -> list[Event]:
    """Poll, with so many accesses to another device behind each turn."""
    events = []
    for turn in range(turns):
        at = turn * (between + 1)
        events += [poll(at), *(other(at + n) for n in range(1, between + 1))]
    return events


def test_a_loop_goes_on_whatever_other_devices_do() -> None:
    assert told(parted(5, 1)) == [([0], [8], 5), 1, 3, 5, 7, 9]


def test_a_long_loop_that_others_part_is_told_of_where_it_ends() -> None:
    events = parted(HELD, 3)
    end = events[-1].seq + 1
    found = list(folded([*events, store(end, 1)]))
    assert [item.seq for item in found if isinstance(item, Event)] == [
        e.seq for e in events if e.seq == 0 or e.access.region == "hpet"
    ] + [end]
    # It stands where its last turn was.
    at = next(n for n, item in enumerate(found) if isinstance(item, Fold))
    fold, before, behind = found[at], found[at - 1], found[at + 1]
    assert isinstance(fold, Fold) and (fold.turns, fold.more, fold.apart) == (HELD - 1, True, True)
    assert (before, behind) == (events[-5], events[-3])
    assert fold_line(fold).strip().startswith("↑ nvme+0x1c at nvme_pci_enable+0x5e: 255 more times")


def test_what_was_found_out_stands_behind_its_loop() -> None:
    wait = WaitRecord(
        time_ns=0, seq=7, vcpu=0, rip=1, region="nvme", offset=0x1C, width=4
    )  # fmt: skip
    events = parted(6, 1)
    found = list(folded([*events[:7], wait, *events[7:]]))
    assert isinstance(found[0], Fold) and found[1] is wait and len(found) == 8
    assert list(folded([other(0), wait, other(1)]))[1] is wait
    short = [*(poll(n) for n in range(FEWEST)), wait, store(9, 1)]
    assert list(folded(short))[1] is wait


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1)), max_size=300), st.integers(0, 40))
def test_of_several_devices_no_access_is_lost_or_told_twice(
    which: list[tuple[bool, int]], pause: int
) -> None:
    events: list[Event] = []
    for mine, offset in which:
        seq = len(events)
        events.append(poll(seq, offset=4 * offset) if mine else other(seq, 8 * offset))
        events += [other(seq + n, 0x20 + 8 * n) for n in range(1, 4) if seq < pause * 20]
    found = list(folded(events))
    for region in ("nvme", "hpet"):
        mine_of = [
            item for item in found
            if (item.first[0] if isinstance(item, Fold) else item).access.region == region
        ]  # fmt: skip
        made = [("read", e.access.offset) for e in events if e.access.region == region]
        assert unfolded(mine_of) == made
    seqs = [item.seq for item in found if isinstance(item, Event)]
    assert seqs == sorted(seqs)


# ---- live


def test_live_nothing_waits_and_what_repeats_is_folded() -> None:
    events = [store(0, 1), *(poll(n) for n in range(1, 7)), store(7, 2), store(8, 3)]
    assert at_once(events) == [[0], [1], [2], [3], [], [], [], [(3, 6, 3, True), 7], [8], []]


def test_live_a_loop_that_does_not_go_on_leaves_no_fold() -> None:
    assert at_once([poll(0), poll(1), poll(2), store(3, 1)]) == [[0], [1], [2], [3], []]


def test_live_a_turn_that_is_not_whole_is_told_when_the_loop_ends() -> None:
    events = [(store(n, 7) if n % 2 else poll(n)) for n in range(9)]
    assert at_once(events) == [*([n] for n in range(6)), [], [], [], [(4, 7, 1, True), 8]]


def test_the_line_of_what_was_folded_live_counts_what_is_not_shown() -> None:
    folder = Folder(eager=True)
    shown = [item for n in range(1500) for item in folder.add(poll(n, n))]
    (fold,) = folder.end()
    assert len(shown) == FEWEST and isinstance(fold, Fold)
    assert fold_line(fold).strip() == "↑ 1,497 more times in 0.000001 s, last read 0x000005db"


def test_once_more_is_one_time() -> None:
    fold = Fold((poll(0),), (poll(1),), 1, more=True)
    assert fold_line(fold).strip().startswith("↑ 1 more time in")


@given(st.lists(st.integers(0, 2), max_size=80))
def test_live_no_access_is_lost_or_moved(offsets: list[int]) -> None:
    events = [poll(n, offset=4 * offset) for n, offset in enumerate(offsets)]
    folder = Folder(eager=True)
    items = [item for event in events for item in folder.add(event)] + folder.end()
    assert unfolded(items) == [("read", e.access.offset) for e in events]
