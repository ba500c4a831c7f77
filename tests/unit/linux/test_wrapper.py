"""The wrapper around mapping functions: run on an independent CPU, and where it is entered."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest
import unicorn
from unicorn import x86_const as uc

from tracer.linux.wrapper import (
    ARGUMENTS_SIZE,
    NOP,
    PASS,
    PageArgument,
    Wrapper,
    assemble,
    call,
    find_site,
    unpack_arguments,
    whole_pages,
)

FUNCTION, CALLER, WRAPPER, STACK, BELL = 0x10_0000, 0x10_0800, 0x20_0000, 0x30_0000, 0x40_0008
FENTRY = 0xFFFF_FFFF_8106_B730
RAM = [(0, 0xA0), (0xC0, 0x1_FF40), (0x10_0000, 0x8_0000)]
NUMBER, ENTRY = PageArgument("rdx"), PageArgument("rsi", entry=True)
RESULT = 0xFFFF_FFFF_FFFF_FFEA
REGISTERS = [
    uc.UC_X86_REG_RAX, uc.UC_X86_REG_RBX, uc.UC_X86_REG_RCX, uc.UC_X86_REG_RDX,
    uc.UC_X86_REG_RSI, uc.UC_X86_REG_RDI, uc.UC_X86_REG_RBP,
    *(number for number in range(uc.UC_X86_REG_R8, uc.UC_X86_REG_R15 + 1)
      if number != uc.UC_X86_REG_R11),
]  # fmt: skip


@dataclass
class Called:
    """A call of a wrapped function: the arguments at each ring, and what the body saw."""

    rings: list[dict[str, int]] = field(default_factory=list)
    bodies: int = 0
    reads: int = 0


def run(made: Wrapper, arguments: dict[int, int], *, lost: int = 0, depth: int = 1) -> Called:
    """Call a function that is wrapped; ``lost`` of its stops are not seen by anybody.

    It is ``CALL of the wrapper; mov rax, RESULT; clobber the arguments; ret``, and calls itself
    to a ``depth``.
    """
    cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    for place in (FUNCTION, WRAPPER, STACK, BELL & -0x1000):
        cpu.mem_map(place, 0x1000)
    again = b"\xe8" + struct.pack("<i", FUNCTION - (FUNCTION + 5 + 5 + 5))
    body = bytes.fromhex("48ffcb") + b"\x74\x05" + again  # dec rbx; jz past; call FUNCTION
    body += bytes.fromhex("48c7c0eaffffff 31ff 31f6 31d2 31c9 c3")
    cpu.mem_write(FUNCTION, call(FUNCTION, made.base) + body)
    cpu.mem_write(CALLER, call(CALLER, FUNCTION) + b"\x90")
    cpu.mem_write(WRAPPER, made.code)
    before = {number: 0x1111_0000_0000_0000 + number for number in REGISTERS} | arguments
    before[uc.UC_X86_REG_RBX] = depth
    for number, content in before.items():
        cpu.reg_write(number, content)
    cpu.reg_write(uc.UC_X86_REG_RSP, STACK + 0x800)
    called = Called()

    def step(_: object, address: int, size: int, data: object) -> None:
        nonlocal lost
        if address == FUNCTION + 5 and not called.bodies:
            # As the function was entered.
            assert {number: cpu.reg_read(number) for number in REGISTERS} == before
            # An unwinder finds there who called.
            stack = cpu.reg_read(uc.UC_X86_REG_RSP)
            told = [cpu.mem_read(at, 8) for at in (stack, stack + 8 + made.back.returns)]
            whence = [int.from_bytes(each, "little") for each in told]
            assert whence[0] == CALLER + 5 or whence == [made.back.linear, CALLER + 5]
        called.bodies += address == FUNCTION + 5
        if address == made.stop:
            assert cpu.reg_read(uc.UC_X86_REG_RAX) == RESULT and called.reads
            called.reads = 0
            lost -= 1
            if lost < 0:
                stack = cpu.mem_read(cpu.reg_read(uc.UC_X86_REG_RSP), ARGUMENTS_SIZE)
                called.rings.append(dict(unpack_arguments(bytes(stack))))
                cpu.reg_write(uc.UC_X86_REG_RIP, made.behind)

    def read(*_: object) -> None:
        called.reads += 1

    cpu.hook_add(unicorn.UC_HOOK_CODE, step)
    cpu.hook_add(unicorn.UC_HOOK_MEM_READ, read, begin=BELL, end=BELL + 7)
    cpu.emu_start(CALLER, CALLER + 5, count=2000)
    assert cpu.reg_read(uc.UC_X86_REG_RIP) == CALLER + 5
    kept = [uc.UC_X86_REG_RBP, *range(uc.UC_X86_REG_R12, uc.UC_X86_REG_R15 + 1)]
    assert {number: cpu.reg_read(number) for number in kept} == {n: before[n] for n in kept}
    assert cpu.reg_read(uc.UC_X86_REG_RAX) == RESULT
    assert cpu.reg_read(uc.UC_X86_REG_RSP) == STACK + 0x800
    return called


def passes(made: Wrapper, register: int, value: int) -> bool:
    """Tell whether a call with this argument comes back without a ring."""
    called = run(made, {register: value})
    assert called.bodies == 1
    return not called.rings


GIVEN = {
    uc.UC_X86_REG_RDI: 0xFFFF_C900_0000_1000, uc.UC_X86_REG_RSI: 2, uc.UC_X86_REG_RDX: 3,
    uc.UC_X86_REG_RCX: 4,
}  # fmt: skip
TOLD = {"rdi": 0xFFFF_C900_0000_1000, "rsi": 2, "rdx": 3, "rcx": 4}


def test_a_call_rings_with_its_arguments_where_it_has_returned() -> None:
    assert run(assemble(WRAPPER, BELL), GIVEN) == Called([TOLD], 1)


def test_a_ring_that_nobody_saw_is_rung_again() -> None:
    assert run(assemble(WRAPPER, BELL), GIVEN, lost=3) == Called([TOLD], 1)


def test_a_call_within_a_call_rings_for_itself() -> None:
    called = run(assemble(WRAPPER, BELL), GIVEN, depth=3)
    assert called.bodies == len(called.rings) == 3 and called.rings[-1] == TOLD


def test_once_nobody_listens_the_function_returns_all_the_same() -> None:
    made = assemble(WRAPPER, BELL)
    at = made.stop - made.base
    code = made.code[:at] + PASS + made.code[at + len(PASS) :]
    assert run(Wrapper(code, made.base, 0, made.behind, made.back), GIVEN) == Called([], 1, 1)


def test_a_bell_out_of_reach() -> None:
    with pytest.raises(ValueError, match="out of reach"):
        assemble(WRAPPER, 1 << 40)


PAGES = [
    (0, True), (0x9F, True), (0xA0, False), (0xBF, False), (0xC0, True), (0x1_FFFF, True),
    (0x2_0000, False), (0xF_EE00, False), (0xF_FFFF, False), (0x10_0000, True),
    (0x17_FFFF, True), (0x18_0000, False), ((1 << 39) - 1, False),
]  # fmt: skip


@pytest.mark.parametrize(("page", "ram"), PAGES)
def test_a_page_of_ram_passes_by_its_number(page: int, ram: bool) -> None:
    assert passes(assemble(WRAPPER, BELL, NUMBER, RAM), uc.UC_X86_REG_RDX, page) is ram


@pytest.mark.parametrize("page", [1 << 52, (1 << 64) - 1])
def test_a_number_that_is_no_page_rings(page: int) -> None:
    assert not passes(assemble(WRAPPER, BELL, NUMBER, RAM), uc.UC_X86_REG_RDX, page)


@pytest.mark.parametrize("poison", [0, 1 << 51])
@pytest.mark.parametrize(("page", "ram"), PAGES)
def test_a_page_of_ram_passes_by_its_entry(page: int, ram: bool, poison: int) -> None:
    made = assemble(WRAPPER, BELL, ENTRY, RAM)
    entry = 1 << 63 | poison | page << 12 | 0x17B
    assert passes(made, uc.UC_X86_REG_RSI, entry) is ram


@pytest.mark.parametrize("entry", [0, 0xFEC0_0000, 0x000F_FFFF_FFFF_F100])
def test_an_entry_that_is_not_present_passes(entry: int) -> None:
    assert passes(assemble(WRAPPER, BELL, ENTRY, RAM), uc.UC_X86_REG_RSI, entry)


def test_without_ram_every_page_rings() -> None:
    assert not passes(assemble(WRAPPER, BELL, NUMBER), uc.UC_X86_REG_RDX, 0)


def test_only_whole_pages_are_ram() -> None:
    ranges = [(0xC_0000, 0xF_FFFF), (0, 0x9_FBFF), (0x10_0000, 0x1F_FFFF), (0x40_0800, 0x40_1800)]
    assert whole_pages(ranges) == [(0, 0x9F), (0xC0, 0x140)]
    assert whole_pages([]) == []


def test_more_ram_than_a_comparison_takes() -> None:
    with pytest.raises(ValueError, match="0x80000000 pages"):
        assemble(WRAPPER, BELL, NUMBER, [(0, 1 << 31)])


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
