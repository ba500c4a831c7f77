"""Whose messages are: which pin of an I/O APIC, which entry of a table, which capability.

A message-signalled interrupt is a write of data to an address. The guest has told each source which
these are: by an entry of a device's MSI-X table, by the MSI capability of a function, or by a
redirection entry of the I/O APIC, which sends messages for lines. So the pair names the source, by
what the guest has written so far; where several were given the same pair, it names all of them.

Ref: PCI Local Bus 3.0, 6.8.1 (MSI), 6.8.2 (MSI-X); Intel 82093AA, 3.2.4 (redirection entries);
Intel SDM vol. 3A, 10.11 (what a message says); QEMU hw/intc/ioapic.c (ioapic_entry_parse).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tracer.compiled.message import Message
from tracer.trace.configuration import REGION

_TABLE, _IOAPIC, _ECAM = ".msix-table", "ioapic", "ecam"
_ENTRY_SIZE = 16
_SELECT, _WINDOW = 0x00, 0x10
_FIRST = 0x10
"""The index of the first redirection entry: two registers of 4 bytes each."""

_MESSAGES = 0xFEE
"""Bits 31 to 20 of an address that is a message's."""
_REMAPPED = 1 << 4
"""The bit of an address that an IOMMU takes the vector from elsewhere for (Intel VT-d, 5.1.2.2)."""
_LONGEST = 0x10
"""Bytes of an MSI capability behind its first, up to the data."""
_FIXED, _LOWEST, _EXTERNAL = 0, 1, 7
"""Delivery modes: to all that are named, to one of them, with the vector that a PIC tells."""
_PIN_MASKED = 1 << 16

_CAPABILITY = re.compile(r"([0-9a-f]+):([0-9a-f]+)\.([0-7]) msi")

_Key = TypeVar("_Key", tuple[str, int], int)


@dataclass(frozen=True, slots=True)
class Holder:
    """Name a source of messages that a guest has given an address and data.

    It sends any of ``count`` values from ``data`` on. Nothing comes of one that is ``masked``.
    """

    name: str
    address: int
    data: int
    count: int = 1
    masked: bool = False

    def sends(self, address: int, data: int) -> bool:
        """Tell whether a message may be its own."""
        return address == self.address and self.data <= data < self.data + self.count

    def holds(self, vector: int) -> bool:
        """Tell whether an interrupt of that vector may be its own."""
        mode = self.data >> 8 & 7
        is_plain = self.address >> 20 == _MESSAGES and not self.address & _REMAPPED
        first = self.data & 0xFF
        return is_plain and mode in (_FIXED, _LOWEST) and first <= vector < first + self.count

    def message(self, vector: int) -> Message:
        """Return its message with a vector that it :meth:`holds`."""
        return Message(self.address, self.data - (self.data & 0xFF) + vector)

    @property
    def destination(self) -> tuple[int, bool]:
        """Return which local APIC is meant, and whether that is a logical number."""
        return self.address >> 12 & 0xFF, bool(self.address & 1 << 2)


def tells(region: str) -> bool:
    """Tell whether what a guest writes into a region may be about messages."""
    return region.endswith(_TABLE) or region in (REGION, _ECAM) or _is_ioapic(region)


def table_owners(sources: str) -> list[str]:
    """Return the devices among the sources of a message, by whose MSI-X tables it was sent."""
    found = (each.rpartition("[")[0] for each in sources.split(" or ") if each.endswith("]"))
    return [*dict.fromkeys(found)]


def functions(sources: str) -> list[int]:
    """Return the functions among the sources of a message that sent it by their MSI capability.

    Each is its bus, device and function, from bits 8, 3 and 0 on.
    """
    found = (_CAPABILITY.fullmatch(each) for each in sources.split(" or "))
    told = [[int(part, 16) for part in each.groups()] for each in found if each]
    return [bus << 8 | device << 3 | function for bus, device, function in told]


