"""Which region a physical address belongs to, as a trace announces its regions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tracer.check.qemu_log import LogEntry
from tracer.trace.record import RegionInfo, RegionRecord

_PORTS = 1 << 16
"""How many I/O ports there are: the log tells a port by its number alone (SDM vol. 1, 19.3)."""

_LOWEST_PCI_PORT = 0x1000
"""Below lie the ports of the board (Linux arch/x86/include/asm/pci.h, PCIBIOS_MIN_IO)."""

_MOST_PCI_PORTS = 0x100
"""Bytes that an I/O BAR has at most (PCI Local Bus 3.0, 6.2.5.1)."""

_KNOWN = 1 << 16  # places remembered

PORT = "port"
"""What all I/O ports are compared as, in one order: they share the bus."""

INTERRUPTS = "irq"
"""What interrupts are compared as, in one order for each vCPU."""


MESSAGES = "msi"
"""The space of messages, which are compared with the interrupts that came of them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Name the region that something lies in, and tell whether it was traced."""

    name: str
    traced: bool


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    qemu_name: str
    place: Place
    base: int  # address of offset 0


class Territory:
    """Look up log entries among the regions that a trace has announced so far.

    A region that moved keeps its old place as well, as the log is read ahead of the trace; of
    several places the one whose name the log tells counts, then the one announced last.
    ``switched`` names the regions that were traced for a part of the run only. Where regions of
    I/O ports were announced ports are of one place, :data:`PORT`. ``configuration`` tells that PCI
    configuration space was announced as well, and ``interrupts`` and ``messages`` that these were.
    """

    def __init__(self) -> None:
        self.switched: set[str] = set()
        self.configuration = False
        self.interrupts = False
        self.messages = False
        self._spans: list[_Span] = []
        self._known: dict[tuple[int, str], tuple[Place, int] | None] = {}
        self._traced: dict[tuple[str, int], bool] = {}
        self._bases: dict[str, int] = {}
        self._mapped: set[str] = set()
        self._port_spans: list[_Span] = []

    def add(self, record: RegionRecord) -> None:
        """Take notice of a region."""
        region = record.region
        if region.space != "memory":
            self.configuration = self.configuration or region.space == "config"
            self.interrupts = self.interrupts or region.space == INTERRUPTS
            self.messages = self.messages or region.space == MESSAGES
            if region.space == PORT:
                self._port_spans.insert(0, _span(region, Place(PORT, traced=True)))
                self._known.clear()
            return
        key = region.name, region.start
        if self._traced.setdefault(key, region.traced) != region.traced:
            self.switched.add(region.name)
        self._spans.insert(0, _span(region, Place(region.name, region.traced)))
        self._known.clear()
        self._bases.pop(region.name, None)

    def map(self, names: Iterable[str]) -> None:
        """Take notice that the guest has mapped regions."""
        new = {name for name in names if name not in self._mapped}
        if new:
            self._mapped |= new
            self._known.clear()

    def learn(self, region: str, base: int) -> None:
        """Take notice of the physical address of a region's offset 0."""
        self._bases[region] = base

    def place(self, entry: LogEntry, likely: str = "") -> tuple[str, LogEntry] | None:
        """Return the traced region of a refused access, and the access at its physical address.

        None when its name, all that tells its region, fits none, or several and not the ``likely``
        one among them.
        """
        spans = [span for span in self._spans if span.qemu_name == entry.name]
        names = {span.place.name for span in spans if span.place.traced}
        name = likely if likely in names else names.pop() if len(names) == 1 else None
        if name is None:
            return None
        start = next(span.start for span in spans if span.place.name == name)
        base = self._bases.get(name, start)
        return name, replace(entry, address=base + entry.address)

    def offset(self, region: str, address: int) -> int:
        """Return the offset of a physical address in a region that was announced, 0 in others."""
        span = next((each for each in self._spans if each.place.name == region), None)
        return 0 if span is None else address - self._bases.get(region, span.base)

    def ports(self, entry: LogEntry) -> set[int]:
        """Return the ports at which a refused access may have been made: its name tells which."""
        return {
            span.base + entry.address
            for span in self._port_spans
            if span.qemu_name == entry.name and span.start <= span.base + entry.address <= span.end
        }

    def find(self, entry: LogEntry) -> tuple[Place, LogEntry] | None:
        """Return what an entry accesses, and the entry at its physical address; None for a port.

        Memory that was not announced has QEMU's name and was not traced.
        """
        key = entry.address, entry.name
        if key not in self._known:
            if len(self._known) > _KNOWN:
                self._known.clear()
            self._known[key] = self._find(*key)
        found = self._known[key]
        if found is None:
            return None
        place, address = found
        return place, entry if address == entry.address else replace(entry, address=address)

    def _find(self, address: int, name: str) -> tuple[Place, int] | None:
        here = [span for span in self._spans if span.start <= address <= span.end]
        named = [span for span in here if span.qemu_name == name]
        if named:
            return named[0].place, address
        # Memory that the guest has mapped comes before its ports, which are announced as well.
        behind = self._behind_port(address, name)
        if behind is not None:
            return behind
        if any(
            span.start <= address <= span.end for span in self._port_spans if span.qemu_name == name
        ):
            return Place(PORT, traced=True), address
        behind = self._behind_alias(address, name)
        if behind is not None:
            return behind
        if address < _PORTS:
            return (Place(PORT, traced=True), address) if self._port_spans else None
        return here[0].place if here else Place(name, False), address

    def _behind_alias(self, address: int, name: str) -> tuple[Place, int] | None:
        # QEMU logs the address in the outermost container that it finds, which is not the machine's
        # memory where a board maps a device by an alias (memory_region_to_absolute_addr; gpex's
        # ECAM): the address is the offset then.
        known = {span.place.name for span in self._spans if span.qemu_name == name}
        if len(known) != 1:
            return None
        region = known.pop()
        spans = [span for span in self._spans if span.place.name == region]
        physical = address + self._bases.get(region, min(span.start for span in spans))
        inside = [span for span in spans if span.start <= physical <= span.end]
        return (inside[0].place, physical) if inside else None

    def _behind_port(self, address: int, name: str) -> tuple[Place, int] | None:
        # QEMU logs the port, whichever way the vCPU went, if a memory BAR is an alias of an I/O BAR
        # (hw/net/rtl8139.c). A driver that maps the one does not use the other. Either BAR lies at
        # a multiple of its size.
        spans = [span for span in self._spans if span.qemu_name == name]
        if not _LOWEST_PCI_PORT <= address < _PORTS or len({s.place.name for s in spans}) != 1:
            return None
        last = spans[0]
        size = last.end - last.start + 1
        if last.place.name not in self._mapped or size > _MOST_PCI_PORTS or size & (size - 1):
            return None
        return last.place, last.start + address % size


