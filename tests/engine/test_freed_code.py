"""Stops where the kernel gives code away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from playbook import play

from tracer.access.stop import Stopped
from tracer.access.symbols import Symbol, table_of
from tracer.access.vcpu import SetRegister
from tracer.access.want import SetBreakpoint
from tracer.intercept.trap import GoOn
from tracer.linux.freed_code import FreedCode
from tracer.linux.wrapper import Wrapper

PLACE = 0xFFFF_FFFF_8100_4000
CODE, BELL = PLACE + 0x8000, PLACE + 0x9000


class Sites:
    """A kernel whose functions have sites, or not."""

    def __init__(self, *, any_there: bool) -> None:
        self.any_there = any_there
        self.made: Wrapper | None = None

    async def plant(self, function: int, make: Callable[[int], Wrapper]) -> Wrapper | None:
        assert function == PLACE
        self.made = make(CODE) if self.any_there else None
        return self.made


def gate() -> Any:
    return SimpleNamespace(stub=SimpleNamespace(bell=BELL), ringers={})


def stop(number: int | None, address: int = PLACE) -> Stopped:
    return Stopped("breakpoint-hit", 1, address, number)


def test_the_guest_stops_before_the_function_and_goes_on_behind_the_bell() -> None:
    counts: Counter[str] = Counter()
    freed, sites, there = FreedCode(counts), Sites(any_there=True), gate()
    symbols: Any = table_of([Symbol(PLACE, "T", "module_memfree")])
    asked: Any = sites
    play(freed.install(symbols, asked, there))
    made = sites.made
    assert made is not None
    # mov r11, [rip + bell]; jmp to it again; ret
    distance = (BELL - CODE - 7).to_bytes(4, "little")
    assert made.code == b"\x4c\x8b\x1d" + distance + b"\xeb\xf7\xc3"
    assert (made.stop, made.behind, made.back) == (CODE + 7, CODE + 9, None)
    assert there.ringers == {made.stop: made.span} and freed.number_at(PLACE) is None
    rung = Stopped("read-watchpoint-trigger", 1, made.stop)
    assert freed.claims(rung) and not freed.claims(stop(None))
    assert play(freed.handle(rung)) == GoOn([SetRegister("rip", made.behind)])
    assert counts == {"hooks": 1, "freed": 1}


def test_a_function_without_a_site_has_a_breakpoint() -> None:
    counts: Counter[str] = Counter()
    freed = FreedCode(counts)
    symbols = table_of([Symbol(PLACE, "T", "module_memfree"), Symbol(PLACE + 9, "T", "other")])
    asked: Any = Sites(any_there=False)
    play(freed.install(symbols, asked, gate()), (SetBreakpoint(PLACE), 7))
    assert freed.number_at(PLACE) == 7 and freed.number_at(PLACE + 1) is None
    assert freed.number_at(None) is None
    assert freed.claims(stop(7)) and not freed.claims(stop(8)) and not freed.claims(stop(None))
    assert play(freed.handle(stop(7))) == GoOn()
    assert counts == {"hooks": 1, "freed": 1}


def test_a_kernel_that_does_not_name_the_function_has_no_stop() -> None:
    freed = FreedCode(Counter())
    asked: Any = Sites(any_there=True)
    play(freed.install(table_of([Symbol(PLACE, "T", "other")]), asked, gate()))
    assert not freed.claims(stop(None)) and freed.number_at(None) is None
