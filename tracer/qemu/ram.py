"""Guest RAM, mapped into this process: read and written at memory speed, without a packet.

QEMU and vetrace share one anonymous file (memfd), so nothing is left on disk whatever happens.
Code must not be written this way: QEMU would not notice that a translated block went stale.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from dataclasses import dataclass

from tracer.errors import GuestError


@dataclass(frozen=True, slots=True)
class Span:
    """Say that physical ``start`` to ``end`` (inclusive) is RAM at ``offset`` of the file."""

    start: int
    end: int
    offset: int


class GuestMemory:
    """Own the shared file; a :class:`tracer.x86.paging.PhysicalMemory`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.descriptor = os.memfd_create("vetrace-ram")
        try:
            os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
        except (OSError, ValueError, OverflowError) as error:
            os.close(self.descriptor)
            raise GuestError(
                f"cannot allocate {size >> 20} MiB of guest memory: {error}"
            ) from error
        self._spans: list[Span] = []
        self._starts: list[int] = []

    def lay_out(self, spans: list[Span]) -> None:
        """Learn where RAM lies in the physical address space."""
        self._spans = sorted(spans, key=lambda span: span.start)
        self._starts = [span.start for span in self._spans]

    def read(self, physical: int, size: int) -> bytes:
        """Return ``size`` bytes at a physical address; LookupError when they are not all RAM."""
        offset = self.offset(physical, size)
        return self._map[offset : offset + size]

    def write(self, physical: int, data: bytes) -> None:
        """Write bytes at a physical address; LookupError when they are not all RAM."""
        offset = self.offset(physical, len(data))
        self._map[offset : offset + len(data)] = data

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Return the first and last physical address of each piece of RAM."""
        return [(span.start, span.end) for span in self._spans]

    def holds(self, physical: int, size: int) -> bool:
        """Tell whether ``size`` bytes at a physical address are RAM, every one of them."""
        end = physical + size
        while physical < end:
            span = self._span(physical)
            if span is None:
                return False
            physical = span.end + 1
        return True

    def offset(self, physical: int, size: int) -> int:
        """Return where ``size`` bytes at a physical address are in the file.

        LookupError when they are not all RAM.
        """
        span = self._span(physical)
        if span is None or physical + size - 1 > span.end:
            raise LookupError(f"no RAM at physical {physical:#x}")
        return span.offset + physical - span.start

    def close(self) -> None:
        """Give the memory back to the operating system."""
        self._map.close()
        os.close(self.descriptor)

    def _span(self, physical: int) -> Span | None:
        index = bisect_right(self._starts, physical) - 1
        if index < 0 or physical > self._spans[index].end:
            return None
        return self._spans[index]
