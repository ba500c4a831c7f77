"""What a native step accesses: from operands and registers, by page, lane and mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cell import AT, RIP, state
from ram import PAGING, Ram

from tracer.access.footprint import Encounter, footprint
from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.state import needs_registers
from tracer.x86.decode import decode
from tracer.x86.state import CpuState, Mode, Segments

DEVICE = 0xFEB0_0000
FIRST = Region("nvme", DEVICE, DEVICE + 0x17FF, DEVICE, "nvme", "nvme")
SECOND = Region("edu", DEVICE + 0x1800, DEVICE + 0x1FFF, DEVICE + 0x1800, "edu", "edu")
CR2 = AT + 0x40


@pytest.fixture
def space() -> AddressSpace:
    """A page of RAM before AT, two of devices from it on, and nothing behind them."""
    ram = Ram()
    ram.map(AT - 0x1000, 0x5000)
    ram.map(AT, DEVICE)
    ram.map(AT + 0x1000, DEVICE + 0x1000)
    traced = [(DEVICE, DEVICE + 0x1FFF)]
    return AddressSpace(ram, PAGING, RegionMap([FIRST, SECOND], traced, [(0, 0x3F_FFFF)]))


Made = tuple[str, int, int | str]


def made(
    code: str, cpu: CpuState, space: AddressSpace, *encounters: Encounter, mode: Mode = Mode.LONG
) -> list[Made]:
    """Direction, offset from AT and width of each transfer; an extent is told as ``..8``."""
    insn = decode(bytes.fromhex(code), RIP, mode)
    found = footprint(insn, replace(cpu, mode=mode), space).seen(encounters, space)
    assert all(item.traced and item.value is None and item.region for item in found)
    assert all(item.physical - DEVICE == item.linear - AT for item in found)
    return [
        (item.direction[0], item.linear - AT, item.width or f"..{item.extent}") for item in found
    ]


@pytest.mark.parametrize(
    ("code", "offset", "expected"),
    [
        ("c5fe6f07", 0, [("r", 0, 8), ("r", 8, 8), ("r", 16, 8), ("r", 24, 8)]),  # vmovdqu ymm
        ("c5fe6f07", -16, [("r", 0, 8), ("r", 8, 8)]),  # half of it is RAM
        ("c5fe6f07", -11, [("r", 0, 8), ("r", 8, 8), ("r", 16, 4), ("r", 20, 1)]),
        ("0f5807", 0xFF8, [("r", 0xFF8, 8), ("r", 0x1000, 8)]),
        ("0f5807", 4, [("r", 4, 8), ("r", 12, 8)]),  # addps
        ("0fae1f", 0, [("w", 0, 4)]),  # stmxcsr
        ("c5f92f07", -4, [("r", 0, 4)]),  # vcomisd
        ("db2f", -4, [("r", 0, 4), ("r", 4, 2)]),  # fld m80
        ("0f38fc07", 8, [("r", 8, 4), ("w", 8, 4)]),  # aadd
        ("0fae07", 0x10, [("w", 0x10, "..512")]),  # fxsave
        ("0fae07", 0xF00, [("w", 0xF00, "..256"), ("w", 0x1000, "..256")]),
        ("0fae07", -0x100, [("w", 0, "..256")]),
        ("dd37", 0x1790, [("w", 0x1790, "..108")]),  # fnsave
        ("dd37", 0x17C0, [("w", 0x17C0, "..64"), ("w", 0x1800, "..44")]),  # over two regions
        ("62f1fe496f07", 0xFC0, [("r", 0xFC0, "..64")]),  # vmovdqu64 zmm {k1}
        ("c4e2758c07", -4, [("r", 0, "..28")]),  # vpmaskmovd ymm
        ("c4e2758e07", 0, [("w", 0, "..32")]),
    ],
)  # fmt: skip
def test_an_operand_is_cut_by_page_and_region(
    code: str, offset: int, expected: list[Made], space: AddressSpace
) -> None:
    assert made(code, state(rdi=AT + offset), space) == expected
    # A fault within what is foretold adds nothing.
    first = expected[0][1]
    assert made(code, state(rdi=AT + offset), space, Encounter(AT + first, False)) == expected


def test_what_does_not_reach_the_device_is_nothing(space: AddressSpace) -> None:
    assert made("0f5807", state(rdi=AT - 16), space) == []
    assert made("0f5807", state(rdi=AT + 0x2000), space) == []  # not mapped
    assert made("c5fe6f07", state(rdi=AT + 0x1FF0), space) == [("r", 0x1FF0, 8), ("r", 0x1FF8, 8)]


@pytest.mark.parametrize(
    ("code", "registers", "expected"),
    [
        ("50", {"rsp": AT + 16}, [("w", 8, 8)]),
        ("50", {"rsp": AT}, []),
        ("6650", {"rsp": AT + 16}, [("w", 14, 2)]),
        ("58", {"rsp": AT + 16}, [("r", 16, 8)]),
        ("50", {"rsp": AT + 4}, [("w", 0, 4)]),  # half of the slot is RAM
        ("c9", {"rbp": AT + 8, "rsp": 0}, [("r", 8, 8)]),
        ("c8100000", {"rsp": AT + 0x1004}, [("w", 0xFFC, 4), ("w", 0x1000, 4)]),
        ("c8100002", {"rsp": AT + 0x40, "rbp": AT + 0x80},
         [("w", 0x38, 8), ("r", 0x78, 8), ("w", 0x30, 8), ("w", 0x28, 8)]),
        ("e800000000", {"rsp": AT + 8}, [("w", 0, 8)]),
        ("ff37", {"rsp": AT + 8, "rdi": AT + 0x20}, [("r", 0x20, 8), ("w", 0, 8)]),
        ("8f07", {"rsp": AT + 8, "rdi": AT + 0x20}, [("r", 8, 8), ("w", 0x20, 8)]),
        ("48cf", {"rsp": AT}, [("r", 8 * n, 8) for n in range(5)]),
        ("f36c", {"rdi": AT + 3, "rcx": 9}, [("w", 3, 1)]),  # one iteration of rep insb
        ("6f", {"rsi": AT + 4}, [("r", 4, 4)]),  # outsd
        ("660ff7c1", {"rdi": AT + 8}, [("w", 8, "..16")]),
        ("f20f38f806", {"rsi": AT, "rax": AT + 0x40},
         [("r", n, 8) for n in range(0, 0x40, 8)] + [("w", n, 8) for n in range(0x40, 0x80, 8)]),
    ],
)  # fmt: skip
def test_operands_that_no_modrm_byte_names(
    code: str, registers: dict[str, int], expected: list[Made], space: AddressSpace
) -> None:
    assert made(code, state(**registers), space) == expected


def vectors(**lanes: list[int]) -> tuple[int, ...]:
    """XMM registers of 32-bit lanes, by ``xmm0`` and so on."""
    values = [0] * 16
    for name, elements in lanes.items():
        data = b"".join(element.to_bytes(4, "little", signed=True) for element in elements)
        values[int(name[3:])] = int.from_bytes(data, "little")
    return tuple(values)


GATHER = "c4e26990048f"  # vpgatherdd xmm0, [rdi + xmm1*4], xmm2
WIDE = "c4e26d90048f"  # the same of eight lanes


def test_lanes_are_accesses_of_their_own(space: AddressSpace) -> None:
    xmm = vectors(xmm1=[0, 3, -2, 0x400], xmm2=[-1, -1, -1, -1])
    cpu = replace(state(rdi=AT), xmm=xmm)
    assert made(GATHER, cpu, space) == [("r", 0, 4), ("r", 12, 4), ("r", 0x1000, 4)]
    masked = replace(cpu, xmm=vectors(xmm1=[0, 3, 5, 7], xmm2=[-1, 1, 0, -1]))
    assert made(GATHER, masked, space) == [("r", 0, 4), ("r", 28, 4)]
    assert made(GATHER, replace(cpu, xmm=vectors(xmm1=[1] * 4)), space) == []


def test_lanes_of_ymm_are_known_with_its_upper_half(space: AddressSpace) -> None:
    xmm = vectors(xmm1=[0, 1, 2, 3], xmm2=[-1] * 4)
    cpu = replace(state(rdi=AT), xmm=xmm, ymm=vectors(xmm1=[8, 9, 10, 11], xmm2=[-1, 0, 0, -1]))
    assert [offset for _, offset, _ in made(WIDE, cpu, space)] == [0, 4, 8, 12, 32, 44]


def test_lanes_that_are_not_known_are_told_by_the_faults(space: AddressSpace) -> None:
    cpu = replace(state(rdi=AT), xmm=vectors(xmm1=[0, 1, 2, 3], xmm2=[-1] * 4))
    assert made(WIDE, cpu, space) == []
    assert made(WIDE, cpu, space, Encounter(CR2, False)) == [("r", 0, "..4096")]
    both = made(WIDE, cpu, space, Encounter(CR2, False), Encounter(AT + 0x1900, False))
    assert both == [("r", 0, "..4096"), ("r", 0x1800, "..2048")]
    assert made(GATHER, state(rdi=AT), space, Encounter(CR2, False)) == [("r", 0, "..4096")]


@pytest.mark.parametrize(
    ("code", "write", "expected"),
    [
        ("0fc727", True, "w"),  # xsavec
        ("0fae2f", False, "r"),  # xrstor
        ("0fae27", False, "u"),  # xsave reads its header, too
        ("cd80", True, "u"),
        ("0f1b07", False, "u"),
    ],
)
def test_what_the_instruction_does_not_tell_is_told_by_the_faults(
    code: str, write: bool, expected: str, space: AddressSpace
) -> None:
    met = Encounter(CR2, write)
    assert made(code, state(rdi=AT), space, met) == [(expected, 0, "..4096")]
    assert made(code, state(rdi=AT), space) == []


def test_an_instruction_that_is_not_known(space: AddressSpace) -> None:
    found = footprint(None, state(), space).seen([Encounter(AT + 0x1010, True)], space)
    assert [(t.direction, t.width, t.linear - AT, t.extent) for t in found] == [
        ("unknown", 0, 0x1000, 0x800)
    ]


def test_a_fault_that_the_instruction_cannot_have_is_of_another_one(space: AddressSpace) -> None:
    # QEMU takes a prefix otherwise than other processors do, say.
    met = Encounter(CR2, False)
    assert made("0f5807", state(rdi=AT - 32), space, met) == [("u", 0, "..4096")]
    assert made("0f5807", state(rdi=AT + 0x1000), space, met) == [("u", 0, "..4096")]


def test_a_fault_in_ram_beside_a_device_is_explained_by_what_reaches_there() -> None:
    ram = Ram()
    ram.map(AT, DEVICE)
    region = Region("tpm", DEVICE + 0x800, DEVICE + 0xFFF, DEVICE + 0x800, "tpm", "tpm")
    traced, beside = [(DEVICE + 0x800, DEVICE + 0xFFF)], [(DEVICE, DEVICE + 0x7FF)]
    mixed = AddressSpace(ram, PAGING, RegionMap([region], traced, beside))
    cpu = state(rdi=AT + 0x7F8)
    assert made("0f5807", cpu, mixed, Encounter(AT + 0x7F8, False)) == [("r", 0x800, 8)]
    assert made("0f5807", state(rdi=AT), mixed, Encounter(AT, False)) == []
    # Where it goes on from there is not known; what was fetched from there is no access.
    assert made("0fae27", cpu, mixed, Encounter(AT + 0x7F8, True)) == [("u", 0x800, "..2048")]
    assert made("0f5807", cpu, mixed, Encounter(AT, False, fetch=True)) == [("r", 0x800, 8)]


def test_forms_of_the_table_need_no_unit(space: AddressSpace) -> None:
    cpu = replace(state(rdi=AT + 8), xmm=(), st=())
    assert made("dd07", cpu, space) == [("r", 8, 8)]
    assert made("f30f6f07", cpu, space) == [("r", 8, 8), ("r", 16, 8)]
    assert made("0fab0f", replace(cpu, gpr=state(rdi=AT, rcx=64).gpr), space) == [
        ("r", 8, 4), ("w", 8, 4),
    ]  # fmt: skip


def test_a_segment_base_is_needed_where_one_is_added(space: AddressSpace) -> None:
    insn = decode(bytes.fromhex("640f5807"), RIP, Mode.LONG)
    assert needs_registers(insn)
    assert not needs_registers(decode(bytes.fromhex("0f5807"), RIP, Mode.LONG))
    assert needs_registers(decode(bytes.fromhex(GATHER), RIP, Mode.LONG))
    cpu = replace(state(rdi=0), segments=Segments(fs_base=AT))
    assert made("640f5807", cpu, space) == [("r", 0, 8), ("r", 8, 8)]


def test_compatibility_mode_wraps_at_4_gib(space: AddressSpace) -> None:
    assert AT < 1 << 32
    cpu = state(rsp=AT + 0x20, rdi=AT)
    assert made("60", cpu, space, mode=Mode.COMPAT32) == [
        ("w", offset, 4) for offset in range(0x1C, -1, -4)
    ]
    # How wide the stack pointer of 16-bit code is cannot be seen.
    met = Encounter(CR2, True)
    assert made("50", cpu, space, met, mode=Mode.COMPAT16) == [("w", 0, "..4096")]
