"""Tell whether what a person wrote is the name of a region, a device or a call site."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from tracer.trace.record import Record, RegionRecord


class RegionNames:
    """Learn from a trace which devices its regions belong to."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[str, ...]] = {}

    def learn(self, record: Record) -> bool:
        """Take the names of its devices from the record that announces a region.

        Returns whether that changes what is known.
        """
        if not isinstance(record, RegionRecord):
            return False
        name, owners = record.region.name, record.region.owners
        changed = self._owners.get(name) != owners
        self._owners[name] = owners
        return changed

    def owners(self, region: str) -> tuple[str, ...]:
        """Return the names that stand for the devices of a region, its own device's first."""
        return self._owners.get(region, ())

    def named(self, pattern: str, region: str) -> bool:
        """Tell whether a pattern names a region: see :func:`names_region`."""
        return names_region(pattern, region, self.owners(region))


def names_region(pattern: str, region: str, owners: Collection[str] = ()) -> bool:
    """Tell whether ``pattern`` is the region's name, its device's name, or a glob that fits one.

    The device's name is what stands before a dot: ``nvme`` also names ``nvme.msix-table``. Others
    are among the ``owners``: the devices that this one is a part of, and QEMU's types of them.
    """
    return (
        pattern == region
        or region.startswith(f"{pattern}.")
        or fnmatchcase(region, pattern)
        or names_owner(pattern, owners)
    )


def device_of(region: str, owners: Sequence[str] = ()) -> str:
    """Return the name of a region's device, the first of its owners.

    Where these were never told it is what stands before a dot.
    """
    return owners[0] if owners else region.partition(".")[0]


def names_owner(pattern: str, owners: Collection[str]) -> bool:
    """Tell whether ``pattern`` is the name of one of the devices, or a glob that fits it."""
    return any(pattern == name or fnmatchcase(name, pattern) for name in owners)


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
