"""The text log of Linux's own MMIO tracer, version 20070824: written and read.

Ref: Linux, Documentation/trace/mmiotrace.rst (Trace Log Format), kernel/trace/trace_mmiotrace.c.

A record is a line: a keyword, then arguments. ``R`` and ``W`` have width in bytes, seconds, map
id, physical address, value, PC and PID; ``MAP`` has seconds, map id, physical and linear address,
length, PC and PID. What a trace has no record for (``UNMAP``, ``UNKNOWN``, ``PCIDEV``, ``LSPCI``)
is kept as a mark and written again as it was. Names of regions are written as marks, which other
readers of such logs pass over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from tracer.errors import TraceError
from tracer.trace import (
    FORMAT_VERSION,
    Header,
    Intercept,
    MapRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionInfo,
    RegionRecord,
    UserRecord,
)

VERSION = "20070824"

_REGION = "vetrace region "
_USER = "vetrace user "
_VERBATIM = ("PCIDEV ", "LSPCI ", "UNMAP ", "UNKNOWN ")


class MmiotraceLog:
    """Turn the records of a trace into lines of the log, without their newlines.

    A map id counts the ``MAP`` lines from 1; an access has the id of the last one that its linear
    address lies in, or 0. An access whose value is not known becomes ``UNKNOWN``.
    """

    def __init__(self) -> None:
        self._maps: list[tuple[int, int, int]] = []
        self._id_of: dict[int, int] = {}

    def opening(self) -> list[str]:
        """Return the lines a log opens with."""
        return [f"VERSION {VERSION}"]

    def lines(self, record: Record, wanted: list[tuple[int, MemoryAccess]]) -> list[str]:
        """Return the lines for a record, of its device accesses only those that are wanted."""
        match record:
            case Intercept():
                return [self._access(record, access) for _, access in wanted]
            case MapRecord():
                start = int(record.linear, 16)
                self._maps.append((start, start + record.size, len(self._maps) + 1))
                self._id_of.clear()
                return [
                    f"MAP {_seconds(record)} {len(self._maps)} {record.physical} {record.linear}"
                    f" {record.size:#x} 0x0 0"
                ]
            case RegionRecord():
                info = msgspec.json.encode(record.region).decode()
                return [f"MARK {_seconds(record)} {_REGION}{info}"]
            case Mark():
                if record.text.startswith(_VERBATIM):
                    return [_one_line(record.text)]
                return [f"MARK {_seconds(record)} {_one_line(record.text)}"]
            case UserRecord():
                return [f"MARK {_seconds(record)} {_USER}{_one_line(record.text)}"]
            case _:
                return []

    def _access(self, record: Intercept, access: MemoryAccess) -> str:
        number = self._map_of(int(access.linear, 16))
        if access.value is None or access.direction == "unknown":
            data = ",".join(record.code[at : at + 2] or "00" for at in (0, 2, 4))
            return f"UNKNOWN {_seconds(record)} {number} {access.physical} {data} {record.rip} 0"
        letter = "R" if access.direction == "read" else "W"
        return (
            f"{letter} {access.width} {_seconds(record)} {number} {access.physical}"
            f" {access.value} {record.rip} 0"
        )

    # A page lies in one mapping, whatever byte of it is accessed.
    def _map_of(self, linear: int) -> int:
        page = linear >> 12
        if page not in self._id_of:
            found = (n for start, end, n in reversed(self._maps) if start <= linear < end)
            self._id_of[page] = next(found, 0)
        return self._id_of[page]


def _seconds(record: Record) -> str:
    microseconds = record.time_ns // 1000
    return f"{microseconds // 10**6}.{microseconds % 10**6:06}"


# What is not printable is escaped as in Python: a log is read in a terminal.
def _one_line(text: str) -> str:
    line = " ".join(text.splitlines())
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line
    )


def header(tool: str, created: str) -> Header:
    """Return the header of a trace that is made from such a log, which tells little of its run."""
    return Header(
        version=FORMAT_VERSION, tool=tool, created=created, clock="realtime", kernel="unknown",
        kernel_sha256="", command_line="", memory=0, vcpus=1, qemu="", gdb="", qemu_args=[],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Mapping:
    number: int
    physical: int
    linear: int
    size: int


class MmiotraceReader:
    """Turn the lines of a log into records as they come.

    The log does not tell instructions, registers, vCPUs or linear addresses of accesses: the
    records have no code and no registers, vCPU 0, and the linear address that the mapping gives.
    They are called stepped, which is how that tracer makes every access. Regions are those that
    marks name, then the BARs of ``PCIDEV`` lines, then mapped ranges.
    """

    def __init__(self) -> None:
        self.accesses = 0
        self._maps: dict[int, _Mapping] = {}
        self._regions: list[tuple[int, int, str]] = []
        self._time_ns = 0

    def records(self, line: str, number: int) -> Iterator[Record]:
        """Yield the records for line ``number`` of the log, which may be none.

        Raise :exc:`TraceError`, naming the line, when it is none of such a log.
        """
        word, _, rest = line.strip().partition(" ")
        try:
            match word:
                case "R" | "W":
                    yield from self._access(word == "W", rest.split(" "))
                case "MAP":
                    yield from self._map(rest.split(" "))
                case "MARK":
                    yield self._mark(rest)
                case "PCIDEV":
                    yield from self._device(line.strip())
                case "LSPCI":
                    yield Mark(time_ns=self._time_ns, text=line.strip())
                case "UNMAP" | "UNKNOWN":
                    self._time_ns = _nanoseconds(rest.split(" ")[0])
                    yield Mark(time_ns=self._time_ns, text=line.strip())
                case "VERSION" if rest != VERSION:
                    raise TraceError(f"version {rest[:40]!r} of the log: only {VERSION} is known")
                case "VERSION" | "":
                    pass
                case _ if line.startswith("#") or word == "CPU":
                    pass  # ftrace's own comments, and its "CPU 0 buffer started"
                case _:
                    raise TraceError(f"not a line of an mmiotrace log: {line.strip()[:60]!r}")
        except (ValueError, IndexError, msgspec.DecodeError) as error:
            raise TraceError(f"line {number}: bad {word} line: {error}") from error
        except TraceError as error:
            raise TraceError(f"line {number}: {error}") from error

    def _access(self, write: bool, words: list[str]) -> Iterator[Record]:
        width, time, map_id, physical, value, pc, _ = words
        self._time_ns = _nanoseconds(time)
        size, place, data = int(width), int(physical, 16), int(value, 16)
        if size not in (1, 2, 4, 8) or data >> 8 * size:
            raise ValueError(f"no value of {width} bytes: {value}")
        mapping = self._maps.get(int(map_id))
        linear = place
        if mapping is not None and mapping.physical <= place < mapping.physical + mapping.size:
            linear = mapping.linear + place - mapping.physical
        found = next((r for r in reversed(self._regions) if r[0] <= place <= r[1]), None)
        if found is None:
            page = place & ~0xFFF
            yield self._announce(page, page + 0xFFF, f"page-{page:#x}", "unknown")
            found = self._regions[-1]
        yield Intercept(
            seq=self.accesses, time_ns=self._time_ns, vcpu=0, cpl=0, mode=64, rip=hex(int(pc, 16)),
            code="", text="(not in the log)", cr2=hex(linear), error_code="0xa" if write else "0x8",
            via="stepped", before={}, after={}, note="mmiotrace",
            accesses=[
                MemoryAccess(
                    direction="write" if write else "read", width=size, linear=hex(linear),
                    physical=hex(place), value=hex(data), region=found[2],
                    offset=hex(place - found[0]),
                )
            ],
        )  # fmt: skip
        self.accesses += 1

    def _map(self, words: list[str]) -> Iterator[Record]:
        time, map_id, physical, linear, length, _, _ = words
        self._time_ns = _nanoseconds(time)
        mapping = _Mapping(int(map_id), int(physical, 16), int(linear, 16), int(length, 16))
        self._maps[mapping.number] = mapping
        start, end = mapping.physical, mapping.physical + max(mapping.size, 1) - 1
        names = [name for first, last, name in self._regions if first <= end and start <= last]
        if not names:
            names = [f"map-{start:#x}"]
            yield self._announce(start, end, names[0], "unknown")
        yield MapRecord(
            time_ns=self._time_ns, linear=hex(mapping.linear), physical=hex(start),
            size=mapping.size, regions=names, by="ioremap",
        )  # fmt: skip

    def _mark(self, rest: str) -> Record:
        time, _, text = rest.partition(" ")
        self._time_ns = _nanoseconds(time)
        if not text.startswith(_REGION):
            return Mark(time_ns=self._time_ns, text=text)
        info = msgspec.json.decode(text[len(_REGION) :], type=RegionInfo)
        if info.traced:
            self._regions.append((int(info.start, 16), int(info.end, 16), info.name))
        return RegionRecord(time_ns=self._time_ns, region=info)

    # Bus and function, vendor and device, IRQ, seven bases whose low bits are flags (six BARs and
    # the ROM), seven lengths, and the driver. Ref: Linux, drivers/pci/proc.c.
    def _device(self, line: str) -> Iterator[Record]:
        yield Mark(time_ns=self._time_ns, text=line)
        words = line.split()[1:]
        bases, sizes = words[3:10], words[10:17]
        device = words[17] if len(words) > 17 else words[1]
        for bar, (base, size) in enumerate(zip(bases, sizes, strict=True)):
            flags, length = int(base, 16), int(size, 16)
            if length and not flags & 1:  # bit 0: ports
                start = flags & ~0xF
                yield self._announce(start, start + length - 1, f"{device}.bar{bar}", device)

    def _announce(self, start: int, end: int, name: str, device: str) -> RegionRecord:
        self._regions.append((start, end, name))
        info = RegionInfo(
            name=name, start=hex(start), end=hex(end), qemu_name="", device=device, traced=True
        )
        return RegionRecord(time_ns=self._time_ns, region=info)


_SECONDS = re.compile(r"(\d{1,10})\.(\d{1,9})")


def _nanoseconds(text: str) -> int:
    found = _SECONDS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time in seconds")
    return int(found[1]) * 10**9 + int(found[2].ljust(9, "0"))
