"""Count what a trace holds: per region, register, call site, instruction form and phase."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from tracer.devices.map import Breach
from tracer.trace.block import Blocks
from tracer.trace.call import SharedRecord, TdcallRecord, VmgexitRecord
from tracer.trace.compiled import BlockRecord
from tracer.trace.event import Event, events_of
from tracer.trace.loss import Losses
from tracer.trace.marker import is_marker
from tracer.trace.member import Space
from tracer.trace.record import (
    End,
    Intercept,
    Line,
    LostRecord,
    Mark,
    MemoryAccess,
    Record,
    RegionRecord,
    UserRecord,
)

Names = TypeVar("Names", bound=tuple[str, ...])


@dataclass(slots=True)
class RegionCount:
    """Count the device accesses to one region; ``sites`` holds the call sites they came from.

    ``unknown`` are those of which it is not known whether they read or write. ``space`` is where
    its addresses lie.
    """

    reads: int = 0
    writes: int = 0
    unknown: int = 0
    stepped: int = 0
    compiled: int = 0
    guest: int = 0
    monitor: int = 0
    space: Space = "memory"
    sites: set[str] = field(default_factory=set)

    @property
    def accesses(self) -> int:
        """Return how many device accesses there were."""
        return self.reads + self.writes + self.unknown

    @property
    def emulated(self) -> int:
        """Return how many device accesses the emulator made."""
        return self.accesses - self.stepped - self.compiled - self.guest - self.monitor


class Summary:
    """Count records as they come, in memory that does not grow with their number.

    ``regions`` holds every traced region announced, accessed or not. ``sites`` counts device
    accesses by call site and region, ``registers`` by region, offset and the name of the register,
    empty where it has none, ``phases`` by phase of the boot and region where the phase is known;
    ``breaches`` counts those of ``registers`` that wrote what is read-only or read what is
    write-only, and tells which. ``forms`` counts intercepts by instruction form and by how they
    were carried out. A call site is a symbol with offset, or else a linear address.
    ``user_actions`` is how often a person did something to the guest, ``markers`` how many there
    are for a reader, ``losses`` what a log lost, ``valueless`` how many device accesses there are
    of unknown value. ``calls`` counts by name the calls of a confidential guest that are no device
    accesses, ``shared`` what became of RAM that it shares, and ``disagreements`` are the accesses
    that it asked for otherwise than its instruction says. ``causes`` counts interrupts by what has
    sent them.
    """

    def __init__(self) -> None:
        self.intercepts = 0
        self.stepped_intercepts = 0
        self.compiled_intercepts = 0
        self.guest_intercepts = 0
        self.monitor_intercepts = 0
        self.user_actions = 0
        self.markers = 0
        self.valueless = 0
        self.losses = Losses()
        self.regions: dict[str, RegionCount] = {}
        self.sites: Counter[tuple[str, str]] = Counter()
        self.forms: Counter[tuple[str, str]] = Counter()
        self.registers: Counter[tuple[str, str, str]] = Counter()
        self.breaches: Counter[tuple[str, str, str, Breach]] = Counter()
        self.phases: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[str] = Counter()
        self.shared: Counter[str] = Counter()
        self.disagreements = 0
        self.causes: Counter[str] = Counter()
        self.end: End | None = None
        self._blocks = Blocks()
        self._form_of: dict[tuple[str, tuple[tuple[str, int], ...]], str] = {}

    @property
    def accesses(self) -> int:
        """Return how many device accesses there were."""
        return sum(count.accesses for count in self.regions.values())

    @property
    def emulated(self) -> int:
        """Return how many device accesses the emulator made."""
        return sum(count.emulated for count in self.regions.values())

    @property
    def stepped(self) -> int:
        """Return how many device accesses a vCPU made in a native step."""
        return sum(count.stepped for count in self.regions.values())

    @property
    def compiled(self) -> int:
        """Return how many device accesses a vCPU made at a compiled site."""
        return sum(count.compiled for count in self.regions.values())

    @property
    def guest(self) -> int:
        """Return how many device accesses a confidential guest decoded and asked for itself."""
        return sum(count.guest for count in self.regions.values())

    @property
    def monitor(self) -> int:
        """Return how many accesses a guest left for its monitor, which made them."""
        return sum(count.monitor for count in self.regions.values())

    def breaches_of(self, place: tuple[str, str, str]) -> dict[Breach, int]:
        """Return the breaches of one of ``registers``, by what it is."""
        found: dict[Breach, int] = {
            breach: self.breaches[*place, breach]
            for breach in get_args(Breach)
            if (*place, breach) in self.breaches
        }
        return found

    def take(self, line: Line) -> None:
        """Count the records of the next line of a trace."""
        if isinstance(line, BlockRecord):
            for kind, times in self._blocks.kinds(line):
                self.add(kind, times=times)
        else:
            for record in self._blocks.records(line):
                self.add(record)

    def add(self, record: Record, events: Sequence[Event] | None = None, *, times: int = 1) -> None:
        """Count one record, and the ``events`` of it; all of its device accesses when that is None.

        Events tell registers and phases. ``times`` tells how many records there are like it.
        """
        match record:
            case Intercept():
                self._add_intercept(record, events_of(record) if events is None else events, times)
            case RegionRecord() if record.region.traced:
                count = RegionCount(space=record.region.space)
                self.regions.setdefault(record.region.name, count)
            case UserRecord():
                self.user_actions += 1
            case Mark():
                self.markers += is_marker(record)
            case LostRecord():
                self.losses.add(record)
            case TdcallRecord() | VmgexitRecord():
                self.calls[record.name] += 1
            case SharedRecord():
                self.shared[record.what] += 1
            case End():
                self.end = record
            case _:
                pass

    def _add_intercept(self, record: Intercept, events: Sequence[Event], times: int) -> None:
        stepped = times if record.via == "stepped" else 0
        compiled = times if record.via == "compiled" else 0
        guest = times if record.via == "guest" else 0
        monitor = times if record.via == "monitor" else 0
        self.disagreements += times if record.agrees is False else 0
        if record.cause is not None and events:
            self.causes[record.cause] += times
        self.intercepts += times
        self.stepped_intercepts += stepped
        self.compiled_intercepts += compiled
        self.guest_intercepts += guest
        self.monitor_intercepts += monitor
        self.forms[self._form(record), record.via] += times
        site = record.site
        for event in events:
            access, register = event.access, event.named
            region = access.region or ""
            count = self.regions.get(region)
            if count is None:
                count = self.regions[region] = RegionCount(space=access.space)
            match access.direction:
                case "read":
                    count.reads += times
                case "write":
                    count.writes += times
                case "unknown":
                    count.unknown += times
            count.stepped += stepped
            count.compiled += compiled
            count.guest += guest
            count.monitor += monitor
            self.valueless += times if access.value is None else 0
            count.sites.add(site)
            self.sites[site, region] += times
            name = register.text if register is not None else ""
            place = region, "?" if access.offset is None else hex(access.offset), name
            self.registers[place] += times
            breach = register.breach(access.direction) if register is not None else None
            if breach is not None:
                self.breaches[*place, breach] += times
            if event.phase is not None:
                self.phases[event.phase, region] += times

    # A trace has millions of intercepts and a few dozen instructions: read each text once.
    def _form(self, record: Intercept) -> str:
        shape = tuple((access.direction, access.width) for access in record.accesses)
        key = record.text, shape
        if key not in self._form_of:
            self._form_of[key] = instruction_form(record.text, record.accesses)
        return self._form_of[key]


def ranked(counts: Counter[Names]) -> list[tuple[Names, int]]:
    """Return counts with the highest first, and equal ones in the order of their names."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def ranked_names(counts: Counter[str]) -> list[tuple[str, int]]:
    """Return counts by name as :func:`ranked` does."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def summary_object(summary: Summary) -> dict[str, Any]:
    """Return all counts ready for JSON."""
    return {
        "accesses": summary.accesses,
        "emulated": summary.emulated,
        "stepped": summary.stepped,
        "compiled": summary.compiled,
        "guest": summary.guest,
        **({"monitor": summary.monitor} if summary.monitor else {}),
        "disagreements": summary.disagreements,
        "calls": dict(ranked_names(summary.calls)),
        "shared": dict(ranked_names(summary.shared)),
        "intercepts": summary.intercepts,
        "user_actions": summary.user_actions,
        "markers": summary.markers,
        "lost_events": summary.losses.events,
        "lost_uncounted": summary.losses.uncounted,
        "without_value": summary.valueless,
        "breaches": summary.breaches.total(),
        "regions": [
            {
                "region": name,
                "reads": count.reads,
                "writes": count.writes,
                "unknown": count.unknown,
                "emulated": count.emulated,
                "stepped": count.stepped,
                "compiled": count.compiled,
                "guest": count.guest,
                "call_sites": len(count.sites),
                **_of_inputs(count),
            }
            for name, count in sorted(summary.regions.items())
        ],
        "registers": [
            {
                "region": region,
                "offset": offset,
                "register": name or None,
                "accesses": count,
                "breaches": sum(summary.breaches_of((region, offset, name)).values()),
            }
            for (region, offset, name), count in ranked(summary.registers)
        ],
        "phases": [
            {"phase": phase, "region": region, "accesses": count}
            for (phase, region), count in ranked(summary.phases)
        ],
        **(
            {
                "causes": [
                    {"cause": cause, "interrupts": count}
                    for cause, count in ranked_names(summary.causes)
                ]
            }
            if summary.causes
            else {}
        ),
        "call_sites": [
            {"site": site, "region": region, "accesses": count}
            for (site, region), count in ranked(summary.sites)
        ],
        "forms": [
            {"form": form, "via": via, "intercepts": count}
            for (form, via), count in ranked(summary.forms)
        ],
    }


# A region of memory has no more members than it had before there were others.
def _of_inputs(count: RegionCount) -> dict[str, Any]:
    if count.space == "memory":
        return {}
    return {"space": count.space, "monitor": count.monitor}


def instruction_form(text: str, accesses: Sequence[MemoryAccess] = ()) -> str:
    """Return an instruction with its operands abstracted to kind and width in bits.

    ``mov eax, dword ptr [rax + 0x1c]`` has the form ``mov r32, m32``. A memory operand whose text
    names no size takes that of the first access.

    Ref: Intel SDM vol. 2A, 3.1.1.3 (the notation: r32, m32, imm, xmm).
    """
    head, operands = _split(text)
    fallback = f"m{8 * accesses[0].width or ''}" if accesses else "m"
    return " ".join([head, ", ".join(_operand(o, fallback) for o in operands)]).strip()


def mnemonic(text: str) -> str:
    """Return the name of an instruction without its prefixes: ``xadd`` for ``lock xadd ...``."""
    return _split(text)[0].rpartition(" ")[2]


# A mnemonic with its prefixes, and the operands. Only prefixes stand before a mnemonic.
def _split(text: str) -> tuple[str, list[str]]:
    words = text.split()
    count = next((n for n, word in enumerate(words, 1) if word not in _PREFIXES), len(words))
    operands = " ".join(words[count:])
    return " ".join(words[:count]), operands.split(", ") if operands else []


_PREFIXES = frozenset(
    {
        "bnd", "lock", "notrack", "rep", "repe", "repne", "repnz", "repz", "xacquire", "xrelease",
    }
)  # fmt: skip

_BITS = {
    "byte": 8, "word": 16, "dword": 32, "qword": 64, "fword": 48, "tbyte": 80, "xword": 80,
    "oword": 128, "xmmword": 128, "ymmword": 256, "zmmword": 512,
}  # fmt: skip

# The first pattern that fits all of an operand names its kind.
_KINDS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"[a-d][lh]|(?:si|di|bp|sp)l|r\d+[bl]", "r8"),
        (r"[a-d]x|si|di|bp|sp|r\d+w", "r16"),
        (r"e(?:[a-d]x|si|di|bp|sp)|r\d+d", "r32"),
        (r"r(?:[a-d]x|si|di|bp|sp|\d+)", "r64"),
        (r"xmm\d+", "xmm"),
        (r"ymm\d+", "ymm"),
        (r"zmm\d+", "zmm"),
        (r"mm\d", "mm"),
        (r"k\d", "k"),
        (r"st(?:\(\d\))?", "st"),
        (r"[c-gs]s", "sreg"),
        (r"-?(?:0x[0-9a-f]+|\d+)", "imm"),
    )
)


def _operand(operand: str, fallback: str) -> str:
    if "[" in operand:
        size, pointer, _ = operand.partition(" ptr ")
        return f"m{_BITS[size]}" if pointer and size in _BITS else fallback
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(operand)), operand)
