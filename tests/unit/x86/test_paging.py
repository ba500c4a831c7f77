"""Page tables: walk, scan, poison, rights."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from ram import PAGING, POISON, ROOT, Ram

from tracer.errors import TablesUnending
from tracer.x86.paging import (
    LEVEL_NAMES,
    PRESENT,
    USER,
    USER_SLOTS,
    WRITABLE,
    Budget,
    Paging,
    canonical,
    leaves,
    paging_of,
    permitted,
    poison_bit,
    range_leaves,
    set_poison,
    steps,
    walk,
)
from tracer.x86.state import CpuState, Flag

HIGH = 0xFFFF_8880_0000_0000


def test_walk_of_a_small_page() -> None:
    ram = Ram()
    address = ram.map(0x7000, 0xFED0_0000)
    leaf = walk(ram, PAGING, 0x7ABC)
    assert leaf is not None
    assert (leaf.linear, leaf.physical, leaf.size) == (0x7000, 0xFED0_0000, 0x1000)
    assert leaf.entry_address == address
    assert leaf.translate(0x7ABC) == 0xFED0_0ABC
    assert not leaf.poisoned


@pytest.mark.parametrize(("level", "size"), [(2, 1 << 21), (3, 1 << 30)])
def test_walk_of_a_large_page(level: int, size: int) -> None:
    ram = Ram()
    # Bit 12 of a large leaf is PAT, not address.
    ram.map(HIGH, 0x8000_0000, PRESENT | 1 << 12, level)
    leaf = walk(ram, PAGING, HIGH + size - 1)
    assert leaf is not None
    assert (leaf.linear, leaf.physical, leaf.size) == (HIGH, 0x8000_0000, size)
    assert walk(ram, PAGING, HIGH + size) is None


def test_walk_of_five_levels() -> None:
    ram = Ram()
    paging = Paging(ROOT, 5, POISON)
    linear = 0xFF11_0000_0000_0000
    ram.map(linear, 0x5000, paging=paging)
    leaf = walk(ram, paging, linear + 5)
    assert leaf is not None
    assert leaf.translate(linear + 5) == 0x5005
    assert [leaf.linear for leaf in leaves(ram, paging)] == [linear]


def test_walk_where_nothing_is_mapped() -> None:
    ram = Ram()
    ram.map(0x7000, 0x5000, 0)
    assert walk(ram, PAGING, 0x7000) is None
    assert walk(ram, PAGING, 0x40_0000_0000) is None
    assert walk(ram, Paging(1 << 40, 4, POISON), 0x7000) is None


def test_rights_of_all_levels_count() -> None:
    ram = Ram()
    address = ram.map(0x7000, 0x5000, PRESENT | WRITABLE | USER)
    leaf = walk(ram, PAGING, 0x7000)
    assert leaf is not None
    assert leaf.writable
    assert leaf.user
    top = ram.entry(ROOT)
    ram.write(ROOT, (top & ~WRITABLE & ~USER).to_bytes(8, "little"))
    leaf = walk(ram, PAGING, 0x7000)
    assert leaf is not None
    assert not leaf.writable
    assert not leaf.user
    assert leaf.entry_address == address


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("right", [WRITABLE, USER])
def test_a_scan_finds_the_rights_that_a_walk_finds(right: int, level: int) -> None:
    memory = Ram()
    memory.map(0x1000, 0x5000, PRESENT | WRITABLE | USER)
    for present in (True, False):
        taken = steps(memory, PAGING, 0x1000)[level]
        entry = memory.entry(taken.entry_address)
        entry = entry | right if present else entry & ~right
        memory.write(taken.entry_address, entry.to_bytes(8, "little"))
        (found,) = leaves(memory, PAGING)
        assert found == walk(memory, PAGING, 0x1000)


def test_scan_is_in_order_and_signed() -> None:
    ram = Ram()
    ram.map(HIGH, 0x1000)
    ram.map(0x9000, 0x2000)
    ram.map(0x40_0000, 0x20_0000, level=2)
    found = [(leaf.linear, leaf.physical, leaf.size) for leaf in leaves(ram, PAGING)]
    assert found == [
        (0x9000, 0x2000, 0x1000),
        (0x40_0000, 0x20_0000, 0x20_0000),
        (HIGH, 0x1000, 0x1000),
    ]


def test_scan_ends_in_a_recursive_slot() -> None:
    ram = Ram()
    ram.map(0x9000, 0x2000)
    ram.write(ROOT + 8 * 511, (ROOT | PRESENT).to_bytes(8, "little"))
    assert [leaf.linear for leaf in leaves(ram, PAGING)] == [0x9000]


def test_poison_changes_one_bit_and_heals() -> None:
    ram = Ram()
    address = ram.map(0x7000, 0xFED0_0000)
    before = ram.entry(address)
    leaf = walk(ram, PAGING, 0x7000)
    assert leaf is not None
    set_poison(ram, PAGING, leaf, poisoned=True)
    assert ram.entry(address) == before | POISON
    poisoned = walk(ram, PAGING, 0x7000)
    assert poisoned is not None
    assert poisoned.poisoned
    assert poisoned.physical == leaf.physical
    # What the guest changed meanwhile (the accessed bit) stays.
    ram.write(address, (ram.entry(address) | 1 << 5).to_bytes(8, "little"))
    set_poison(ram, PAGING, poisoned, poisoned=False)
    assert ram.entry(address) == before | 1 << 5


@pytest.mark.parametrize("bit", [51, 50])
def test_either_reserved_bit_marks_a_leaf(bit: int) -> None:
    ram = Ram()
    address = ram.map(0x7000, 0xFED0_0000 | 1 << bit)
    leaf = walk(ram, PAGING, 0x7000)
    assert leaf is not None and leaf.poisoned and leaf.physical == 0xFED0_0000
    set_poison(ram, PAGING, leaf, poisoned=True)
    assert ram.entry(address) & PAGING.marks == POISON
    set_poison(ram, PAGING, leaf, poisoned=False)
    assert ram.entry(address) & PAGING.marks == 0


def test_leaves_of_programs_alone() -> None:
    ram = Ram()
    ram.map(0x7000, 0xFED0_0000)
    ram.map(HIGH, 0xFED0_0000)
    assert [leaf.linear for leaf in leaves(ram, PAGING)] == [0x7000, HIGH]
    assert [leaf.linear for leaf in leaves(ram, PAGING, USER_SLOTS)] == [0x7000]


def test_poison_bit_is_reserved() -> None:
    assert poison_bit(40) == poison_bit(50) == 1 << 51
    for bits in (51, 52, 57, 20):
        with pytest.raises(ValueError, match="reserved"):
            poison_bit(bits)


def test_depth_from_cr4() -> None:
    assert paging_of(0x1000, 0, POISON).levels == 4
    assert paging_of(0x1000, 1 << 12, POISON).levels == 5


FIVE = Paging(ROOT, 5, POISON)


@pytest.mark.parametrize(
    ("levels", "linear", "valid"),
    [
        (4, 0, True), (4, 0x7FFF_FFFF_FFFF, True), (4, 0x8000_0000_0000, False),
        (4, 0xFFFF_7FFF_FFFF_FFFF, False), (4, 0xFFFF_8000_0000_0000, True),
        (4, (1 << 64) - 1, True),
        (5, 0x8000_0000_0000, True), (5, 0x00FF_FFFF_FFFF_FFFF, True),
        (5, 0x0100_0000_0000_0000, False), (5, 0xFEFF_FFFF_FFFF_FFFF, False),
        (5, 0xFF00_0000_0000_0000, True), (5, (1 << 64) - 1, True),
    ],
)  # fmt: skip
def test_the_edges_of_canonical_addresses(levels: int, linear: int, valid: bool) -> None:
    assert canonical(linear, levels) is valid


@pytest.mark.parametrize("paging", [PAGING, FIVE])
def test_steps_take_the_entries_of_a_walk(paging: Paging) -> None:
    ram = Ram()
    linear = 0xFFFF_8955_6AA7_7000
    address = ram.map(linear, 0x5000, paging=paging)
    taken = steps(ram, paging, linear + 0xFFF)
    assert [step.level for step in taken] == list(range(paging.levels, 0, -1))
    assert [step.index for step in taken] == [
        linear >> 12 + 9 * (level - 1) & 511 for level in range(paging.levels, 0, -1)
    ]
    assert [step.size for step in taken] == [
        1 << 12 + 9 * (level - 1) for level in range(paging.levels, 0, -1)
    ]
    assert taken[0].table == ROOT and taken[-1].entry_address == address
    assert all(step.present for step in taken)
    assert [step.leaf for step in taken] == [False] * (paging.levels - 1) + [True]
    for above, below in pairwise(taken):
        assert above.entry is not None and above.entry & 0x000F_FFFF_FFFF_F000 == below.table


def test_steps_end_where_a_walk_ends() -> None:
    ram = Ram()
    ram.map(HIGH, 0, level=3)
    ram.map(0x7000, 0x1000, flags=0)
    assert [step.leaf for step in steps(ram, PAGING, HIGH)] == [False, True]
    assert [step.present for step in steps(ram, PAGING, 0x7000)] == [True, True, True, False]
    assert [step.present for step in steps(ram, PAGING, 1 << 46)] == [False]
    nowhere = steps(ram, Paging(1 << 40, 4, POISON), 0)
    assert [(step.level, step.entry, step.present, step.leaf) for step in nowhere] == [
        (4, None, False, False)
    ]


def test_the_names_of_the_levels() -> None:
    assert [LEVEL_NAMES[n] for n in (5, 4, 3, 2, 1)] == ["PML5", "PML4", "PDPT", "PD", "PT"]


def test_a_budget_is_spent_at_its_last_table_and_not_before() -> None:
    ram = Ram()
    ram.map(0x7000, 0x1000)  # by four tables
    assert len(list(leaves(ram, PAGING, budget=Budget(4)))) == 1
    with pytest.raises(TablesUnending, match="beyond 3 tables"):
        list(leaves(ram, PAGING, budget=Budget(3)))
    shared = Budget(7)
    list(leaves(ram, PAGING, budget=shared))
    with pytest.raises(TablesUnending):
        list(leaves(ram, PAGING, budget=shared))


def test_the_last_entry_of_a_programs_half_and_the_first_of_the_kernels() -> None:
    ram = Ram()
    for linear in (0, 0x7FFF_FFFF_F000, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FFFF_F000):
        ram.map(linear, 0x1000)
    assert [leaf.linear for leaf in leaves(ram, PAGING, USER_SLOTS)] == [0, 0x7FFF_FFFF_F000]
    assert [leaf.linear for leaf in leaves(ram, PAGING)][2:] == [
        0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FFFF_F000,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("linear", "size", "found"),
    [
        (0x1F_F000, 0x1000, [0x1F_F000]),
        (0x1F_F000, 0x1001, [0x1F_F000, 0x20_0000]),
        (0x1F_FFFF, 1, [0x1F_F000]),
        (0x20_0FFF, 1, [0x20_0000]),
        (0x20_1000, 0x1000, []),
        (0x1F_EFFF, 1, []),
        (0x1F_EFFF, 2, [0x1F_F000]),
        (0x1F_F000, 0, []),
        (0, 1 << 47, [0x1F_F000, 0x20_0000]),
        (HIGH, 1 << 60, [HIGH]),
    ],
)
def test_the_leaves_of_a_range_to_the_byte(linear: int, size: int, found: list[int]) -> None:
    ram = Ram()
    for page in (0x1F_F000, 0x20_0000, HIGH):
        ram.map(page, 0x1000)
    assert [leaf.linear for leaf in range_leaves(ram, PAGING, linear, size)] == found


def test_healing_changes_nothing_but_the_marks() -> None:
    ram = Ram()
    address = ram.map(0x7000, 0x5000, flags=PRESENT & 0)
    ram.map(0x8000, 0x5000)
    leaf = walk(ram, PAGING, 0x8000)
    assert leaf is not None
    leaf = replace(leaf, entry_address=address)
    set_poison(ram, PAGING, leaf, poisoned=True)
    assert ram.entry(address) == 0x5000 | POISON
    set_poison(ram, PAGING, leaf, poisoned=False)
    assert ram.entry(address) == 0x5000


KERNEL = CpuState(cr0=1 << 16, cr4=1 << 21)
USER_MODE = replace(KERNEL, cpl=3)


@pytest.mark.parametrize(
    ("flags", "cpu", "read", "write"),
    [
        (WRITABLE, KERNEL, True, True),
        (0, KERNEL, True, False),
        (0, replace(KERNEL, cr0=0), True, True),  # without WP
        (WRITABLE | USER, KERNEL, False, False),  # SMAP
        (WRITABLE | USER, replace(KERNEL, rflags=int(Flag.AC)), True, True),
        (WRITABLE | USER, replace(KERNEL, cr4=0), True, True),
        (WRITABLE, USER_MODE, False, False),
        (USER, USER_MODE, True, False),
        (WRITABLE | USER, USER_MODE, True, True),
    ],
)
def test_rights(flags: int, cpu: CpuState, read: bool, write: bool) -> None:
    ram = Ram()
    ram.map(0x7000, 0x5000, PRESENT | flags)
    leaf = walk(ram, PAGING, 0x7000)
    assert leaf is not None
    assert permitted(leaf, cpu, write=False) is read
    assert permitted(leaf, cpu, write=True) is write
