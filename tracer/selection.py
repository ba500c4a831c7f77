"""Choose among the device accesses of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from tracer.trace import Direction, Intercept, MemoryAccess


@dataclass(frozen=True, slots=True)
class Selection:
    """Say which device accesses are wanted; a criterion that is None lets all of them pass."""

    region: str | None = None
    symbol: str | None = None
    direction: Direction | None = None

    def wants(self, record: Intercept, access: MemoryAccess) -> bool:
        """Tell whether a device access of ``record`` meets every criterion."""
        return (
            (self.direction is None or access.direction == self.direction)
            and (self.region is None or names_region(self.region, access.region or ""))
            and (self.symbol is None or names_symbol(self.symbol, record.symbol))
        )


def names_region(pattern: str, region: str) -> bool:
    """Tell whether ``pattern`` is the region's name, its device's name, or a glob that fits it.

    The device's name is what stands before a dot: ``nvme`` also names ``nvme.msix-table``.
    """
    return pattern == region or region.startswith(f"{pattern}.") or fnmatchcase(region, pattern)


def names_symbol(pattern: str, symbol: str | None) -> bool:
    """Tell whether ``pattern`` is a call site, its function, or a glob that fits either.

    A call site is a function's name and an offset: ``nvme_pci_enable+0x5e``.
    """
    if symbol is None:
        return False
    function = symbol.partition("+")[0]
    return pattern in (symbol, function) or any(
        fnmatchcase(name, pattern) for name in (symbol, function)
    )
