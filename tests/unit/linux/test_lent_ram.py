"""tracer.linux.lent_ram: a vCPU goes through the kernel's allocator and comes back as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from playbook import play

from tracer.access.stop import Ran, Stopped
from tracer.access.symbols import Symbol, table_of
from tracer.access.vcpu import RegisterFile, SetMemory, SetRegister
from tracer.access.want import DeleteBreakpoint, MakeChanges, Registers, Resume, SetBreakpoint
from tracer.compiled.layout import SLOTS, block_size
from tracer.errors import GuestError
from tracer.intercept.ring.window import NoWindow
from tracer.linux.lent_ram import MOST, Loan, borrow, give_back
from tracer.session.room import slots_of
from tracer.x86.state import GPR

BASE = 0xFFFF_FFFF_8100_0000
HOME, ALLOCATES, FREES = BASE + 0x100, BASE + 0x200, BASE + 0x300
STACK = 0xFFFF_C900_0001_0128
TOP = (STACK - 256 & -16) - 8
LINEAR, PHYSICAL = 0xFFFF_8880_0040_0000, 0x40_0000
NAMES = {"__get_free_pages": ALLOCATES, "free_pages": FREES, "_text": BASE}


def symbols(**changed: int | None) -> Any:
    places = {name: at for name, at in {**NAMES, **changed}.items() if at is not None}
    return table_of([Symbol(at, "T", name) for name, at in places.items()], BASE + 0x1000)


def space(mapped: bool = True) -> Any:
    leaf = SimpleNamespace(translate=lambda linear: linear - LINEAR + PHYSICAL)
    return SimpleNamespace(leaf=lambda linear: leaf if mapped else None)


def at(rip: int, **changed: int) -> RegisterFile:
    values = {name: number for number, name in enumerate(GPR)}
    return RegisterFile({**values, "rsp": STACK, "rip": rip, "eflags": 0x46, **changed})


BEFORE = at(HOME)
RESTORED = MakeChanges([SetRegister(name, BEFORE[name]) for name in (*GPR, "eflags")])


def through(function: int, first: int, second: int, result: int) -> list[Any]:
    """The steps of a call, which another vCPU comes by meanwhile."""
    stop = Ran(Stopped("breakpoint-hit", breakpoint=7), 0.0)
    return [
        (Registers(), BEFORE),
        (SetBreakpoint(HOME), 7),
        (
            MakeChanges(
                [
                    SetMemory(TOP, HOME.to_bytes(8, "little")),
                    SetRegister("rdi", first),
                    SetRegister("rsi", second),
                    SetRegister("rsp", TOP),
                    SetRegister("rip", function),
                ]
            ),
            None,
        ),
        (Resume(()), stop),
        (Registers(), at(HOME, rsp=STACK - 0x4000)),
        (Resume(()), stop),
        (Registers(), at(HOME, rsp=TOP + 8, rax=result)),
        (DeleteBreakpoint(7), None),
        (RESTORED, None),
    ]


def test_ram_is_lent_and_given_back() -> None:
    loan = play(borrow(symbols(), 3 << 20, space()), *through(ALLOCATES, 0x2000, 10, LINEAR))
    assert loan == Loan(PHYSICAL, LINEAR, 10) and loan.size == 4 << 20
    play(give_back(symbols(), loan), *through(FREES, LINEAR, 10, 0))


def test_a_page_is_a_page() -> None:
    loan = play(borrow(symbols(), 4096, space()), *through(ALLOCATES, 0x2000, 0, LINEAR))
    assert loan.size == 4096


def test_a_kernel_without_free_ram_lends_none() -> None:
    with pytest.raises(NoWindow, match="no 4 MiB of RAM in one piece free"):
        play(borrow(symbols(), 4 << 20, space()), *through(ALLOCATES, 0x2000, 10, 0))


def test_what_no_kernel_lends() -> None:
    with pytest.raises(NoWindow, match="lends 4 MiB in one piece, and 5 MiB are needed"):
        play(borrow(symbols(), (4 << 20) + 1, space()))
    with pytest.raises(NoWindow, match="no symbol of its page allocator"):
        play(borrow(symbols(free_pages=None), 4096, space()))


@pytest.mark.parametrize(
    ("wanted", "stacks", "slots"),
    [(SLOTS, False, SLOTS), (16, True, 16), (SLOTS, True, 128), (1 << 20, False, SLOTS)],
)
def test_a_ring_fits_into_what_a_kernel_lends(wanted: int, stacks: bool, slots: int) -> None:
    assert slots_of(wanted, stacks=stacks, most=MOST) == slots
    assert block_size(slots, stacks=stacks) <= MOST


def test_a_guest_that_ends_meanwhile() -> None:
    steps = through(ALLOCATES, 0x2000, 0, LINEAR)[:3]
    ended = Ran(Stopped("exited"), 0.0)
    with pytest.raises(GuestError, match="ended while its kernel lent RAM"):
        play(borrow(symbols(), 4096, space()), *steps, (Resume(()), ended))
