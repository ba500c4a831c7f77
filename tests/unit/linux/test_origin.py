"""tracer.linux.origin: a guest that runs is met where its kernel has just been entered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from playbook import play
from ram import PAGING, Ram

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Ran, Stopped
from tracer.access.symbols import Symbol, table_of
from tracer.access.want import DeleteBreakpoint, MemoryMap, Resume, SetBreakpoint
from tracer.errors import GuestError
from tracer.linux.kaslr import Moved
from tracer.linux.origin import Booted, Joined, homes, own_tables
from tracer.x86.paging import PRESENT

BASE, FAR = 0xFFFF_FFFF_8100_0000, 0x1A00_0000
NAMES = {"_text": BASE, "do_syscall_64": BASE + 0x100, "irq_enter_rcu": BASE + 0x200}


def kernel(names: dict[str, int] = NAMES) -> Any:
    made = [Symbol(at, "T", name) for name, at in names.items()]
    return SimpleNamespace(symbols=table_of(made, BASE + 0x1000), path="vmlinuz")


def steps(stop: Stopped) -> list[Any]:
    return [
        (MemoryMap(), None),
        (SetBreakpoint(BASE + FAR + 0x100), 1),
        (SetBreakpoint(BASE + FAR + 0x200), 2),
        (Resume(), Ran(stop, 0.0)),
        (DeleteBreakpoint(1), None),
        (DeleteBreakpoint(2), None),
    ]


def test_a_guest_that_runs_is_met_in_its_kernel() -> None:
    origin = Joined(Moved(FAR))
    assert origin.begun and not Booted("").begun
    moved = play(origin.reach(kernel(), Ram()), *steps(Stopped("breakpoint-hit", breakpoint=2)))
    assert moved == Moved(FAR)


def test_a_guest_that_stops_elsewhere_is_refused() -> None:
    with pytest.raises(GuestError, match="stopped elsewhere"):
        play(Joined(Moved(FAR)).reach(kernel(), Ram()), *steps(Stopped("signal-received")))


def test_a_kernel_of_another_kind_is_refused() -> None:
    with pytest.raises(GuestError, match="none of the functions do_syscall_64"):
        play(Joined(Moved()).reach(kernel({"_text": BASE}), Ram()), (MemoryMap(), None))


def test_a_program_has_other_tables_than_its_kernel() -> None:
    place = homes(kernel().symbols)[0]
    ram = Ram()
    kernels = AddressSpace(ram, PAGING, RegionMap((), (), ()))
    programs = AddressSpace(
        ram, PAGING.__class__(PAGING.cr3 | 0x1000 | 0x801, 4, PAGING.poison), kernels.regions
    )
    ram.map(place & -4096, 0x3000, PRESENT)
    assert own_tables(kernels, place) is kernels
    assert own_tables(programs, place).leaf(place) == kernels.leaf(place) is not None
