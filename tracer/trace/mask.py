"""Say which bytes of which registers differ from run to run without meaning anything.

Ref: IA-PC HPET Specification 1.0a, 2.3 (main counter, comparators); Intel SDM vol. 3A, table 10-1
(local APIC); PCI Local Bus Specification 3.0, 6.8.2.6 (MSI-X table entries); NVM Express Base
Specification 1.4, 3.1 (ASQ, ACQ); Virtual I/O Device 1.2, 4.1.4.3 (common configuration), 4.2.2
and 4.2.4 (registers over MMIO, and those of before 1.0).
"""

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

    With a ``stride`` the offsets are those in each ``stride`` bytes of the region.
    """

    region: str
    first: int
    last: int
    stride: int | None = None

    def covers(self, region: str, offset: int) -> bool:
        """Tell whether the byte at ``offset`` is one of those named."""
        within = offset % self.stride if self.stride else offset
        return self.first <= within <= self.last and fnmatchcase(region, self.region)


def parse_mask(text: str) -> Mask:
    """Read ``REGION+FIRST[-LAST][%STRIDE]``, as in ``*.msix-table+0-0xb%0x10``.

    Raise UsageError, saying what is wrong, when it is none.
    """
    found = _RULE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text} is no rule: nvme+0x28-0x37 is, and *.msix-table+0-0xb%0x10")
    first, last = ends(found["span"], partial(whole, what="offset", bits=64))
    stride = found["stride"] and whole(found["stride"], "stride", least=1, bits=64)
    return Mask(found["region"], first, last, stride or None)


VARYING = (
    Mask("*.msix-table", 0x0, 0xB, 0x10),  # message address and data: which CPU and vector
    Mask("nvme", 0x28, 0x37),  # admin queues: where in RAM
    Mask("nvme#[0-9]", 0x28, 0x37),  # of further ones
    Mask("nvme*.bar0", 0x28, 0x37),  # the same in a log that was imported
    Mask("virtio-*.common", 0x20, 0x37),  # queues: where in RAM
    *(Mask("virtio-mmio*", first, first + 7) for first in (0x80, 0x90, 0xA0)),  # the same
    Mask("virtio-mmio*", 0x40, 0x43),  # the same, by its page
)
"""Registers whose accesses count, but not these bytes of their values."""

PASSING = (
    Mask("hpet", 0xF0, 0xF7),  # main counter
    Mask("hpet", 0x8, 0xF, 0x20),  # comparators: when the next tick is due
    Mask("lapic", 0xB0, 0xB3),  # end of interrupt: as many as there were ticks
    Mask("lapic", 0x380, 0x383),  # timer: initial count
    Mask("lapic", 0x390, 0x393),  # timer: current count
)
"""Registers that are accessed as often as time passes, so that their accesses do not count."""


def kept_bits(masks: Sequence[Mask], region: str, offset: int, width: int) -> int:
    """Return ones for the bits of a value of ``width`` bytes at ``offset`` that no mask covers."""
    kept = 0
    for byte in range(width):
        if not any(mask.covers(region, offset + byte) for mask in masks):
            kept |= 0xFF << 8 * byte
    return kept
