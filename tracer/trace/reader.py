"""Read a trace as a stream, up to the last whole record there is."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, cast

import zstandard

from tracer.errors import TraceError
from tracer.host.textfile import STANDARD
from tracer.text.amount import counted
from tracer.text.file_error import unread
from tracer.trace import codec
from tracer.trace.block import Blocks
from tracer.trace.compiled import BlockRecord
from tracer.trace.numbering import Numbering
from tracer.trace.record import End, Intercept, Line, Record

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
_LONGEST_LINE = 1 << 24
_CHUNK = 1 << 16
"""Bytes of text that are unpacked at once, about."""
_STEP, _FIRST_STEP = 512, 16
"""Packed bytes that are unpacked at once, at most, and at first: a block of 128 KiB takes 4."""
_MOST_UNKNOWN = 16  # types told apart, so that no file can fill the memory with them
_LONGEST_NAME = 40
_TURN = 256  # lines


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Say where a line of a trace begins: behind how many bytes of its text, and how many lines."""

    offset: int
    number: int


class Frame(NamedTuple):
    """Say where a Zstandard frame begins: behind how many bytes of text, and of the file."""

    text: int
    at: int


class TraceReader:
    """Iterate over the records of a trace file, holding one record at a time.

    The string ``-`` is standard input; ``name`` is what to call the file. ``header`` is there at
    once. ``unknown`` counts, by type, records that this version skips.
    ``damage`` says in words what is missing from the file, or is None; like ``end``, the trace's
    last record, it is settled when iteration has ended. ``watch`` is called now and then meanwhile,
    ``more``, where there is one, at the end of a trace that has no end record: it waits until more
    may be there, and tells whether to go on.
    """

    def __init__(self, path: Path | str) -> None:
        """Open the trace at ``path`` and read its header.

        Raise :exc:`TraceError` when there is no such file, it is no trace, or its format is newer
        than this vetrace.
        """
        # No Path: that is a file of this name.
        self._is_standard = path == STANDARD
        self.name = "standard input" if self._is_standard else str(path)
        self.unknown: Counter[str] = Counter()
        self.damage: str | None = None
        self.end: End | None = None
        self.records = 0
        self.watch: Callable[[], None] = lambda: None
        self.more: Callable[[], bool] | None = None
        self._number = 0  # of the last whole line
        self._offset = 0  # behind it, in bytes of text
        self._ran_out = False
        self._frames = [Frame(0, 0)]  # that have been met so far
        try:
            self._raw = self._opened(path)
        except (OSError, ValueError) as error:  # a name with a NUL is the latter
            raise TraceError(unread(f"trace {self.name}", error)) from error
        try:
            self._lines = _lines(self._raw, self._frames)
            line = self._line()
            if not line:
                raise TraceError("empty: nothing was recorded in it; record it again")
            if not line.endswith(b"\n"):
                raise TraceError("line 1: cut inside its header; record it again")
            self.header = codec.decode_header(line)
        except TraceError as error:
            self.close()
            raise TraceError(f"{self.name}: {error}") from error

    def _opened(self, path: Path | str) -> io.BufferedReader:
        if self._is_standard:
            return cast(io.BufferedReader, sys.stdin.buffer)
        return Path(path).open("rb")

    def __iter__(self) -> Iterator[Record]:
        """Yield each record once, in file order.

        Raise :exc:`TraceError`, naming file and line, at a whole line that is no record, and where
        compressed data were changed: what was cut off is missing, what was changed is wrong.
        """
        with self.named():
            yield from self._records()

    def _records(self) -> Iterator[Record]:
        blocks = Blocks()
        for told, number in self._told():
            for record in codec.records(blocks, told, number):
                self.records += 1
                yield record

    def _told(self) -> Iterator[tuple[Line, int]]:
        numbering = Numbering()
        for number, line in self._whole_lines():
            told = codec.decode(line, number)
            if isinstance(told, codec.Unknown):
                self.skipped(told.type)
                continue
            self.end = told if isinstance(told, End) else None
            numbering.follow(told, number)
            yield told, number
        faults = [fault for fault in (numbering.fault, self.damage) if fault is not None]
        self.damage = "; ".join(faults) or None

    def kinds(self, one_by_one: Callable[[Intercept], bool]) -> Iterator[tuple[Record, int]]:
        """Yield records as iteration does, each with how many there are like it.

        Of those of a block one of each :meth:`kind <tracer.trace.block.Blocks.kinds>` comes,
        unless for one of them it is asked that they come ``one_by_one``.
        """
        with self.named():
            blocks = Blocks()
            for told, number in self._told():
                if isinstance(told, BlockRecord):
                    kinds = codec.kinds(blocks, told, number)
                    if not any(one_by_one(record) for record, _ in kinds):
                        self.records += sum(times for _, times in kinds)
                        yield from kinds
                        continue
                for record in codec.records(blocks, told, number):
                    self.records += 1
                    yield record, 1

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield each whole line after the header with its number: records for others to decode.

        ``end`` and ``damage`` are settled as by iteration; ``records`` and ``unknown`` are not:
        tell :meth:`skipped`.
        """
        with self.named():
            yield from self._whole_lines()

    @property
    def bookmark(self) -> Bookmark:
        """Return where the next line begins."""
        return Bookmark(self._offset, self._number)

    @property
    def is_file(self) -> bool:
        """Tell whether it can be gone back to a bookmark: a pipe is read once."""
        return not self._is_standard and self._raw.seekable()

    def go_to(self, bookmark: Bookmark) -> None:
        """Go on from a line that was met before; what has been written meanwhile is read then.

        Raise :exc:`TraceError` where the file is shorter now, or cannot be read.
        """
        if bookmark == self.bookmark and not self._ran_out:
            return
        self.damage, self.end = None, None
        self._offset, self._number = bookmark.offset, bookmark.number
        self._ran_out = False
        self._lines = _lines(self._raw, self._frames, bookmark.offset)

    def skipped(self, kind: str, times: int = 1) -> None:
        """Count records of a type that this version skips."""
        kind = kind[:_LONGEST_NAME]
        known = kind in self.unknown or len(self.unknown) < _MOST_UNKNOWN
        self.unknown[kind if known else "…"] += times

    def _whole_lines(self) -> Iterator[tuple[int, bytes]]:
        last = b""
        while (line := self._line()).endswith(b"\n") or self._goes_on(last):
            if not line.endswith(b"\n"):
                self.go_to(self.bookmark)
                continue
            last = line
            if self._number % _TURN == 0:
                self.watch()
            yield self._number, line
        if line:
            self.damage = (
                f"the file is cut after line {self._number}:"
                f" {len(line)} bytes of an unfinished record are left out"
            )
        elif not self._ended(last):
            self.damage = (
                f"there is no end record after line {self._number}:"
                " what wrote it was ended, or is still writing"
            )

    def _goes_on(self, last: bytes) -> bool:
        return self.more is not None and not self._ended(last) and self.more()

    def _ended(self, last: bytes) -> bool:
        if self.end is None and last:
            with contextlib.suppress(TraceError):
                record = codec.decode(last, 0)
                self.end = record if isinstance(record, End) else None
        return self.end is not None

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Name the file in each :exc:`TraceError` that the block raises."""
        try:
            yield
        except TraceError as error:
            raise TraceError(f"{self.name}: {error}") from error

    def missing(self) -> list[str]:
        """Return in words what of the trace, read to its end, is missing or was skipped."""
        damage = [] if self.damage is None else [f"{self.name}: {self.damage}"]
        skipped = (
            f"{self.name}: skipped {counted(count, 'record')} of unknown type {kind!r}"
            for kind, count in sorted(self.unknown.items())
        )
        count = 0 if self.end is None else self.end.counts.get("left_out", 0)
        left = (
            [f"{self.name}: {counted(count, 'access')} left out before the first"] if count else []
        )
        return [*damage, *left, *skipped]

    def progress(self) -> tuple[int, int] | None:
        """Return how many bytes of the file have been read, and its size; None for a pipe."""
        if not self._raw.seekable():
            return None
        return self._raw.tell(), os.fstat(self._raw.fileno()).st_size

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if not self._is_standard:
            self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # The next line with its newline; without one at the end of a cut file; empty at the end.
    def _line(self) -> bytes:
        try:
            line = next(self._lines, b"")
        except zstandard.ZstdError as error:
            raise TraceError(
                f"line {self._number + 1}: the compressed data is damaged: {error}"
            ) from error
        except OSError as error:
            raise TraceError(f"cannot be read: {error.strerror}") from error
        if len(line) >= _LONGEST_LINE:
            raise TraceError(
                f"line {self._number + 1}: over {_LONGEST_LINE >> 20} MiB without an end: no record"
            )
        whole = line.endswith(b"\n")
        self._number += whole
        self._offset += len(line) if whole else 0
        self._ran_out = not whole
        return line


