"""The filter in front of mapping functions: run on an independent CPU, and where it is put."""

from __future__ import annotations

import struct

import pytest
import unicorn
from unicorn import x86_const as uc

from tracer.linux.page_filter import (
    NOP,
    PUSHED,
    PageArgument,
    PageFilter,
    assemble,
    call,
    find_site,
    whole_pages,
)

FUNCTION, FILTER, STACK = 0x10_0000, 0x20_0000, 0x30_0000
FENTRY = 0xFFFF_FFFF_8106_B730
RAM = [(0, 0xA0), (0xC0, 0x1_FF40), (0x10_0000, 0x8_0000)]
NUMBER, ENTRY = PageArgument("rdx"), PageArgument("rsi", entry=True)
REGISTERS = [
    uc.UC_X86_REG_RAX, uc.UC_X86_REG_RBX, uc.UC_X86_REG_RCX, uc.UC_X86_REG_RDX,
    uc.UC_X86_REG_RSI, uc.UC_X86_REG_RDI, uc.UC_X86_REG_RBP,
    *range(uc.UC_X86_REG_R8, uc.UC_X86_REG_R15 + 1),
]  # fmt: skip


def passes(made: PageFilter, register: int, value: int) -> bool:
    """Call the filter from a function's first bytes; tell whether it came back without a hit."""
    cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    for place in (FUNCTION, FILTER, STACK):
        cpu.mem_map(place, 0x1000)
    cpu.mem_write(FUNCTION, call(FUNCTION, FILTER) + b"\x90")
    cpu.mem_write(FILTER, made.code)
    before = {number: 0x1111_0000_0000_0000 + number for number in REGISTERS}
    before[register] = value
    for number, content in before.items():
        cpu.reg_write(number, content)
    cpu.reg_write(uc.UC_X86_REG_RSP, STACK + 0x800)
    hits: list[int] = []

    def step(_: object, address: int, size: int, data: object) -> None:
        if address == FILTER + made.hit:
            # As the function was entered, but for the address that the filter goes back to.
            assert {number: cpu.reg_read(number) for number in REGISTERS} == before
            assert cpu.reg_read(uc.UC_X86_REG_RSP) == STACK + 0x800 - PUSHED
            hits.append(address)

    cpu.hook_add(unicorn.UC_HOOK_CODE, step)
    cpu.emu_start(FUNCTION, FUNCTION + 5, count=100)
    assert cpu.reg_read(uc.UC_X86_REG_RIP) == FUNCTION + 5
    assert {number: cpu.reg_read(number) for number in REGISTERS} == before
    assert cpu.reg_read(uc.UC_X86_REG_RSP) == STACK + 0x800
    return not hits


PAGES = [
    (0, True), (0x9F, True), (0xA0, False), (0xBF, False), (0xC0, True), (0x1_FFFF, True),
    (0x2_0000, False), (0xF_EE00, False), (0xF_FFFF, False), (0x10_0000, True),
    (0x17_FFFF, True), (0x18_0000, False), ((1 << 39) - 1, False),
]  # fmt: skip


@pytest.mark.parametrize(("page", "ram"), PAGES)
def test_a_page_of_ram_passes_by_its_number(page: int, ram: bool) -> None:
    assert passes(assemble(NUMBER, RAM), uc.UC_X86_REG_RDX, page) is ram


@pytest.mark.parametrize("page", [1 << 52, (1 << 64) - 1])
def test_a_number_that_is_no_page_is_a_hit(page: int) -> None:
    assert not passes(assemble(NUMBER, RAM), uc.UC_X86_REG_RDX, page)


@pytest.mark.parametrize("poison", [0, 1 << 51])
@pytest.mark.parametrize(("page", "ram"), PAGES)
def test_a_page_of_ram_passes_by_its_entry(page: int, ram: bool, poison: int) -> None:
    made = assemble(ENTRY, RAM)
    entry = 1 << 63 | poison | page << 12 | 0x17B
    assert passes(made, uc.UC_X86_REG_RSI, entry) is ram


@pytest.mark.parametrize("entry", [0, 0xFEC0_0000, 0x000F_FFFF_FFFF_F100])
def test_an_entry_that_is_not_present_passes(entry: int) -> None:
    assert passes(assemble(ENTRY, RAM), uc.UC_X86_REG_RSI, entry)


def test_without_ram_every_page_is_a_hit() -> None:
    assert not passes(assemble(NUMBER, []), uc.UC_X86_REG_RDX, 0)


def test_only_whole_pages_are_ram() -> None:
    ranges = [(0xC_0000, 0xF_FFFF), (0, 0x9_FBFF), (0x10_0000, 0x1F_FFFF), (0x40_0800, 0x40_1800)]
    assert whole_pages(ranges) == [(0, 0x9F), (0xC0, 0x140)]
    assert whole_pages([]) == []


def test_more_ram_than_a_comparison_takes() -> None:
    with pytest.raises(ValueError, match="0x80000000 pages"):
        assemble(NUMBER, [(0, 1 << 31)])


ENDBR = b"\xf3\x0f\x1e\xfa"
LINEAR = 0xFFFF_FFFF_812B_EC80


@pytest.mark.parametrize(
    ("code", "fentry", "offset"),
    [
        (bytes.fromhex("e8abcadaff") + b"\x41\x54", FENTRY, 0),  # Debian 12's vmf_insert_pfn_prot
        (NOP + b"\x55", FENTRY, 0),
        (NOP + b"\x55", None, 0),
        (ENDBR + NOP, None, 4),
        (ENDBR + call(LINEAR + 4, FENTRY), FENTRY, 4),
        (call(LINEAR, FENTRY + 16), FENTRY, None),  # a call, but of another function
        (call(LINEAR, FENTRY), None, None),
        (b"\x55\x48\x89\xe5\x41", FENTRY, None),  # a kernel without ftrace
        (ENDBR, FENTRY, None),
        (b"", FENTRY, None),
    ],
)
def test_where_ftrace_has_its_five_bytes(
    code: bytes, fentry: int | None, offset: int | None
) -> None:
    assert find_site(code, LINEAR, fentry) == offset


def test_a_call_reaches_two_gigabytes() -> None:
    assert call(0x1000, 0x1005) == b"\xe8" + bytes(4)
    assert call(0x2000, 0x1000) == b"\xe8" + struct.pack("<i", -0x1005)
    assert call(0, 1 << 31) != b"" == call(0, (1 << 31) + 5)
