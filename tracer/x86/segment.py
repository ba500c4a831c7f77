"""A segment register with what the CPU has loaded for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """Hold what a segment register selects, as the CPU keeps it (SDM vol. 3A, 3.4.3).

    ``flags`` is the upper half of its descriptor (SDM vol. 3A, figure 3-8), ``limit`` the offset of
    the last byte.
    """

    selector: int
    base: int
    limit: int
    flags: int
