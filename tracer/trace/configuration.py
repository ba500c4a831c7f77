"""PCI configuration space by ports: where an access to CFC to CFF leads, by what CF8 was set to.

Ref: PCI Local Bus 3.0, 3.2.2.3.2 (configuration mechanism #1); PCI Express Base 2.0, 7.2.2 (the
layout of ECAM, whose addresses are taken here); QEMU hw/pci/pci_host.c, pci_host_config_write,
pci_host_data_write (bits 30 to 24 of the latch mean nothing to it, bits 1 and 0 those of the port).
"""

from __future__ import annotations

from tracer.compiled.inputs import Given
from tracer.trace.record import RegionInfo
from tracer.x86.bus import Direction

ADDRESS = 0xCF8
DATA = range(0xCFC, 0xD00)
PORTS = range(ADDRESS, DATA.stop)
"""The ports that lead to configuration space, and those between."""

REGION = "config"
"""The region of configuration space by ports, whose offsets are as in ECAM."""

_LAST = (1 << 28) - 1
_ENABLE = 1 << 31


def configuration_space() -> RegionInfo:
    """Return the region as it is announced in a trace."""
    return RegionInfo(
        name=REGION, start=0, end=_LAST, qemu_name="", device=REGION, traced=True, space="config"
    )


class Latch:
    """Follow what the port CF8 is set to: ``told``, None as long as that is not known."""

    def __init__(self, told: int | None = None) -> None:
        self.told = told

    def follow(self, says: Given) -> None:
        """Take notice of an access to a port that a monitor has made."""
        if not says.manner.raised:
            (value,) = says.values
            self.set(says.address, says.manner.width, value, says.direction)

    def set(self, port: int, width: int, value: int, direction: Direction) -> None:
        """Take notice of an access to a port: a write of 4 bytes sets the latch."""
        if port == ADDRESS and direction == "write" and width == 4:
            self.told = value

    def lead(self, port: int, width: int) -> tuple[int, bool]:
        """Return where an access to a port of :data:`DATA` leads, and whether it reaches that.

        The address has bus, device, function and register from bits 20, 15, 12 and 0 on. Nothing is
        reached where the latch is not known or not enabled, or the access is not aligned: QEMU
        refuses that.
        """
        told = self.told or 0
        address = (told & 0xFF_FF00) << 4 | told & 0xFF | port & 3
        return address, bool(told & _ENABLE) and port % width == 0
