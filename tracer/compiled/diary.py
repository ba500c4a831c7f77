"""The diary: what threads of the kernel tell of their errands, and who was on which one when.

A row has the thread that was current, and the time-stamp counter. What that thread had told by
then says on which errand the access was made, also where an interrupt made it. Guest code writes
the entries (:mod:`tracer.linux.errand_code`); what its functions are called is not known here.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from tracer.compiled.layout import DIARY, DIARY_ENTRY, DIARY_SLOTS, diary_word
from tracer.errors import InterceptError

_WORD = struct.Struct("<Q")
_FORGED = "the guest has written to it"
_OPEN_FOR_ALL = (1 << 63) - 1
_DEEPEST, _MOST_THREADS = 64, 1 << 16
"""Errands within each other, and threads that are on one: a kernel that starts has a few."""


class What(IntEnum):
    """Say what an entry tells of its thread: the function is that of the errand."""

    BEGIN = 0
    END = 1
    FOR_GOOD = 2
    """It is begun by a new thread, and never ended."""
    EXIT = 3
    RUNNING = 4
    """The kernel has started: there are no errands any more."""


class Entry(NamedTuple):
    """Hold an entry of the diary. ``sort`` is a number for what is done of errands."""

    counter: int
    function: int
    thread: int
    what: int
    sort: int


@dataclass(frozen=True, slots=True)
class Current:
    """Say where code at some linear addresses finds, relative to GS, 4 bytes for its thread."""

    place: int
    code: range


class Errand(NamedTuple):
    """Hold what a thread was sent for: the linear address of a function, and its sort."""

    sort: int
    function: int


STARTED = Errand(-1, 0)
"""Stands for all errands once the kernel has started."""


class Diary:
    """Follow the guest through its diary; the caller reads and writes."""

    def __init__(self) -> None:
        self._next = 0

    def open(self) -> tuple[int, bytes]:
        """Return what to write, at which offset in the block, so that the guest can go on."""
        return diary_word("LIMIT"), _WORD.pack(self._next + DIARY_SLOTS)

    def ignore(self) -> tuple[int, bytes]:
        """Return what to write when nobody will read it any more: it is written over and over."""
        return diary_word("LIMIT"), _WORD.pack(_OPEN_FOR_ALL)

    def spans(self, head: int) -> list[tuple[int, int]]:
        """Return offsets in the block and sizes of the entries that are new, and count them.

        ``head`` is how many there have been. Raise InterceptError where that cannot be.
        """
        count = head - self._next
        if not 0 <= count <= DIARY_SLOTS:
            raise InterceptError(
                f"the diary has {head:#x} entries, {self._next:#x} were taken: {_FORGED}"
            )
        first = self._next % DIARY_SLOTS
        self._next = head
        front = min(count, DIARY_SLOTS - first)
        size = DIARY_ENTRY.size
        pieces = ((first, front), (0, count - front))
        return [(DIARY + size * at, size * some) for at, some in pieces if some]


def entries(data: bytes) -> Iterator[Entry]:
    """Yield the entries in ``data``."""
    return map(Entry._make, DIARY_ENTRY.iter_unpack(data))


class Errands:
    """Tell on which errand a thread was at a moment, which is that of a row not told yet.

    Rows are to be read before the entries that are learned, so that none of its own is missing.
    """

    def __init__(self) -> None:
        self._open: dict[int, list[Errand]] = {}
        self._ahead: dict[int, deque[Entry]] = {}
        self._older: list[Entry] = []
        self._fresh: list[Entry] = []
        self._started: int | None = None

    def __len__(self) -> int:
        """Return how many threads there are of which anything is known."""
        return len(self._open.keys() | self._ahead.keys())

    def learn(self, told: Iterable[Entry]) -> None:
        """Take the next entries, in their order."""
        self._older, self._fresh = self._fresh, list(told)
        for entry in self._fresh:
            if entry.what == What.RUNNING:
                if self._started is None:
                    self._started = entry.counter
            else:
                self._ahead.setdefault(entry.thread, deque()).append(entry)

    def settle(self) -> None:
        """Forget the time of what was learned before the last entries: its rows have been told.

        A thread's row is committed before the thread tells anything else.
        """
        for entry in self._older:
            self._follow(entry.thread, entry.counter)
        self._older = []

    def at(self, thread: int, counter: int) -> Errand | None:
        """Return the innermost errand of a thread then, or None beside all of them."""
        if self._started is not None and counter > self._started:
            return STARTED
        self._follow(thread, counter)
        told = self._open.get(thread)
        return told[-1] if told else None

    def _follow(self, thread: int, counter: int) -> None:
        ahead = self._ahead.get(thread)
        while ahead and ahead[0].counter <= counter:
            self._take(ahead.popleft())
        if ahead is not None and not ahead:
            del self._ahead[thread]

    def _take(self, entry: Entry) -> None:
        errand = Errand(entry.sort, entry.function)
        match entry.what:
            case What.BEGIN:
                told = self._open.setdefault(entry.thread, [])
                told.append(errand)
                if len(told) > _DEEPEST or len(self._open) > _MOST_THREADS:
                    raise InterceptError(
                        f"the diary tells of more errands than a kernel has: {_FORGED}"
                    )
            case What.FOR_GOOD:
                self._open.pop(entry.thread, None)
                self._take(entry._replace(what=What.BEGIN))
            case What.EXIT:
                self._open.pop(entry.thread, None)
            case What.END:
                told = self._open.get(entry.thread, [])
                if told and told[-1] == errand:
                    told.pop()
                if not told:
                    self._open.pop(entry.thread, None)
            case _:
                pass