# Go by the content: a compressed trace may have been renamed. Nothing is read before the first
# line is asked for, which begins behind so many bytes of text.
def _lines(raw: io.BufferedReader, frames: list[Frame], offset: int = 0) -> Iterator[bytes]:
    if offset:
        raw.seek(0)
    if raw.peek(4)[:4] != _ZSTD_MAGIC:
        if offset:
            raw.seek(offset)
        yield from iter(partial(raw.readline, _LONGEST_LINE), b"")
    else:
        frame = frames[bisect_right(frames, offset, key=lambda frame: frame.text) - 1]
        if frame.at:
            raw.seek(frame.at)
        yield from _unpacked_lines(_unpacked(raw, frames, frame), offset - frame.text)


def _unpacked_lines(chunks: Iterator[bytes], offset: int) -> Iterator[bytes]:
    rest = bytearray()  # of a line: it grows in place, so that a bomb costs no more than its bytes
    for chunk in chunks:
        if offset >= len(chunk):
            offset -= len(chunk)
            continue
        *whole, last = chunk[offset:].split(b"\n")
        offset = 0
        for line in whole:
            yield bytes(rest) + line + b"\n"
            rest.clear()
        rest += last
        if len(rest) >= _LONGEST_LINE:
            break
    if rest:
        yield bytes(rest)


