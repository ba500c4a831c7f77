"""What was there before each change, kept where a process that was forked off finds it.

An entry is whole before it counts: a process that is killed in the middle of one has not made the
change yet.

Ref: mmap(2), MAP_SHARED and MAP_ANONYMOUS.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tracer.errors import TracerError

_SIZE = 64 << 20
"""Bytes; pages that nothing is in take no memory."""
_HEAD = struct.Struct("<QB")  # where the entries end; whether nobody undoes them any more
_ENTRY = struct.Struct("<BQI")  # kind, address, size; the size again lies behind the data
_TAIL = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Change:
    """Hold what was ``before`` at an address; ``kind`` says which address that is."""

    kind: int
    address: int
    before: bytes


class UndoLog:
    """Own one such account, from where it is made to :meth:`close`."""

    def __init__(self, size: int = _SIZE) -> None:
        self._memory = mmap.mmap(-1, size)
        self._memory[: _HEAD.size] = _HEAD.pack(_HEAD.size, False)

    def note(self, kind: int, address: int, before: bytes) -> None:
        """Note what is there, before it is changed. Raises TracerError when there is no room."""
        if self.closed:
            return
        at, _ = _HEAD.unpack_from(self._memory)
        entry = _ENTRY.pack(kind, address, len(before)) + before + _TAIL.pack(len(before))
        if at + len(entry) > len(self._memory):
            raise TracerError("more is changed in the guest than could be undone")
        self._memory[at : at + len(entry)] = entry
        self._memory[:8] = (at + len(entry)).to_bytes(8, "little")

    def changes(self) -> Iterator[Change]:
        """Yield what to put back, the latest change first."""
        end, _ = _HEAD.unpack_from(self._memory)
        while end > _HEAD.size:
            (size,) = _TAIL.unpack_from(self._memory, end - _TAIL.size)
            data = end - _TAIL.size - size
            end = data - _ENTRY.size
            kind, address, _ = _ENTRY.unpack_from(self._memory, end)
            yield Change(kind, address, self._memory[data : data + size])

    def close(self) -> None:
        """Have nothing of it undone, and nothing more noted."""
        self._memory[8:9] = b"\1"

    @property
    def closed(self) -> bool:
        """Tell whether that is so, in whichever process it was said."""
        return self._memory[8:9] != b"\0"
