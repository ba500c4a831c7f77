"""Read the lines of a log as records of a trace, whoever wrote them and however they are cut."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from tracer.export.mmiotrace.event import kernel_line
from tracer.export.mmiotrace.form import (
    ACCESS,
    BEGINS,
    HIDDEN,
    REGION,
    REGION_INFO,
    VERSION,
    Hidden,
)
from tracer.export.mmiotrace.places import Bar, Place, Places
from tracer.trace.loss import Losses
from tracer.trace.marker import NOT_UNDERSTOOD
from tracer.trace.record import (
    FORMAT_VERSION,
    Header,
    Intercept,
    LostRecord,
    MapRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionRecord,
)
from tracer.trace.wire import Struct, Wire
from tracer.x86.state import PAGE_SIZE

LONGEST_LINE = 1 << 16
"""How many characters a line may have; a marker has at most a few thousand."""

_KEPT = 1000  # characters of a line that was not understood
_ADDRESSES = (1 << 64) - 1


def header(tool: str, created: str) -> Header:
    """Return the header of a trace that is made from such a log, which tells little of its run."""
    return Header(
        version=FORMAT_VERSION, tool=tool, created=created, clock="realtime", kernel="unknown",
        kernel_sha256="", command_line="", memory=0, vcpus=1, qemu="", gdb="", qemu_args=[],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Mapping:
    physical: int
    linear: int
    size: int

    def linear_of(self, physical: int) -> int | None:
        offset = physical - self.physical
        return (self.linear + offset) & _ADDRESSES if 0 <= offset < self.size else None


class MmiotraceReader:
    """Turn the lines of a log into records as they come; no line is an error.

    The log does not tell instructions, registers, vCPUs or linear addresses of accesses: the
    records have no code and no registers, vCPU 0, and the linear address that the mapping gives.
    They are called stepped, which is how that tracer makes every access. Regions are those that
    marks name, then the BARs of ``PCIDEV`` lines, then mappings.

    ``accesses`` counts the device accesses, ``told`` the lines that tell something of the run;
    ``opened`` says whether there was a line that opens such a log. ``failed`` counts the lines that
    were not understood, ``first`` has the number of the first one and what is wrong with it.
    ``wide`` counts values that were wider than their access.
    """

    def __init__(self) -> None:
        self.accesses = self.told = self.failed = self.wide = 0
        self.opened = False
        self.first: tuple[int, str] | None = None
        self.losses = Losses()
        self._places = Places()
        self._maps: dict[int, _Mapping] = {}
        self._hidden: Hidden | None = None
        self._time_ns = 0

    @property
    def remarks(self) -> list[str]:
        """Return in words what the trace lacks of the log, and the log of the run."""
        told = []
        if self.first is not None:
            lines = "1 line was" if self.failed == 1 else f"{self.failed:,} lines were"
            told.append(f"{lines} not understood (first: line {self.first[0]:,})")
        return [*told, self.losses.words] if self.losses else told

    def records(self, line: str, number: int) -> Iterator[Record]:
        """Yield the records for line ``number`` of the log, which may be none."""
        text = line.strip(_BLANK)
        if text.startswith(("[", "<")):
            text = _LOG_PREFIX.sub("", text, count=1)
        if not text and "\0" not in line:
            return
        hidden, self._hidden = self._hidden, None
        why = "not a line of an mmiotrace log"
        if len(line) > LONGEST_LINE:
            why = "too long for an mmiotrace log"
        else:
            try:
                records = self._line(text, hidden)
            except ValueError as error:
                why = str(error)
            else:
                if records is not None:
                    yield from records
                    return
        self.failed += 1
        self.first = self.first or (number, f"{why}: {text[:60]!r}")
        kept = text if len(text) <= _KEPT else f"{text[:_KEPT]}…"
        yield Mark(time_ns=self._time_ns, text=NOT_UNDERSTOOD + kept)

    # Returns what a line tells, or None when nothing. Raises ValueError for a number that
    # cannot be, before anything is taken over.
    def _line(self, text: str, hidden: Hidden | None) -> list[Record] | None:
        word = _WORD.match(text)
        found = _FORMS.get(word[0] if word else "", _OTHER).fullmatch(text)
        if found is None:
            line = kernel_line(text)
            return None if line is None else self._line(line, hidden)
        records: list[Record]
        match found.lastgroup:
            case "access":
                records = self._access(found)
            case "unknown":
                records = self._unknown(found, hidden)
            case "map":
                records = self._map(found)
            case "mark":
                records = self._mark(found)
            case "pcidev":
                records = self._device(found)
            case "kept":
                records = [self._kept(" ".join(text.split()), found)]
            case "lspci":
                records = [Mark(time_ns=self._time_ns, text=f"LSPCI {found['told'] or ''}")]
            case "lost":
                records = [self._lost(found["count"], int(found["cpu"]))]
            case _:
                self.opened = self.opened or found.lastgroup == "opening"
                return []
        self.told += 1
        return records

    def _access(self, found: re.Match[str]) -> list[Record]:
        time_ns, width, value = _nanoseconds(found), int(found["width"]), int(found["value"], 16)
        note = "mmiotrace"
        if value >> 8 * width:
            # The kernel logs the register of MOVSX, and eight bytes from REX.W C7's immediate on.
            note = f"mmiotrace: the log has {value:#x}, which is wider than the access"
            value &= (1 << 8 * width) - 1
            self.wide += 1
        access = MemoryAccess(
            direction="read" if found["letter"] == "R" else "write", width=width, linear=0,
            physical=int(found["physical"], 16), value=value,
        )  # fmt: skip
        self._time_ns = time_ns
        return self._intercept(found, access, "(not in the log)", note)

    def _unknown(self, found: re.Match[str], hidden: Hidden | None) -> list[Record]:
        self._time_ns = _nanoseconds(found)
        known = hidden or Hidden(direction="unknown", width=0, extent=PAGE_SIZE)
        access = MemoryAccess(
            direction=known.direction, width=known.width, extent=known.extent, linear=0,
            physical=int(found["physical"], 16), value=known.value,
        )  # fmt: skip
        text = f"(begins {found['code'].lower().replace(',', ' ')})"
        assert BEGINS.fullmatch(text)
        return self._intercept(found, access, text, "mmiotrace")

    # The access, after what announces its region. An unknown extent ends with the page or region.
    def _intercept(
        self, found: re.Match[str], access: MemoryAccess, text: str, note: str
    ) -> list[Record]:
        physical = access.physical
        place = self._places.find(physical)
        announced: list[Record] = []
        if place is None:
            place = self._places.add_page(physical)
            announced.append(self._announce(place))
        mapping = self._maps.get(int(found["id"]))
        linear = None if mapping is None else mapping.linear_of(physical)
        where = physical if linear is None else linear
        extent = None if access.width else access.extent
        if extent is not None:
            extent = min(extent, PAGE_SIZE - physical % PAGE_SIZE, place.end + 1 - physical)
        record = Intercept(
            seq=self.accesses, time_ns=self._time_ns, vcpu=0, cpl=0, mode=64,
            rip=int(found["pc"], 16), code=b"", text=text, cr2=where,
            error_code=0xA if access.direction == "write" else 0x8, via="stepped", before={},
            after={}, note=note,
            accesses=[
                msgspec.structs.replace(
                    access, linear=where, extent=extent, region=place.name,
                    offset=physical - place.start,
                )
            ],
        )  # fmt: skip
        self.accesses += 1
        return [*announced, record]

    def _map(self, found: re.Match[str]) -> list[Record]:
        time_ns, number, size = _nanoseconds(found), int(found["id"]), int(found["size"], 16)
        mapping = _Mapping(int(found["physical"], 16), int(found["linear"], 16), size)
        end = mapping.physical + max(size, 1) - 1
        if end > _ADDRESSES or size > _MOST or number < 0:
            raise ValueError("no mapping that could be")
        self._time_ns = time_ns
        self._maps[number] = mapping
        names, added = self._places.add_mapping(mapping.physical, end)
        record = MapRecord(
            time_ns=time_ns, linear=mapping.linear, physical=mapping.physical, size=size,
            regions=names, by="mmiotrace", id=number,
        )  # fmt: skip
        return [record] if added is None else [self._announce(added), record]

    def _mark(self, found: re.Match[str]) -> list[Record]:
        time_ns = _nanoseconds(found)
        text = found["text"] or ""
        if found["gap"] != " ":  # columns that somebody has aligned
            text = text.lstrip(" \t")
        lost = _LOST_MARK.fullmatch(text)
        if lost is not None and not time_ns:
            return [self._lost(lost["count"], None)]
        if text.startswith(ACCESS):
            self._hidden = _parsed(text[len(ACCESS) :], HIDDEN)
            if self._hidden is not None:
                return []
        self._time_ns = time_ns
        info = _parsed(text[len(REGION) :], REGION_INFO) if text.startswith(REGION) else None
        if info is None:
            return [Mark(time_ns=time_ns, text=text)]
        if info.traced and not self._places.add_mark(info):
            return []
        return [RegionRecord(time_ns=time_ns, region=info)]

    def _lost(self, count: str | None, cpu: int | None) -> LostRecord:
        if cpu is not None and cpu >= _CPUS:
            raise ValueError("no CPU that could be")
        number = None if count is None else int(count)
        record = LostRecord(time_ns=self._time_ns, vcpu=cpu, count=number)
        self.losses.add(record)
        return record

    def _kept(self, text: str, found: re.Match[str]) -> Mark:
        self._time_ns = _nanoseconds(found)
        return Mark(time_ns=self._time_ns, text=text)

    # Bus and function, vendor and device, IRQ, seven bases whose low bits are flags (six BARs and
    # the ROM), seven lengths, and the driver, which may have spaces in its name.
    def _device(self, found: re.Match[str]) -> list[Record]:
        numbers = found["numbers"].split()
        bars = []
        for number, (base, size) in enumerate(zip(numbers[:7], numbers[7:], strict=True)):
            start, length = int(base, 16) & ~0xF, int(size, 16)
            # Bit 0 says that a BAR is of ports, and that the ROM is switched on.
            ports = number < _ROM and int(base, 16) & 1
            if start and length and not ports and start + length - 1 <= _ADDRESSES:
                bars.append(Bar(number, start, length))
        driver = " ".join((found["driver"] or "").split())[:_LONGEST_DRIVER]
        driver = "".join(c if c.isprintable() else "?" for c in driver).strip()
        identity = (found["bus"], found["ids"], *numbers)
        text = " ".join(["PCIDEV", found["bus"], found["ids"], found["irq"], *numbers, driver])
        bus, function = divmod(int(found["bus"], 16), 1 << 8)
        slot = f"{bus:02x}:{function >> 3:02x}.{function & 7}"
        added = self._places.add_device(driver or found["ids"], slot, identity, bars)
        mark = Mark(time_ns=self._time_ns, text=text.rstrip())
        return [mark, *map(self._announce, added)]

    def _announce(self, place: Place) -> RegionRecord:
        return RegionRecord(time_ns=self._time_ns, region=place.info)


_ROM = 6
_LONGEST_DRIVER = 64
_CPUS = 1 << 16
_MOST = (1 << 63) - 1  # what a trace can hold of bytes and nanoseconds


def _nanoseconds(found: re.Match[str]) -> int:
    time_ns = int(found["seconds"]) * 10**9 + int(found["fraction"].ljust(9, "0"))
    if time_ns > _MOST:
        raise ValueError("no time that could be")
    return time_ns


# Anybody may have written the same words: that is a mark like any other.
def _parsed(text: str, kind: Wire[Struct]) -> Struct | None:
    try:
        return kind.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


_BLANK = " \t\r\n\v\f\0"
_WORD = re.compile(r"[A-Z]+")

# How the kernel's log comes over a serial console: an oops can dump the buffer there.
_LOG_PREFIX = re.compile(r"(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])?\s*", re.ASCII)

_LOST_MARK = re.compile(r"Lost (?:(?P<count>\d{1,18}) )?events\.", re.ASCII)


# A line has its arguments in columns, whatever stands between them. Its last group tells its kind.
def _form(kind: str, *columns: str) -> re.Pattern[str]:
    return re.compile(rf"(?P<{kind}>{_GAP.join(columns)})", re.ASCII | re.DOTALL)


_GAP = r"[ \t]+"
_TIME = r"(?P<seconds>\d{1,10})\.(?P<fraction>\d{1,9})"
_ID = r"(?P<id>-?\d{1,18})"
_PID = r"-?\d+"


def _hex(name: str) -> str:
    return rf"0x(?P<{name}>[0-9a-fA-F]{{1,16}})"


_ACCESS = _form(
    "access", r"(?P<letter>[RW])", r"(?P<width>[1248])", _TIME, _ID, _hex("physical"),
    _hex("value"), _hex("pc"), _PID,
)  # fmt: skip
_FORMS = {
    "R": _ACCESS,
    "W": _ACCESS,
    "UNKNOWN": _form(
        "unknown", "UNKNOWN", _TIME, _ID, _hex("physical"),
        "(?P<code>[0-9a-fA-F]{2},[0-9a-fA-F]{2},[0-9a-fA-F]{2})", _hex("pc"), _PID,
    ),
    "MAP": _form(
        "map", "MAP", _TIME, _ID, _hex("physical"), _hex("linear"), _hex("size"), _hex("pc"), _PID,
    ),
    "UNMAP": _form("kept", "UNMAP", _TIME, _ID, _hex("pc"), _PID),
    "MARK": re.compile(
        rf"(?P<mark>MARK(?P<gap>{_GAP}){_TIME}(?:[ \t](?P<text>.*))?)", re.ASCII | re.DOTALL
    ),
    "PCIDEV": _form(
        "pcidev", "PCIDEV", r"(?P<bus>[0-9a-fA-F]{4})", r"(?P<ids>[0-9a-fA-F]{8})",
        r"(?P<irq>[0-9a-fA-F]{1,8})",
        rf"(?P<numbers>[0-9a-fA-F]{{1,16}}(?:{_GAP}[0-9a-fA-F]{{1,16}}){{13}})"
        r"(?:[ \t]+(?P<driver>.*))?",
    ),
    "LSPCI": re.compile(r"(?P<lspci>LSPCI(?:[ \t](?P<told>.*))?)", re.DOTALL),
    "VERSION": _form("opening", "VERSION", VERSION),
}  # fmt: skip
# Lost events, and comments, of which the first of a file names the tracer; trace-cmd counts CPUs.
_OTHER = re.compile(
    r"(?P<lost>CPU:?[ \t]*(?P<cpu>\d{1,5})[ \t]*"
    r"\[[ \t]*LOST(?:[ \t]+(?P<count>\d{1,18}))?[ \t]+EVENTS?[ \t]*\])"
    r"|(?P<opening>#[ \t]*tracer:[ \t]*mmiotrace)"
    r"|(?P<comment>#.*|CPU:?[ \t]*\d+[ \t]+buffer[ \t]+started|cpus=\d+)",
    re.ASCII | re.DOTALL,
)
