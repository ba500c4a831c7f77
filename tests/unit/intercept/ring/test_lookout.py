"""A look at the loop around a read: which reads are looked at, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import block_sample
import pytest
import trace_sample as sample
from msgspec.structs import replace
from poll_code import DEVICE, SYMBOLS, Ram, name, registers

from tracer.devices import library
from tracer.intercept.ring.lookout import Lookout
from tracer.trace.block import Blocks
from tracer.trace.compiled import Rate
from tracer.trace.naming import Naming
from tracer.trace.polls import Polls
from tracer.trace.record import Intercept, Record
from tracer.trace.waiting import WaitRecord
from tracer.x86.state import GPR

MS = 1_000_000
CSTS, MAIN_CNT = 0x1C, 0xF0


def lookout(vcpus: int = 1) -> tuple[Lookout, list[Record]]:
    told: list[Record] = []
    view: Any = SimpleNamespace(vcpus=vcpus, time_ns=0)
    names: Any = SimpleNamespace(lookup=lambda linear, space: name(linear))
    journal: Any = SimpleNamespace(publish=told.append)
    return Lookout(view, names, journal, Naming(library.load())), told


def read(number: int, region: str = "nvme", offset: int = CSTS, apart_ns: int = MS) -> Intercept:
    access = replace(sample.device(region, offset, 4, "read", 0), linear=DEVICE)
    known = dict(zip(GPR, registers(rdi=DEVICE), strict=True))
    return replace(
        sample.intercept(number, access),
        time_ns=number * apart_ns,
        rip=SYMBOLS["busy"],
        before={"rflags": 2, **known},
    )


def space(read: Callable[[int, int], bytes]) -> Any:
    return SimpleNamespace(read=read)


def test_a_poll_that_lasts_is_looked_at_once() -> None:
    watch, told = lookout()
    for number in range(20):
        watch.take(read(number))
    (physical,) = watch.due()
    assert physical == sample.START["nvme"] + CSTS
    ram = space(Ram(SYMBOLS["caller"] + 0x31))
    watch.behind(read(20), ram)
    watch.behind(read(21), ram)
    (wait,) = told
    assert isinstance(wait, WaitRecord)
    assert (wait.register, wait.loop, wait.seq) == ("CSTS", "caller+0x2c", 20)
    assert [(each.mask, each.value) for each in wait.awaited] == [(0x80, None)]
    assert [(each.symbol, each.said) for each in wait.gives_up] == [("caller+0x27", "rbx")]
    watch.take(wait)
    assert watch.due() == []
    (poll,) = watch.waiting()
    assert poll.told == wait


def test_short_polls_and_clocks_are_not() -> None:
    watch, told = lookout()
    for number in range(20):
        watch.take(read(number, apart_ns=1000))
        watch.take(read(number, "hpet", MAIN_CNT))
    assert watch.due() == []
    watch.behind(read(20, "hpet", MAIN_CNT), space(Ram()))
    assert told == []
    assert [poll.region for poll in watch.waiting()] == ["nvme"]


def test_code_that_cannot_be_read_is_no_loop_and_waits_for_nothing() -> None:
    watch, told = lookout()
    for number in range(20):
        watch.take(read(number))
    watch.behind(read(20), space(lambda linear, size: b""))
    (wait,) = told
    assert isinstance(wait, WaitRecord) and not wait.awaited
    watch.take(wait)
    assert watch.waiting() == []


def test_a_program_is_not_looked_at() -> None:
    watch, told = lookout()
    for number in range(20):
        watch.take(read(number))
    watch.behind(replace(read(20), cpl=3), space(Ram()))
    assert told == []


def test_of_a_long_block_the_rows_between_are_counted() -> None:
    whole, some = lookout(2)[0], lookout(1)[0]
    for line in block_sample.lines(1000):
        whole.take(line)
        some.take(line)
    for watch in (whole, some):
        (poll,) = watch.polls.open()
        assert (poll.turns, poll.value) == (1000, 999)


def test_rows_of_which_no_record_is_made_are_the_same_polls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two loops and a write between, of two vCPUs; values and times are each row's own.
    other = block_sample.LINEAR + 8
    rows = [
        block_sample.row(site, tsc=100 + 8 * number + site, vcpu=vcpu, rdi=at, read=number // 3)
        for number in range(40)
        for site, at, vcpu in (
            (0, block_sample.LINEAR, 0),
            (2, other, 0),
            (0, block_sample.LINEAR, 1),
        )
    ]
    rows[60] = block_sample.row(1, tsc=270, rdi=other, written=1)
    sites = [("8b07", 0x1000), ("8907", 0x2000), ("8b07", 0x3000)]
    *opening, _, _, _ = block_sample.lines(1)
    opening += [block_sample.site(n, code, rip=rip) for n, (code, rip) in enumerate(sites)]
    rate = Rate(counter=0, time_ns=0, ticks=1, span_ns=MS)
    blocks = [block_sample.block(*rows, rate=rate), block_sample.block(*rows, seq=120, rate=rate)]
    seen, intercepts, expected = lookout(2)[0], Blocks(), Polls()
    for line in (*opening, *blocks):
        for record in intercepts.records(line):
            expected.add(record)
    with monkeypatch.context() as patch:
        patch.setattr(Polls, "add", lambda polls, record: [])
        for line in (*opening, *blocks):
            seen.take(line)
    assert len(list(expected.all())) >= 3
    assert list(seen.polls.all()) == list(expected.all())
    assert seen.polls.open() == expected.open()


def test_a_block_that_another_access_comes_in_is_followed_row_by_row() -> None:
    watch, _ = lookout()
    rows = [block_sample.row(tsc=number) for number in range(1000)]
    rows[500] = block_sample.row(1, rdi=block_sample.LINEAR + 8, rax=1)
    *opening, _, _ = block_sample.lines(1)
    for line in (*opening, block_sample.site(1, "8907", rip=0x2000), block_sample.block(*rows)):
        watch.take(line)
    (poll,) = watch.polls.open()
    assert poll.turns == 499
