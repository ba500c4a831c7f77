"""Walks through page tables, step by step and drawn."""

from __future__ import annotations

import json
import random

import pytest
from ram import PAGING, POISON, ROOT, Ram
from stop_sample import DEVICE, LINEAR, space

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.look.page import flags_of, page_lines, page_object, page_of
from tracer.x86.paging import Paging, Step, canonical, steps, walk

HIGH = 0xFFFF_8880_0020_0000


def bare(ram: Ram, paging: Paging = PAGING) -> AddressSpace:
    return AddressSpace(ram, paging, RegionMap((), (), [(0, 0x3F_FFFF)]))


def test_a_poisoned_page_of_a_device() -> None:
    assert page_lines(page_of(space(), LINEAR + 0xABC), 80) == [
        "linear 0xffffc90000004abc, by CR3 0x100000, 4 levels",
        "└─ PML4[402]   at 0x100c90 0x0000000000101007 P W U",
        "  └─ PDPT[0]   at 0x101000 0x0000000000102007 P W U",
        "    └─ PD[0]   at 0x102000 0x0000000000103007 P W U",
        "      └─ PT[4] at 0x103020 0x80080000febf0173 P W PCD A D G NX poison",
        "        └─ 4 KiB page 0xfebf0000 + 0xabc = 0xfebf0abc nvme+0xabc",
        "All levels together: kernel only, readable and writable.",
        "Poisoned by vetrace: bit 51 is reserved, so that every access through this entry",
        "is a page fault (error code bit 3, RSVD). The guest's own address and rights are",
        "unchanged.",
    ]


def test_a_large_page_of_ram() -> None:
    ram = Ram()
    ram.map(HIGH, 0x20_0000, 0x3 | 1 << 12, level=2)
    lines = page_lines(page_of(bare(ram), HIGH + 0x3_4567), 80)
    assert lines[3].endswith("0x0000000000201083 P W PS PAT")
    assert lines[4] == "      └─ 2 MiB page 0x200000 + 0x34567 = 0x234567 RAM"


@pytest.mark.parametrize(
    ("linear", "words"),
    [
        (LINEAR + 0x8000, "nothing is mapped there"),
        (1 << 47, "not a canonical address"),
        (0x40_0000_0000, "nothing is mapped there"),
    ],
)
def test_why_a_walk_ends(linear: int, words: str) -> None:
    view = page_of(space(), linear)
    assert view.leaf is None and view.physical is None
    assert words in page_lines(view, 120)[-1]


def test_a_table_that_is_not_in_ram() -> None:
    view = page_of(bare(Ram(), Paging(1 << 40, 4, POISON)), 0x7000)
    assert [step.entry for step in view.steps] == [None]
    assert page_lines(view)[-1] == "  └─ the PML4 at physical 0x10000000000 is not in RAM"


def test_five_levels() -> None:
    ram, paging = Ram(), Paging(ROOT, 5, POISON)
    ram.map(0xFF11_0000_0000_0000, 0x5000, paging=paging)
    lines = page_lines(page_of(bare(ram, paging), 0xFF11_0000_0000_0005))
    assert "5 levels" in lines[0] and "PML5[273]" in lines[1]
    assert "0x5000 + 0x5 = 0x5005 RAM" in lines[6]


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_lines_fit(columns: int) -> None:
    for linear in (LINEAR, LINEAR + 0x8000, 1 << 47):
        lines = page_lines(page_of(space(), linear), columns)
        assert max(map(len, lines)) <= max(columns, 60)


def test_colours_add_nothing_but_escapes() -> None:
    import re

    view = page_of(space(), LINEAR)
    coloured = page_lines(view, 80, colour=True)
    assert [re.sub(r"\x1b\[\d*m", "", line) for line in coloured] == page_lines(view, 80)
    assert any("\x1b[31mpoison\x1b[0m" in line for line in coloured)


def test_object() -> None:
    found = json.loads(json.dumps(page_object(page_of(space(), LINEAR + 4))))
    assert [level["name"] for level in found["levels"]] == ["PML4", "PDPT", "PD", "PT"]
    assert [level["leaf"] for level in found["levels"]] == [False, False, False, True]
    assert found["physical"] == hex(DEVICE + 4) and found["place"] == "nvme+0x4"
    assert found["poisoned"] and found["traced"] and found["poison_bit"] == 51
    nothing = page_object(page_of(space(), 0x7000))
    assert not nothing["mapped"] and nothing["physical"] is None and nothing["end"]


def test_flags_by_level() -> None:
    everything = (1 << 64) - 1
    assert "PAT" in flags_of(Step(1, 0, 0, 0x81), 51) and "PS" not in flags_of(
        Step(1, 0, 0, 0x81), 51
    )
    assert "D" not in flags_of(Step(4, 0, 0, everything), 51)
    assert flags_of(Step(1, 0, 0, 0x2), 51) == ["not present"]


# Ref: Intel SDM vol. 3A, tables 4-15 to 4-20.
@pytest.mark.parametrize(
    ("level", "bit", "name"),
    [
        *((level, bit, name) for level in range(1, 5) for bit, name in
          [(1, "W"), (2, "U"), (3, "PWT"), (4, "PCD"), (5, "A"), (63, "NX")]),
        *((level, bit, name) for level in (1, 2, 3) for bit, name in
          [(6, "D"), (8, "G"), (51, "poison")]),
        (1, 7, "PAT"), (2, 12, "PAT"), (3, 12, "PAT"), (2, 7, "PS"), (3, 7, "PS"),
    ],
)  # fmt: skip
def test_a_flag_is_one_bit_of_an_entry(level: int, bit: int, name: str) -> None:
    leaf = 1 | (1 << 7 if level in (2, 3) else 0)
    for other in range(1, 64):
        found = flags_of(Step(level, 0, 0, leaf | 1 << other), 51)
        assert (name in found) == (other == bit or bool(leaf >> bit & 1)), other


def test_nothing_but_p_means_anything_in_an_entry_that_is_not_present() -> None:
    assert flags_of(Step(1, 0, 0, (1 << 64) - 2), 51) == ["not present"]
    assert flags_of(Step(1, 0, 0, None), 51) == []


def test_steps_and_walk_agree_on_any_tables() -> None:
    rng = random.Random(5)
    for _ in range(300):
        ram, levels = Ram(0x10_0000 + 0x8000), rng.choice((4, 5))
        paging = Paging(ROOT, levels, POISON)
        for table in range(8):
            for index in (0, 1, 511):
                entry = ROOT + 0x1000 * rng.randrange(1, 10) | rng.choice((0, 1, 3, 7, 0x83, 0x87))
                entry |= rng.choice((0, 0, POISON, 1 << 63))
                ram.write(ROOT + 0x1000 * table + 8 * index, entry.to_bytes(8, "little"))
        linear = sum(rng.choice((0, 1, 511)) << shift for shift in range(12, 12 + 9 * levels, 9))
        if linear >> (11 + 9 * levels):
            linear |= (1 << 64) - (1 << 12 + 9 * levels)
        assert canonical(linear, levels)
        taken, leaf = steps(ram, paging, linear), walk(ram, paging, linear)
        last = taken[-1]
        assert (leaf is not None) is (last.present and last.leaf)
        if leaf is not None:
            assert (leaf.entry_address, leaf.entry, leaf.size) == (
                last.entry_address, last.entry, last.size
            )  # fmt: skip
            assert leaf.writable == all((step.entry or 0) & 2 for step in taken)
