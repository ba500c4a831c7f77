"""A guest that its firmware starts is looked after until it is entered, or goes no further."""

from __future__ import annotations

import asyncio

import pytest

from scripts.patience import patience
from tracer.launch import patrol as module
from tracer.launch.patrol import patrol
from tracer.qemu.console import Console
from tracer.qemu.standstill import Standstill, standstill

LAST = b"No bootable device.\r\n"


class Machine:
    """A machine that prints a piece each time that its console is looked at, then nothing.

    ``pace`` is how many seconds of its own pass from one time that it is asked for to the next.
    """

    def __init__(self, *pieces: bytes, pace: float = 1) -> None:
        self.looks = 0
        self.asked = 0
        self._console = Console()
        self._pieces = list(pieces)
        self._pace = pace

    @property
    def console(self) -> Console:
        self.looks += 1
        if self._pieces:
            self._console.take(self._pieces.pop(0))
        return self._console

    def tick(self) -> float:
        self.asked += 1
        return self.asked * self._pace


def looked_after(machine: Machine, looks: int = 100) -> Standstill | None:
    return asyncio.run(
        asyncio.wait_for(patrol(machine, lambda: machine.looks >= looks, standstill), patience(60))
    )


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVERY", 0)


def test_last_words_are_told_once_nothing_has_come_behind_them() -> None:
    machine = Machine(b"SeaBIOS\r\n", LAST)
    found = looked_after(machine)
    assert found is not None
    assert "No bootable device" in found.what
    assert machine.looks < 10


def test_words_behind_which_something_comes_are_not_the_last() -> None:
    assert looked_after(Machine(LAST, *[b"loading\r\n"] * 200)) is None
    assert looked_after(Machine(*[LAST, b"again\r\n"] * 100)) is None


def test_a_guest_whose_time_stands_may_go_on() -> None:
    assert looked_after(Machine(LAST, pace=0)) is None


def test_a_guest_that_is_entered_is_looked_after_no_more() -> None:
    machine = Machine(LAST)
    assert looked_after(machine, looks=2) is None
    assert machine.looks == 2


def test_a_guest_is_asked_for_its_time_only_where_it_may_go_no_further() -> None:
    machine = Machine(b"SeaBIOS\r\n", b"loading\r\n")
    assert looked_after(machine) is None
    assert not machine.asked
