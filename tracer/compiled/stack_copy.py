"""A stack as the guest copied it when it made an access: what an unwinder reads in its place.

By the time the record is taken, the guest's own stack holds something else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tracer.compiled.layout import STACK_FIELDS, STACK_SIZE

_DATA = STACK_FIELDS["DATA"]
_HEAD = struct.Struct("<4Q")
assert _HEAD.size == _DATA and [*STACK_FIELDS] == ["FIRST", "SIZE", "NEXT", "STATE", "DATA"]


@dataclass(frozen=True, slots=True)
class StackCopy:
    """Hold the bytes of the stacks that an access was under, the innermost first.

    Each run begins at a linear address. ``state`` is the quadword of the kernel's that was copied
    with them.
    """

    runs: tuple[tuple[int, bytes], ...]
    state: int

    def read(self, linear: int, size: int) -> bytes:
        """Return bytes at a linear address. Raises LookupError where they were not copied."""
        for start, data in self.runs:
            offset = linear - start
            if 0 <= offset <= len(data) - size:
                return data[offset : offset + size]
        raise LookupError(f"linear {linear:#x} is not in the stack that was copied")


def stack_copy(data: bytes, rsp: int) -> StackCopy:
    """Return the copy that ``data`` holds, of a record with this RSP."""
    first, size, following, state = _HEAD.unpack_from(data)
    size = min(size, STACK_SIZE - _DATA)
    first = min(first, size)
    end = _DATA + first
    runs = ((rsp, data[_DATA:end]), (following, data[end : _DATA + size]))
    return StackCopy(runs, state)
