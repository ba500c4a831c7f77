"""Mappings of a guest that is not Linux: by functions that were named, or wherever it writes."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from playbook import play
from ram import PAGING, POISON, ROOT
from scene import CODE, DATA, DATA_AT, DEVICE, STACK, STATE, registers
from stage import Stage

from tracer.access.stop import Stopped
from tracer.access.want import (
    DeleteBreakpoint,
    FlushAllTlbs,
    FlushTlb,
    MakeChanges,
    Register,
    Registers,
    RunAlone,
    SetBreakpoint,
    VcpuStates,
    WatchStores,
)
from tracer.bare.function import parse_function
from tracer.bare.hooks import FunctionHooks
from tracer.bare.page_tables import tables
from tracer.bare.watch import TableWatch
from tracer.errors import InterceptError
from tracer.intercept.trap import GoOn
from tracer.trace.record import MapRecord
from tracer.x86.paging import LARGE, PRESENT, WRITABLE

PLACE, BACK = CODE + 0x100, CODE + 0x200
NEW = 0xFFFF_C900_0004_0000
LEAF = DEVICE | PRESENT | WRITABLE
TIME: list[Any] = [(RunAlone, None), (Register("rsp"), STACK - 0x200), (MakeChanges, None)]
STATES = (VcpuStates(), (STATE, STATE))


def maps(stage: Stage) -> list[tuple[int, str]]:
    return [(each.linear, each.by) for each in stage.records if isinstance(each, MapRecord)]


# ---- by functions


class Hooked:
    """A stage with one mapping function watched."""

    def __init__(self, text: str) -> None:
        self.stage = Stage()
        self.hooks = FunctionHooks(self.stage.ground, set())
        function = parse_function(text)
        play(self.hooks.install([(PLACE, function)]), (SetBreakpoint(PLACE), 40))
        assert self.hooks.number_at(PLACE) == 40
        self.stage.scene.write(STACK, struct.pack("<Q", BACK))

    def entered(self, *more: Any, **values: int) -> None:
        stop = Stopped("breakpoint-hit", 1, PLACE, 40, "SIGTRAP")
        assert self.hooks.claims(stop)
        assert play(self.hooks.handle(stop), (Registers(), registers(**values)), *more) == GoOn()

    def returned(self, *more: Any, **values: int) -> None:
        stop = Stopped("breakpoint-hit", 1, BACK, 41, "SIGTRAP")
        assert self.hooks.claims(stop)
        here = (Registers(), registers(rsp=STACK + 8, **values))
        work = self.hooks.handle(stop)
        assert play(work, here, (DeleteBreakpoint(41), None), *more) == GoOn()


FOLLOWED = [STATES, (SetBreakpoint(BACK), 41)]


def test_what_a_function_has_entered_is_poisoned_where_it_returns() -> None:
    hooked = Hooked("map(linear=rdx, entry=rcx)")
    hooked.entered(*FOLLOWED, rdx=NEW, rcx=LEAF)
    ram = hooked.stage.scene.ram
    entry = ram.map(NEW, DEVICE)
    hooked.returned((FlushAllTlbs(), None), *TIME)
    assert ram.entry(entry) & POISON and maps(hooked.stage) == [(NEW, "map")]
    assert hooked.stage.counts["hooks"] == 2


@pytest.mark.parametrize("entry", [DATA_AT | PRESENT, DEVICE])
def test_what_maps_ram_or_nothing_is_not_followed(entry: int) -> None:
    hooked = Hooked("map(linear=rdx, entry=rcx)")
    hooked.entered(rdx=NEW, rcx=entry)
    assert hooked.stage.counts["ram_hooks"] == 1


def test_a_large_entry_is_followed_wherever_it_leads() -> None:
    Hooked("map(linear=rdx, entry=rcx)").entered(*FOLLOWED, rdx=NEW, rcx=LEAF | LARGE)


def test_a_function_may_return_where_it_has_mapped() -> None:
    hooked = Hooked("ioremap(physical=rdi, size=rsi, linear=return)")
    hooked.entered(*FOLLOWED, rdi=DEVICE, rsi=0x2000)
    ram = hooked.stage.scene.ram
    entries = [ram.map(NEW + page, DEVICE + page) for page in (0, 0x1000, 0x2000)]
    hooked.returned((FlushAllTlbs(), None), *TIME, rax=NEW)
    assert [bool(ram.entry(entry) & POISON) for entry in entries] == [True, True, False]


def test_without_a_linear_address_all_is_looked_at() -> None:
    hooked = Hooked("map(physical=rdi)")
    hooked.entered(*FOLLOWED, rdi=DEVICE)
    entry = hooked.stage.scene.ram.map(NEW, DEVICE)
    hooked.returned((FlushAllTlbs(), None), *TIME)
    assert hooked.stage.scene.ram.entry(entry) & POISON


def test_tables_that_are_not_in_use_are_those_that_were_named() -> None:
    hooked = Hooked("map(tables=rdi, linear=rdx, entry=rcx)")
    ram = hooked.stage.scene.ram
    ram.map(DATA, 0x38_0000)  # the second root
    hooked.entered(*FOLLOWED, rdi=DATA, rdx=NEW, rcx=LEAF)
    other = type(PAGING)(0x38_0000, 4, POISON)
    entry = ram.map(NEW, DEVICE, paging=other)
    hooked.returned((FlushAllTlbs(), None), *TIME)
    assert ram.entry(entry) & POISON
    hooked.entered(*FOLLOWED, rdi=0x1234_5000, rdx=NEW, rcx=LEAF)
    hooked.returned()  # tables that are nowhere


# ---- wherever it writes

MIRROR = 0xFFFF_8800_0000_0000  # all RAM, at its physical addresses


class Watched:
    """A stage whose tables are watched, with all RAM mapped beside."""

    def __init__(self, *, stores: bool = True) -> None:
        self.stage = Stage()
        self.ram = self.stage.scene.ram
        for page in (0, 0x20_0000):
            self.ram.map(MIRROR + page, page, level=2)
        self.spare = self.ram._next_table
        self.ram.map(NEW, DATA_AT)
        self.numbers: dict[int, int] = {}
        self.roots: set[int] = set()
        self.watch = TableWatch(self.stage.ground, self.roots, stores=stores)
        steps = [(SetBreakpoint(PLACE), 40), STATES, (FlushAllTlbs(), None), *self.all() * stores]
        play(self.watch.install([PLACE], self.stage.scene.space), *steps)

    def known(self) -> list[int]:
        return list(tables(self.ram, PAGING))

    def armed(self, wanted: Any) -> int:
        # GDB must not have seen what is there in the end.
        assert wanted.size == 4096
        table = wanted.linear - MIRROR
        assert self.ram.entry(table) & 1 << 10
        self.numbers[table] = 50 + len(self.numbers)
        return self.numbers[table]

    def all(self) -> list[Any]:
        return [(WatchStores, self.armed)] * len(self.known())

    def stored(self, table: int, *more: Any) -> None:
        told = {"wpt": {"number": str(self.numbers[table])}}
        stop = Stopped("watchpoint-trigger", 1, CODE, None, "SIGTRAP", told)
        assert self.watch.claims(stop)
        assert play(self.watch.handle(stop), (Registers(), registers()), *more) == GoOn()


def test_each_table_is_watched_where_it_can_be_written() -> None:
    watched = Watched()
    assert sorted(watched.numbers) == sorted(watched.known()) and ROOT in watched.numbers
    assert not any(watched.ram.entry(table) & 1 << 10 for table in watched.numbers)
    assert watched.watch.number_at(PLACE) == 40 and watched.watch.number_at(BACK) is None
    assert not watched.watch.claims(
        Stopped("watchpoint-trigger", 1, payload={"wpt": {"number": "3"}})
    )
    assert not watched.watch.claims(Stopped("breakpoint-hit", 1, CODE, 7))


def again(watched: Watched) -> list[Any]:
    return [(DeleteBreakpoint, None), (WatchStores, watched.armed)]


def test_an_entry_that_leads_to_a_device_is_poisoned_behind_its_store() -> None:
    watched = Watched()
    entry = watched.ram.map(NEW + 0x1000, DEVICE)
    watched.stored(entry & -4096, (FlushAllTlbs(), None), *again(watched))
    assert watched.ram.entry(entry) & POISON
    assert maps(watched.stage) == [(NEW + 0x1000, "a store to a page table")]
    # The same store once more, which takes the poison away.
    watched.ram.map(NEW + 0x1000, DEVICE)
    watched.stored(entry & -4096, (FlushAllTlbs(), None), *again(watched))
    assert watched.ram.entry(entry) & POISON


def test_an_entry_of_ram_is_left_alone() -> None:
    watched = Watched()
    entry = watched.ram.map(NEW + 0x1000, DATA_AT)
    watched.stored(entry & -4096, *again(watched))
    assert not watched.ram.entry(entry) & POISON and not maps(watched.stage)


def looked(watched: Watched, added: int) -> list[Any]:
    # All is looked at, on both vCPUs; the table that was written is watched anew, and new ones.
    watches = [(WatchStores, watched.armed)] * (1 + added)
    return [(FlushTlb, None), STATES, (FlushAllTlbs(), None), (DeleteBreakpoint, None), *watches]


def test_a_new_table_is_followed() -> None:
    watched = Watched()
    before = set(watched.known())
    entry = watched.ram.map(NEW + (1 << 39), DEVICE)
    new = set(watched.known()) - before
    assert len(new) == 3
    watched.stored(ROOT, *looked(watched, 3))
    assert watched.ram.entry(entry) & POISON and new <= set(watched.numbers)


def test_a_table_that_goes_is_watched_no_longer() -> None:
    watched = Watched()
    gone = watched.ram.map(NEW, DATA_AT) & -4096
    above = next(t for t in tables(watched.ram, PAGING).values() if gone in _entries(t.data))
    watched.ram.write(above.physical, bytes(4096))
    steps = [(FlushTlb, None), STATES, (FlushAllTlbs(), None)]
    steps += [(DeleteBreakpoint, None)] * 2 + [(WatchStores, watched.armed)]
    watched.stored(above.physical, *steps)
    assert gone not in watched.known()


def _entries(data: bytes) -> set[int]:
    return {entry & -4096 for (entry,) in struct.iter_unpack("<Q", data)}


def test_a_table_that_can_be_written_elsewhere_too_is_watched_there() -> None:
    watched = Watched()
    table = watched.ram.map(NEW, DATA_AT) & -4096
    watched.ram.map(NEW + 0x1000, table)
    found: list[int] = []

    def armed(wanted: Any) -> int:
        found.append(wanted.linear)
        return 90 + len(found)

    steps = [(each, armed if each is WatchStores else told) for each, told in looked(watched, 1)]
    watched.stored(table, *steps)
    assert sorted(found) == [MIRROR + table, NEW + 0x1000]


def test_more_tables_than_can_be_watched_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    monkeypatch.setattr("tracer.bare.watch._MOST_WATCHES", len(watched.numbers))
    work = watched.watch.look()
    play(work, (Registers(), registers()), (FlushTlb, None), STATES, (FlushAllTlbs(), None))
    watched.ram.map(NEW + (1 << 39), DEVICE)
    with pytest.raises(InterceptError, match=r"at \d+ places, too many .*--mapping.*nested"):
        work = watched.watch.look()
        play(work, (Registers(), registers()), (FlushTlb, None), STATES, (FlushAllTlbs(), None))


def test_stores_of_two_vcpus_at_one_moment_are_both_seen() -> None:
    watched = Watched()
    entry = watched.ram.map(NEW + 0x1000, DEVICE)
    watched.stored(ROOT, (FlushAllTlbs(), None), *again(watched))
    assert watched.ram.entry(entry) & POISON


def test_the_tables_of_every_vcpu_are_looked_at_and_watched() -> None:
    watched = Watched()
    other = type(PAGING)(0x38_0000, 4, POISON)
    entry = watched.ram.map(NEW, DEVICE, paging=other)
    # Those of the second one are seen through those of the first.
    states = (VcpuStates(), (STATE, replace(STATE, cr3=0x38_0000)))
    steps = [(FlushTlb, None), states, (FlushAllTlbs(), None), (FlushAllTlbs(), None)]
    watched.ram.map(MIRROR, 0, level=2, paging=other)
    watched.ram.map(MIRROR + 0x20_0000, 0x20_0000, level=2, paging=other)
    new = tables(watched.ram, other)
    steps += [(WatchStores, watched.armed)] * len(new)
    play(watched.watch.look(), (Registers(), registers()), *steps)
    assert watched.ram.entry(entry) & POISON and set(new) <= set(watched.numbers)


def loaded(watched: Watched, cr3: int, *more: Any) -> None:
    stop = Stopped("breakpoint-hit", 1, PLACE, 40, "SIGTRAP")
    assert watched.watch.claims(stop)
    here = (Registers(), registers(cr3=cr3))
    assert play(watched.watch.handle(stop), here, *more) == GoOn()


def test_tables_are_looked_at_when_they_are_loaded() -> None:
    watched = Watched(stores=False)
    assert not watched.numbers
    other = type(PAGING)(0x38_0000, 4, POISON)
    entry = watched.ram.map(NEW, DEVICE, paging=other)
    loaded(watched, 0x38_0000, (FlushTlb(0x38_0000), None), STATES, (FlushAllTlbs(), None))
    assert watched.ram.entry(entry) & POISON
    assert maps(watched.stage) == [(NEW, "page tables that were loaded")]
    assert watched.roots == {ROOT, 0x38_0000}


def test_tables_are_looked_at_again_when_somebody_asks() -> None:
    watched = Watched(stores=False)
    entry = watched.ram.map(NEW, DEVICE)
    work = watched.watch.look()
    play(work, (Registers(), registers()), (FlushTlb, None), STATES, (FlushAllTlbs(), None))
    assert watched.ram.entry(entry) & POISON
