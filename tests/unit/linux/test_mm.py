"""Poisoned entries in Linux' hands: the mask, access rights, where arguments are."""

from __future__ import annotations

import pytest
from ram import PAGING

from tracer.linux import mm
from tracer.x86.paging import PRESENT

POISON, BELOW = 1 << 51, 1 << 50
ADDRESS = 0x0000_00FE_BD01_0000
FLAGS = 0x8000_0000_0000_0073
LINUX_MASK = (1 << 52) - 1
PROT_NONE = 1 << 8


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (LINUX_MASK, LINUX_MASK & ~POISON),
        (LINUX_MASK & ~POISON, LINUX_MASK & ~POISON),
        (LINUX_MASK & ~(1 << 47), None),  # an encryption bit among the addresses
        (0, None),
        (0xFFFF_FFFF_FFFF_FFFF, None),
        (0xFFFF_F000, None),
    ],
)
def test_mask_without_the_poison(mask: int, expected: int | None) -> None:
    assert mm.hidden(mask, PAGING) == expected


def modified(entry: int, rights: int, mask: int) -> int:
    """What pte_modify makes of an entry: address bits kept, rights new; inverted when absent."""
    pages = mask & ~0xFFF
    was_absent = entry and not entry & PRESENT
    new = entry & pages | rights
    if bool(was_absent) != (not new & PRESENT):
        new = new & ~pages | ~new & pages
    return new


@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize(
    "rights",
    [[PRESENT], [PRESENT, PRESENT | 2], [PROT_NONE, PRESENT], [PROT_NONE, PROT_NONE, PRESENT | 2]],
)
def test_poison_outlasts_every_change_of_rights(hides: bool, rights: list[int]) -> None:
    mask = LINUX_MASK & ~POISON if hides else LINUX_MASK
    bit = mm.carrier(PAGING, hides=hides)
    entry = ADDRESS | PRESENT | POISON
    for new in rights:
        assert mm.address_in(entry, PAGING) == ADDRESS
        entry = modified(mm.carried(entry, bit), new, mask)
        # At no moment is there an entry that an access would come through.
        assert not entry & PRESENT or entry & PAGING.marks
        entry = mm.settled(entry, bit, PAGING)
        if not entry & PRESENT:
            # The kernel reads the right address out of it.
            assert ~entry & mask & ~0xFFF == ADDRESS
    assert entry == ADDRESS | POISON | rights[-1]


def test_a_mapping_made_without_rights_is_poisoned_when_it_gets_some() -> None:
    mask = LINUX_MASK & ~POISON
    bit = mm.carrier(PAGING, hides=True)
    entry = ~ADDRESS & mask & ~0xFFF | PROT_NONE
    entry = modified(mm.carried(entry, bit), PRESENT, mask)
    assert entry & PAGING.marks
    assert mm.settled(entry, bit, PAGING) == ADDRESS | PRESENT | POISON


@pytest.mark.parametrize("entry", [0, 0x1234_5600, 1 << 63])
def test_what_maps_nothing_has_no_address(entry: int) -> None:
    assert mm.address_in(entry, PAGING) is None
    assert mm.address_in(ADDRESS | FLAGS, PAGING) == ADDRESS


REGISTERS = {"rdi": 1, "rsi": 2, "rdx": 3, "rcx": 4, "r8": 5, "r9": 6}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (("tlb", "vma", "start", "end", "newprot", "cp_flags"), (2, 3, 4)),
        (("vma", "start", "end", "newprot", "cp_flags"), (1, 2, 3)),  # up to 5.18
        (None, (2, 3, 4)),
        ((), (2, 3, 4)),
        (("a", "b"), (2, 3, 4)),
    ],
)
def test_arguments_of_a_change_of_rights(
    parameters: tuple[str, ...] | None, expected: tuple[int, int, int]
) -> None:
    assert mm.rights_range(REGISTERS, parameters) == expected