class Messages:
    """Follow what a guest writes for its sources of messages, and tell whose a message is."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int], bytes] = {}
        self._selected: dict[str, int] = {}
        self._pins: dict[tuple[str, int], bytes] = {}
        self._functions: dict[int, bytes] = {}
        self._former: dict[int, Holder] = {}
        self._holders: list[Holder] | None = None
        self._known: dict[tuple[int, int], str | None] = {}

    def copy(self) -> Messages:
        """Return what has followed the same."""
        made = Messages()
        made._tables, made._pins = dict(self._tables), dict(self._pins)
        made._selected, made._functions = dict(self._selected), dict(self._functions)
        made._former, made._holders = dict(self._former), self._holders
        return made

    def note(self, region: str, offset: int, width: int, value: int) -> None:
        """Take notice of a write to a region, at an offset in it, or to configuration space."""
        if region.endswith(_TABLE):
            number, at = divmod(offset, _ENTRY_SIZE)
            key = region, number
            self._store(self._tables, key, _of_entry, at, width, value, _ENTRY_SIZE)
        elif region in (REGION, _ECAM):
            function, at = divmod(offset, 1 << 12)
            if at < 1 << 8:
                self._function(function, at, width, value)
        elif _is_ioapic(region) and offset == _SELECT:
            self._selected[region] = value & 0xFF
        elif _is_ioapic(region) and offset == _WINDOW:
            pin, half = divmod(self._selected.get(region, 0) - _FIRST, 2)
            if pin >= 0:
                self._store(self._pins, (region, pin), _of_pin, 4 * half, width, value, 8)

    def sources(self, address: int, data: int) -> str | None:
        """Return whose a message is: ``ioapic pin 4``, ``nvme[1]``; None where no one's.

        ``00:1f.2 msi`` is that of a function's capability. Several are joined by ``or``.
        """
        sent = address, data
        if sent not in self._known:
            found = [each for each in self.holders if each.sends(address, data)]
            names = {each.name for each in found if not each.masked} or {h.name for h in found}
            self._known[sent] = " or ".join(sorted(names)) or None
        return self._known[sent]

    @property
    def holders(self) -> list[Holder]:
        """Return all sources that the guest has given a message."""
        if self._holders is None:
            self._holders = [
                *(each for item in self._tables.items() for each in _of_entry(*item)),
                *(each for item in self._pins.items() for each in _of_pin(*item)),
                *(each for item in self._functions.items() for each in _of_function(*item)),
            ]
        return self._holders

    def former(self, vector: int) -> Holder | None:
        """Return whose a vector was last that is no one's now."""
        return self._former.get(vector)

    @property
    def external(self) -> bool:
        """Tell whether a pin sends what a PIC tells."""
        return any(
            each.data >> 8 & 7 == _EXTERNAL and not each.masked
            for item in self._pins.items()
            for each in _of_pin(*item)
        )

    # Capabilities are where an address of a message was written: their list may have been read
    # before what is followed begins.
    def _function(self, function: int, at: int, width: int, value: int) -> None:
        is_message = width == 4 and value >> 20 == _MESSAGES
        if is_message or function in self._functions:
            self._store(self._functions, function, _of_function, at, width, value, 1 << 8)

    def _store(
        self,
        all_words: dict[_Key, bytes],
        key: _Key,
        held: Callable[[_Key, bytes], Iterable[Holder]],
        at: int,
        width: int,
        value: int,
        size: int,
    ) -> None:
        words = bytearray(all_words.get(key, bytes(size)))
        data = (value & (1 << 8 * width) - 1).to_bytes(width, "little")[: size - at]
        if words[at : at + len(data)] == data and key in all_words:
            return
        for each in held(key, bytes(words)):
            self._leave(each)
        words[at : at + len(data)] = data
        all_words[key] = bytes(words)
        self._holders = None
        self._known.clear()

    # Interrupts may be on their way while a source is given another vector.
    def _leave(self, holder: Holder) -> None:
        first = holder.data & 0xFF
        for vector in range(first, min(first + holder.count, 1 << 8)):
            before = self._former.get(vector)
            # A masked source may be half written.
            if holder.holds(vector) and (before is None or not holder.masked):
                self._former[vector] = holder


def _is_ioapic(region: str) -> bool:
    return region.partition("#")[0] == _IOAPIC


def _number(words: bytes, at: int, width: int) -> int:
    return int.from_bytes(words[at : at + width], "little")


def _of_entry(key: tuple[str, int], words: bytes) -> Iterator[Holder]:
    region, number = key
    name = f"{region.removesuffix(_TABLE)}[{number}]"
    masked = bool(_number(words, 12, 4) & 1)
    yield Holder(name, _number(words, 0, 8), _number(words, 8, 4), masked=masked)


# An I/O APIC makes its message of a redirection entry.
def _of_pin(key: tuple[str, int], words: bytes) -> Iterator[Holder]:
    region, pin = key
    entry = _number(words, 0, 8)
    address = _MESSAGES << 20 | (entry >> 56) << 12 | (entry >> 11 & 1) << 2
    data = entry & 0x7FF | entry & 1 << 15
    yield Holder(f"{region} pin {pin}", address, data, masked=bool(entry & _PIN_MASKED))


# Bits 4 to 6 of the word before an address say how many vectors a capability has, bit 0 whether it
# sends any. The data stands behind the address, or with an upper half of that 4 bytes further on.
def _of_function(function: int, words: bytes) -> Iterator[Holder]:
    name = f"{function >> 8:02x}:{function >> 3 & 31:02x}.{function & 7} msi"
    for at in range(4, len(words) - _LONGEST, 4):
        address = _number(words, at, 4)
        if address >> 20 == _MESSAGES:
            control = _number(words, at - 2, 2)
            for data in (_number(words, at + 8, 2), _number(words, at + 4, 2)):
                if data:
                    yield Holder(name, address, data, 1 << (control >> 4 & 7), not control & 1)
