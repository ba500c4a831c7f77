"""Rules that name bytes of registers, as a person types them."""

from __future__ import annotations

import pytest

from tracer.errors import UsageError
from tracer.trace.mask import Mask, kept_bits, parse_mask


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


def test_a_stride_counts_from_the_first_byte_on() -> None:
    ports = parse_mask("ahci+0x100-0x10f%0x80")
    covered = [offset for offset in range(0x200) if ports.covers("ahci", offset)]
    assert covered == [*range(0x100, 0x110), *range(0x180, 0x190)]


def test_the_low_bits_of_a_pointer_are_kept_in_each_stride() -> None:
    masks = (Mask("usb.runtime", 0x38, 0x3F, 0x20, 0x0F),)
    assert kept_bits(masks, "usb.runtime", 0x38, 8) == 0x0F
    assert kept_bits(masks, "usb.runtime", 0x58, 4) == 0x0F
    assert kept_bits(masks, "usb.runtime", 0x3C, 4) == 0
    assert kept_bits(masks, "usb.runtime", 0x18, 4) == 0xFFFFFFFF
    assert kept_bits((*masks, Mask("usb*", 0x38, 0x38)), "usb.runtime", 0x38, 1) == 0