def _span(region: RegionInfo, place: Place) -> _Span:
    base = region.start if region.base is None else region.base
    return _Span(region.start, region.end, region.qemu_name, place, base)


# Regions in which IOMMUs take the messages that they remap.
_REMAPPED = frozenset({"vtd-ir", "amd_iommu_ir", "amdvi-ir"})


def is_message(entry: LogEntry) -> bool:
    """Tell whether an entry is a message-signalled interrupt on its way to a local APIC.

    Devices send them as writes to 0xfeexxxxx (Intel SDM vol. 3A, 10.11.1). In the page of the
    local APIC's own registers the first sixteen bytes are reserved, so nothing but a message is
    written there; and beyond that page nothing but messages goes (QEMU, hw/intc/apic.c,
    apic_mem_write). One that an IOMMU remaps goes to the IOMMU's own region, in an address space
    that no vCPU sees (QEMU hw/i386/intel_iommu.c, amd_iommu.c).
    """
    if entry.direction != "write":
        return False
    if entry.name in _REMAPPED:
        return True
    return entry.name == "apic-msi" and (
        entry.address & 0xFFF < 0x10 or entry.address >= 0xFEE01000
    )


def holds_vector(entry: LogEntry) -> bool:
    """Tell whether a message says which vector is meant.

    One of another delivery mode says none (Intel SDM vol. 3A, 10.11.2), nor what an IOMMU remaps.
    """
    return entry.name not in _REMAPPED and entry.value >> 8 & 7 <= 1
