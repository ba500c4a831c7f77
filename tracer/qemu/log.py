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
import stat
from pathlib import Path

from tracer.errors import QemuError

MAP_EVENT = "flatview_new"
"""The trace event that has to be switched on for it."""

_LINE = MAP_EVENT.encode()
_RESET = b"CPU Reset (CPU 0)"  # hw/core/cpu-common.c, cpu_common_reset
_OVERLAP = max(len(_LINE), len(_RESET)) - 1
_CHUNK = 1 << 20
_PUNCH = 0x03  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (linux/falloc.h)
_libc = ctypes.CDLL(None, use_errno=True)


class QemuLog:
    """Own the log of one QEMU: the file of a path, or one in memory that is forgotten once read.

    ``reset`` is where in it, in bytes, the first vCPU was reset last, as far as it has been read.
    """

    def __init__(self, path: Path | None) -> None:
        self._given = path
        self._descriptor = os.memfd_create("vetrace-log") if path is None else -1
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
        return os.fstat(self._descriptor).st_size

    @property
    def tells(self) -> bool:
        """Tell whether QEMU has told of its memory map at all: it does while it starts.

        It does not where its log goes elsewhere, or it was built to log in another way.
        """
        return self._tells

    def map_changed(self) -> bool:
        """Tell whether the memory map may have changed since this was asked last."""
        found = False
        for end, data in self._news():
            text = self._rest + data
            found = found or _LINE in text
            reset = text.rfind(_RESET)
            if reset >= 0:
                self.reset = end - len(text) + reset
            self._rest = text[-_OVERLAP:]
        self._tells = self._tells or found
        return found or not self._tells

    def tail(self, size: int) -> bytes:
        """Return the last ``size`` bytes."""
        if self._open():
            end = os.fstat(self._descriptor).st_size
            return os.pread(self._descriptor, size, max(0, end - size))
        return b""

    def close(self) -> None:
        """Close the file; safe more than once."""
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

    def _news(self) -> list[tuple[int, bytes]]:
        # Yields what was written since the last call, each piece with the offset of its end.
        news: list[tuple[int, bytes]] = []
        if not self._open() or os.fstat(self._descriptor).st_size == self._read:
            return news
        while data := os.pread(self._descriptor, _CHUNK, self._read):
            self._read += len(data)
            news.append((self._read, data))
        if self._given is None and self._read - self._forgotten > _CHUNK:
            self._forget()
        return news

    def _forget(self) -> None:
        # A guest may move its devices without end: gives the memory back, the length stays.
        size = ctypes.c_int64(self._read)
        _libc.fallocate(self._descriptor, _PUNCH, ctypes.c_int64(0), size)
        self._forgotten = self._read
