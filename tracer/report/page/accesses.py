"""The accesses of a trace as columns: what is alike about many is told once.

A *site* is an instruction at its place. A *shape* is a site with what it accesses and how: of one
loop all accesses have the same. What is left to tell of an access is its shape, its time and its
value.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

from tracer.confidential.hypercall import may_ask
from tracer.devices.map import Named
from tracer.query.facts import causes, covered, function, module, site, sources
from tracer.report.page.column import column, rising, text
from tracer.trace.event import Event, Note
from tracer.trace.flat import Stacks
from tracer.trace.fold import Fold, Folder
from tracer.trace.lines import note_line
from tracer.trace.marker import PHASE, is_marker
from tracer.trace.name import device_of
from tracer.trace.record import Intercept, Mark, MemoryAccess, UserRecord
from tracer.trace.registers import made
from tracer.trace.summary import mnemonic
from tracer.x86.state import GPR

REGISTERS = ("rflags", *GPR)
"""The registers that each record has as a column."""

CHUNK = 1024
"""How many records are compressed together, of what few have or nobody asks of many."""

_ALL = (1 << 64) - 1
_SAFE = 1 << 53  # the numbers of JavaScript are whole up to here

Item = TypeVar("Item", bound=Hashable)


class Numbers(dict[Item, int]):
    """Number items from 0 on, in the order in which they are first asked for."""

    def __missing__(self, item: Item) -> int:
        number = self[item] = len(self)
        return number


class Accesses:
    """Collect the accesses of a trace as they come, and what stands between them.

    ``stacks`` know the call chains, ``owners`` the devices of a region. Memory grows with the
    accesses, by some 200 bytes each.
    """

    def __init__(self, stacks: Stacks, owners: Callable[[str], tuple[str, ...]]) -> None:
        self.count = 0
        self._stacks, self._owners = stacks, owners
        self._sites: Numbers[tuple[int, bytes, str | None, str, int]] = Numbers()
        self._shapes: Numbers[tuple[Any, ...]] = Numbers()
        self._named: Numbers[Named] = Numbers()
        self._phases: Numbers[str] = Numbers()
        self._chains: Numbers[tuple[str, ...]] = Numbers()
        # Columns of the accesses.
        self._shape, self._value, self._state = array("I"), array("Q"), array("B")
        self._time: list[int] = []
        self._seq: list[int] = []
        self._record, self._phase, self._chain = array("I"), array("I"), array("I")
        self._peculiar: dict[int, dict[str, Any]] = {}
        # Columns of the records.
        self._before = [array("Q") for _ in REGISTERS]
        self._has = array("B")
        self._changes: list[dict[str, str]] = []
        self._further: list[dict[str, Any] | None] = []
        # Marks and notes stand between them.
        self._marks: list[list[Any]] = []
        self._notes: list[dict[str, Any]] = []
        self._typed = ""
        self._folder, self._told = Folder(), 0
        self._folds: list[tuple[int, int, int]] = []

    def add(self, record: Intercept, events: list[Event]) -> None:
        """Take a record with those of its accesses that are wanted; one at least."""
        self._typed = ""
        number = self._sites[record.rip, record.code, record.symbol, record.text, record.mode]
        for event in events:
            self._add_access(record, event, number)
            self._fold(self._folder.add(event))
        self._add_record(record)

    def _add_access(self, record: Intercept, event: Event, number: int) -> None:
        access, named, region = event.access, event.named, event.access.region or ""
        shape = self._shapes[
            number, record.via, record.vcpu, record.cpl, region, self._owners(region),
            access.offset, access.width, access.extent, access.direction, access.space,
            access.physical, access.linear, -1 if named is None else self._named[named],
            causes(record, access), sources(record, access),
        ]  # fmt: skip
        value = access.value
        self._shape.append(shape)
        self._time.append(record.time_ns)
        self._seq.append(event.seq)
        self._record.append(len(self._has))
        self._phase.append(0 if event.phase is None else self._phases[event.phase] + 1)
        chain = self._stacks.of(record.stack)
        self._chain.append(0 if chain is None else self._chains[chain] + 1)
        wide = value is not None and value > _ALL
        self._value.append(0 if value is None or wide else value)
        self._state.append(0 if value is None else 2 if wide else 1)
        peculiar: dict[str, Any] = {}
        if wide and value is not None:
            peculiar["value"] = hex(value)
        if access.device is not None:
            peculiar["device"] = hex(access.device)
        if access.skipped:
            peculiar["skipped"] = True
        if event.lost != 0:
            peculiar["lost"] = event.lost
        if peculiar:
            self._peculiar[self.count] = peculiar
        self.count += 1

    def _add_record(self, record: Intercept) -> None:
        before, after = made(record.before), made(record.after)
        values = [before.get(name, -1) for name in REGISTERS]
        has = all(0 <= value <= _ALL for value in values)
        self._has.append(has)
        for kept, value in zip(self._before, values, strict=True):
            kept.append(value if has else 0)
        end = record.rip + len(record.code)
        self._changes.append(
            {name: hex(value) for name, value in after.items()
             if name != "rip" or value != end}
        )  # fmt: skip
        others = before if not has else {} if len(before) == len(values) else {
            name: value for name, value in before.items() if name not in _COLUMNS
        }  # fmt: skip
        self._further.append(_further(record, others) or None)

    def mark(self, record: Mark) -> None:
        """Take a mark, whoever it is for."""
        kind = 1 if is_marker(record) else 2 if record.text.startswith(PHASE) else 0
        self._marks.append([self.count, record.text, kind, record.time_ns])

    def aside(self, note: Note) -> None:
        """Take what is told between accesses, and parts no loop."""
        self._note(note)

    def note(self, note: Note) -> None:
        """Take what is told between accesses."""
        self._fold(self._folder.end())
        if isinstance(note, Mark) and self._typed == f"mark {note.text}":
            return  # its command is told
        self._typed = note.text if isinstance(note, UserRecord) else ""
        self._note(note)

    def _note(self, note: Note) -> None:
        line = note_line(note).strip()
        self._notes.append({"at": self.count, "time": note.time_ns, "text": line})

    def _fold(self, told: list[Event | Fold]) -> None:
        for item in told:
            if isinstance(item, Fold):
                self._folds.append((self._told, len(item.first), item.turns))
                self._told += len(item.first) * item.turns
            else:
                self._told += 1

    def object(self) -> dict[str, Any]:
        """Return all of it ready for JSON, once nothing more comes."""
        self._fold(self._folder.end())
        regions = list(dict.fromkeys(shape[4] for shape in self._shapes))
        return {
            "count": self.count,
            "columns": {
                "shape": column(self._shape),
                "time": rising(self._time),
                "seq": rising(self._seq),
                "value": column(self._value),
                "state": column(self._state),
                "record": rising(self._record),
                "phase": column(self._phase),
                "chain": column(self._chain),
            },
            "peculiar": {str(number): told for number, told in self._peculiar.items()},
            "registers": {
                "names": REGISTERS,
                "has": column(self._has),
                "values": dict(zip(REGISTERS, map(column, self._before), strict=True)),
            },
            "changed": list(_chunks(self._changes)),
            "further": list(_chunks(self._further)),
            "chunk": CHUNK,
            "sites": [_site(*each) for each in self._sites],
            "shapes": _shapes(list(self._shapes), regions),
            "regions": regions,
            "names": [_named(each) for each in self._named],
            "phases": list(self._phases),
            "chains": list(self._chains),
            "marks": self._marks,
            "notes": self._notes,
            "folds": {
                name: rising(numbers) if name == "start" else column(numbers)
                for name, numbers in zip(
                    ("start", "period", "turns"),
                    zip(*self._folds, strict=True) if self._folds else ((), (), ()),
                    strict=True,
                )
            },
        }


def _chunks(items: list[Any]) -> Iterator[str | None]:
    for start in range(0, len(items), CHUNK):
        some = items[start : start + CHUNK]
        yield text(some) if any(some) else None


def _number(value: int | None) -> int | str | None:
    return hex(value) if value is not None and value >= _SAFE else value


def _site(rip: int, code: bytes, symbol: str | None, words: str, mode: int) -> dict[str, Any]:
    return {
        "rip": hex(rip),
        "code": code.hex(" "),
        "symbol": symbol or "",
        "site": site(symbol),
        "function": function(symbol),
        "module": module(symbol),
        "text": words,
        "mnemonic": mnemonic(words),
        "mode": mode,
    }


_OF_SHAPE = (
    "site", "via", "vcpu", "cpl", "region", "owners", "offset", "width", "extent", "direction",
    "space", "physical", "linear", "named", "cause", "source",
)  # fmt: skip


# Texts that are few are numbers here, regions those of `regions`.
def _shapes(shapes: list[tuple[Any, ...]], regions: list[str]) -> dict[str, Any]:
    columns = dict(
        zip(_OF_SHAPE, zip(*shapes, strict=True) if shapes else [()] * len(_OF_SHAPE), strict=True)
    )
    numbers = {region: number for number, region in enumerate(regions)}
    told: dict[str, Any] = {name: list(columns[name]) for name in _OF_SHAPE}
    told["device"] = [
        device_of(region, owners)
        for region, owners in zip(columns["region"], columns["owners"], strict=True)
    ]
    told["region"] = [numbers[region] for region in columns["region"]]
    asks = zip(*(columns[name] for name in ("region", "space", "direction", "width")), strict=True)
    told["asks"] = [int(may_ask(*each)) for each in asks]
    for name in ("offset", "physical", "linear", "width", "extent"):
        told[name] = [_number(value) for value in columns[name]]
    return told


def _named(named: Named) -> dict[str, Any]:
    return {
        "text": named.text,
        "names": covered(named),
        "right": named.right,
        "fields": [
            [name, at, field.high - field.low + 1, field.description,
             {str(number): told for number, told in field.values.items()}]
            for name, field, at in named.places()
        ],
        "registers": [
            [part.name, part.register.access, part.register.description, part.register.section]
            for part in named.parts
        ],
    }  # fmt: skip


def _further(record: Intercept, before: Mapping[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if before:
        found["before"] = {name: hex(value) for name, value in before.items()}
    if len(record.accesses) > 1:
        found["accesses"] = [_access(access) for access in record.accesses]
    if record.note is not None:
        found["note"] = record.note
    if record.asked is not None:
        found["given"] = {name: hex(value) for name, value in record.asked.given.items()}
        found["returned"] = {name: hex(value) for name, value in record.asked.returned.items()}
        found["agrees"] = record.agrees
    return found


_COLUMNS = frozenset(REGISTERS)


def _access(access: MemoryAccess) -> dict[str, Any]:
    return {
        "direction": access.direction,
        "width": access.width,
        "linear": hex(access.linear),
        "physical": hex(access.physical),
        "region": access.region,
        "offset": None if access.offset is None else hex(access.offset),
        "value": None if access.value is None else hex(access.value),
        "space": access.space,
    }
