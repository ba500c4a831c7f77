"""Lines of the log in which QEMU itself notes every access to a device.

Ref: QEMU 7.2, softmmu/memory.c (memory_region_read_accessor, memory_region_write_accessor,
memory_region_access_valid), softmmu/trace-events (memory_region_ops_read, memory_region_ops_write),
scripts/tracetool (a line may begin with ``pid@seconds.microseconds:``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from tracer.trace.member import Space
from tracer.x86.bus import Direction


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Hold one access as QEMU dispatched it to a device model.

    ``line`` counts from 1. ``cpu`` is -1 when no vCPU made the access: the GDB stub, or a device.
    ``address`` is physical for a memory access and a port number for port I/O, which the log does
    not tell apart. ``width`` is in bytes; ``value`` has no bits beyond it, and is
    what the vCPU read or wrote, whichever way round the device model has it. ``name`` is QEMU's
    name of the memory region, empty where an older QEMU does not log it.

    ``space`` is ``config`` for one to PCI configuration space, whose ``address`` is as in a trace,
    ``irq`` for an interrupt, and ``memory`` for memory and ports.

    Of an interrupt ``sender`` is whose the messages of its vector were, None where nobody is known
    for one, ``messages`` are the address and data of each, and ``sent`` tells that these have come
    since the last one.

    ``refused`` marks an access whose width or alignment the device model does not take: reads
    answer 0, writes go nowhere, ``address`` is an offset into the region, and ``cpu`` is not known.
    """

    line: int
    cpu: int
    direction: Direction
    address: int
    width: int
    value: int
    name: str
    refused: bool = False
    space: Space = "memory"
    sender: str | None = None
    sent: bool = False
    messages: frozenset[tuple[int, int]] = frozenset()


class Beside(Protocol):
    """Make further entries of what a reader comes by, which stand behind those of the reader."""

    def line(self, line: bytes, number: int) -> Iterable[LogEntry]:
        """Take the line of that number, which is no entry; return what is complete by it."""

    def entry(self, entry: LogEntry) -> Iterable[LogEntry]:
        """Take an entry, and return what is complete by it."""

    def rest(self) -> Iterable[LogEntry]:
        """Return what nothing more is told about."""


_EVENT = b"memory_region_ops_"
# A name is whatever the device model chose: it may hold spaces and quotes.
_ENTRY = re.compile(
    rb"memory_region_ops_(read|write) cpu (-?\d{1,9}) mr 0x[0-9a-f]+ addr 0x([0-9a-f]{1,16})"
    rb" value 0x([0-9a-f]{1,32}) size ([1-9]\d?)(?: name '(.*)')?\s*$"
)
# Switched on by ``-d guest_errors``, in QEMU 10 by ``-d invalid_mem``.
_REFUSAL = re.compile(
    rb"Invalid (read|write) at addr 0x([0-9a-fA-F]{1,16}), size ([1-9]\d?), region '(.*)', reason: "
)


# QEMU logs what these have on their side of the swap (hw/nvram/fw_cfg.c, fw_cfg_dma_mem_ops;
# softmmu/memory.c, adjust_endianness). No other device of a PC is big-endian.
_BIG_ENDIAN = frozenset({b"fwcfg.dma"})


def parse_line(line: bytes, number: int = 0) -> LogEntry | None:
    """Return the entry in line ``number`` of a log, or None when the line is something else.

    The value is cut to the width: a device model may answer a read with more bits than it was
    asked for, which QEMU logs before it drops them.
    """
    found = _ENTRY.search(line)
    return _parse_refusal(line, number) if found is None else _entry(found, number)


def _entry(found: re.Match[bytes], number: int) -> LogEntry:
    direction, cpu, address, value, size, name = found.groups()
    width = int(size)
    data = int(value, 16) & ((1 << 8 * width) - 1)
    if name in _BIG_ENDIAN:
        data = int.from_bytes(data.to_bytes(width, "big"), "little")
    return LogEntry(
        number,
        int(cpu),
        "read" if direction == b"read" else "write",
        int(address, 16),
        width,
        data,
        _name(name or b""),
    )


@lru_cache(maxsize=1 << 10)
def _name(name: bytes) -> str:
    return name.decode(errors="replace")


def _parse_refusal(line: bytes, number: int) -> LogEntry | None:
    found = _REFUSAL.search(line)
    if found is None:
        return None
    direction, offset, size, name = found.groups()
    return LogEntry(
        line=number,
        cpu=-1,
        direction="read" if direction == b"read" else "write",
        address=int(offset, 16),
        width=int(size),
        value=0,
        name=name.decode(errors="replace"),
        refused=True,
    )


def is_torn(line: bytes) -> bool:
    """Tell whether a line is what is left of one that did not fit on a full disk.

    That is a last line without its end, and an entry cut short, with nothing or with the next
    line that could be written behind it.
    """
    begin = line.rfind(_EVENT)
    found = _ENTRY.match(line, begin) if begin >= 0 else None
    if not line.endswith(b"\n") and not (found and line.endswith(b"'")):
        return True
    return begin >= 0 and (found is None or _EVENT in line[:begin])


class LogReader:
    """Read the entries of a log, from any lines with their ends, and tell how far that went.

    ``line`` is the number of the last line read, ``size`` how many bytes were read by then, and
    ``torn`` the number of the first line that is not whole, None without one. Those ``beside``
    make further entries.
    """

    def __init__(self, lines: Iterable[bytes], *beside: Beside) -> None:
        self._lines = lines
        self._beside = beside
        self.line = 0
        self.size = 0
        self.torn: int | None = None

    def entries(self, offset: int = 0) -> Iterator[LogEntry]:
        """Yield the entries from byte ``offset`` on, and skip all other lines."""
        beside = self._beside
        for found in self._found(offset):
            if isinstance(found, LogEntry):
                yield found
                for each in beside:
                    yield from each.entry(found)
            else:
                for each in beside:
                    yield from each.line(found, self.line)
        for each in beside:
            yield from each.rest()

    # Entries, and lines that are none.
    def _found(self, offset: int) -> Iterator[LogEntry | bytes]:
        for line in self._lines:
            self.line += 1
            begin = self.size
            # QEMU ends a line with one byte; whoever made it two did so after it was measured.
            self.size += len(line) - line.endswith(b"\r\n")
            if begin < offset:
                continue
            found = _ENTRY.match(line)
            if found is not None and line.endswith(b"\n"):
                yield _entry(found, self.line)
                continue
            if is_torn(line):
                self.torn = self.torn or self.line
                if not line.endswith(b"\n"):
                    continue
            entry = parse_line(line, self.line)
            yield line if entry is None else entry


def entries(log: Iterable[bytes], offset: int = 0) -> Iterator[LogEntry]:
    """Yield the entries of a log's lines from byte ``offset`` on, and skip all other lines."""
    return LogReader(log).entries(offset)
