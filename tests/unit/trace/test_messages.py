"""Whose a message is: by what the guest has written into tables, capabilities and the I/O APIC."""

from __future__ import annotations

import pytest

from tracer.trace.messages import Messages, functions, table_owners, tells

HERE, THERE = 0xFEE0_1004, 0xFEE0_2004


def sent(messages: Messages, data: int, address: int = HERE) -> str | None:
    return messages.sources(address, data)


def table(messages: Messages, number: int, data: int, address: int = HERE) -> None:
    for at, value in enumerate((address, 0, data, 0)):
        messages.note("nvme.msix-table", 16 * number + 4 * at, 4, value)


def pin(messages: Messages, number: int, low: int, high: int = 1 << 24) -> None:
    for half, value in enumerate((low, high)):
        messages.note("ioapic", 0, 4, 0x10 + 2 * number + half)
        messages.note("ioapic", 0x10, 4, value)


def test_an_entry_of_a_table_is_told_by_its_pair() -> None:
    messages = Messages()
    table(messages, 0, 0x24)
    table(messages, 3, 0x25)
    assert sent(messages, 0x25) == "nvme[3]"
    assert sent(messages, 0x24) == "nvme[0]"
    assert sent(messages, 0x24, THERE) is None
    assert sent(messages, 0x26) is None
    table(messages, 0, 0x26, THERE)
    assert sent(messages, 0x24) is None
    assert sent(messages, 0x26, THERE) == "nvme[0]"


def test_regions_that_tell_of_messages() -> None:
    found = [name for name in ("nvme", "nvme.msix-table", "ioapic", "config", "ecam", "lapic")
             if tells(name)]  # fmt: skip
    assert found == ["nvme.msix-table", "ioapic", "config", "ecam"]


def test_an_entry_may_be_written_in_two_words() -> None:
    messages = Messages()
    messages.note("nvme.msix-table", 0, 8, HERE)
    messages.note("nvme.msix-table", 8, 8, 0x1_0000_0024)
    assert sent(messages, 0x24) == "nvme[0]"


def test_a_pin_sends_what_its_entry_says() -> None:
    messages = Messages()
    pin(messages, 4, 0x0924)  # logical, lowest priority, edge
    assert sent(messages, 0x124) == "ioapic pin 4"
    assert sent(messages, 0x124, 0xFEE0_1000) is None
    pin(messages, 9, 0x1_8829)  # level; the mask is not in the message
    assert sent(messages, 0x8029) == "ioapic pin 9"
    messages.note("ioapic", 0, 4, 1)
    messages.note("ioapic", 0x10, 4, 0x24)  # no entry: the version


@pytest.mark.parametrize("upper", [True, False], ids=["64-bit", "32-bit"])
@pytest.mark.parametrize("region", ["config", "ecam"])
def test_a_capability_is_its_functions(upper: bool, region: str) -> None:
    messages = Messages()
    function = 0x1F << 15 | 2 << 12
    capability = function | 0x80
    messages.note(region, capability + 2, 2, 0x0020)  # no address is there yet
    messages.note(region, capability + 4, 4, HERE)
    if upper:
        messages.note(region, capability + 8, 4, 0)
    messages.note(region, capability + (12 if upper else 8), 2, 0x40)
    assert sent(messages, 0x40) == "00:1f.2 msi"
    assert sent(messages, 0x41) is None
    messages.note(region, capability + 2, 2, 0x0021)  # four vectors
    assert sent(messages, 0x43) == "00:1f.2 msi"
    assert sent(messages, 0x44) is None
    # Registers behind the first 256 bytes are no capability's.
    messages.note(region, function | 0x180, 4, THERE)
    assert sent(messages, 0, THERE) is None


def test_two_that_were_given_the_same_are_both_named() -> None:
    messages = Messages()
    table(messages, 0, 0x24)
    table(messages, 1, 0x24)
    assert sent(messages, 0x24) == "nvme[0] or nvme[1]"


def test_devices_among_sources() -> None:
    assert table_owners("nvme#2[1] or ioapic pin 4 or virtio-blk[0] or nvme#2[3]") == [
        "nvme#2", "virtio-blk",
    ]  # fmt: skip
    assert table_owners("00:1f.2 msi or unknown") == []


def test_functions_that_send_by_their_capability() -> None:
    assert functions("00:1f.2 msi or ioapic pin 4 or 3a:00.0 msi") == [0xFA, 0x3A00]
    assert functions("nvme[1] or unknown") == []
