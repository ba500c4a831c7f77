"""The guest's clock, answered here in QEMU's place."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tracer.qemu.clock import GuestClock
from tracer.qemu.command_line import MachineConfig
from tracer.qemu.machine import Machine

BEGIN = 1_700_000_000  # the second at which QEMU made the filter


class Qemu:
    """Take packets as QEMU does: while the guest stands, one and no more."""

    def __init__(self, clock: GuestClock) -> None:
        theirs, self.dump = clock.descriptors
        self.socket = os.dup(theirs)
        os.write(self.dump, bytes(24))
        self.now_us = 0
        self.stands = False
        self.turns = 0
        self.slow = 1
        self._blocked = False

    def turn(self) -> None:
        self.turns += 1
        if self.turns % self.slow:
            return
        if not self.stands:
            self._blocked = False
        os.set_blocking(self.socket, False)
        try:
            while not self._blocked and os.read(self.socket, 18):
                seconds, rest = divmod(self.now_us, 1_000_000)
                os.write(self.dump, struct.pack("<IIII", BEGIN + seconds, rest, 1, 14) + b"\0")
                self._blocked = self.stands
        except BlockingIOError:
            pass

    async def execute(self, command: str, arguments: Any = None) -> object:
        self.turn()
        return {}


@pytest.fixture
def clock() -> Iterator[GuestClock]:
    made = GuestClock()
    yield made
    made.close()


def machine(clock: GuestClock, qemu: Qemu) -> Machine:
    made = Machine(MachineConfig("qemu", Path("kernel"), None, "", 64 << 20))
    made._clock = clock
    made.dialogue._qmp = cast(Any, qemu)
    return made


def test_time_counts_from_the_first_packet(clock: GuestClock) -> None:
    qemu = Qemu(clock)
    assert clock.time_ns is None and clock.answers == 0
    clock.ask()
    qemu.turn()
    assert clock.time_ns == 0
    qemu.now_us = 2_000_003
    clock.ask()
    assert clock.time_ns == 0  # not answered yet
    qemu.turn()
    assert (clock.time_ns, clock.answers) == (2_000_003_000, 2)


def test_the_present_is_waited_for(clock: GuestClock) -> None:
    qemu = Qemu(clock)
    qemu.slow = 3  # turns until it comes to the packet
    guest = machine(clock, qemu)
    assert asyncio.run(guest.time_ns()) == 0
    qemu.now_us = 5_000_000
    assert asyncio.run(guest.time_ns()) == 5_000_000_000
    assert qemu.turns == 6


def test_a_guest_that_stands_has_the_time_at_which_it_stopped(clock: GuestClock) -> None:
    qemu = Qemu(clock)
    guest = machine(clock, qemu)
    guest.tick()
    qemu.turn()
    qemu.stands, qemu.now_us = True, 7_500_000
    assert [asyncio.run(guest.time_ns()) for _ in range(3)] == [7_500_000_000] * 3
    # What it has not taken meanwhile it takes when it goes on.
    qemu.stands, qemu.now_us = False, 8_000_000
    assert asyncio.run(guest.time_ns()) == 8_000_000_000


def test_a_watch_does_not_wait(clock: GuestClock) -> None:
    qemu = Qemu(clock)
    guest = machine(clock, qemu)
    assert guest.tick() == 0
    qemu.turn()
    qemu.now_us = 1_500_000
    assert guest.tick() == 0
    qemu.turn()
    assert guest.tick() == 1.5


def test_a_machine_that_was_not_started_has_no_time() -> None:
    made = Machine(MachineConfig("qemu", Path("kernel"), None, "", 64 << 20))
    assert made.tick() == 0 and asyncio.run(made.time_ns()) is None
