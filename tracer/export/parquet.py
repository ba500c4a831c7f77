"""Device accesses as a Parquet table, a row each.

Ref: https://parquet.apache.org/docs/file-format. Columns: see :data:`SCHEMA` and
docs/trace-format.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from operator import attrgetter
from typing import IO, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tracer.trace.event import Event
from tracer.trace.flat import Access, Stacks, check_fits, flat
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
        ("space", _NAME),
        ("cause", _NAME),
        ("source", _NAME),
        ("note", _NAME),
        ("agrees", pa.bool_()),
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
    access = flat(event, _NO_STACKS)
    check_fits(access)
    return {name: _OTHERWISE.get(name, attrgetter(name))(access) for name in SCHEMA.names}


_NO_STACKS = Stacks()

# Columns that are not the member of their name.
_OTHERWISE: dict[str, Callable[[Access], Any]] = {
    "address": lambda access: access.physical,
    "code": lambda access: access.code.hex(),
}
