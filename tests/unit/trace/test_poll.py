"""A poll as a value: how long it lasts, whether it goes on, and whether code may wait for it."""

from __future__ import annotations

from msgspec.structs import replace

from tracer.devices import library
from tracer.trace.poll import Poll, joined

POLL = Poll(
    region="nvme", offset=0x1C, width=4, rip=0x1000, site="f+0x1", vcpu=0, physical=0xFEBF001C,
    turns=8, since_ns=1_000_000, until_ns=11_000_000, first=3, seq=10,
)  # fmt: skip


def test_it_lasts_by_its_turns_and_by_its_time() -> None:
    assert POLL.place == ("nvme", 0x1C, 0x1000)
    assert (POLL.duration_ns, POLL.lasts) == (10_000_000, True)
    assert not replace(POLL, turns=7).lasts
    assert not replace(POLL, until_ns=10_999_999).lasts


def test_it_goes_on_until_the_next_turn_is_overdue() -> None:
    # Its turns are 1.4 ms apart: a pause of up to 50 ms may still be one of the host's.
    assert POLL.goes_on(61_000_000)
    assert not POLL.goes_on(61_000_001)
    # A poll whose turns are seldom goes on for eight pauses.
    slow = replace(POLL, turns=2)
    assert slow.goes_on(91_000_000)
    assert not slow.goes_on(91_000_001)


def test_nobody_waits_for_a_clock() -> None:
    maps = library.load()
    nvme, hpet = maps.of_region("nvme", "nvme"), maps.of_region("hpet", "hpet")
    assert nvme is not None and hpet is not None
    assert POLL.may_wait(None)
    assert POLL.may_wait(nvme.lookup(0x1C, 4))
    assert not POLL.may_wait(hpet.lookup(0xF0, 4))
    assert not replace(POLL, space="tsc").may_wait(None)


def test_two_are_joined() -> None:
    last = replace(POLL, since_ns=20_000_000, until_ns=21_000_000, turns=2, first=20, seq=21)
    whole = joined(POLL, last)
    assert (whole.turns, whole.duration_ns, whole.first, whole.seq) == (10, 20_000_000, 3, 21)
