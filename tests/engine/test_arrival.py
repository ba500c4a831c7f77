"""A kernel that a guest comes to run while it is traced: where it is known, and what of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playbook import play
from ram import PAGING, ROOT, Ram
from scene import registers

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.symbols import Symbol, table_of
from tracer.access.want import DeleteBreakpoint, Registers, SetBreakpoint, WatchAccesses
from tracer.intercept.system import Learnt
from tracer.intercept.trap import GoOn
from tracer.linux import arrival
from tracer.linux.arrival import ComingLinux
from tracer.linux.kaslr import KERNEL_MAP
from tracer.linux.resident import Resident

TEXT = KERNEL_MAP + 0x100_0000
ENTRY, BANNER, MOVED = TEXT + 0x400, TEXT + 0x20_0000, 0x600_0000
LONG_MODE = 0x500
SAYS = "Linux version 6.1.0-9-amd64 (x)"
NAMES = table_of([
    Symbol(TEXT, "T", "_text"), Symbol(ENTRY, "T", "start_kernel"),
    Symbol(BANNER, "R", "linux_banner"),
])  # fmt: skip
ACCESSED = Stopped("access-watchpoint-trigger", 1, TEXT + MOVED + 0xDB)


def kernel() -> Any:
    return SimpleNamespace(
        symbols=NAMES, path=Path("vmlinuz"), release="6.1.0-9-amd64", types=lambda: None,
        facts=SimpleNamespace(banner=SAYS, banner_links=[BANNER]),
    )  # fmt: skip


class Guest:
    """A guest from reset, and what is told of it."""

    def __init__(self, linux: ComingLinux, ram: Ram) -> None:
        self.linux = linux
        self.learnt: list[Learnt] = []
        self.said: list[str] = []
        space = AddressSpace(ram, PAGING, RegionMap((), (), ()))
        view: Any = SimpleNamespace(space_of=lambda _: space)
        journal: Any = SimpleNamespace(
            counts={"hooks": 0}, mark=self.said.append, remark=self.said.append
        )
        self.traps = play(
            linux.expect(view, journal, self.learnt.append, tells=False),
            (WatchAccesses(KERNEL_MAP, 1 << 30), 3),
        )

    def accesses(self, *steps: Any, **values: int) -> None:
        found = registers(**{"rip": TEXT + MOVED, "efer": LONG_MODE, "cr4": 0x20} | values)
        (trap,) = [each for each in self.traps if each.claims(ACCESSED)]
        done = trap.handle(ACCESSED)
        assert play(done, (Registers(), found), (DeleteBreakpoint(3), None), *steps) == GoOn()


def moved_ram() -> Ram:
    ram = Ram()
    ram.map(BANNER + MOVED, 0x20_0000)
    ram.write(0x20_0000, SAYS.encode())
    return ram


def test_a_kernel_that_is_expected_is_known_where_it_has_moved() -> None:
    guest = Guest(ComingLinux(kernel(), Path("vmlinuz")), moved_ram())
    assert not any(each.claims(Stopped("read-watchpoint-trigger", 1)) for each in guest.traps)
    guest.accesses((SetBreakpoint(ENTRY + MOVED), 4))
    assert guest.linux.names.symbols.lookup(ENTRY + MOVED + 3) == "start_kernel+0x3"
    assert guest.said == ["Linux 6.1.0-9-amd64 has been entered"] and not guest.learnt
    at_entry = Stopped("breakpoint-hit", 1, ENTRY + MOVED, 4)
    (trap,) = [each for each in guest.traps if each.claims(at_entry)]
    assert trap.number_at(ENTRY + MOVED) == 4
    values = registers(rip=ENTRY + MOVED, efer=LONG_MODE, cr4=0x20)
    assert play(trap.handle(at_entry), (DeleteBreakpoint(4), None), (Registers(), values)) == GoOn()
    assert guest.learnt == [Learnt((ROOT, 0x20))]
    assert not trap.claims(at_entry)


def test_a_kernel_that_nobody_expects_is_read_in_ram(monkeypatch: pytest.MonkeyPatch) -> None:
    there = NAMES.moved(MOVED)
    monkeypatch.setattr(
        arrival, "find_kernel", lambda *_: Resident("6.1.0-9-amd64", SAYS, there, b"")
    )
    for expected in (None, kernel()):  # that is another one, as its banner is not there
        guest = Guest(ComingLinux(expected, Path("disk.qcow2")), Ram())
        guest.accesses((SetBreakpoint(ENTRY + MOVED), 4))
        assert guest.linux.names.symbols.lookup(ENTRY + MOVED) == "start_kernel+0x0"


def test_what_is_no_linux_has_no_names() -> None:
    guest = Guest(ComingLinux(kernel(), Path("vmlinuz")), Ram())
    guest.accesses()
    assert guest.said == [
        "nothing is known of what the guest runs: no Linux kernel is mapped where one runs"
    ]
    # Data of a kernel's that other code reads, or code that is not of 64 bits.
    for values in ({"rip": 0x10_0000}, {"efer": 0}):
        guest = Guest(ComingLinux(kernel(), Path("vmlinuz")), moved_ram())
        guest.accesses(**values)
        assert not guest.said and not guest.learnt
