"""Accesses to PCI configuration space by ports, as QEMU's log tells them.

The line of an access to the data port has its width; QEMU's own line beside it, before a read and
after a write, has the function that was accessed and the register. Where no function is, there is
no such line: then the port of the address tells where the access led.

Ref: QEMU 7.2, hw/pci/pci_host.c (pci_host_config_read_common, pci_host_config_write_common),
hw/pci/trace-events (pci_cfg_read, pci_cfg_write).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tracer.check.qemu_log import LogEntry
from tracer.trace.configuration import ADDRESS, DATA, Latch

_LATCH = "pci-conf-idx"
_DATA = "pci-conf-data"
_NAMES = frozenset({_LATCH, _DATA, "pcie-mmcfg-mmio"})
"""QEMU's names of the regions that lead to configuration space."""
_NO_DEVICE = "io"
"""QEMU's name of ports where nothing is, which on a machine without PCI are these as well."""
_ON_A_BOARD = {ADDRESS: _LATCH, **dict.fromkeys(DATA, _DATA)}
"""The names of these ports on a machine with PCI."""

_EVENT = b"pci_cfg_"
_ADDRESS = re.compile(
    rb"pci_cfg_(read|write) (.*) ([0-9a-f]{2}):([0-9a-f]{2})\.([0-7]) @0x([0-9a-f]{1,3})"
    rb" (?:->|<-) 0x([0-9a-f]{1,8})\s*$"
)


class ConfigurationLog:
    """Make entries of a log's lines of configuration space, which come in their order.

    They have ``space`` set, and the name of the device, empty where none is there.
    """

    def __init__(self) -> None:
        self._latch = Latch()
        self._read: re.Match[bytes] | None = None  # whose port is told by a line to come
        self._write: LogEntry | None = None  # to the data port, whose function may be told yet

    def line(self, line: bytes, number: int) -> Iterable[LogEntry]:
        """Take a line, and return the access that is complete by it."""
        found = _ADDRESS.search(line) if _EVENT in line else None
        if found is None:
            return ()
        if found[1] == b"read":
            self._read = found
            return ()
        entry, self._write = self._write, None
        return () if entry is None else (_at(entry, found),)

    def entry(self, entry: LogEntry) -> Iterable[LogEntry]:
        """Take an access, and return those to configuration space that are complete by it."""
        if entry.name == _NO_DEVICE and entry.address in _ON_A_BOARD:
            entry = replace(entry, name=_ON_A_BOARD[entry.address])
        return () if entry.name not in _NAMES or entry.refused else self._follow(entry)

    def _follow(self, entry: LogEntry) -> Iterator[LogEntry]:
        yield from self.rest()
        found, self._read = self._read, None
        if entry.name == _LATCH:
            self._latch.set(entry.address, entry.width, entry.value, entry.direction)
        elif entry.name == _DATA and entry.direction == "write":
            self._write = entry
        elif entry.name == _DATA and found is not None:
            yield _at(entry, found)
        elif entry.name == _DATA and entry.value == (1 << 8 * entry.width) - 1:
            yield from self._nowhere(entry)

    def rest(self) -> Iterable[LogEntry]:
        """Return the write that nothing more is told about."""
        entry, self._write = self._write, None
        return () if entry is None else self._nowhere(entry)

    def _nowhere(self, entry: LogEntry) -> Iterable[LogEntry]:
        # No function is there. A read of anything else has lost its line.
        address, reached = self._latch.lead(entry.address, entry.width)
        return (replace(entry, address=address, name="", space="config"),) if reached else ()


def _at(entry: LogEntry, found: re.Match[bytes]) -> LogEntry:
    # Returns the access to a data port, where QEMU says that it led.
    bus, device, function, register, value = (int(part, 16) for part in found.groups()[2:])
    return replace(
        entry,
        address=bus << 20 | device << 15 | function << 12 | register,
        value=value & (1 << 8 * entry.width) - 1,
        name=found[2].decode(errors="replace"),
        space="config",
    )
