"""Trace records as lines of JSON and back, without a file in sight.

Ref: docs/trace-format.md, RFC 8259 (JSON). A line ends in one ``\\n`` and holds one object; the
member ``type`` says which. Unknown members are ignored and unknown types are handed back as
:class:`Unknown`, so that an older vetrace reads what a newer one of the same version adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import msgspec

from tracer.errors import TraceError
from tracer.trace.block import Blocks, require_whole
from tracer.trace.compiled import BlockRecord
from tracer.trace.record import FORMAT_VERSION, Header, Intercept, Line, Record
from tracer.trace.wire import Wire


@dataclass(frozen=True, slots=True)
class Unknown:
    """Stand for a whole record of a ``type`` this version does not know."""

    type: str


# Members that every line has. The version has no default: only a header must have one.
class _Tag(msgspec.Struct):
    type: str
    version: int | None = None


# The decoder raises these on bytes that are no JSON, or that nest without end.
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_KNOWN = frozenset(str(struct.__struct_config__.tag) for struct in (Header, *get_args(Line)))

_headers = Wire(Header)
_records: Wire[Line] = Wire(*get_args(Line))
_tag_decoder = msgspec.json.Decoder(_Tag)


def encode(record: Header | Line) -> bytes:
    """Return the line for a record, with its newline."""
    if isinstance(record, Header):
        return _headers.encode(record) + b"\n"
    return _records.encode(record) + b"\n"


def decode_header(line: bytes) -> Header:
    """Return the header that a trace's first line holds.

    Raise :exc:`TraceError` when the line opens no trace, or one in a newer format.
    """
    try:
        tag = _tag_decoder.decode(line)
    except _NOT_JSON as error:
        raise TraceError(f"line 1: not a vetrace trace: {error}") from error
    if tag.type != "header" or tag.version is None:
        raise TraceError("line 1: not a vetrace trace: it does not begin with a header")
    if tag.version > FORMAT_VERSION:
        raise TraceError(
            f"written in trace format {tag.version}, and this vetrace reads formats up to"
            f" {FORMAT_VERSION}: read it with a newer vetrace"
        )
    try:
        return _headers.decode(line)
    except _NOT_JSON as error:
        raise TraceError(f"line 1: bad header: {error}") from error


def decode(line: bytes, number: int) -> Line | Unknown:
    """Return the record that line ``number`` (from 1) of a trace holds.

    Raise :exc:`TraceError`, naming the line, when it is no record or one with a member missing,
    of the wrong type or badly written.
    """
    try:
        record = _records.decode(line)
    except msgspec.ValidationError as error:
        unknown = _unknown_type(line)
        if unknown is not None:
            return Unknown(unknown)
        raise TraceError(f"line {number}: bad record: {error}") from error
    except _NOT_JSON as error:
        raise TraceError(f"line {number}: not JSON: {error}") from error
    if isinstance(record, BlockRecord):
        with _numbered(number):
            require_whole(record)
    return record


def records(blocks: Blocks, line: Line, number: int) -> Iterator[Record]:
    """Yield the records that line ``number`` stands for: those of a block's rows, else itself.

    Raise :exc:`TraceError`, naming the line, where nothing can be made of it.
    """
    with _numbered(number):
        yield from blocks.records(line)


def kinds(blocks: Blocks, block: BlockRecord, number: int) -> list[tuple[Intercept, int]]:
    """Return a record of each kind in the block that line ``number`` is, and how many there are.

    Raise :exc:`TraceError`, naming the line, where nothing can be made of it.
    """
    with _numbered(number):
        return list(blocks.kinds(block))


@contextmanager
def _numbered(number: int) -> Iterator[None]:
    try:
        yield
    except TraceError as error:
        raise TraceError(f"line {number}: {error}") from error


# The type of a record that a later minor version of the format may have added, or None. A second
# header is no such thing: it is two traces in one file, which nothing could tell apart.
def _unknown_type(line: bytes) -> str | None:
    try:
        tag = msgspec.json.decode(line)
    except _NOT_JSON:
        return None
    name = tag.get("type") if isinstance(tag, dict) else None
    return name if isinstance(name, str) and name not in _KNOWN else None
