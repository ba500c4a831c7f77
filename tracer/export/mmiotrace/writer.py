"""Write the records of a trace as lines of the log."""

from __future__ import annotations

from collections.abc import Iterable

from tracer.export.mmiotrace.form import (
    ACCESS,
    BEGINS,
    HIDDEN,
    REGION,
    REGION_INFO,
    USER,
    VERSION,
    Hidden,
)
from tracer.trace.event import Event
from tracer.trace.marker import LOG_LINES
from tracer.trace.record import (
    Intercept,
    LostRecord,
    MapRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionRecord,
    UserRecord,
)

_WIDTHS = (1, 2, 4, 8)


class MmiotraceLog:
    """Turn the records of a trace into lines of the log, without their newlines.

    A map id is the one that the mapping has from a log, or counts on from the highest before it;
    an access has the id of the last mapping that its linear address lies in, or 0. An access that
    ``R`` and ``W`` cannot tell, most of them for want of a value, becomes ``UNKNOWN``. The log has
    memory alone: accesses to ports, MSRs and the like are ``left_out``.
    """

    def __init__(self) -> None:
        self._maps: list[tuple[int, int, int]] = []
        self._id_of: dict[int, int] = {}
        self._last_id = 0
        self.left_out = 0

    def opening(self) -> list[str]:
        """Return the lines a log opens with."""
        return [f"VERSION {VERSION}"]

    def lines(self, record: Record, events: Iterable[Event]) -> list[str]:
        """Return the lines for a record, of its device accesses those of the events."""
        match record:
            case Intercept():
                accesses = [event.access for event in events]
                told = [access for access in accesses if access.space == "memory"]
                self.left_out += len(accesses) - len(told)
                return [line for access in told for line in self._access(record, access)]
            case MapRecord():
                return [self._map(record)]
            case RegionRecord() if record.region.space == "memory":
                info = REGION_INFO.encode(record.region).decode()
                return [f"MARK {_seconds(record)} {REGION}{info}"]
            case Mark():
                if record.text.startswith(LOG_LINES):
                    return [_one_line(record.text)]
                return [f"MARK {_seconds(record)} {_one_line(record.text)}"]
            case UserRecord():
                return [f"MARK {_seconds(record)} {USER}{_one_line(record.text)}"]
            case LostRecord():
                return [_lost(record)]
            case _:
                return []

    def _map(self, record: MapRecord) -> str:
        number = self._last_id + 1 if record.id is None else record.id
        self._last_id = max(self._last_id, number)
        start = record.linear
        self._maps.append((start, start + record.size, number))
        self._id_of.clear()
        return (
            f"MAP {_seconds(record)} {number} {record.physical:#x} {record.linear:#x}"
            f" {record.size:#x} 0x0 0"
        )

    def _access(self, record: Intercept, access: MemoryAccess) -> list[str]:
        number = self._map_of(access.linear)
        head = f"{_seconds(record)} {number} {access.physical:#x}"
        value = access.value
        if (
            value is not None
            and access.direction != "unknown"
            and access.width in _WIDTHS
            and not value >> 8 * access.width
        ):
            letter = "R" if access.direction == "read" else "W"
            return [f"{letter} {access.width} {head} {value:#x} {record.rip:#x} 0"]
        begins = BEGINS.fullmatch(record.text)
        code = record.code[:3].ljust(3, b"\0").hex(",").split(",")
        data = ",".join(begins.groups() if begins else code)
        unknown = f"UNKNOWN {head} {data} {record.rip:#x} 0"
        if access.direction == "unknown" and not access.width:
            return [unknown]  # its extent is what a reader takes it to be
        hidden = Hidden(
            direction=access.direction, width=access.width, extent=access.extent, value=value
        )
        return [f"MARK {_seconds(record)} {ACCESS}{HIDDEN.encode(hidden).decode()}", unknown]

    # A page lies in one mapping, whatever byte of it is accessed.
    def _map_of(self, linear: int) -> int:
        page = linear >> 12
        if page not in self._id_of:
            found = (n for start, end, n in reversed(self._maps) if start <= linear < end)
            self._id_of[page] = next(found, 0)
        return self._id_of[page]


# As the kernel has them: of one CPU's buffer in their place, of all buffers with no time.
def _lost(record: LostRecord) -> str:
    count = "" if record.count is None else f"{record.count} "
    if record.vcpu is None:
        return f"MARK 0.000000 Lost {count}events."
    return f"CPU:{record.vcpu} [LOST {count}EVENTS]"


def _seconds(record: Record) -> str:
    microseconds = record.time_ns // 1000
    return f"{microseconds // 10**6}.{microseconds % 10**6:06}"


# A log is read in a terminal, so unprintable characters are escaped as in Python. Blanks at the end
# would not be read again.
def _one_line(text: str) -> str:
    line = " ".join(text.replace("\r", "\n").split("\n")).rstrip()
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line
    )
