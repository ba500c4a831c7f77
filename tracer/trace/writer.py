"""Write a trace while the run goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import zstandard

from tracer.compiled.layout import SLOT_SIZE
from tracer.errors import TraceError, TracerError
from tracer.host.named_file import check_output, file_named
from tracer.host.textfile import STANDARD
from tracer.text.amount import counted
from tracer.text.file_error import unwritten
from tracer.trace import codec
from tracer.trace.compiled import BlockRecord, PlacesRecord, SiteRecord
from tracer.trace.record import Header, Line

FRAME = 1 << 22
"""Bytes of text behind which a new frame begins: to go back into one costs some milliseconds."""


def check_trace_output(path: Path) -> None:
    """Look whether a trace can be written at ``path``, before there is a guest. Make nothing.

    Raises TraceError.
    """
    there = _is_trace(path)
    if there:
        _check_at_rest(path)
    try:
        check_output(path, kind="trace", in_place=not there)
    except TracerError as error:
        raise TraceError(str(error)) from None


class TraceWriter:
    """Append records to a trace, each handed to the operating system before :meth:`append` returns.

    A crash of vetrace or of the guest therefore loses no record; only a crash of the host can. A
    name that ends in ``.zst`` gives Zstandard frames of :data:`FRAME` bytes of text, at each of
    which a reader can begin, with a checksum each, flushed to a block boundary after every record.
    A record that does not fit on the disk is taken back,
    so what came before it stays readable. The string ``-`` is standard output, and ``name``
    says so.
    """

    def __init__(self, path: Path | str, header: Header) -> None:
        """Create the file at ``path`` and write its header.

        A regular file that is there is kept, with ``.old`` behind its name. Raise
        :exc:`TraceError` when the file cannot be created or written, or another run still writes
        there, and UsageError for a name that no file has.
        """
        self.path = file_named(path)
        self._is_standard = path == STANDARD  # no Path: that is a file of this name
        self.name = "standard output" if self._is_standard else str(path)
        self.records = 0
        self._size = 0  # bytes of whole lines in the file
        self._failed: TraceError | None = None
        self._compressor = (
            zstandard.ZstdCompressor(level=3, write_checksum=True)
            if self.path.suffix == ".zst"
            else None
        )
        self._frame: zstandard.ZstdCompressionObj | None = None  # between two of them, None
        self._room = FRAME
        try:
            self._fd = self._opened()
        except (OSError, ValueError) as error:  # a name with a NUL is the latter
            raise TraceError(unwritten(f"trace {self.name}", error)) from error
        try:
            self._put(codec.encode(header))
        except TraceError:
            self.close()
            raise

    def _opened(self) -> int:
        if self._is_standard:
            sys.stdout.flush()
            return os.dup(sys.stdout.fileno())
        _keep(self.path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        opened = os.open(self.path, flags, 0o666)  # less what the user's umask takes away
        # A file system without locks has none to ask for either.
        with contextlib.suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return opened

    def append(self, record: Line) -> None:
        """Write one record through to the operating system.

        Raise :exc:`TraceError` when that fails; the trace then ends before this record, and
        every later call raises the same error again.
        """
        self._put(codec.encode(record))
        self.records += _stands_for(record)

    def copy(self, line: bytes) -> None:
        """Write a line of another trace, with its newline; raise as :meth:`append`."""
        self._put(line)
        self.records += 1

    def close(self) -> None:
        """Close the file; a second call does nothing. Raise :exc:`TraceError` as :meth:`append`."""
        if self._fd < 0:
            return
        try:
            if self._frame is not None and self._failed is None:
                self._write(self._frame.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH))
        finally:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A second error must not hide the one that is on its way.
        with contextlib.suppress(TraceError) if error else contextlib.nullcontext():
            self.close()

    def _put(self, line: bytes) -> None:
        if self._failed is not None:
            raise self._failed
        # Behind a record that a signal has torn nothing can follow.
        self._failed = TraceError(f"trace {self.name} was broken off in a record")
        self._write(line if self._compressor is None else self._packed(line, self._compressor))
        self._failed = None

    def _packed(self, line: bytes, compressor: zstandard.ZstdCompressor) -> bytes:
        frame = self._frame or compressor.compressobj()
        self._frame, self._room = frame, self._room - len(line)
        packed = frame.compress(line)
        if self._room > 0:
            return packed + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        self._frame, self._room = None, FRAME
        return packed + frame.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)

    # Write all of it or, after an error, none of it. The compressor is then ahead of the file, so
    # nothing may follow.
    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            if self._is_standard and isinstance(error, BrokenPipeError):
                self._failed = TraceError("nobody reads standard output any more")
                raise
            if not self._is_standard:  # which may be at the end of another file
                with contextlib.suppress(OSError):  # a pipe or a device has nothing to take back
                    os.ftruncate(self._fd, self._size)
            self._failed = TraceError(
                f"{unwritten(f'trace {self.name}', error)};"
                f" what is in it is safe: {counted(self.records, 'record')}"
            )
            raise self._failed from error
        self._size += len(data)


def _stands_for(line: Line) -> int:
    # Returns how many records a reader makes of a line.
    if isinstance(line, BlockRecord):
        return len(line.rows) // SLOT_SIZE
    return not isinstance(line, SiteRecord | PlacesRecord)


def ring_of(trace: Path) -> Path:
    """Return the path of the ring that is saved beside a trace where vetrace is killed."""
    return trace.with_name(f"{trace.name}.ring")


def earlier_of(trace: Path) -> Path:
    """Return the path of what came before the accesses in a trace that keeps the last ones."""
    return trace.with_name(f"{trace.stem}.earlier{trace.suffix}")


def next_of(trace: Path, number: int) -> Path:
    """Return the path of a later run's trace, by the number of that run."""
    return trace.with_name(f"{trace.stem}.{number}{trace.suffix}")


# A run that goes on would find another one's trace under its name.
def _check_at_rest(path: Path) -> None:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TraceError(
            f"trace {path} is being written by a run that goes on; choose another name"
        ) from None
    except OSError:  # it cannot be read, or has no locks
        return


# An earlier trace is not lost to a second run with the same name.
def _keep(path: Path) -> None:
    if _is_trace(path):
        _check_at_rest(path)
        old = path.with_name(f"{path.name}.old")
        path.replace(old)
        for companion in (ring_of, earlier_of):
            companion(old).unlink(missing_ok=True)
            if companion(path).is_file():
                companion(path).replace(companion(old))


def _is_trace(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
