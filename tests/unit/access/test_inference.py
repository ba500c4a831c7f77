"""Values of a native step: told where the registers have them, and never wrong."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from cell import AT, RIP, state
from ram import PAGING, Ram

from tests.diff.case import cases
from tests.diff.native import DATA, LOW, PATTERN, RAM_SIZE
from tracer.access.footprint import footprint
from tracer.access.inference import inferred
from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.errors import EmulationError
from tracer.x86.bus import In, Load, PortAccess
from tracer.x86.decode import decode
from tracer.x86.emulate import execute, plan
from tracer.x86.forms import FORMS, Form
from tracer.x86.instruction import Instruction
from tracer.x86.state import PAGE_SIZE, CpuState, Mode

DEVICE, RAM = 0xFEB0_0000, 0x20_0000
REGION = Region("nvme", DEVICE, DEVICE + RAM_SIZE - 1, DEVICE, "nvme", "nvme")
REGIONS = RegionMap([REGION], [(REGION.base, REGION.end)], [(0, 0x3F_FFFF)])


def world(linear: int) -> AddressSpace:
    """The RAM of the differential tests, but for the page that ``linear`` is in: a device."""
    ram = Ram()
    for start in (DATA, LOW):
        for page in range(start, start + RAM_SIZE, PAGE_SIZE):
            base = DEVICE if page == linear & -PAGE_SIZE else RAM
            ram.map(page, base + page - start)
    ram.write(RAM, PATTERN)
    return AddressSpace(ram, PAGING, REGIONS)


def step(
    insn: Instruction, cpu: CpuState, space: AddressSpace, random: Random
) -> tuple[CpuState, dict[tuple[str, int, int], int]]:
    """Carry an instruction out; the state as GDB shows it, and what the device got and gave."""
    device: dict[tuple[str, int, int], int] = {}
    emulation = execute(insn, cpu)
    for access in emulation:
        if isinstance(access, PortAccess):
            if isinstance(access, In):
                emulation.answer = random.getrandbits(8 * access.width)
            continue
        answer = 0
        for at in range(access.linear, access.linear + access.width):
            leaf = space.leaf(at)
            assert leaf is not None
            physical, shift = leaf.translate(at), 8 * (at - access.linear)
            if not isinstance(access, Load):
                byte = access.value >> shift & 0xFF
                device["write", at, 1] = byte
                if REGIONS.is_ram(physical):
                    space.memory.write(physical, bytes([byte]))
                continue
            byte = random.getrandbits(8)
            if REGIONS.is_ram(physical):
                (byte,) = space.memory.read(physical, 1)
            answer |= byte << shift
            device["read", at, 1] = byte
        if isinstance(access, Load):
            emulation.answer = answer
    return replace(emulation.after, ymm=(), st=()), device


def values(code: str, before: CpuState, after: CpuState, space: AddressSpace) -> list[int | None]:
    insn = decode(bytes.fromhex(code), RIP, Mode.LONG)
    after = replace(after, rip=insn.next_rip) if after.rip == RIP else after
    made = footprint(insn, before, space).transfers
    return [transfer.value for transfer in inferred(insn, before, after, made, space)]


@pytest.fixture
def space() -> AddressSpace:
    """A device at AT, RAM around it."""
    ram = Ram()
    ram.map(AT, DEVICE)
    for page in (AT - PAGE_SIZE, 0x1_F000, 0x2_0000):
        ram.map(page, RAM + page)
    return AddressSpace(ram, PAGING, REGIONS)


X = 0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210
BELOW, ABOVE = X & (1 << 64) - 1, X >> 64


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("c5 fa 6f 03", [BELOW, ABOVE]),  # vmovdqu xmm0, [rbx]
        ("c5 fe 6f 03", [BELOW, ABOVE, None, None]),  # vmovdqu ymm0, [rbx]: GDB shows no more
        ("c5 fe 7f 03", [BELOW, ABOVE, None, None]),
        ("c5 fa 10 03", [BELOW & 0xFFFFFFFF]),  # vmovss xmm0, [rbx]
        ("c5 f0 16 03", [ABOVE]),  # vmovhps xmm0, xmm1, [rbx]
        ("c4 e3 71 22 03 02", [ABOVE & 0xFFFFFFFF]),  # vpinsrd xmm0, xmm1, [rbx], 2
        ("c4 e2 7d 58 03", [BELOW & 0xFFFFFFFF]),  # vpbroadcastd ymm0, [rbx]
        ("c5 f1 fe 03", [None, None]),  # vpaddd: it would have to be undone
        ("c4 e3 7d 39 03 01", [None, None]),  # vextracti128: the upper half
        ("c4 e2 71 8c 03", [None]),  # vpmaskmovd: of unknown extent
        ("0f 6f 03", [None]),  # movq mm0, [rbx]
    ],
)
def test_vectors(code: str, expected: list[int | None], space: AddressSpace) -> None:
    cpu = replace(state(), xmm=(X,) * 16, cr4=0x406F0)
    assert values(code, cpu, cpu, space) == expected


@pytest.mark.parametrize(
    ("code", "changed", "expected"),
    [
        ("8b 03", {"rax": 0x1122334455667788}, [0x55667788]),
        ("66 8b 03", {"rax": 0x1122334455667788}, [0x7788]),
        ("8a 23", {"rax": 0x5A00}, [0x5A]),  # mov ah, [rbx]
        ("0f be 03", {"rax": 0xFFFFFF80}, [0x80]),
        ("0f 38 f0 03", {"rax": 0x04030201}, [0x01020304]),  # movbe
        ("87 0b", {"rcx": 7}, [7, 0]),  # xchg [rbx], ecx
        ("0f c1 0b", {"rcx": 7}, [7, 7]),  # xadd of 0
        ("0f b1 0b", {"rax": 7}, [7, 7]),  # a comparison that fails
        ("89 03", {}, [0]),
        ("03 03", {"rax": 7}, [None]),  # add eax, [rbx]
        ("01 03", {}, [None, None]),
        ("39 03", {}, [None]),
    ],
)
def test_registers(
    code: str, changed: dict[str, int], expected: list[int | None], space: AddressSpace
) -> None:
    cpu = state()
    after = replace(cpu, gpr=state(**changed).gpr)
    assert values(code, cpu, after, space) == expected


def test_stack_and_ram(space: AddressSpace) -> None:
    space.memory.write(RAM + 0x1_FFF8, (0x1234).to_bytes(8, "little"))
    space.memory.write(RAM + 0x2_0000, (0x5678).to_bytes(8, "little"))
    cpu = state(rsi=0x2_0000, rdi=AT)
    assert values("ff 33", cpu, cpu, space) == [0x1234]  # push [rbx]
    assert values("8f 03", cpu, cpu, space) == [0x5678]  # pop [rbx]
    assert values("48 a5", cpu, cpu, space) == [0x5678]  # movsq to the device
    called = replace(cpu, rip=0x4242)
    assert values("ff 13", cpu, called, space) == [0x4242]  # call [rbx]


def test_ram_that_the_instruction_overwrites_tells_nothing(space: AddressSpace) -> None:
    # movsq from the last 8 bytes of RAM to half of them, and 4 bytes of the device behind.
    cpu = state(rsi=AT - 8, rdi=AT - 4)
    assert values("48 a5", cpu, cpu, space) == [None]
    assert values("48 a5", replace(cpu, gpr=state(rsi=AT - 16, rdi=AT - 4).gpr), cpu, space) == [0]


def test_nothing_is_told_of_what_ended_elsewhere(space: AddressSpace) -> None:
    cpu = state()
    assert values("89 03", cpu, replace(cpu, rip=0x9999), space) == [None]
    assert inferred(None, cpu, cpu, (), space) == ()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name} {form.opcode.text}")
def test_no_value_that_is_told_is_wrong(form: Form) -> None:
    random = Random(form.opcode.text)
    mode = Mode.COMPAT32 if form.only == "i64" else Mode.LONG
    for case in cases(form, mode, 4, 7):
        insn = decode(case.code, case.cpu.rip, mode)
        operands = plan(insn, case.cpu)
        for operand in operands[:2]:
            space = world(operand.linear)
            before = replace(case.cpu, ymm=(), st=())
            made = footprint(insn, before, space).transfers
            try:
                after, device = step(insn, case.cpu, space, random)
            except EmulationError:
                continue
            for transfer in inferred(insn, before, after, made, space):
                if transfer.value is None:
                    continue
                data = transfer.value.to_bytes(transfer.width, "little")
                for n, byte in enumerate(data):
                    assert device[transfer.direction, transfer.linear + n, 1] == byte, insn.text
