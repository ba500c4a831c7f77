"""Waits, the entries that doorbells told, and calls foretold for a TDX guest, ready for a page."""

from __future__ import annotations

from typing import Any

from tracer.confidential.hypercall import tdvmcall
from tracer.devices.map import Named
from tracer.trace.event import Event
from tracer.trace.poll import Place, Poll
from tracer.trace.polls import Polls
from tracer.trace.queue import QueueRecord, queue_object
from tracer.trace.record import Intercept
from tracer.trace.waiting import WaitRecord
from tracer.trace.waiting_words import awaited_words, gives_up_words, poll_object
from tracer.x86.bus import Direction


class Waits:
    """Follow what is read again and again, of the accesses that are wanted."""

    def __init__(self) -> None:
        self._polls = Polls()
        self._named: dict[Place, Named] = {}

    def add(self, record: Intercept, events: list[Event]) -> None:
        """Take a record with those of its accesses that are wanted."""
        for event in events:
            access = event.access
            if event.named is not None:
                place = access.region or "", access.offset or 0, record.rip
                self._named.setdefault(place, event.named)
            self._polls.see(record, access, event.seq, record.time_ns)

    def learn(self, record: WaitRecord) -> None:
        """Take what was found out about a loop."""
        self._polls.add(record)

    def objects(self) -> list[dict[str, Any]]:
        """Return what was waited for, the longest first, ready for JSON.

        With ``goes_on`` it was still waited for at the end. What no loop is known to wait for is
        left out, however often it was read.
        """
        going = {(poll.place, poll.vcpu, poll.since_ns) for poll in self._polls.waiting()}
        return [
            self._object(poll, goes_on=(poll.place, poll.vcpu, poll.since_ns) in going)
            for poll in self._polls.all()
            if poll.is_wait
        ]

    def _object(self, poll: Poll, *, goes_on: bool) -> dict[str, Any]:
        named, told = self._named.get(poll.place), poll.told
        return poll_object(poll, named) | {
            "until": "" if told is None else awaited_words(told, named).removeprefix("until "),
            "ends": "" if told is None else gives_up_words(told).removeprefix("gives up at "),
            "goes_on": goes_on,
        }


def queue_objects(records: list[QueueRecord]) -> list[dict[str, object]]:
    """Return what doorbells told their devices, ready for JSON."""
    return [queue_object(record) for record in records]


_ASKS: tuple[Direction, ...] = ("read", "write")


def foretold() -> dict[str, dict[str, dict[str, list[str]]]]:
    """Return what a TDX guest would ask its host for an access, ready for JSON.

    By direction there are the registers that are ``given`` and those ``returned``, each with a
    number, and with whatever of an access is added to it: ``width``, ``physical`` or ``value``.
    """
    return {direction: _foretold(direction) for direction in _ASKS}


def _foretold(direction: Direction) -> dict[str, dict[str, list[str]]]:
    nothing = tdvmcall(direction, 0, 0, 0)
    ones = {
        "width": tdvmcall(direction, 1, 0, 0),
        "physical": tdvmcall(direction, 0, 1, 0),
        "value": tdvmcall(direction, 0, 0, 1),
    }
    return {
        side: {
            name: [
                hex(number),
                *(part for part, call in ones.items() if getattr(call, side)[name] != number),
            ]
            for name, number in getattr(nothing, side).items()
        }
        for side in ("given", "returned")
    }
