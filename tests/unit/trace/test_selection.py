"""Choosing accesses by region, symbol and direction."""

from __future__ import annotations

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.trace.record import Intercept, Record, RegionRecord
from tracer.trace.selection import RegionNames, Selection, Sieve, names_region, names_symbol


def chosen(selection: Selection) -> list[int]:
    """Return the numbers of the sample's accesses that a selection wants."""
    return [
        seq
        for record in sample.RECORDS
        if isinstance(record, Intercept)
        for seq, access in record.device_accesses()
        if selection.wants(record, access)
    ]


@pytest.mark.parametrize(
    ("pattern", "region", "named"),
    [
        ("nvme", "nvme", True),
        ("nvme", "nvme.msix-table", True),
        ("nvme.msix-table", "nvme.msix-table", True),
        ("nvme.msix-table", "nvme", False),
        ("nvme", "nvme2", False),
        ("nv", "nvme", False),
        ("nv*", "nvme.msix-table", True),
        ("*.msix-*", "nvme.msix-table", True),
        ("NVME", "nvme", False),
        ("", "nvme", False),
    ],
)
def test_a_pattern_names_a_region(pattern: str, region: str, named: bool) -> None:
    assert names_region(pattern, region) is named


@pytest.mark.parametrize(
    ("pattern", "named"),
    [("usb", True), ("u*b", True), ("qemu-xhci", True), ("base-xhci", True), ("us", False)],
)
def test_a_pattern_names_the_device_around(pattern: str, named: bool) -> None:
    record = sample.region("nvme")
    info = replace(
        record.region, name="base-xhci.doorbell", device="base-xhci", within=["usb"],
        types=["qemu-xhci"],
    )  # fmt: skip
    names = RegionNames()
    assert not names.named("usb", info.name)
    names.learn(replace(record, region=info))
    assert names.named(pattern, info.name) is named


def test_a_trace_is_chosen_from_by_the_device_around() -> None:
    def known_as_disk(record: Record) -> Record:
        if isinstance(record, RegionRecord) and record.region.name == "nvme":
            return replace(record, region=replace(record.region, within=["disk"]))
        return record

    sieve = Sieve(Selection(region="disk"))
    found = [item for record in sample.RECORDS for item in sieve.wanted(known_as_disk(record))]
    assert [seq for seq, _ in found] == [0, 1]


@pytest.mark.parametrize(
    ("pattern", "symbol", "named"),
    [
        ("nvme_pci_enable", "nvme_pci_enable+0x5e", True),
        ("nvme_pci_enable+0x5e", "nvme_pci_enable+0x5e", True),
        ("nvme_pci_enable+0x5", "nvme_pci_enable+0x5e", False),
        ("nvme_pci", "nvme_pci_enable+0x5e", False),
        ("nvme_*", "nvme_pci_enable+0x5e", True),
        ("*enable", "nvme_pci_enable+0x5e", True),
        ("*", None, False),
    ],
)
def test_a_pattern_names_a_symbol(pattern: str, symbol: str | None, named: bool) -> None:
    assert names_symbol(pattern, symbol) is named


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        (Selection(), [0, 1, 2, 3, 4]),
        (Selection(region="nvme"), [0, 1, 2]),
        (Selection(direction="write"), [1, 2]),
        (Selection(direction="read"), [0, 3, 4]),
        (Selection(region="nvme", direction="read"), [0]),
        (Selection(symbol="read_hpet"), [3]),
        (Selection(symbol="read_hpet", region="nvme"), []),
    ],
)
def test_every_criterion_must_be_met(selection: Selection, numbers: list[int]) -> None:
    assert chosen(selection) == numbers