# All that can be decompressed from where a frame begins; those behind it are noted in ``frames``.
# An error takes the whole step with it that it is found in, which then goes byte by byte.
def _unpacked(raw: io.BufferedReader, frames: list[Frame], frame: Frame) -> Iterator[bytes]:
    unpack = zstandard.ZstdDecompressor().decompressobj()
    text, at, step, given = frame.text, frame.at, _FIRST_STEP, b""
    while given := given or raw.read(step):
        try:
            chunk = unpack.decompress(given)
        except zstandard.ZstdError:
            if not raw.seekable():
                raise
            yield from _up_to_the_error(raw, frame, at)
            return
        # Small steps of what packs well, so that little of it is held at once.
        step = max(min(2 * step, _STEP, _CHUNK * len(given) // (len(chunk) or 1)), 1)
        text += len(chunk)
        at += len(given)
        given = b""
        if unpack.eof:
            given = unpack.unused_data
            at -= len(given)
            unpack, frame = zstandard.ZstdDecompressor().decompressobj(), Frame(text, at)
            if text > frames[-1].text:
                frames.append(frame)
        if chunk:
            yield chunk


# The step at a place in the file, byte by byte. Raises ZstdError.
def _up_to_the_error(raw: io.BufferedReader, frame: Frame, step: int) -> Iterator[bytes]:
    raw.seek(frame.at)
    unpack = zstandard.ZstdDecompressor().decompressobj()
    while raw.tell() < step:
        unpack.decompress(raw.read(min(_FIRST_STEP, step - raw.tell())))
    while byte := raw.read(1):
        yield unpack.decompress(byte)
