"""QEMU's own log, followed for the moments at which its memory map changes.

QEMU logs a line whenever it renders a view of an address space anew (trace event ``flatview_new``):
when a BAR moves or its decode is switched, a bridge's window, a device comes or goes, the machine
is reset, a flash chip changes its mode, whatever the guest or the monitor did it by. The line is
written before the instruction that caused it completes, so that the length of the log tells, at a
stop, whether the map is still the one that was asked for last.

Ref: QEMU softmmu/memory.c (flatview_init), softmmu/trace-events, util/log.c (qemu_log_unlock).
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from tracer.errors import QemuError
from tracer.text.file_error import unwritten

MAP_EVENT = "flatview_new"
"""The trace event that has to be switched on for it."""

_LINE = MAP_EVENT.encode()
_RESET = b"CPU Reset (CPU 0)"  # hw/core/cpu-common.c, cpu_common_reset
_AT_PORT = (
    rb"^memory_region_ops_\w+ cpu [-\w]+ mr \w+ addr 0x[0-9a-f]{1,4} value \w+ size \d+"
    rb" name '(?!(?:%s)'$).*\n"
)
_OVERLAP = max(len(_LINE), len(_RESET)) - 1
_CHUNK = 1 << 20
_PUNCH = 0x03  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (linux/falloc.h)
_libc = ctypes.CDLL(None, use_errno=True)


class QemuLog:
    """Own the log of one QEMU: the file of a path, or one in memory that is forgotten once read.

    With ``kept`` it is the latter, and what is worth keeping of it goes to the file of that path as
    it is taken: all but what is :meth:`left out <leave_out>`. Sizes and places are those of what is
    kept. ``reset`` is where in it, in bytes, the first vCPU was reset last, as far as it has been
    read.
    """

    def __init__(self, path: Path | None, *, kept: Path | None = None) -> None:
        self._given = path
        self._descriptor = os.memfd_create("vetrace-log") if path is None else -1
        self._sieve = None if kept is None else _Sieve(kept)
        self._changed = False
        self._read = 0
        self._forgotten = 0
        self._rest = b""
        self._tells = False
        self.reset = 0

    @property
    def path(self) -> str:
        """Return what QEMU, which inherits the :attr:`descriptors`, opens to write."""
        return f"/proc/self/fd/{self._descriptor}" if self._given is None else str(self._given)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Return the file descriptors that QEMU has to inherit."""
        return (self._descriptor,) if self._given is None else ()

    @property
    def size(self) -> int:
        """Return how many bytes were written; raises QemuError where there is no such file."""
        if not self._open():
            raise QemuError(
                f"QEMU does not write its log to {self.path}, or it is no file;"
                " leave -D and -trace file= out of the QEMU arguments"
            )
        if self._sieve is not None:
            self.take()
            return self._sieve.size
        return os.fstat(self._descriptor).st_size

    def leave_out_ports(self, memory: Collection[str]) -> None:
        """Keep no accesses to I/O ports from here on.

        A log tells a port by its number alone, so that what has one of QEMU's names of regions of
        ``memory`` is kept: it may lie there, or be told by its offset.
        """
        if self._sieve is not None:
            self.take()
            self._sieve.leave_out_ports(memory)

    @property
    def tells(self) -> bool:
        """Tell whether QEMU has told of its memory map at all: it does while it starts.

        It does not where its log goes elsewhere, or it was built to log in another way.
        """
        return self._tells

    def map_changed(self) -> bool:
        """Tell whether the memory map may have changed since this was asked last."""
        self.take()
        found, self._changed = self._changed, False
        return found or not self._tells

    def take(self, most: int | None = None) -> None:
        """Take what was written since the last time, at most so many bytes.

        Raises QemuError where it cannot be kept.
        """
        for end, data in self._news(most):
            text = self._rest + data
            self._changed = self._changed or _LINE in text
            reset = text.rfind(_RESET)
            if reset >= 0:
                self.reset = end - len(text) + reset
            self._rest = text[-_OVERLAP:]
        self._tells = self._tells or self._changed

    def tail(self, size: int) -> bytes:
        """Return the last ``size`` bytes."""
        if not self._open():
            return b""
        descriptor = self._descriptor
        if self._sieve is not None:
            self.take()
            descriptor = self._sieve.descriptor
        end = os.fstat(descriptor).st_size
        return os.pread(descriptor, size, max(0, end - size))

    def close(self) -> None:
        """Close the file; safe more than once."""
        if self._sieve is not None and self._descriptor >= 0:
            self.take()
            self._sieve.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> bool:
        # Tells whether there is a file to be read: it is QEMU that makes the one of a path.
        if self._descriptor < 0 and self._given is not None:
            try:
                self._descriptor = os.open(self._given, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                return False
        return self._descriptor >= 0 and stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def _news(self, most: int | None) -> Iterator[tuple[int, bytes]]:
        # Yields what was written since the last call, each piece with the offset of its end.
        if not self._open() or os.fstat(self._descriptor).st_size == self._read:
            return
        last = None if most is None else self._read + most
        while data := os.pread(self._descriptor, _CHUNK, self._read):
            self._read += len(data)
            if self._given is None and self._read - self._forgotten > _CHUNK:
                self._forget()
            yield (self._read, data) if self._sieve is None else self._sieve.put(data)
            if last is not None and self._read >= last:
                break

    def _forget(self) -> None:
        # A guest may move its devices without end: gives the memory back, the length stays.
        size = ctypes.c_int64(self._read)
        _libc.fallocate(self._descriptor, _PUNCH, ctypes.c_int64(0), size)
        self._forgotten = self._read


class _Sieve:
    # Copies a log to a file, line by line, without accesses to ports.

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self.size = 0
        self._path = path
        self._line = b""
        self._noise: re.Pattern[bytes] | None = None

    def leave_out_ports(self, memory: Collection[str]) -> None:
        told = b"|".join(re.escape(name.encode()) for name in sorted(memory))
        self._noise = re.compile(_AT_PORT % told, re.MULTILINE)

    def put(self, data: bytes) -> tuple[int, bytes]:
        # Returns what is kept of it, and where that ends.
        text = self._line + data
        end = text.rfind(b"\n") + 1
        whole, self._line = text[:end], text[end:]
        if self._noise is not None:
            whole = self._noise.sub(b"", whole)
        self._write(whole)
        return self.size, whole

    def close(self) -> None:
        # A last line may have no end.
        self._write(self._line)
        os.close(self.descriptor)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError as error:
            raise QemuError(unwritten(str(self._path), error)) from error
        self.size += len(data)
