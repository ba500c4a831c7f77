"""Device accesses as an SQLite database: a row each, and what rows have in common beside.

``access`` has the columns of the Parquet table, ``field`` the bit fields of the registers that were
accessed, ``stack`` the call chains, ``mark`` what stands between accesses, ``queue``, ``entry`` and
``entry_field`` what doorbells were about. The view ``decoded`` has a line for each field of each
access. SQLite's whole numbers have 63 bits and a sign: those from 2^63 on are hex texts.

Ref: https://www.sqlite.org/datatype3.html. Columns: docs/trace-format.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import msgspec

from tracer.errors import TraceError
from tracer.trace.call import SharedRecord, TdcallRecord, VmgexitRecord
from tracer.trace.event import Event, Note
from tracer.trace.flat import Stacks, flat
from tracer.trace.lines import note_line
from tracer.trace.loss import Losses
from tracer.trace.queue import QueueRecord
from tracer.trace.record import Header, LostRecord, Mark, UserRecord
from tracer.trace.waiting import WaitRecord

_LARGEST = (1 << 63) - 1
_ROWS = 4096  # a turn

_COLUMNS = {
    "seq": "INTEGER PRIMARY KEY",
    "time_ns": "INTEGER NOT NULL",
    "phase": "TEXT",
    "vcpu": "INTEGER NOT NULL",
    "cpl": "INTEGER NOT NULL",
    "rip": "INTEGER NOT NULL",
    "symbol": "TEXT",
    "function": "TEXT",
    "code": "TEXT",
    "text": "TEXT",
    "device": "TEXT",
    "region": "TEXT",
    "offset": "INTEGER",
    "register": "TEXT",
    "address": "INTEGER NOT NULL",
    "width": "INTEGER NOT NULL",
    "extent": "INTEGER",
    "direction": "TEXT NOT NULL",
    "value": "INTEGER",
    "via": "TEXT NOT NULL",
    "device_value": "INTEGER",
    "skipped": "INTEGER NOT NULL",
    "mark": "TEXT",
    "lost": "INTEGER",
    "space": "TEXT NOT NULL",
    "cause": "TEXT",
    "source": "TEXT",
    "note": "TEXT",
    "agrees": "INTEGER",
    "stack": "INTEGER",
    "breach": "TEXT",
}
"""The columns of ``access``; ``stack`` is the number of a call chain."""

_TABLES = f"""
CREATE TABLE trace (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE access ({", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())});
CREATE TABLE field (seq INTEGER NOT NULL REFERENCES access, name TEXT NOT NULL,
                    value INTEGER NOT NULL, meaning TEXT);
CREATE TABLE stack (number INTEGER NOT NULL, depth INTEGER NOT NULL, site TEXT NOT NULL,
                    PRIMARY KEY (number, depth)) WITHOUT ROWID;
CREATE TABLE mark (time_ns INTEGER NOT NULL, after_seq INTEGER, kind TEXT NOT NULL,
                   text TEXT NOT NULL, line TEXT NOT NULL);
CREATE TABLE queue (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, time_ns INTEGER NOT NULL,
                    region TEXT NOT NULL, queue TEXT NOT NULL, number INTEGER NOT NULL,
                    late INTEGER NOT NULL, note TEXT);
CREATE TABLE entry (queue INTEGER NOT NULL REFERENCES queue, position INTEGER NOT NULL,
                    kind TEXT NOT NULL, slot INTEGER NOT NULL, chain INTEGER,
                    address INTEGER NOT NULL, bytes TEXT NOT NULL, text TEXT,
                    PRIMARY KEY (queue, position)) WITHOUT ROWID;
CREATE TABLE entry_field (queue INTEGER NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL,
                    value INTEGER NOT NULL, PRIMARY KEY (queue, position, name)) WITHOUT ROWID;
CREATE VIEW decoded AS SELECT access.seq, time_ns, region, register, direction, access.value,
    field.name AS field, field.value AS field_value, meaning
    FROM access JOIN field USING (seq);
"""

_INDICES = """
CREATE INDEX access_by_register ON access (region, register);
CREATE INDEX access_by_place ON access (space, address);
CREATE INDEX access_by_function ON access (function);
CREATE INDEX access_by_time ON access (time_ns);
CREATE INDEX field_by_access ON field (seq);
CREATE INDEX field_by_name ON field (name, value);
"""


def write(
    header: Header, items: Iterable[Event | Note], stacks: Stacks, database: sqlite3.Connection
) -> int:
    """Write the tables of events and of what stands between them; return how many events."""
    database.executescript(_TABLES)
    database.executemany(
        "INSERT INTO trace VALUES (?, ?)",
        [(name, _header_text(value)) for name, value in msgspec.to_builtins(header).items()],
    )
    count = _write_items(items, stacks, database)
    database.executescript(_INDICES)
    database.commit()
    return count


def _write_items(
    items: Iterable[Event | Note], stacks: Stacks, database: sqlite3.Connection
) -> int:
    insert = f"INSERT INTO access VALUES ({', '.join('?' * len(_COLUMNS))})"
    rows: list[tuple[Any, ...]] = []
    fields: list[tuple[Any, ...]] = []
    known: set[int] = set()
    count, last = 0, None

    def flush() -> None:
        try:
            database.executemany(insert, rows)
        except sqlite3.IntegrityError:
            raise TraceError("an access is there twice, and SQLite has one row for each") from None
        database.executemany("INSERT INTO field VALUES (?, ?, ?, ?)", fields)
        rows.clear()
        fields.clear()

    for item in items:
        if isinstance(item, QueueRecord):
            _write_queue(item, database)
            continue
        if not isinstance(item, Event):
            kind, text = _note(item)
            told = item.time_ns, last, kind, text, note_line(item).strip("─ ")
            database.execute("INSERT INTO mark VALUES (?, ?, ?, ?, ?)", tuple(map(_plain, told)))
            continue
        count, last = count + 1, item.seq
        rows.append(_row(item))
        fields += _fields(item)
        number = item.record.stack
        if number is not None and number not in known:
            known.add(number)
            chain = stacks.of(number) or ()
            database.executemany(
                "INSERT INTO stack VALUES (?, ?, ?)",
                [(number, depth, site) for depth, site in enumerate(chain)],
            )
        if len(rows) == _ROWS:
            flush()
    flush()
    return count


def _write_queue(record: QueueRecord, database: sqlite3.Connection) -> None:
    told = (record.seq, record.time_ns, record.region, record.queue, record.number, record.late,
            record.note)  # fmt: skip
    made = database.execute(
        "INSERT INTO queue (seq, time_ns, region, queue, number, late, note)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        tuple(map(_plain, told)),
    ).lastrowid
    for position, entry in enumerate(record.entries):
        row = (made, position, entry.kind, entry.index, entry.chain, entry.physical,
               entry.data.hex(), entry.text)  # fmt: skip
        database.execute(
            "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)", tuple(map(_plain, row))
        )
        database.executemany(
            "INSERT INTO entry_field VALUES (?, ?, ?, ?)",
            [(made, position, _plain(name), _plain(value)) for name, value in entry.fields.items()],
        )


_NO_STACKS = Stacks()
_OTHERWISE = {"address": "physical"}


def _row(event: Event) -> tuple[Any, ...]:
    access = flat(event, _NO_STACKS)
    named = event.named
    told: dict[str, Any] = {
        "code": access.code.hex(),
        "stack": event.record.stack,
        "breach": None if named is None else named.breach(access.direction),
    }
    return tuple(_plain(told[name] if name in told else _GET[name](access)) for name in _COLUMNS)


_GET = {name: attrgetter(_OTHERWISE.get(name, name)) for name in _COLUMNS}


def _fields(event: Event) -> list[tuple[Any, ...]]:
    value, named = event.access.value, event.named
    if named is None or value is None:
        return []
    return [
        (event.seq, name, _plain(number), meaning)
        for name, _, number, meaning in named.fields(value)
    ]


def _note(item: Note) -> tuple[str, str]:
    match item:
        case Mark():
            return "mark", item.text
        case UserRecord():
            return "user", item.text
        case LostRecord():
            losses = Losses()
            losses.add(item)
            return "lost", losses.words
        case TdcallRecord():
            return "tdcall", item.name
        case VmgexitRecord():
            return "vmgexit", item.name
        case SharedRecord():
            return "shared", item.what
    assert isinstance(item, WaitRecord)
    return "wait", item.register or f"{item.region}+{item.offset:#x}"


# Whole numbers that SQLite has no room for are texts, as are texts that are no UTF-8.
def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if value <= _LARGEST else hex(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _header_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
