"""Lines of the log in which QEMU itself notes every access to a device.

Ref: QEMU 7.2, softmmu/memory.c (memory_region_read_accessor, memory_region_write_accessor),
softmmu/trace-events (memory_region_ops_read, memory_region_ops_write), scripts/tracetool (a line
may begin with ``pid@seconds.microseconds:``). Switched on by ``-trace 'memory_region_ops_*'``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tracer.trace import Direction


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Hold one access as QEMU dispatched it to a device model.

    ``line`` counts from 1. ``cpu`` is -1 when no vCPU made the access: the GDB stub, or a device.
    ``address`` is physical for a memory access and a port number for port I/O, which the log does
    not tell apart. ``width`` is in bytes; ``value`` has no bits beyond it. ``name`` is QEMU's name
    of the memory region, empty where an older QEMU does not log it.

    ``refused`` marks an access whose width or alignment the device model does not take: reads
    answer 0, writes go nowhere, and ``address`` is an offset into the region.
    """

    line: int
    cpu: int
    direction: Direction
    address: int
    width: int
    value: int
    name: str
    refused: bool = False


# A name is whatever the device model chose: it may hold spaces and quotes.
_ENTRY = re.compile(
    rb"memory_region_ops_(read|write) cpu (-?\d+) mr 0x[0-9a-f]+ addr 0x([0-9a-f]+)"
    rb" value 0x([0-9a-f]+) size (\d+)(?: name '(.*)')?\s*$"
)


# softmmu/memory.c, memory_region_access_valid; switched on by ``-d guest_errors``.
_REFUSAL = re.compile(
    rb"^Invalid (read|write) at addr 0x([0-9a-fA-F]+), size (\d+), region '(.*)', reason: "
)


def parse_line(line: bytes, number: int = 0) -> LogEntry | None:
    """Return the entry in line ``number`` of a log, or None when the line is something else.

    The value is cut to the width: a device model may answer a read with more bits than it was
    asked for, which QEMU logs before it drops them.
    """
    found = _ENTRY.search(line)
    if found is None:
        return _parse_refusal(line, number)
    direction, cpu, address, value, size, name = found.groups()
    width = int(size)
    return LogEntry(
        line=number,
        cpu=int(cpu),
        direction="read" if direction == b"read" else "write",
        address=int(address, 16),
        width=width,
        value=int(value, 16) & ((1 << 8 * width) - 1),
        name=(name or b"").decode(errors="replace"),
    )


def _parse_refusal(line: bytes, number: int) -> LogEntry | None:
    found = _REFUSAL.match(line)
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


def entries(log: Iterable[bytes], offset: int = 0) -> Iterator[LogEntry]:
    """Yield the entries of a log's lines from byte ``offset`` on, and skip all other lines."""
    position = 0
    for number, line in enumerate(log, 1):
        if position >= offset and (entry := parse_line(line, number)) is not None:
            yield entry
        position += len(line)
