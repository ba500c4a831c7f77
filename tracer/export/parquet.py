"""Device accesses as a Parquet table, a row each.

Ref: https://parquet.apache.org/docs/file-format. Columns: see :data:`SCHEMA` and
docs/trace-format.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import IO, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tracer.trace.fold import Event
from tracer.trace.record import Header

_NAME = pa.dictionary(pa.int32(), pa.string())  # few names, many rows

SCHEMA = pa.schema(
    [
        ("seq", pa.int64()),
        ("time_ns", pa.int64()),
        ("phase", _NAME),
        ("vcpu", pa.int32()),
        ("cpl", pa.int8()),
        ("rip", pa.uint64()),
        ("symbol", _NAME),
        ("function", _NAME),
        ("code", _NAME),
        ("text", _NAME),
        ("device", _NAME),
        ("region", _NAME),
        ("offset", pa.uint64()),
        ("register", _NAME),
        ("address", pa.uint64()),
        ("width", pa.int32()),
        ("extent", pa.int32()),
        ("direction", _NAME),
        ("value", pa.uint64()),
        ("via", _NAME),
        ("device_value", pa.uint64()),
        ("skipped", pa.bool_()),
        ("mark", _NAME),
        ("lost", pa.int64()),
    ]
)
"""The columns; names and values are null where not known."""

_ROWS = 1 << 16  # rows a group: flat memory, and still large enough to compress well


def write(header: Header, events: Iterable[Event], sink: IO[bytes]) -> int:
    """Write a table with one row an event and the trace's header as metadata; return the rows.

    Raise ValueError at a number that no column can hold.
    """
    schema = SCHEMA.with_metadata({"vetrace": msgspec.json.encode(header)})
    rows, source = 0, iter(events)
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        while batch := [_row(event) for event in islice(source, _ROWS)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            rows += len(batch)
    return rows


def _row(event: Event) -> dict[str, Any]:
    record, access = event.record, event.access
    return {
        "seq": event.seq,
        "time_ns": record.time_ns,
        "phase": event.phase,
        "vcpu": record.vcpu,
        "cpl": record.cpl,
        "rip": _number(event, record.rip),
        "symbol": record.symbol,
        "function": record.symbol.partition("+")[0] if record.symbol is not None else None,
        "code": record.code,
        "text": record.text,
        "device": (access.region or "").partition(".")[0],
        "region": access.region,
        "offset": _number(event, access.offset),
        "register": event.named.text if event.named is not None else None,
        "address": _number(event, access.physical),
        "width": access.width,
        "extent": access.extent,
        "direction": access.direction,
        "value": _number(event, access.value),
        "via": record.via,
        "device_value": _number(event, access.device),
        "skipped": access.skipped,
        "mark": event.mark,
        "lost": event.lost,
    }


def _number(event: Event, text: str | None) -> int | None:
    if text is None:
        return None
    number = int(text, 16)
    if number >> 64:
        raise ValueError(f"access {event.seq}: a number of more than 64 bits fits no column")
    return number
