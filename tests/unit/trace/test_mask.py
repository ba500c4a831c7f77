"""Rules that name bytes of registers: each built-in one to the byte, and what a person types."""

from __future__ import annotations

import pytest

from tracer.errors import UsageError
from tracer.trace.mask import PASSING, VARYING, Mask, kept_bits, parse_mask

# Region, first and last offset, as the specifications of the devices have them.
VARY = [
    ("nvme.msix-table", 0x00, 0x0B),
    ("e1000e.msix-table", 0x00, 0x0B),
    ("nvme.msix-table", 0x10, 0x1B),
    ("nvme.msix-table", 0x7F0, 0x7FB),
    ("nvme", 0x28, 0x37),
    ("nvme.bar0", 0x28, 0x37),
    ("nvme1.bar0", 0x28, 0x37),
    ("nvme#2", 0x28, 0x37),
    ("virtio-net.common", 0x20, 0x37),
    ("virtio-mmio", 0x40, 0x43),
    ("virtio-mmio", 0x80, 0x87),
    ("virtio-mmio#23", 0x90, 0x97),
    ("virtio-mmio#24", 0xA0, 0xA7),
]
PASS = [
    ("hpet", 0xF0, 0xF7),
    ("hpet", 0x108, 0x10F),
    ("hpet", 0x128, 0x12F),
    ("lapic", 0xB0, 0xB3),
    ("lapic", 0x380, 0x383),
    ("lapic", 0x390, 0x393),
]
BUILT_IN = [*((VARYING, *row) for row in VARY), *((PASSING, *row) for row in PASS)]


@pytest.mark.parametrize(("rules", "region", "first", "last"), BUILT_IN)
def test_a_built_in_rule_begins_and_ends_at_its_bytes(
    rules: tuple[Mask, ...], region: str, first: int, last: int
) -> None:
    def is_exact(rule: Mask) -> bool:
        return (
            all(rule.covers(region, offset) for offset in range(first, last + 1))
            and not rule.covers(region, last + 1)
            and not rule.covers(region, first - 1)
        )

    assert any(is_exact(rule) for rule in rules)


@pytest.mark.parametrize("rule", [*VARYING, *PASSING], ids=str)
def test_each_built_in_rule_has_a_row_above(rule: Mask) -> None:
    assert any(
        rule.covers(region, first) and rule.covers(region, last)
        for rules, region, first, last in BUILT_IN
        if rule in rules
    )


@pytest.mark.parametrize(
    "region", ["nvme2", "nvme.msix-pba", "nvme#2.msix-pba", "hpet0", "virtio-net.isr", "ioapic"]
)
def test_other_regions_are_covered_by_none(region: str) -> None:
    assert not any(
        rule.covers(region, offset) for rule in (*VARYING, *PASSING) for offset in range(0x400)
    )


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("nvme+0x28", Mask("nvme", 0x28, 0x28)),
        ("nvme+40", Mask("nvme", 40, 40)),
        ("nvme+0x28-0x37", Mask("nvme", 0x28, 0x37)),
        ("nvme+0x28..0x37", Mask("nvme", 0x28, 0x37)),
        ("*.msix-table+0-0xb%0x10", Mask("*.msix-table", 0, 0xB, 0x10)),
        ("a+b+1%1", Mask("a+b", 1, 1, 1)),
        (f"nvme+0x{'f' * 16}", Mask("nvme", (1 << 64) - 1, (1 << 64) - 1)),
        (f"nvme+0%0x{'f' * 16}", Mask("nvme", 0, 0, (1 << 64) - 1)),
    ],
)
def test_a_rule_is_read(text: str, mask: Mask) -> None:
    assert parse_mask(text) == mask


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nvme", "nvme is no rule: nvme+0x28-0x37 is, and *.msix-table+0-0xb%0x10"),
        ("nvme+x", "x is no offset: 16 and 0x10 are"),
        ("nvme+2-1", "2-1 ends before it begins"),
        ("nvme+0%0", "0 is no stride: it is below 1"),
        (f"nvme+0x1{'0' * 16}", f"0x1{'0' * 16} does not fit in 8 bytes"),
        (f"nvme+0%0x1{'0' * 16}", f"0x1{'0' * 16} does not fit in 8 bytes"),
    ],
)
def test_what_is_no_rule_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_mask(text)
    assert str(caught.value) == why


def test_the_bits_that_no_rule_covers_are_kept() -> None:
    masks = (Mask("nvme", 2, 3), Mask("hpet", 0, 7))
    assert kept_bits(masks, "nvme", 0, 4) == 0x0000_FFFF
    assert kept_bits(masks, "nvme", 3, 2) == 0xFF00
    assert kept_bits(masks, "nvme", 4, 8) == (1 << 64) - 1
    assert kept_bits(masks, "nvme", 1, 1) == 0xFF
    assert kept_bits(masks, "nvme", 2, 1) == 0
    assert kept_bits((), "nvme", 0, 2) == 0xFFFF
