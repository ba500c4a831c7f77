"""Port accesses of a trace, against QEMU's log of the same run, in order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vetrace_run import Trace

from tracer.check.qemu_log import LogEntry, parse_line
from tracer.trace.record import Intercept, Mark, MemoryAccess, RegionRecord

_PORTS = 1 << 16


def ports(records: Iterable[Intercept]) -> list[MemoryAccess]:
    """The port accesses that were made, in order."""
    return [
        access
        for record in records
        for access in record.accesses
        if access.space == "port" and not access.skipped
    ]


def disagreements(trace: Trace, log: Path) -> list[str]:
    """What either side has that the other has not, up to the first ten."""
    traced, logged = ports(trace.intercepts), _logged(trace, log)
    found: list[str] = []
    at = 0
    for access in traced:
        entries, width = [], 0
        while at < len(logged) and width < access.width:
            entries.append(logged[at])
            width += logged[at].width
            at += 1
        if not _agree(access, entries):
            found.append(f"traced {access}, logged {entries}")
    found += [f"logged alone {entry}" for entry in logged[at:]]
    return found[:10]


def _agree(access: MemoryAccess, entries: list[LogEntry]) -> bool:
    value = shift = 0
    for entry in entries:
        value |= entry.value << shift
        shift += 8 * entry.width
    return (
        bool(entries)
        and access.value == value & (1 << 8 * access.width) - 1
        and entries[0].address == access.physical
        and all(entry.direction == access.direction for entry in entries)
    )


def _logged(trace: Trace, log: Path) -> list[LogEntry]:
    memory = {
        record.region.qemu_name
        for record in trace.records
        if isinstance(record, RegionRecord) and record.region.space == "memory"
    }
    begin = next(
        record.qemu_log_offset
        for record in trace.records
        if isinstance(record, Mark) and record.qemu_log_offset is not None
    )
    entries = map(parse_line, log.read_bytes()[begin:].splitlines())
    return [
        entry
        for entry in entries
        if entry is not None
        and entry.cpu >= 0
        and not entry.refused
        and entry.address < _PORTS
        and entry.name not in memory
    ]
