"""Name bytes of registers: rules such as ``*.msix-table+0-0xb%0x10``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from tracer.errors import UsageError
from tracer.text.number import ends, whole

_RULE = re.compile(r"(?P<region>.+)\+(?P<span>[\w.-]+)(?:%(?P<stride>\w+))?")


@dataclass(frozen=True, slots=True)
class Mask:
    """Name the bytes at offsets ``first`` to ``last`` of the regions that a glob fits.

    With a ``stride`` they come again each ``stride`` bytes from there on. ``kept`` are the bits of
    each first byte that are not meant.
    """

    region: str
    first: int
    last: int
    stride: int = 0
    kept: int = 0

    def covers(self, region: str, offset: int) -> bool:
        """Tell whether the byte at ``offset`` is one of those named."""
        return self._place(offset) <= self.last - self.first and self._is_of(region, offset)

    def leaves(self, region: str, offset: int) -> int:
        """Return ones for the bits of the byte at ``offset`` that are not meant."""
        if not self.covers(region, offset):
            return 0xFF
        return 0 if self._place(offset) else self.kept

    # How many bytes behind the nearest first byte.
    def _place(self, offset: int) -> int:
        behind = offset - self.first
        return behind % self.stride if self.stride else behind

    def _is_of(self, region: str, offset: int) -> bool:
        return offset >= self.first and fnmatchcase(region, self.region)


def parse_mask(text: str) -> Mask:
    """Read ``REGION+FIRST[-LAST][%STRIDE]``, as in ``*.msix-table+0-0xb%0x10``.

    Raise UsageError, saying what is wrong, when it is none.
    """
    found = _RULE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text} is no rule: nvme+0x28-0x37 is, and *.msix-table+0-0xb%0x10")
    first, last = ends(found["span"], partial(whole, what="offset", bits=64))
    stride = found["stride"] and whole(found["stride"], "stride", least=1, bits=64)
    return Mask(found["region"], first, last, stride or 0)


def kept_bits(masks: Sequence[Mask], region: str, offset: int, width: int) -> int:
    """Return ones for the bits of a value of ``width`` bytes at ``offset`` that no mask means."""
    kept = 0
    for byte in range(width):
        bits = 0xFF
        for mask in masks:
            bits &= mask.leaves(region, offset + byte)
        kept |= bits << 8 * byte
    return kept
