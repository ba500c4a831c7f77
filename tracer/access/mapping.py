"""A mapping that the guest makes: linear addresses that lead to physical ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NewMapping:
    """Say that ``size`` bytes at ``linear`` are about to lead to ``physical``.

    ``tables`` is the linear address of the topmost page table, None for the current one.
    """

    linear: int
    physical: int
    size: int
    tables: int | None = None
