"""One intercepted instruction: its transfers, where they go, what is recorded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cell import AT, RIP, state
from ram import PAGING, Ram

from tracer.access.execution import CarryOut, Outcome, delivered_alike, foretell
from tracer.access.recorded import memory_access
from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.state import needs_registers
from tracer.access.transfer import Transfer
from tracer.errors import GuestException, UnsupportedInstruction
from tracer.trace.registers import changed_values
from tracer.x86.decode import decode
from tracer.x86.paging import PRESENT, USER, WRITABLE
from tracer.x86.state import CpuState, Mode

DEVICE = 0xFEB0_0000
REGION = Region("nvme", DEVICE, DEVICE + 0x1FFF, DEVICE, "nvme", "nvme")
BEFORE, NOTHING = AT - 0x1000, AT + 0x2000
"""Linear: a page of RAM, then two of the device at AT, then nothing."""


@pytest.fixture
def space() -> AddressSpace:
    ram = Ram()
    ram.map(BEFORE, 0x5000)
    ram.map(AT, DEVICE)
    ram.map(AT + 0x1000, DEVICE + 0x1000)
    ram.write(0x5FF8, bytes(range(8)))
    regions = RegionMap([REGION], [(DEVICE, DEVICE + 0x1FFF)], [(0, 0x3F_FFFF)])
    return AddressSpace(ram, PAGING, regions)


def run(
    code: str, cpu: CpuState, space: AddressSpace, device: int = 0x8877_6655_4433_2211
) -> tuple[list[tuple[str, int, int, int | None, bool]], Outcome]:
    """Carry an instruction out; the device answers every read with (the low bytes of) a value."""
    insn = decode(bytes.fromhex(code), RIP, cpu.mode)
    execution = CarryOut(foretell(insn, cpu, space))
    seen = []
    for transfers in execution:
        seen += [(t.direction, t.physical, t.width, t.value, t.traced) for t in transfers]
        answers: list[int | None] = []
        for transfer in transfers:
            data = device.to_bytes(8, "little")
            read = transfer.direction == "read"
            if transfer.ram and read:
                data = space.memory.read(transfer.physical, transfer.width)
            answers.append(int.from_bytes(data, "little") if read else None)
        execution.answers = answers
    return seen, execution.outcome


def test_store_within_a_page(space: AddressSpace) -> None:
    seen, outcome = run("89 43 04", state(rax=0x1_2345_6789), space)  # mov [rbx + 4], eax
    assert seen == [("write", DEVICE + 4, 4, 0x2345_6789, True)]
    assert outcome.cpu.rip == RIP + 3
    assert [transfer.value for transfer in outcome.transfers] == [0x2345_6789]


def test_device_cannot_answer_with_more_than_was_asked(space: AddressSpace) -> None:
    _, outcome = run("8a 43 04", state(rax=ONES), space)  # mov al, [rbx + 4]
    assert outcome.cpu.gpr[0] == ONES & ~0xFF | 0x11
    assert outcome.transfers[0].value == 0x11


ONES = 0xFFFF_FFFF_FFFF_FFFF


def test_unaligned_access_goes_whole(space: AddressSpace) -> None:
    seen, _ = run("8b 43 03", state(), space)
    assert seen == [("read", DEVICE + 3, 4, None, True)]


def test_access_over_a_device_s_end_is_cut() -> None:
    ram = Ram()
    ram.map(AT, DEVICE)
    first = Region("first", DEVICE + 8, DEVICE + 0xF, DEVICE + 8, "first", "first")
    second = Region("second", DEVICE + 0x10, DEVICE + 0x15, DEVICE + 0x10, "second", "second")
    traced = [(region.start, region.end) for region in (first, second)]
    beside = AddressSpace(ram, PAGING, RegionMap([first, second], traced, [(DEVICE, DEVICE + 7)]))
    stored = run("48 89 03", state(rax=0x8877_6655_4433_2211, rbx=AT + 4), beside)[0]
    assert stored == [
        ("write", DEVICE + 4, 4, 0x4433_2211, False),
        ("write", DEVICE + 8, 4, 0x8877_6655, True),
    ]
    _, outcome = run("48 8b 43 0d", state(rbx=AT), beside, device=0x0807_0605_0403_0201)
    assert [(item.physical, item.width, item.region) for item in outcome.transfers] == [
        (DEVICE + 0xD, 2, first), (DEVICE + 0xF, 1, first),
        (DEVICE + 0x10, 4, second), (DEVICE + 0x14, 1, second),
    ]  # fmt: skip
    # Behind the second nothing answers.
    _, outcome = run("48 8b 43 12", state(rbx=AT), beside)
    assert [(item.width, item.traced) for item in outcome.transfers] == [(4, True), (4, False)]


def test_access_over_a_page_end_is_cut(space: AddressSpace) -> None:
    cpu = state(rax=0x4433_2211, rbx=AT - 3)
    seen, _ = run("89 03", cpu, space)
    assert seen == [
        ("write", 0x5FFD, 2, 0x2211, False),
        ("write", 0x5FFF, 1, 0x33, False),
        ("write", DEVICE, 1, 0x44, True),
    ]


def test_read_over_a_page_end_is_put_together(space: AddressSpace) -> None:
    seen, outcome = run("8b 03", state(rbx=AT - 2), space, device=0xBBAA)
    assert [item[:3] for item in seen] == [("read", 0x5FFE, 2), ("read", DEVICE, 2)]
    assert outcome.cpu.gpr[0] == 0xBBAA_0706


def test_wide_access_is_cut_at_eight_bytes(space: AddressSpace) -> None:
    cpu = replace(state(), xmm=(0,) * 16)
    seen, outcome = run("f3 0f 6f 03", cpu, space)  # movdqu xmm0, [rbx]
    assert [item[:3] for item in seen] == [("read", DEVICE, 8), ("read", DEVICE + 8, 8)]
    assert outcome.cpu.xmm[0] == 0x8877_6655_4433_2211 << 64 | 0x8877_6655_4433_2211


@pytest.mark.parametrize(
    ("rbx", "cpl", "code", "linear"),
    [
        (NOTHING, 0, 2, NOTHING),
        (NOTHING - 2, 0, 2, NOTHING),
        (AT, 3, 7, AT),  # present, but the kernel's
    ],
)
def test_page_faults_come_before_any_transfer(
    rbx: int, cpl: int, code: int, linear: int, space: AddressSpace
) -> None:
    cpu = replace(state(rbx=rbx), cpl=cpl)
    insn = decode(bytes.fromhex("89 03"), RIP, Mode.LONG)
    with pytest.raises(GuestException) as caught:
        foretell(insn, cpu, space)
    assert (caught.value.vector, caught.value.error_code) == (14, code)
    assert caught.value.linear == linear


def test_user_page(space: AddressSpace) -> None:
    assert isinstance(space.memory, Ram)
    space.memory.map(AT, DEVICE, PRESENT | WRITABLE | USER)
    seen, _ = run("89 03", replace(state(), cpl=3), space)
    assert seen == [("write", DEVICE, 4, 0, True)]


def test_both_directions_of_a_changed_operand_are_foretold(space: AddressSpace) -> None:
    insn = decode(bytes.fromhex("83 0b 01"), RIP, Mode.LONG)  # or dword ptr [rbx], 1
    foretold = foretell(insn, state(), space).transfers
    assert [transfer.direction for transfer in foretold] == ["read", "write"]
    assert all(transfer.traced for transfer in foretold)
    seen, outcome = run("83 0b 01", state(), space, device=6)
    assert [(item[0], item[3]) for item in seen] == [("read", None), ("write", 7)]
    assert [transfer.value for transfer in outcome.transfers] == [6, 7]


def test_ram_alone_is_not_traced(space: AddressSpace) -> None:
    insn = decode(bytes.fromhex("8b 03"), RIP, Mode.LONG)
    foretold = foretell(insn, state(rbx=BEFORE), space)
    assert not any(transfer.traced for transfer in foretold.transfers)


def test_unknown_instruction_is_left_to_the_cpu(space: AddressSpace) -> None:
    insn = decode(bytes.fromhex("66 0f 58 03"), RIP, Mode.LONG)  # addpd xmm0, [rbx]
    with pytest.raises(UnsupportedInstruction, match="addpd"):
        foretell(insn, state(), space)


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        ("8b 03", False),
        ("65 8b 03", True),  # gs
        ("0f 11 03", True),  # movups [rbx], xmm0
        ("d9 03", True),  # fld dword ptr [rbx]
        ("8c 1b", True),  # mov [rbx], ds
        ("66 0f fe 03", True),  # paddd xmm0, [rbx]
        ("0f 01 13", False),  # lgdt [rbx]
    ],
)
def test_what_the_stub_does_not_spill(code: str, needed: bool) -> None:
    assert needs_registers(decode(bytes.fromhex(code), RIP, Mode.LONG)) is needed


def test_code_is_read_until_ram_ends(space: AddressSpace) -> None:
    assert space.read(BEFORE + 0xFF8, 8) == bytes(range(8))
    # The next page is a device: reading it would have side effects.
    assert space.read(BEFORE + 0xFFC, 15) == bytes([4, 5, 6, 7])
    assert space.read(NOTHING, 15) == b""


NARROW = Region("pba", DEVICE + 0x2000, DEVICE + 0x2005, DEVICE + 0x2000, "nvme", "msix-pba")
LAPIC = Region("lapic", 0xFEE0_0000, 0xFEEF_FFFF, 0xFEE0_0000, "apic", "apic-msi")
REGIONS = RegionMap([REGION, NARROW, LAPIC], [], [(0, 0x1FFF), (DEVICE + 0x2006, DEVICE + 0x2FFF)])


def bound(physical: int, width: int) -> Transfer:
    region, ram = REGIONS.find(physical), REGIONS.is_ram(physical)
    return Transfer("read", 0, physical, width, None, region, traced=False, ram=ram)


@pytest.mark.parametrize(
    ("physical", "width", "alike"),
    [
        (DEVICE, 1, True),
        (DEVICE + 3, 1, True),
        (DEVICE + 2, 2, True),
        (DEVICE + 4, 4, True),
        (DEVICE, 8, False),  # a device may take 4 bytes at most
        (DEVICE + 1, 2, False),
        (DEVICE + 2, 4, False),
        (DEVICE + 4, 3, False),  # what a page's end leaves of an access
        (DEVICE + 0x2004, 2, True),
        (DEVICE + 0x2004, 4, False),  # over the region's end, into RAM
        (DEVICE + 0x3000, 4, False),  # nothing answers there
        (0xFEE0_0020, 4, False),
        (0x101, 4, True),  # RAM
        (0x100, 8, True),
        (0x1FFE, 4, False),  # over the end of RAM
        (DEVICE + 0x2006, 1, True),
    ],
)
def test_what_the_debugger_delivers_as_a_vcpu_does(physical: int, width: int, alike: bool) -> None:
    assert delivered_alike([bound(physical, width)], REGIONS) is alike


def test_an_access_in_parts_is_the_vcpus() -> None:
    # To the device each part alone would be aligned; the access itself is not.
    assert not delivered_alike([bound(0x1FFE, 2), bound(DEVICE, 2)], REGIONS)
    assert delivered_alike([bound(0xFFE, 2), bound(0x1000, 2)], REGIONS)


def test_records_of_device_and_ram() -> None:
    transfer = Transfer("read", AT + 4, DEVICE + 4, 4, 0x12, REGION, traced=True, ram=False)
    access = memory_access(transfer)
    assert (access.region, access.offset, access.value) == ("nvme", 0x4, 0x12)
    assert (access.linear, access.physical) == (AT + 4, DEVICE + 4)
    ram = memory_access(replace(transfer, region=None, traced=False, ram=True))
    assert (ram.region, ram.offset) == (None, None)
    hole = memory_access(replace(transfer, region=None))
    assert (hole.region, hole.offset) == ("unassigned", DEVICE + 4)
    assert memory_access(replace(transfer, value=None)).value is None


def test_only_what_changed_is_recorded() -> None:
    before = state(rax=1)
    assert changed_values(before, before) == {}
    after = replace(before, rip=RIP + 2, rflags=0x46, gpr=(5, *before.gpr[1:]))
    assert changed_values(before, after) == {
        "rip": RIP + 2,
        "rflags": 0x46,
        "rax": 0x5,
    }


def test_memory_is_read_up_to_where_ram_ends_within_a_large_page() -> None:
    ram = Ram(0x30_3000)
    large = 0xFFFF_8880_0000_0000
    ram.map(large, 0, level=2)
    ram.map(large + 0x20_0000, 0x20_0000, level=2)
    ram.write(0x1F_FFFE, b"over")
    ram.write(0x30_2FFC, b"last")
    space = AddressSpace(ram, PAGING, RegionMap((), (), ()))
    assert space.read(large + 0x1F_FFFE, 4) == b"over"
    data = space.read(large + 0x10, 0x40_0000)
    assert len(data) == 0x30_3000 - 0x10 and data.endswith(b"last")
    assert space.glance().read(large + 0x30_2FFC, 8) == b"last"
