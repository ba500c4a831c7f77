"""The diary: what is new in it, and who was on which errand at which moment."""

from __future__ import annotations

import pytest

from tracer.compiled.diary import STARTED, Diary, Entry, Errand, Errands, What, entries
from tracer.compiled.layout import DIARY, DIARY_ENTRY, DIARY_SLOTS, diary_word
from tracer.errors import InterceptError

INITCALL, WORK, ASYNC, _, THREAD = range(5)
FIRST, WORKER = 0x8801, 0x8802


def begin(counter: int, function: int, thread: int = FIRST, sort: int = INITCALL) -> Entry:
    return Entry(counter, function, thread, What.BEGIN, sort)


def end(counter: int, function: int, thread: int = FIRST, sort: int = INITCALL) -> Entry:
    return Entry(counter, function, thread, What.END, sort)


def test_an_errand_is_from_its_begin_to_its_end() -> None:
    errands = Errands()
    errands.learn([begin(10, 0xA), end(20, 0xA), begin(30, 0xB), end(40, 0xB)])
    found = [errands.at(FIRST, counter) for counter in (9, 11, 19, 21, 31, 41)]
    one, other = Errand(INITCALL, 0xA), Errand(INITCALL, 0xB)
    assert found == [None, one, one, None, other, None]
    assert not len(errands)


def test_the_innermost_errand_counts() -> None:
    errands = Errands()
    errands.learn(
        [
            Entry(5, 0x1, WORKER, What.FOR_GOOD, THREAD),
            begin(10, 0x2, WORKER, WORK),
            begin(20, 0x3, WORKER, ASYNC),
            end(30, 0x3, WORKER, ASYNC),
            end(40, 0x2, WORKER, WORK),
        ]
    )
    sorts = [errands.at(WORKER, counter) for counter in (6, 11, 21, 31, 41)]
    assert sorts == [
        Errand(THREAD, 1), Errand(WORK, 2), Errand(ASYNC, 3), Errand(WORK, 2), Errand(THREAD, 1),
    ]  # fmt: skip


def test_threads_are_told_apart_in_any_order_of_rows() -> None:
    errands = Errands()
    errands.learn([begin(10, 0xA), begin(12, 0xB, WORKER, WORK), end(14, 0xB, WORKER, WORK)])
    assert errands.at(WORKER, 13) == Errand(WORK, 0xB)
    assert errands.at(FIRST, 11) == Errand(INITCALL, 0xA)
    assert errands.at(WORKER, 15) is None


def test_a_thread_that_ends_leaves_nothing_to_the_next_one_at_its_place() -> None:
    errands = Errands()
    errands.learn(
        [
            begin(10, 0xA, WORKER, WORK),
            Entry(20, 0, WORKER, What.EXIT, 0),
            Entry(30, 0x1, WORKER, What.FOR_GOOD, THREAD),
            Entry(40, 0x2, WORKER, What.FOR_GOOD, THREAD),
        ]
    )
    assert errands.at(WORKER, 25) is None
    assert errands.at(WORKER, 31) == Errand(THREAD, 1)
    assert errands.at(WORKER, 41) == Errand(THREAD, 2)


def test_an_end_that_nobody_began_is_none() -> None:
    errands = Errands()
    errands.learn([end(5, 0xA), begin(10, 0xB), end(20, 0xA)])
    assert errands.at(FIRST, 6) is None and errands.at(FIRST, 21) == Errand(INITCALL, 0xB)


def test_a_kernel_that_has_started_has_no_errands() -> None:
    errands = Errands()
    errands.learn([begin(10, 0xA), Entry(20, 0, FIRST, What.RUNNING, 0), begin(30, 0xB, WORKER)])
    assert errands.at(FIRST, 19) == Errand(INITCALL, 0xA)
    assert errands.at(FIRST, 21) == errands.at(WORKER, 31) == STARTED


def test_what_a_row_to_come_may_need_is_kept_and_the_rest_forgotten() -> None:
    errands = Errands()
    errands.learn([begin(10, 0xA), end(20, 0xA)])
    errands.settle()
    assert errands.at(FIRST, 15) == Errand(INITCALL, 0xA)  # it was read before the entries
    for _ in range(2):
        errands.learn([])
        errands.settle()
    assert not len(errands)
    for number in range(1000):
        errands.learn([begin(30 + number, number, number), end(30 + number, number, number)])
        errands.settle()
    assert len(errands) <= 1


def test_a_guest_that_forges_entries_is_told_of() -> None:
    for thread in (lambda number: number, lambda number: FIRST):
        errands = Errands()
        with pytest.raises(InterceptError, match="written to it"):
            for number in range(1 << 17):
                errands.learn([begin(number, number, thread(number))])
                errands.settle()
    with pytest.raises(InterceptError, match="written to it"):
        Diary().spans(DIARY_SLOTS + 1)
    diary = Diary()
    diary.spans(5)
    with pytest.raises(InterceptError, match="written to it"):
        diary.spans(4)


def test_what_is_new_is_read_once_around_the_end() -> None:
    diary, size = Diary(), DIARY_ENTRY.size
    assert diary.open() == (diary_word("LIMIT"), DIARY_SLOTS.to_bytes(8, "little"))
    assert diary.spans(0) == []
    assert diary.spans(DIARY_SLOTS - 2) == [(DIARY, size * (DIARY_SLOTS - 2))]
    last = DIARY + size * (DIARY_SLOTS - 2)
    assert diary.spans(DIARY_SLOTS + 3) == [(last, 2 * size), (DIARY, 3 * size)]
    assert diary.open()[1] == (2 * DIARY_SLOTS + 3).to_bytes(8, "little")
    assert int.from_bytes(diary.ignore()[1], "little") > 1 << 62


def test_entries_are_read_as_the_guest_writes_them() -> None:
    data = DIARY_ENTRY.pack(7, 0xFFFF_FFFF_8100_0000, 0x8801, What.END, WORK)
    assert list(entries(data)) == [Entry(7, 0xFFFF_FFFF_8100_0000, 0x8801, What.END, WORK)]
