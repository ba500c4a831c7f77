"""Stops where the kernel gives code away."""

from __future__ import annotations

from collections import Counter

from playbook import play

from tracer.access.stop import Stopped
from tracer.access.symbols import Symbol, table_of
from tracer.access.want import SetBreakpoint
from tracer.intercept.trap import GoOn
from tracer.linux.freed_code import FreedCode

PLACE = 0xFFFF_FFFF_8100_4000


def stop(number: int | None) -> Stopped:
    return Stopped("breakpoint-hit", 1, PLACE, number)


def test_the_guest_stops_there_and_goes_on() -> None:
    counts: Counter[str] = Counter()
    freed = FreedCode(counts)
    symbols = table_of([Symbol(PLACE, "T", "module_memfree"), Symbol(PLACE + 9, "T", "other")])
    play(freed.install(symbols), (SetBreakpoint(PLACE), 7))
    assert freed.number_at(PLACE) == 7 and freed.number_at(PLACE + 1) is None
    assert freed.number_at(None) is None
    assert freed.claims(stop(7)) and not freed.claims(stop(8)) and not freed.claims(stop(None))
    assert play(freed.handle(stop(7))) == GoOn()
    assert counts == {"hooks": 1, "freed": 1}


def test_a_kernel_that_does_not_name_the_function_has_no_stop() -> None:
    freed = FreedCode(Counter())
    play(freed.install(table_of([Symbol(PLACE, "T", "other")])))
    assert not freed.claims(stop(None)) and freed.number_at(None) is None
