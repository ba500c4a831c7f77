"""Whose the messages of QEMU's log are: which pin of an I/O APIC, which entry of a table.

A message-signalled interrupt is a write of data to an address. The guest has told each source which
these are: by an entry of a device's MSI-X table, by the MSI capability of a function, or by a
redirection entry of the I/O APIC, which sends messages for lines. So the pair names the source, by
what the guest has written so far; where several were given the same pair, it names all of them.

Ref: PCI Local Bus 3.0, 6.8.1 (MSI), 6.8.2 (MSI-X); Intel 82093AA, 3.2.4 (redirection entries);
Intel SDM vol. 3A, 10.11 (what a message says); QEMU hw/intc/ioapic.c (ioapic_entry_parse).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from tracer.check.qemu_log import LogEntry
from tracer.trace.configuration import REGION

_TABLE, _IOAPIC, _ECAM = ".msix-table", "ioapic", "ecam"
_ENTRY_SIZE = 16
_SELECT, _WINDOW = 0x00, 0x10
_FIRST = 0x10
"""The index of the first redirection entry: two registers of 4 bytes each."""

_MESSAGES = 0xFEE
"""Bits 31 to 20 of an address that is a message's."""
_LONGEST = 0x10
"""Bytes of an MSI capability behind its first, up to the data."""

_Pair = tuple[int, int]
_Key = TypeVar("_Key", tuple[str, int], int)


def tells(region: str) -> bool:
    """Tell whether what a guest writes into a region may be about messages."""
    return region.endswith(_TABLE) or region in (REGION, _ECAM, _IOAPIC)


class Messages:
    """Follow what a guest writes for its sources of messages, and tell whose a message is."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int], bytearray] = {}
        self._selected: dict[str, int] = {}
        self._pins: dict[tuple[str, int], bytearray] = {}
        self._functions: dict[int, bytearray] = {}
        self._known: dict[_Pair, str | None] = {}

    def note(self, region: str, offset: int, entry: LogEntry) -> None:
        """Take notice of an access to a region, at an offset in it, or to configuration space."""
        if entry.direction != "write":
            return
        if region.endswith(_TABLE):
            number, at = divmod(offset, _ENTRY_SIZE)
            self._store(self._tables, (region, number), at, entry, _ENTRY_SIZE)
        elif region in (REGION, _ECAM):
            function, at = divmod(offset, 1 << 12)
            if at < 1 << 8:
                self._function(function, at, entry)
        elif region == _IOAPIC and offset == _SELECT:
            self._selected[region] = entry.value & 0xFF
        elif region == _IOAPIC and offset == _WINDOW:
            pin, half = divmod(self._selected.get(region, 0) - _FIRST, 2)
            if pin >= 0:
                self._store(self._pins, (region, pin), 4 * half, entry, 8)

    def sources(self, entry: LogEntry) -> str | None:
        """Return whose a message is: ``ioapic[4]``, ``nvme.msix-table[1]``; None where no one's.

        ``00:1f.2 msi`` is that of a function's capability.
        """
        sent = entry.address, entry.value
        if sent not in self._known:
            self._known[sent] = " or ".join(sorted(set(self._found(sent)))) or None
        return self._known[sent]

    def _found(self, sent: _Pair) -> Iterator[str]:
        for (region, number), words in self._tables.items():
            if (_number(words, 0, 8), _number(words, 8, 4)) == sent:
                yield f"{region}[{number}]"
        for (region, pin), words in self._pins.items():
            if _of_pin(_number(words, 0, 8)) == sent:
                yield f"{region}[{pin}]"
        for function, words in self._functions.items():
            if any(_covers(pair, count, sent) for pair, count in _capabilities(words)):
                yield f"{function >> 8:02x}:{function >> 3 & 31:02x}.{function & 7} msi"

    # Capabilities are where an address of a message was written: their list may have been read
    # before the log begins.
    def _function(self, function: int, at: int, entry: LogEntry) -> None:
        is_message = entry.width == 4 and entry.value >> 20 == _MESSAGES
        if is_message or function in self._functions:
            self._store(self._functions, function, at, entry, 1 << 8)

    def _store(
        self, all_words: dict[_Key, bytearray], key: _Key, at: int, entry: LogEntry, size: int
    ) -> None:
        words = all_words.setdefault(key, bytearray(size))
        data = entry.value.to_bytes(entry.width, "little")[: size - at]
        words[at : at + len(data)] = data
        self._known.clear()


def _number(words: bytearray, at: int, width: int) -> int:
    return int.from_bytes(words[at : at + width], "little")


# An I/O APIC makes its message of a redirection entry.
def _of_pin(entry: int) -> _Pair:
    address = _MESSAGES << 20 | (entry >> 56) << 12 | (entry >> 11 & 1) << 2
    return address, entry & 0x7FF | entry & 1 << 15


# Bits 4 to 6 of the word before an address say how many vectors a capability has. The data stands
# behind the address, or with an upper half of that 4 bytes further on.
def _capabilities(words: bytearray) -> Iterator[tuple[_Pair, int]]:
    for at in range(4, len(words) - _LONGEST, 4):
        address = _number(words, at, 4)
        if address >> 20 == _MESSAGES:
            count = 1 << (_number(words, at - 2, 2) >> 4 & 7)
            yield (address, _number(words, at + 8, 2)), count
            yield (address, _number(words, at + 4, 2)), count


def _covers(pair: _Pair, count: int, sent: _Pair) -> bool:
    address, data = pair
    return bool(data) and address == sent[0] and data <= sent[1] < data + count
