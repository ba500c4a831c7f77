"""The guest's clock, asked from outside, whatever the guest does, and if it stands.

QEMU tells its virtual time through no monitor command. But a network filter notes with it each
packet that comes by (``filter-dump``), and a packet comes by when one is sent into a network that
no device is on: the guest sees nothing, and nothing stops.

Ref: QEMU net/dump.c (dump_receive_iov: a pcap record with QEMU_CLOCK_VIRTUAL, counted from the
whole second at which the filter was made), net/socket.c (a stream of packets, each behind its
length in 4 bytes), net/hub.c (a port takes packets where another one can).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

_HUB = 62
_KEPT = 1  # bytes of a packet in the dump
_PACKET = struct.pack("!I", 14) + bytes(14)  # an Ethernet header alone
_HEADER = 24  # bytes before the first record
_RECORD = struct.Struct("<IIII")  # seconds, microseconds, bytes kept, bytes there were
_SIZE = _RECORD.size + _KEPT


class GuestClock:
    """Own one guest's clock, beginning before the guest runs."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._dump = os.memfd_create("vetrace-clock")
        self._begin: int | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Return the file descriptors that QEMU has to inherit."""
        return self._theirs.fileno(), self._dump

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the arguments that QEMU needs for it."""
        return (
            "-netdev", f"socket,id=clock,fd={self._theirs.fileno()}",
            "-netdev", f"hubport,id=clock-port,hubid={_HUB},netdev=clock",
            "-netdev", f"hubport,id=clock-end,hubid={_HUB}",
            "-object",
            f"filter-dump,id=clock-dump,netdev=clock,maxlen={_KEPT},"
            f"file=/proc/self/fd/{self._dump}",
        )  # fmt: skip

    def ask(self) -> None:
        """Ask for the present time. The first time is before the guest runs.

        A guest that stands is asked once: QEMU takes the next packet when it goes on.
        """
        with contextlib.suppress(OSError):  # QEMU is gone, or has not taken any for long
            self._ours.send(_PACKET)

    @property
    def answers(self) -> int:
        """Return how often QEMU has answered."""
        return max(os.fstat(self._dump).st_size - _HEADER, 0) // _SIZE

    @property
    def time_ns(self) -> int | None:
        """Return the time in nanoseconds that QEMU told last, None when it has told none."""
        answers = self.answers
        if not answers:
            return None
        if self._begin is None:
            (self._begin, *_) = self._read(_HEADER)
        seconds, microseconds, *_ = self._read(_HEADER + (answers - 1) * _SIZE)
        return (seconds - self._begin) * 1_000_000_000 + microseconds * 1_000

    def close(self) -> None:
        """Close its files."""
        self._ours.close()
        self._theirs.close()
        os.close(self._dump)

    def _read(self, offset: int) -> tuple[int, int, int, int]:
        seconds, microseconds, kept, all_ = _RECORD.unpack(
            os.pread(self._dump, _RECORD.size, offset)
        )
        return seconds, microseconds, kept, all_
