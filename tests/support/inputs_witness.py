"""Port accesses and interrupts of a trace, against QEMU's log of the same run, in order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vetrace_run import Trace

from tracer.check.interrupts import InterruptLog
from tracer.check.qemu_log import LogEntry, parse_line
from tracer.trace.record import Intercept, Mark, MemoryAccess, RegionRecord

_PORTS = 1 << 16

Interrupts = list[tuple[int, int, int]]
"""Vector, linear address and privilege level at which it came, of each interrupt."""


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


def _begin(trace: Trace) -> int:
    return next(
        record.qemu_log_offset
        for record in trace.records
        if isinstance(record, Mark) and record.qemu_log_offset is not None
    )


def _logged(trace: Trace, log: Path) -> list[LogEntry]:
    memory = {
        record.region.qemu_name
        for record in trace.records
        if isinstance(record, RegionRecord) and record.region.space == "memory"
    }
    entries = map(parse_line, log.read_bytes()[_begin(trace) :].splitlines())
    return [
        entry
        for entry in entries
        if entry is not None
        and entry.cpu >= 0
        and not entry.refused
        and entry.address < _PORTS
        and entry.name not in memory
    ]


def interrupts(records: Iterable[Intercept]) -> list[Interrupts]:
    """Those of each vCPU, in order."""
    found: dict[int, Interrupts] = {}
    for record in records:
        for access in record.accesses:
            if access.space == "irq":
                assert access.value is not None
                found.setdefault(record.vcpu, []).append((access.value, record.rip, record.cpl))
    return [found[vcpu] for vcpu in sorted(found)]


def logged_interrupts(trace: Trace, log: Path) -> list[Interrupts]:
    """Those of each vCPU that ``-d int`` tells of, in order."""
    found: dict[int, Interrupts] = {}
    reader = InterruptLog(trace.header.vcpus)
    for number, line in enumerate(log.read_bytes()[_begin(trace) :].splitlines(True), 1):
        for served in reader.line(line, number):
            assert served.vcpu is not None and served.rip is not None
            found.setdefault(served.vcpu, []).append((served.vector, served.rip, served.cpl))
    assert not list(reader.rest())
    return [found[vcpu] for vcpu in sorted(found)]
